"""### Compare recipes: which is better, by how much, and is the difference significant?

`plan → prepare → (rung_1 → rung_2 → rung_3) → finish → compare → promote`

Each recipe is trained with each seed (and fold) on the same images; data, split and features are shared. A failed
training does not stop the others: the comparison lists it. With rungs, the worst recipes stop early.
The report is in the store, at `experiments/<name>/report.html`; the log of `plan` shows the name.

| task | fails if | fix |
|---|---|---|
| plan | a recipe or setting is unknown | choose from the list in the log |
| prepare | download, validate or split of `car_retrain` would fail | as for that task |
| rung, finish | train_head, fine_tune or evaluate would fail | clear that task: it resumes from its checkpoint |
| compare | the baseline did not finish | clear the baseline's training, then this task |
| promote | the gate rejected the winner | the log names the rule |

If `gate.approval` is `required`, `promote` ends with a request: the next run of `car_promote`, within an hour, asks a
person. To promote the winner later, through the same gate: `carclf champion promote --run RUN`.
"""

from datetime import timedelta

from airflow.sdk import dag, task

from carclf.experiments.plan import MAX_TRAINING_RUNS
from carclf_airflow import experiment_steps as steps
from carclf_airflow.deployment import max_parallel_trainings, task_defaults
from carclf_airflow.experiment_form import experiment_params
from carclf_airflow.notifications import failure_callback
from carclf_airflow.pods import gpu_task_options

NUM_RUNGS = 3  # the most that a plan may have; missing rungs are skipped


@dag(
    dag_id="car_experiments", schedule=None, catchup=False, max_active_runs=1, max_active_tasks=MAX_TRAINING_RUNS,
    params=experiment_params(), doc_md=__doc__, tags=["carclf"], default_args=task_defaults(),
    **failure_callback("car_experiments"),
)
def car_experiments():
    """Add the tasks in order."""

    @task(execution_timeout=timedelta(minutes=10))
    def plan():
        return steps.plan_experiment()

    @task(execution_timeout=timedelta(hours=4))
    def prepare(fold):
        return steps.prepare_fold(fold)

    @task(execution_timeout=timedelta(minutes=10), trigger_rule="all_done")
    def choose(prepared, rung):
        return steps.choose_training_runs(prepared, rung, NUM_RUNGS)

    @task(execution_timeout=timedelta(hours=48), max_active_tis_per_dag=max_parallel_trainings(),
          **gpu_task_options("fine_tune"))
    def train(group, rung):
        return steps.train_group(group, rung)

    @task(execution_timeout=timedelta(hours=1), trigger_rule="all_done")
    def compare(prepared):
        return steps.compare_recipes(prepared)

    @task(execution_timeout=timedelta(hours=6), **gpu_task_options("promote"))
    def promote(compared):
        return steps.promote_winner(compared)

    last = prepared = prepare.expand(fold=plan())
    for rung in range(1, NUM_RUNGS + 1):
        chosen = choose.override(task_id=f"choose_{rung}")(prepared, rung)
        last >> chosen
        last = train.override(task_id=f"rung_{rung}").partial(rung=rung).expand(group=chosen)
    finalists = choose.override(task_id="choose_finalists")(prepared, NUM_RUNGS + 1)
    last >> finalists
    finish = train.override(task_id="finish").partial(rung=0).expand(group=finalists)
    compared = compare(prepared)
    finish >> compared
    promote(compared)


car_experiments()
