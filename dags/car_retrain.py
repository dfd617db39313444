"""### Retrain the car classifier and compete with it.

`download → validate → split → train_head → fine_tune → evaluate → promote → (refit) → submit → score`

Each task runs one `carclf` command in a child process. The task's log starts with that command, which you can paste
into a terminal. A stage whose inputs and settings are unchanged logs `reused` and ends at once. If nothing has changed
since a completed run, a scheduled run ends after `download` with "nothing new".

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
| request_approval | never: it is skipped unless `gate.approval` is `required` | none |
| announce_champion | the store is unavailable (skipped if the champion is not new) | none: `car_promote` announces it |
| refit | as train_head and fine_tune; it is skipped unless `fine_tune.refit` is on | as for them |
| submit | Kaggle is down; it waits at the daily limit and after a lost response | none: it submits once |
| submit | never: if nothing can be submitted to the source, it is skipped and shows the reason | none |
| score | scoring takes more than six hours, or Kaggle could not grade | open the submission on Kaggle |

Exit status 65 (data) and 78 (configuration) are not retried; 75 (a transient error) is. If `gate.approval` is
`required`, the run ends after `request_approval`, and `car_promote` asks a person and submits.
"""

from datetime import timedelta

from airflow.sdk import chain, dag, get_current_context, task

from carclf_airflow.approval import promote_or_wait, request_approval
from carclf_airflow.assets import DATASET, SOURCE, SUBMISSION
from carclf_airflow.deadlines import decision_deadline
from carclf_airflow.deployment import task_defaults
from carclf_airflow.ids import RETRAIN_DAG
from carclf_airflow.notifications import notification_callbacks
from carclf_airflow.pods import gpu_task_options
from carclf_airflow.retrain_form import form_params
from carclf_airflow.source_runs import retrain_schedule, run_download
from carclf_airflow.tasks import announce_champion_task, sensor_task, stage_task


@dag(
    dag_id=RETRAIN_DAG, schedule=retrain_schedule(), catchup=False, max_active_runs=1, params=form_params(),
    doc_md=__doc__, tags=["carclf"], default_args=task_defaults(), deadline=decision_deadline(),
    **notification_callbacks(RETRAIN_DAG),
)
def car_retrain():
    """Add the tasks in order."""

    @task(execution_timeout=timedelta(hours=2), inlets=[SOURCE], **gpu_task_options("download"))
    def download():
        return run_download(get_current_context())

    @task(execution_timeout=timedelta(hours=6), **gpu_task_options("promote"))
    def promote():
        return promote_or_wait(get_current_context())

    promoted, refit = promote(), stage_task("refit", hours=60)
    promoted >> request_approval()
    refit >> announce_champion_task()  # once, for the model that predicts
    chain(
        download(),
        stage_task("validate", hours=2),
        stage_task("split", hours=1, outlets=[DATASET]),
        stage_task("train_head", hours=12),
        stage_task("fine_tune", hours=48),
        stage_task("evaluate", hours=6),
        promoted,
        refit,
        # none_failed: refit is skipped if fine_tune.refit is off
        sensor_task("submit", hours=6, timeout=timedelta(days=3), trigger_rule="none_failed", outlets=[SUBMISSION]),
        sensor_task("score", hours=1, timeout=timedelta(hours=6)),
    )


car_retrain()
