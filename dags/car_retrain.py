"""
### Retrain the car classifier and compete with it

`download → validate → split → train_head → fine_tune → evaluate → promote → submit → score`

Each task runs one command of `carclf` in a child process; the task's log begins with that command, which can be
pasted into a terminal. A stage whose inputs and settings are unchanged says `reused` and ends at once.

| task | when it fails | mend |
|---|---|---|
| download | no credentials, rules not accepted, unknown slug | the log says where the token goes and where to accept |
| validate | a class too small, too many broken images, an id without one | add images, or lower the limit it names |
| split | a class cannot stand on both sides | add images to it |
| train_head | weights cannot be had, out of memory | give `model.weights` a file; a smaller input or batch |
| train_head | the data drifted from the champion's | look at the report; are they right, raise `audit.drift_stop` |
| fine_tune | the loss is no number, out of memory | lower `fine_tune.learning_rate` or `fine_tune.batch_size` |
| evaluate | the store's copy of a model is damaged | run again with `force` |
| promote | never for a weak model: submit and score are skipped | train longer, or `carclf champion set-threshold` |
| submit | daily limit reached, Kaggle away | retried; a submission never counts twice |
| score | scoring takes more than six hours, or Kaggle could not grade | look at the submission on Kaggle |

Exit status 65 (data) and 78 (configuration) are not retried; 75 (a passing fault) is.
"""

import os
from datetime import timedelta

from airflow.sdk import PokeReturnValue, dag, get_current_context, task
from carclf_params import params
from carclf_task import run_stage

HOURS = {"download": 2, "validate": 2, "split": 1, "train_head": 12, "fine_tune": 48, "evaluate": 6, "promote": 1,
         "submit": 6}
SCHEDULE = os.environ.get("CARCLF_SCHEDULE", "@weekly")


@dag(
    dag_id="car_retrain", schedule=None if SCHEDULE in ("", "none") else SCHEDULE, catchup=False, max_active_runs=1,
    params=params(), doc_md=__doc__, tags=["carclf"],
    default_args={
        "queue": "gpu", "retries": 3, "retry_exponential_backoff": True, "max_retry_delay": timedelta(minutes=30),
        "retry_delay": timedelta(seconds=float(os.environ.get("CARCLF_RETRY_SECONDS", "30"))),
    },
)
def car_retrain():
    def stage(name):
        @task(task_id=name, execution_timeout=timedelta(hours=HOURS[name]))
        def call():
            return run_stage(name, get_current_context())

        return call()

    # Between two looks the sensor holds no slot.
    @task.sensor(
        poke_interval=float(os.environ.get("CARCLF_POKE_SECONDS", "30")), timeout=6 * 3600, mode="reschedule",
        execution_timeout=timedelta(minutes=15),
    )
    def score():
        result = run_stage("score", get_current_context())
        return PokeReturnValue(is_done=not result["waiting"], xcom_value=result)

    previous = None
    for name in HOURS:
        current = stage(name)
        if previous is not None:
            previous >> current
        previous = current
    previous >> score()


car_retrain()
