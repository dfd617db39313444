"""### Retrain the car classifier and compete with it.

`download → validate → split → train_head → fine_tune → evaluate → promote → (approval) → (refit) → submit → score`

Each task runs one `carclf` command in a child process. The task's log starts with that command, which you can paste
into a terminal. A stage whose inputs and settings are unchanged logs `reused` and ends at once.

| task | fails if | fix |
|---|---|---|
| download | credentials are missing, the rules are not accepted, the slug is unknown | follow the link in the log |
| validate | a class is too small, images are broken or missing | add images, or lower the limit in the log |
| split | a class has too few images for both subsets | add images to the class |
| train_head | weights cannot be downloaded, out of memory | set `model.weights` to a file; lower input or batch |
| train_head | the data drifted from the champion's | read the report; if the data is right, raise `audit.drift_stop` |
| fine_tune | the loss is not finite, out of memory | lower `fine_tune.learning_rate` or `fine_tune.batch_size` |
| evaluate | the store's copy of a model is damaged | `carclf store check --repair` |
| promote | the store is unavailable (a weak model skips submit and score) | train longer, or change the threshold |
| approval | never: without an approval, submit and score are skipped | clear `approval.ask` to be asked again |
| refit | as train_head and fine_tune; it is skipped unless `fine_tune.refit` is on | as for them |
| submit | Kaggle is down; it waits at the daily limit and after a lost response | none: it submits once |
| submit | never: if nothing can be submitted to the source, it is skipped and shows the reason | none |
| score | scoring takes more than six hours, or Kaggle could not grade | open the submission on Kaggle |

Exit status 65 (data) and 78 (configuration) are not retried; 75 (a transient error) is. If `gate.approval` is
`required`, the run waits at `approval.ask` under *Required Actions*, without occupying a worker slot.
"""

from datetime import timedelta

from airflow.sdk import chain, dag, get_current_context, task

from carclf_airflow.approval import approval_tasks, promote_or_request_approval
from carclf_airflow.deadlines import decision_deadline
from carclf_airflow.deployment import deployment_schedule, poke_seconds, task_defaults
from carclf_airflow.notifications import notification_callbacks
from carclf_airflow.pods import gpu_task_options
from carclf_airflow.retrain_form import form_params
from carclf_airflow.stage_process import poke_stage, run_stage


@dag(
    dag_id="car_retrain", schedule=deployment_schedule(), catchup=False, max_active_runs=1, params=form_params(),
    doc_md=__doc__, tags=["carclf"], default_args=task_defaults(), deadline=decision_deadline(),
    **notification_callbacks(),
)
def car_retrain():
    """Add the tasks in order."""

    def stage(name, *, hours, **options):
        @task(task_id=name, execution_timeout=timedelta(hours=hours), **gpu_task_options(name), **options)
        def run():
            return run_stage(name, get_current_context())

        return run()

    @task(execution_timeout=timedelta(hours=6), **gpu_task_options("promote"))
    def promote():
        return promote_or_request_approval(get_current_context())

    # Between two pokes a sensor holds no slot: submit may wait for tomorrow's quota, score for the score.
    def sensor(name, *, hours, timeout, **options):
        @task.sensor(
            task_id=name, execution_timeout=timedelta(hours=hours), timeout=timeout.total_seconds(),
            poke_interval=poke_seconds(), mode="reschedule", **gpu_task_options(name), **options,
        )
        def poke():
            return poke_stage(name, get_current_context())

        return poke()

    chain(
        stage("download", hours=2),
        stage("validate", hours=2),
        stage("split", hours=1),
        stage("train_head", hours=12),
        stage("fine_tune", hours=48),
        stage("evaluate", hours=6),
        promote(),
        approval_tasks(),
        # none_failed: the approval's tasks are skipped if no approval is required, refit if fine_tune.refit is off
        stage("refit", hours=60, trigger_rule="none_failed"),
        sensor("submit", hours=6, timeout=timedelta(days=3), trigger_rule="none_failed"),
        sensor("score", hours=1, timeout=timedelta(hours=6)),
    )


car_retrain()
