"""### Compare recipes: which, by how much, and is it real

`plan → prepare → (rung_1 → rung_2 → rung_3) → finish → compare → promote`

Every recipe is trained with every seed (and fold) on the same images; data, split and features are shared. A failed
training does not stop the others: the comparison names it. With rungs, the worse share of the recipes stops early.
The report lies in the store under `experiments/<run>/report.html`.

| task | when it fails | mend |
|---|---|---|
| plan | an unknown recipe or setting | the log names it and what there is |
| prepare | as download, validate and split of `car_retrain` do | as there |
| rung, finish | as train_head, fine_tune and evaluate do | clear that one task: it goes on from its checkpoint |
| compare | the baseline did not finish | clear the baseline's training, then this |
| promote | the gate refused the winner | the log says which rule |

Without *Promote the winner* in the form: `carclf champion promote --run RUN`, through the same gate.
"""

import json
import os
from datetime import timedelta

from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from carclf.config import RECIPES
from carclf.experiments.ablations import ABLATIONS
from carclf.experiments.experiment_form import MAX_TRIALS, parse_integers
from carclf.experiments.plan import MAX_TRAINING_RUNS
from carclf_airflow.experiment_steps import promote_run, run_experiment_step
from carclf_airflow.pods import gpu_task_options

NUM_RUNGS = 3  # at most; those that a plan does not have are skipped
RECIPE = os.environ.get("CARCLF_RECIPE") or "gpu"
# Trainings at once; by default all that there are workers for.
WIDTH = int(os.environ.get("CARCLF_MAX_PARALLEL_TRAININGS") or 0) or None

PARAMS = {
    "recipe": Param(RECIPE, type="string", enum=list(RECIPES), title="Baseline", section="Recipes",
                    description="What every recipe is compared with."),
    "settings": Param("", type=["string", "null"], title="Settings for all", section="Recipes",
                      description="key=value, separated by spaces, such as fine_tune.epochs=3"),
    "recipes": Param(["frozen", "no-augmentation", "single-view"], type="array", title="Recipes", section="Recipes",
                     items={"type": "string"},
                     description="A line each: NAME [OTHER…] key=value…, ensemble [NAME…], or one of: "
                                 f"{', '.join(ABLATIONS)}."),
    "seeds": Param("0,1", type="string", pattern=r"^ *\d+( *, *\d+)* *$", title="Seeds", section="Design",
                   description="Each recipe is trained once with each."),
    "folds": Param(0, type="integer", minimum=0, maximum=20, title="Folds", section="Design",
                   description="Of a cross-validation; 0: the holdout."),
    "rungs": Param("", type=["string", "null"], pattern=r"^( *\d+( *, *\d+){0,2} *)?$", title="Rungs", section="Racing",
                   description="Epochs after which the worse recipes stop, at most three, such as 2,5."),
    "keep_fraction": Param(0.5, type="number", exclusiveMinimum=0, exclusiveMaximum=1, title="Share kept", section="Racing",
                  description="Share of the recipes that goes on after a rung."),
    "budget_minutes": Param(0, type="number", minimum=0, title="Budget in minutes", section="Racing",
                            description="Of training in all; once it is spent no other training begins. 0: none."),
    "search": Param([], type="array", items={"type": "string"}, title="Ranges", section="Search",
                    description="A line each: key=low..high or key=one|another; Optuna proposes recipes in them."),
    "num_trials": Param(8, type="integer", minimum=1, maximum=MAX_TRIALS, section="Search",
                    title="Recipes that are proposed"),
    "study": Param("", type=["string", "null"], title="Study", section="Search",
                   description="An earlier study that goes on; by default a new one."),
    "promote": Param(False, type="boolean", title="Promote the winner", section="Design",
                     description="Its best run goes through the gate, approved by you."),
}


@dag(
    dag_id="car_experiments", schedule=None, catchup=False, max_active_runs=1, max_active_tasks=MAX_TRAINING_RUNS,
    params=PARAMS, doc_md=__doc__, tags=["carclf"],
    default_args={
        "queue": "gpu", "retries": 3, "retry_exponential_backoff": True, "max_retry_delay": timedelta(minutes=30),
        "retry_delay": timedelta(seconds=float(os.environ.get("CARCLF_RETRY_DELAY_SECONDS", "30"))),
    },
)
def car_experiments():
    @task(execution_timeout=timedelta(minutes=10))
    def plan():
        context = get_current_context()
        return run_experiment_step("plan", context, "--form", json.dumps(dict(context["params"])))["folds"]

    @task(execution_timeout=timedelta(hours=4))
    def prepare(fold):
        return run_experiment_step("prepare", get_current_context(), "--fold", str(fold))

    @task(execution_timeout=timedelta(minutes=10), trigger_rule="all_done")
    def choose(prepared, rung):
        if not len(prepared):
            raise AirflowSkipException("There is nothing to train on: look at plan and prepare")
        context = get_current_context()
        num_rungs = len(parse_integers(context["params"]["rungs"] or "", "rungs"))
        if num_rungs < rung <= NUM_RUNGS:  # there is no such rung
            return []
        return run_experiment_step("survivors", context, "--rung", str(min(rung - 1, num_rungs)))

    @task(execution_timeout=timedelta(hours=48), max_active_tis_per_dag=WIDTH, **gpu_task_options("fine_tune"))
    def train(group, rung):
        numbers = ",".join(map(str, group))
        return run_experiment_step("train", get_current_context(), "--training-runs", numbers, "--rung", str(rung))

    @task(execution_timeout=timedelta(hours=1), trigger_rule="all_done")
    def compare(prepared):
        if not len(prepared):
            raise AirflowFailException("There is nothing to compare: look at plan and prepare")
        return run_experiment_step("compare", get_current_context())

    @task(execution_timeout=timedelta(hours=6), **gpu_task_options("promote"))
    def promote(compared):
        context = get_current_context()
        if not context["params"]["promote"]:
            raise AirflowSkipException("The form did not ask for it")
        if not compared["winner"]:
            raise AirflowSkipException("No recipe is better than the baseline")
        return promote_run(compared["winner"], context)

    last = prepared = prepare.expand(fold=plan())
    for rung in range(1, NUM_RUNGS + 1):
        chosen = choose.override(task_id=f"choose_{rung}")(prepared, rung)
        last >> chosen
        last = train.override(task_id=f"rung_{rung}").partial(rung=rung).expand(group=chosen)
    chosen = choose.override(task_id="choose_finalists")(prepared, NUM_RUNGS + 1)
    last >> chosen
    train.override(task_id="finish").partial(rung=0).expand(group=chosen) >> (compared := compare(prepared))
    promote(compared)


car_experiments()
