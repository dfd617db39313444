"""``carclf experiment``: train recipes x seeds x folds, race them and compare them with a baseline."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from carclf.cli.options import RecipeOption, ResultOption, SetOption, StoreOption, validate_parent_folder
from carclf.errors import CarclfError, ConfigError
from carclf.experiments import racing, trainings
from carclf.experiments.plan import Plan, find_plan, read_plan, record_rejection, write_plan
from carclf.experiments.plan_form import MAX_TRIALS, Form, parse_integers, plan_from_form, read_form
from carclf.experiments.search import TRIAL_NAME, boundary_recipes, propose
from carclf.experiments.variants import Changes
from carclf.formatting import format_count
from carclf.metrics import METRICS
from carclf.progress import log
from carclf.redaction import redact_values
from carclf.reports.experiment_report import plot_pareto_front, sort_by_metric
from carclf.services.storage import Store, format_command, require_store

experiment_app = typer.Typer(help="Compare recipes with a baseline on the same images.", no_args_is_help=True)
NameOption = Annotated[str, typer.Option("--name", help="The name of the experiment.")]
TryOption = Annotated[
    list[str],
    typer.Option("--try", help="A recipe: the name of an ablation, 'ensemble [NAME ...]', or 'NAME [OTHER ...] "
                 "key=value ...'. Can be repeated."),
]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Train every recipe with each of these seeds.")]
FoldsOption = Annotated[
    int, typer.Option("--folds", min=0, help="The number of cross-validation folds; 0 uses the validation subset.")
]
RungsOption = Annotated[
    str, typer.Option("--rungs", help="Epochs after which only the best recipes continue, as in 2,5.")
]
KeepOption = Annotated[
    float, typer.Option("--keep-fraction", help="The fraction of the recipes that continue after a rung.")
]
BudgetOption = Annotated[
    float, typer.Option("--budget-minutes", min=0, help="Start no training after this many minutes of training.")
]
SearchOption = Annotated[
    list[str], typer.Option("--search", help="Let Optuna propose recipes: key=low..high or key=a|b. Can be repeated.")
]
TrialsOption = Annotated[
    int, typer.Option("--num-trials", min=1, max=MAX_TRIALS, help="The number of recipes that Optuna proposes.")
]
StudyOption = Annotated[
    str, typer.Option("--study", help="The Optuna study to continue; by default a new one with the experiment's name.")
]
FormOption = Annotated[
    str, typer.Option("--form", help="The fields of the DAG's form as a JSON object, or a file that contains it.")
]


@experiment_app.command("plan")
def plan_command(
    name: NameOption, try_: TryOption = [], store_url: StoreOption = "store", recipe: RecipeOption = "gpu",
    set_: SetOption = [], seeds: SeedsOption = "0,1", folds: FoldsOption = 0, rungs: RungsOption = "",
    keep_fraction: KeepOption = 0.5, budget_minutes: BudgetOption = 0, search: SearchOption = [],
    num_trials: TrialsOption = 8, study: StudyOption = "", form: FormOption = "", result: ResultOption = None,
) -> None:
    """Plan an experiment and check the settings of every training."""
    if form and try_:
        raise ConfigError("Both --form and --try are given. Add the recipes of --try to the form's recipes.")
    store = require_store(store_url)
    try:
        fields = read_form(form) if form else Form(
            recipe=recipe, settings=shlex.join(set_), recipes=try_, seeds=seeds, folds=folds, rungs=rungs,
            keep_fraction=keep_fraction, budget_minutes=budget_minutes, search=search, num_trials=num_trials,
            study=study,
        )
        plan = _plan_experiment(name, fields, store)
    except ConfigError as error:
        record_rejection(name, store, error)
        raise
    _write_result({"folds": list(plan.folds), "groups": plan.groups(), "num_rungs": len(plan.rungs)}, result)
    print(f"{plan.experiment}: {format_count(len(plan.recipes), 'recipe')}, "
          f"{format_count(len(plan.training_runs), 'training')}")


def _plan_experiment(name: str, form: Form, store: Store) -> Plan:
    # Check a plan with the ranges' boundaries first: trials that a study has proposed cannot be removed from it.
    plan = plan_from_form(name, form, boundary_recipes(form.search, form.num_trials))
    if plan.study:
        plan = plan_from_form(name, form, _proposed_recipes(plan, form, store))
    write_plan(plan, store)
    return plan


def _proposed_recipes(plan: Plan, form: Form, store: Store) -> dict[str, Changes]:
    """Return the trials of the stored plan, so that a retry adds none to the study; without a plan, propose trials."""
    if stored := find_plan(plan.experiment, store):
        return {recipe: changes for recipe, changes in stored.recipes.items() if TRIAL_NAME.fullmatch(recipe)}
    return propose(plan.study, form.search, form.num_trials, store)


@experiment_app.command()
def prepare(
    name: NameOption, store_url: StoreOption = "store",
    fold: Annotated[int, typer.Option(help="The fold to prepare.")] = 0, result: ResultOption = None,
) -> None:
    """Download, validate and split the data of a fold, once for all its trainings."""
    store = require_store(store_url)
    trainings.prepare(read_plan(name, store), fold, store)
    _write_result({"fold": fold}, result)


@experiment_app.command()
def train(
    name: NameOption,
    numbers: Annotated[str, typer.Option("--training-runs", help="The numbers of the trainings, as in 0,3.")],
    store_url: StoreOption = "store",
    rung: Annotated[int, typer.Option(min=0, help="Stop at this rung, counted from 1; 0 trains to the end.")] = 0,
    result: ResultOption = None,
) -> None:
    """Train to a rung or to the end; continue from the checkpoints of earlier calls."""
    store = require_store(store_url)
    plan = read_plan(name, store)
    group = parse_integers(numbers, "--training-runs")
    if rung > len(plan.rungs):
        raise ConfigError(f"The experiment {plan.experiment!r} has no rung {rung}; it has {len(plan.rungs)} rungs.")
    pause_epoch = plan.rungs[rung - 1] if rung else 0
    _write_result(trainings.train_group(plan, group, store, pause_epoch=pause_epoch), result)


@experiment_app.command()
def survivors(
    name: NameOption, store_url: StoreOption = "store",
    rung: Annotated[int, typer.Option(min=0, help="The last rung, counted from 1; 0 is before the first.")] = 0,
    result: ResultOption = None,
) -> None:
    """Print the recipes that continue after a rung; write the groups of their training runs to --result."""
    store = require_store(store_url)
    plan = read_plan(name, store)
    print(", ".join(racing.survivors(plan, rung, store)))
    _write_result(racing.remaining_groups(plan, rung, store), result)


@experiment_app.command()
def compare(name: NameOption, store_url: StoreOption = "store", result: ResultOption = None) -> None:
    """Compare the recipes trained so far with the baseline."""
    # These import pandas, which the other commands do not need.
    from carclf.experiments.results import write_outcome

    store = require_store(store_url)
    outcome = write_outcome(read_plan(name, store), store)
    print(METRICS[outcome["metric"]].label)
    for row in sort_by_metric(outcome):
        print(f"{row['recipe']:<28}{row['value']:.4f}  {row['summary']}")
    for failure in outcome["failed"]:
        print(f"{failure['run']} failed: {failure['error']}")
    print(f"report: {store.url}/experiments/{name}/report.html")
    if winner := outcome["winner"]:
        print(f"To promote the winner: {format_command(store, f'champion promote --run {winner}')}")
    _write_result({"winner": winner, "summaries": {row["recipe"]: row["summary"] for row in outcome["rows"]}}, result)


@experiment_app.command()
def run(name: NameOption, store_url: StoreOption = "store", form: FormOption = "") -> None:
    """Train and compare an experiment on this machine, one training at a time.

    Plan the experiment first, or give its --form. If it is interrupted, the same command continues it.
    """
    store = require_store(store_url)
    plan = _plan_experiment(name, read_form(form), store) if form else read_plan(name, store)
    for fold in plan.folds:
        trainings.prepare(plan, fold, store)
    for num_rungs, pause_epoch in enumerate([*plan.rungs, 0]):
        for group in racing.remaining_groups(plan, num_rungs, store):
            _train_group(plan, group, store, pause_epoch)
    compare(name, store_url)


def _train_group(plan: Plan, group: list[int], store: Store, pause_epoch: int) -> None:
    """Train a group. Print any error and continue: another recipe may still fit into memory."""
    run_id = plan.training_runs[group[0]].run_id
    try:
        trainings.train_group(plan, group, store, pause_epoch=pause_epoch)
    except CarclfError as error:  # logged already
        print(f"{run_id} failed: {error}")
    except Exception as error:  # noqa: BLE001 (see the docstring)
        log.exception("experiment: failed run=%s", run_id)
        print(f"{run_id} failed: {type(error).__name__}: {error}")


@experiment_app.command()
def table(
    name: NameOption, store_url: StoreOption = "store",
    to: Annotated[
        Optional[Path],
        typer.Option("--to", help="Write to this Markdown file, with a chart next to it, instead of printing.",
                     callback=validate_parent_folder),
    ] = None,
    note: Annotated[str, typer.Option(help="Where and when the experiment ran.")] = "",
) -> None:
    """Print the comparison as a Markdown table, or write it to a file, replacing an earlier version."""
    from carclf.experiments.results import read_outcome, results_table, update_results_file

    outcome = read_outcome(name, require_store(store_url))
    if to:
        update_results_file(to, outcome, note, plot_pareto_front(outcome))
    else:
        print(results_table(outcome, note))


def _write_result(content: Any, path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(redact_values(content)))
