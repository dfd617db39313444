"""### Retrain the car classifier and compete with it

`download → validate → split → train_head → fine_tune → evaluate → promote → (approval) → submit → score`

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
| approval | never; rejected or not answered in time, what follows is skipped | clear `approval.ask` to be asked again |
| submit | Kaggle away; the daily limit only makes it wait, without a slot | retried; a submission never counts twice |
| score | scoring takes more than six hours, or Kaggle could not grade | look at the submission on Kaggle |

Exit status 65 (data) and 78 (configuration) are not retried; 75 (a passing fault) is. Where `gate.approval` is
`required`, the run waits at `approval.ask` under *Required Actions*, without a slot.
"""

import os
from datetime import timedelta

from airflow.sdk import chain, dag, get_current_context, task

from carclf_airflow.approval import approval_tasks, promote_or_request_approval
from carclf_airflow.form import form_params
from carclf_airflow.notifications import notification_callbacks
from carclf_airflow.pods import gpu_task_options
from carclf_airflow.stage_process import poke_stage, run_stage

HOURS = {"download": 2, "validate": 2, "split": 1, "train_head": 12, "fine_tune": 48, "evaluate": 6}
SCHEDULE = os.environ.get("CARCLF_SCHEDULE", "@weekly")
POKE_SECONDS = float(os.environ.get("CARCLF_POKE_INTERVAL_SECONDS", "30"))


@dag(
    dag_id="car_retrain", schedule=None if SCHEDULE in ("", "none") else SCHEDULE, catchup=False, max_active_runs=1,
    params=form_params(), doc_md=__doc__, tags=["carclf"], **notification_callbacks(),
    default_args={
        "queue": "gpu", "retries": 3, "retry_exponential_backoff": True, "max_retry_delay": timedelta(minutes=30),
        "retry_delay": timedelta(seconds=float(os.environ.get("CARCLF_RETRY_DELAY_SECONDS", "30"))),
    },
)
def car_retrain():
    def stage(name, hours):
        @task(task_id=name, execution_timeout=timedelta(hours=hours), **gpu_task_options(name))
        def call():
            return run_stage(name, get_current_context())

        return call()

    @task(execution_timeout=timedelta(hours=6), **gpu_task_options("promote"))
    def promote():
        return promote_or_request_approval(get_current_context())

    # Between two looks a sensor holds no slot: submit may wait for tomorrow's submissions, score for the score.
    def sensor(name, *, hours, timeout, **options):
        @task.sensor(
            task_id=name, execution_timeout=timedelta(hours=hours), timeout=timeout.total_seconds(),
            poke_interval=POKE_SECONDS, mode="reschedule", **gpu_task_options(name), **options,
        )
        def look():
            return poke_stage(name, get_current_context())

        return look()

    chain(
        *(stage(name, hours) for name, hours in HOURS.items()),
        promote(),
        approval_tasks(),
        # none_failed: approval's tasks are skipped where nobody need approve
        sensor("submit", hours=6, timeout=timedelta(days=3), trigger_rule="none_failed"),
        sensor("score", hours=1, timeout=timedelta(hours=6)),
    )


car_retrain()
