"""### Ask a person whether a model that passed the gate may become the champion, and announce champions.

`candidates → (ask → promote → refit → submit → score, refit → announce_champion) for each candidate`

A run of `car_retrain` with `gate.approval=required` starts this DAG. The question is under *Required Actions*; it
occupies no worker slot, and several candidates may wait. An approved model is compared with the champion of that
moment. Every hour, a run asks about candidates and announces a champion that were missed.

| task | fails if | fix |
|---|---|---|
| announce_champion | the store is unavailable (it is skipped if the champion is not new) | none: the next run does it |
| candidates | the store is unavailable | none: the next run asks |
| ask | Airflow is down for all retries; no response is a rejection | `carclf promote --run RUN --approved-by NAME` |
| promote | the store is unavailable (a rejected model skips the stages after it) | clear it |
| refit, submit, score | as in `car_retrain` | as there |
"""

from datetime import timedelta

from airflow.sdk import chain, dag, task_group

from carclf_airflow.approval import act_on_response, ask, waiting_candidates
from carclf_airflow.assets import CANDIDATE, SUBMISSION
from carclf_airflow.deadlines import approval_reminder
from carclf_airflow.deployment import asset_or_time, task_defaults
from carclf_airflow.ids import CANDIDATE_GROUP, PROMOTE_DAG
from carclf_airflow.notifications import notification_callbacks
from carclf_airflow.tasks import announce_champion_task, sensor_task, stage_task

MAX_WAITING = 100  # DAG runs; each may have several candidates


@dag(
    dag_id=PROMOTE_DAG, catchup=False, max_active_runs=MAX_WAITING, is_paused_upon_creation=False, doc_md=__doc__,
    schedule=asset_or_time(CANDIDATE, "@hourly"), tags=["carclf"],
    default_args=task_defaults(), deadline=approval_reminder(), **notification_callbacks(PROMOTE_DAG),
)
def car_promote():
    """Add the tasks in order."""

    @task_group(group_id=CANDIDATE_GROUP)
    def candidate(run, decision, subject, body):
        promote = act_on_response(run, decision, ask(subject, body).output)
        refit = stage_task("refit", hours=60, run=run)
        refit >> announce_champion_task()  # once, for the model that predicts; the hourly run does not wait so long
        chain(
            promote,
            refit,
            # none_failed: refit is skipped if fine_tune.refit is off
            sensor_task("submit", hours=6, timeout=timedelta(days=3), run=run, trigger_rule="none_failed",
                        outlets=[SUBMISSION]),
            sensor_task("score", hours=1, timeout=timedelta(hours=6), run=run),
        )

    announce_champion_task()
    candidate.expand_kwargs(waiting_candidates())


car_promote()
