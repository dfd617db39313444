"""
### Compare recipes: which, by how much, and is it real

`plan → prepare → (rung_1 → rung_2 → rung_3) → finish → compare`

Every recipe is trained with every seed (and fold) on the same images; data, split and features are shared. A failed
training does not stop the others: the comparison names it. With rungs, the worse share of the recipes stops early.
The report lies in the store under `experiments/<run>/report.html`.

| task | when it fails | mend |
|---|---|---|
| plan | an unknown recipe or setting | the log names it and what there is |
| prepare | as download, validate and split of `car_retrain` do | as there |
| rung, finish | as train_head, fine_tune and evaluate do | clear that one task: it goes on from its checkpoint |
| compare | the baseline did not finish | clear the baseline's training, then this |

The winner's run is taken through the gate by `carclf champion promote --run RUN`.
"""

import os
from datetime import timedelta

from airflow.sdk import Param, dag, get_current_context, task
from carclf_experiment import plan_arguments, run_experiment

from carclf.config import RECIPES

NUM_RUNGS = 3  # at most; those that a plan does not have are skipped
RECIPE = os.environ.get("CARCLF_RECIPE") or "gpu"

PARAMS = {
    "recipe": Param(RECIPE, type="string", enum=list(RECIPES), title="Baseline", section="Recipes",
                    description="What every recipe is compared with."),
    "settings": Param("", type=["string", "null"], title="Settings for all", section="Recipes",
                      description="key=value, separated by spaces, such as fine_tune.epochs=3"),
    "recipes": Param(["frozen", "no-augmentation", "one-look"], type="array", title="Recipes", section="Recipes",
                     items={"type": "string"},
                     description="A line each: a shipped ablation, ensemble, or NAME [ABLATION] key=value…"),
    "seeds": Param("0,1", type="string", pattern=r"^\d+(,\d+)*$", title="Seeds", section="Design",
                   description="Each recipe is trained once with each."),
    "folds": Param(0, type="integer", minimum=0, maximum=20, title="Folds", section="Design",
                   description="Of a cross-validation; 0: the holdout."),
    "rungs": Param("", type=["string", "null"], pattern=r"^(\d+(,\d+){0,2})?$", title="Rungs", section="Racing",
                   description="Epochs after which the worse recipes stop, at most three, such as 2,5."),
    "keep": Param(0.5, type="number", exclusiveMinimum=0, exclusiveMaximum=1, title="Share kept", section="Racing",
                  description="Share of the recipes that goes on after a rung."),
    "budget_minutes": Param(0, type="number", minimum=0, title="Budget in minutes", section="Racing",
                            description="Of training in all; once it is spent no other training begins. 0: none."),
}


@dag(
    dag_id="car_experiments", schedule=None, catchup=False, max_active_runs=1, params=PARAMS, doc_md=__doc__,
    tags=["carclf"],
    default_args={
        "queue": "gpu", "retries": 3, "retry_exponential_backoff": True, "max_retry_delay": timedelta(minutes=30),
        "retry_delay": timedelta(seconds=float(os.environ.get("CARCLF_RETRY_SECONDS", "30"))),
    },
)
def car_experiments():
    @task(execution_timeout=timedelta(minutes=10), multiple_outputs=True)
    def plan():
        params = get_current_context()["params"]
        return run_experiment("plan", get_current_context(), *plan_arguments(params))

    @task(execution_timeout=timedelta(hours=4))
    def prepare(fold):
        return run_experiment("prepare", get_current_context(), "--fold", str(fold))

    @task(execution_timeout=timedelta(minutes=10), trigger_rule="all_done")
    def choose(num_rungs, rung):
        if num_rungs < rung <= NUM_RUNGS:  # there is no such rung
            return []
        return run_experiment("survivors", get_current_context(), "--rung", str(min(rung - 1, num_rungs)))

    @task(execution_timeout=timedelta(hours=48))
    def train(group, rung):
        numbers = ",".join(map(str, group))
        return run_experiment("train", get_current_context(), "--members", numbers, "--rung", str(rung))

    @task(execution_timeout=timedelta(hours=1), trigger_rule="all_done")
    def compare():
        return run_experiment("compare", get_current_context())

    planned = plan()
    last = prepare.expand(fold=planned["folds"])
    for rung in range(1, NUM_RUNGS + 1):
        chosen = choose.override(task_id=f"choose_{rung}")(planned["num_rungs"], rung)
        last >> chosen
        last = train.override(task_id=f"rung_{rung}").partial(rung=rung).expand(group=chosen)
    chosen = choose.override(task_id="choose_last")(planned["num_rungs"], NUM_RUNGS + 1)
    last >> chosen
    train.override(task_id="finish").partial(rung=0).expand(group=chosen) >> compare()


car_experiments()
