"""### Predict the images of a bucket or a folder with the champion, each image once.

`plan → predict (several tasks) → drift`

It runs for each new champion, at the times of `CARCLF_PREDICT_SCHEDULE`, with `CARCLF_WATCH_PREDICT_SOURCE` for new
images, and when triggered. `plan` lists the images
that this champion has not predicted. Each task `predict` writes one Parquet file per shard to the store, so that a
killed worker costs one shard. To read them: `carclf predictions show` and `carclf predictions export`.

| task | fails if | fix |
|---|---|---|
| plan | the store has no champion, the source is missing or empty | promote a model; correct the source |
| predict | the bucket or the store is unavailable | none: it is retried and continues with the next shard |
| drift | the champion's evaluation is missing | `carclf evaluate --run RUN` |

An image that cannot be decoded gets a row with the reason. An image that cannot be read, or that was changed after
the plan, is planned again by the next run.
"""

from datetime import timedelta

from airflow.sdk import dag, task

from carclf_airflow import predict_steps as steps
from carclf_airflow.deployment import task_defaults
from carclf_airflow.ids import PREDICT_DAG
from carclf_airflow.notifications import failure_callback
from carclf_airflow.pods import gpu_task_options
from carclf_airflow.predict_form import predict_params, predict_schedule


@dag(
    dag_id=PREDICT_DAG, schedule=predict_schedule(), catchup=False, max_active_runs=1, params=predict_params(),
    doc_md=__doc__, tags=["carclf"], default_args=task_defaults(),
    **failure_callback(PREDICT_DAG),
)
def car_predict():
    """Add the tasks in order."""

    @task(execution_timeout=timedelta(hours=2))
    def plan():
        return steps.plan_predictions()

    @task(execution_timeout=timedelta(hours=24), **gpu_task_options("predict"))
    def predict(shards, model):
        return steps.predict_shards(shards, model)

    @task(execution_timeout=timedelta(hours=1), trigger_rule="none_failed")
    def drift():
        return steps.measure_drift()

    predict.expand_kwargs(plan()) >> drift()


car_predict()
