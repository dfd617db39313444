"""### Measure past champions on the same new labeled images.

The source may have any layout that `car_retrain` can read, such as class folders. Images that a champion was trained
on are excluded for all of them. The log of the task and its XCom show the table; `carclf champion reevaluate SOURCE`
prints it again from the evaluations in the store.
"""

from datetime import timedelta

from airflow.sdk import dag, task

from carclf_airflow.deployment import task_defaults
from carclf_airflow.notifications import failure_callback
from carclf_airflow.pods import gpu_task_options
from carclf_airflow.predict_form import source_param
from carclf_airflow.predict_steps import reevaluate_champions


@dag(
    dag_id="car_reevaluate", schedule=None, catchup=False, max_active_runs=1, doc_md=__doc__, tags=["carclf"],
    default_args=task_defaults(),
    **failure_callback("car_reevaluate"),
    params={"source": source_param(None, "A folder, an archive, s3://bucket/prefix, a dataset or a competition.")},
)
def car_reevaluate():
    """Add the task."""

    @task(execution_timeout=timedelta(hours=24), **gpu_task_options("evaluate"))
    def reevaluate():
        return reevaluate_champions()

    reevaluate()


car_reevaluate()
