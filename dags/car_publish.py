"""### Publish the champion.

One task per target; a target that is not configured is skipped. A run starts when the champion changes or is
refitted, and once a day, to catch up with a target that was unavailable.

| task | publishes to | configured by |
|---|---|---|
| folder | a folder or bucket: exported formats, model card, checksums, then `latest.json` | `CARCLF_PUBLISH_FOLDER` |
| kaggle | Kaggle Models: a version with the files and the model card | `CARCLF_PUBLISH_KAGGLE_MODEL` |
| mlflow | MLflow's registry: a version with the alias `champion` | `MLFLOW_TRACKING_URI` |

| task | fails if | fix |
|---|---|---|
| folder | the folder cannot be written, a format cannot be exported | the log names the variable |
| kaggle | the token may not change the model; a new variation has no license | the log names the variable |
| kaggle | never: after a lost response it waits until Kaggle's list proves that nothing was created | none |
| mlflow | the server is unavailable | start it, then clear the task |
| mlflow | its package is not installed | install `mlflow-skinny` on the worker |

Each task publishes the champion that is in the store when it runs, once: a retry publishes nothing twice.
See docs/publishing.md.
"""

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task

from carclf_airflow.assets import CHAMPION
from carclf_airflow.deployment import poke_seconds, publish_schedule, task_defaults
from carclf_airflow.notifications import failure_callback
from carclf_airflow.publishing import poke_target


@dag(
    dag_id="car_publish", schedule=publish_schedule(CHAMPION), catchup=False, max_active_runs=1, doc_md=__doc__,
    tags=["carclf"], default_args=task_defaults(),
    **failure_callback("car_publish"),
)
def car_publish():
    """Add a task for each target."""

    # Between two pokes a sensor holds no slot: kaggle may wait for the outcome of a request.
    def target(name):
        @task.sensor(
            task_id=name, execution_timeout=timedelta(hours=2), timeout=timedelta(days=1).total_seconds(),
            poke_interval=poke_seconds(), mode="reschedule", inlets=[CHAMPION],
        )
        def publish():
            return poke_target(name, get_current_context())

        return publish()

    target("folder")
    target("kaggle")
    target("mlflow")


car_publish()
