"""``carclf experiment``: recipes x seeds x folds, trained, raced and compared."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from carclf.cli.options import RecipeOption, ResultOption, SetOption, StoreOption, validate_parent_folder
from carclf.errors import CarclfError, ConfigError
from carclf.experiments import racing
from carclf.experiments import trainings as members
from carclf.experiments.experiment_form import MAX_TRIALS, Form, parse_integers, plan_from_form, read_form
from carclf.experiments.plan import Plan, find_plan, read_plan, write_plan
from carclf.experiments.search import TRIAL_NAME, boundary_recipes, propose
from carclf.progress import log
from carclf.services.storage import Store, format_command, open_store

experiment_app = typer.Typer(help="Compare recipes: which, by how much, and is it real.", no_args_is_help=True)
NameOption = Annotated[str, typer.Option("--name", help="The experiment's name.")]
TryOption = Annotated[list[str], typer.Option(
    "--try", help="A shipped ablation, ensemble [NAME...], or NAME [OTHER...] key=value...: repeat it.",
)]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Seeds of training, the same for every recipe.")]
FoldsOption = Annotated[int, typer.Option("--folds", min=0, help="Folds of a cross-validation; 0: the holdout.")]
RungsOption = Annotated[str, typer.Option("--rungs", help="Epochs after which the worse recipes stop, such as 2,5.")]
KeepOption = Annotated[float, typer.Option("--keep-fraction", help="Share of the recipes that goes on after a rung.")]
BudgetOption = Annotated[float, typer.Option("--budget-minutes", min=0, help="Of training, after which none begins.")]


SearchOption = Annotated[list[str], typer.Option("--search", help="key=low..high or key=a|b: Optuna proposes.")]
TrialsOption = Annotated[int, typer.Option("--num-trials", min=1, max=MAX_TRIALS, help="Recipes that --search proposes.")]
StudyOption = Annotated[str, typer.Option("--study", help="The study that goes on; by default one of this name.")]


FormOption = Annotated[str, typer.Option("--form", help="Fields of the DAG's form as JSON, or a file of them.")]


@experiment_app.command("plan")
def _plan(
    name: NameOption, try_: TryOption = [], store: StoreOption = "store", recipe: RecipeOption = "gpu",
    set_: SetOption = [], seeds: SeedsOption = "0,1", folds: FoldsOption = 0, rungs: RungsOption = "",
    keep: KeepOption = 0.5, budget_minutes: BudgetOption = 0, search: SearchOption = [], trials: TrialsOption = 8,
    study: StudyOption = "", form: FormOption = "", result: ResultOption = None,
) -> None:
    """Write down what will be trained; every member's settings are checked."""
    if form and try_:
        raise ConfigError("--form has the recipes already: write those of --try into it.")
    given = read_form(form) if form else Form(
        recipe=recipe, settings=shlex.join(set_), recipes=try_, seeds=seeds, folds=folds, rungs=rungs, keep_fraction=keep,
        budget_minutes=budget_minutes, search=search, num_trials=trials, study=study,
    )
    _say_plan(_planned(name, given, open_store(store)), result)


def _planned(name: str, form: Form, store: Store) -> Plan:
    # Checked before a study proposes anything: what is asked of it stays in it.
    plan = plan_from_form(name, form, boundary_recipes(form.search, form.num_trials))
    if plan.study:
        plan = plan_from_form(name, form, _proposed(plan, form, store))
    write_plan(plan, store)
    return plan


def _proposed(plan: Plan, form: Form, store: Store) -> dict[str, dict[str, Any]]:
    """The trials of this plan where it is there already, so that a retry asks for none again."""
    if there := find_plan(plan.experiment, store):
        return {recipe: changes for recipe, changes in there.recipes.items() if TRIAL_NAME.fullmatch(recipe)}
    return propose(plan.study, form.search, form.num_trials, store)


def _say_plan(plan: Plan, result: Path | None) -> None:
    told = {"folds": list(plan.folds), "groups": plan.groups(), "num_rungs": len(plan.rungs)}
    _say(told, result)
    print(f"{plan.experiment}: {len(plan.recipes)} recipes, {len(plan.training_runs)} trainings")


@experiment_app.command("prepare")
def _prepare(name: NameOption, store: StoreOption = "store", fold: int = 0, result: ResultOption = None) -> None:
    """Download, check and split once for all members (of a fold)."""
    place = open_store(store)
    members.prepare(read_plan(name, place), fold, place)
    _say({"fold": fold}, result)


@experiment_app.command("train")
def _train(
    name: NameOption, group: Annotated[str, typer.Option("--training-runs", help="Numbers, separated by commas.")],
    store: StoreOption = "store", rung: Annotated[int, typer.Option(min=0, help="Stop at this rung, from 1.")] = 0,
    result: ResultOption = None,
) -> None:
    """Train members to a rung, or to their end."""
    place = open_store(store)
    plan = read_plan(name, place)
    _say(members.train_group(plan, parse_integers(group, "--training-runs"), place, pause_epoch=_epoch(plan, rung)), result)


@experiment_app.command("survivors")
def _survivors(
    name: NameOption, store: StoreOption = "store",
    rung: Annotated[int, typer.Option(min=0, help="After this rung, from 1; 0: all.")] = 0, result: ResultOption = None,
) -> None:
    """Which groups of members train on after a rung."""
    place = open_store(store)
    plan = read_plan(name, place)
    print(", ".join(racing.survivors(plan, rung, place)))
    _say(racing.remaining_groups(plan, rung, place), result)


@experiment_app.command("compare")
def _compare(name: NameOption, store: StoreOption = "store", result: ResultOption = None) -> None:
    """Compare what was trained so far with the baseline."""
    from carclf.experiments.results import write_outcome  # pandas: no other command shall wait for it
    from carclf.reports.experiment_report import sort_by_accuracy

    place = open_store(store)
    found = write_outcome(read_plan(name, place), place)
    for row in sort_by_accuracy(found):
        print(f"{row['recipe']:<28}{row['accuracy']:.4f}  {row['sentence']}")
    for row in found["failed"]:
        print(f"{row['run']} failed: {row['error']}")
    print(f"experiments/{name}/report.html")
    if found["winner"]:
        print(f"To promote the winner: {format_command(place, 'champion promote --run ' + found['winner'])}")
    _say({"winner": found["winner"], "summaries": {row["recipe"]: row["summary"] for row in found["rows"]}}, result)


@experiment_app.command("run")
def _run(name: NameOption, store: StoreOption = "store", form: FormOption = "") -> None:
    """Train and compare an experiment here, planned or given by its form; broken off, it goes on."""
    place = open_store(store)
    plan = _planned(name, read_form(form), place) if form else read_plan(name, place)
    for fold in plan.folds:
        members.prepare(plan, fold, place)
    for rung in range(1, len(plan.rungs) + 2):
        for group in racing.remaining_groups(plan, rung - 1, place):
            _tried(plan, group, rung if rung <= len(plan.rungs) else 0, store)
    _compare(name, store)


def _tried(plan: Plan, group: list[int], rung: int, store: str) -> None:
    try:
        members.train_group(plan, group, open_store(store), pause_epoch=_epoch(plan, rung))
    except CarclfError as error:  # it is in the comparison's list of failures
        print(f"{plan.training_runs[group[0]].run_id} failed: {error}")
    except Exception as error:  # noqa: BLE001 (so is this: memory that ran out for one recipe is none of the others')
        log.exception("experiment: %s", plan.training_runs[group[0]].run_id)
        print(f"{plan.training_runs[group[0]].run_id} failed: {type(error).__name__}: {error}")


@experiment_app.command("table")
def _table(
    name: NameOption, store: StoreOption = "store",
    to: Annotated[Optional[Path], typer.Option("--to", help="A Markdown file.", callback=validate_parent_folder)] = None,
    note: Annotated[str, typer.Option(help="Where and when it ran.")] = "",
) -> None:
    """The comparison as a table in Markdown, printed or put into a file in the place of an earlier one."""
    from carclf.experiments.results import read_outcome, results_table, update_results_file
    from carclf.reports.experiment_report import plot_pareto_front

    found = read_outcome(name, open_store(store))
    if to:
        update_results_file(to, found, note, plot_pareto_front(found))
    else:
        print(results_table(found, note))


def _epoch(plan: Plan, rung: int) -> int:
    if rung > len(plan.rungs):
        raise ConfigError(f"The experiment {plan.experiment!r} has {len(plan.rungs)} rungs, and no rung {rung}.")
    return plan.rungs[rung - 1] if rung else 0


def _say(found: Any, path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(found))
