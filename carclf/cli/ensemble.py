"""``carclf ensemble``: combine the models of finished runs, and take the ensemble through the gate."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from carclf import config as configuration
from carclf.artifacts import Archive, Dataset, Evaluation, Model, Split
from carclf.champion import champion_split
from carclf.cli.completion import complete_run
from carclf.cli.options import SetOption, StoreOption
from carclf.dashboard.run_report import run_stage_with_report
from carclf.ensembles.build import TrainedModel, build_ensemble_model
from carclf.errors import ConfigError, ServiceError
from carclf.formatting import format_pairs
from carclf.runs.run import Result, Run
from carclf.runs.run_names import load_run
from carclf.services.storage import format_command, require_store

MAX_ASPECT_DIFFERENCE = 0.01
OVERRIDABLE_SECTIONS = ("evaluate", "gate", "submit", "score", "force")  # the members determine the others
MIN_MEMBERS = 2


def ensemble(
    run_ids: Annotated[
        list[str], typer.Option("--run", help="A finished run. Give two or more.", autocompletion=complete_run)
    ],
    store_url: StoreOption = "store", set_: SetOption = [],
    name: Annotated[str, typer.Option("--name", help="The id of the new run; by default the time.")] = "",
    submit: Annotated[
        bool, typer.Option("--submit", help="Also submit, even if submit.enabled is off, and get the score.")
    ] = False,
) -> None:
    """Combine the models of finished runs, weighted by their validation predictions, and evaluate and promote them."""
    store = require_store(store_url)
    members = [load_run(run_id, store) for run_id in run_ids]
    overrides = [*set_, "submit.enabled=true"] if submit else set_
    run = start_ensemble_run(name or f"ensemble-{datetime.now(UTC):%Y%m%dT%H%M%S}", members, overrides)
    print(join_runs(run, members).format_line(), flush=True)
    for stage in ("evaluate", "promote", "submit", "score") if submit else ("evaluate", "promote"):
        result = run_stage_with_report(run, stage)
        print(result.format_line(), flush=True)
        if result.waiting:
            approval = " --approved-by NAME" if stage == "promote" else ""
            print(f"To continue: {format_command(store, f'{stage} --run {run.run_id}')}{approval}")
        if result.waiting or result.skip_reason:
            print(f"{result.skip_reason or result.summary}; the remaining stages were not run")
            break
    if result.waiting:
        raise typer.Exit(ServiceError.exit_status)


def start_ensemble_run(name: str, members: Sequence[Run], overrides: Sequence[str]) -> Run:
    """Start or resume the run of an ensemble, with the first member's configuration and the overrides.

    Raise ConfigError if the members are incompatible, or if an override changes a setting that the members determine.
    """
    _check_members(members)
    first = members[0]
    changes = dict(map(configuration.parse_override, overrides))
    for key in changes:
        if key.partition(".")[0] not in OVERRIDABLE_SECTIONS:
            raise ConfigError(f"{key} cannot be changed: the members were trained with it. --set can change "
                              f"{', '.join(OVERRIDABLE_SECTIONS)}.")
    recipe = str(first.record["recipe"])
    settings = configuration.flatten(first.config.model_dump()) | {"fine_tune.refit": False}
    return Run.start_or_resume(name, first.store, recipe, configuration.load_config(recipe, changes, base=settings))


def join_runs(run: Run, members: Sequence[Run]) -> Result:
    """Store the ensemble as the fine-tuned model of ``run``, and record the result."""
    members = _order_members(run, members)
    run.add_members(members)
    started = time.monotonic()
    archive = members[0].artifact(Archive, "download")
    model, reused = build_ensemble_model(archive, [_trained_model(member) for member in members], run.context)
    seconds = round(time.monotonic() - started, 2)
    result = Result("fine_tune", model.key, reused, seconds, model.metrics, format_pairs(model.metrics))
    run.record_result(result)
    return result


def _trained_model(run: Run) -> TrainedModel:
    model, evaluation = run.artifact(Model, "fine_tune"), run.artifact(Evaluation, "evaluate")
    return TrainedModel(run.run_id, run.config, model, evaluation, run.artifact(Split, "split"))


def _order_members(run: Run, members: Sequence[Run]) -> list[Run]:
    """Return the members in the recorded order; in a new run, a member with the champion's split comes first.

    The gate compares models on the first member's validation images; the champion must not be trained on them.
    """
    recorded = run.record.get("members", [])
    if {member.run_id for member in members} == set(recorded):
        return sorted(members, key=lambda member: recorded.index(member.run_id))
    split = champion_split(run.store)
    with_champion_split = (member for member in members if split and member.artifact(Split, "split").key == split.key)
    first = next(with_champion_split, members[0])
    return [first, *(member for member in members if member is not first)]


def _check_members(members: Sequence[Run]) -> None:
    models = [member.artifact(Model, "fine_tune") for member in members]
    if len(models) < MIN_MEMBERS or len({model.key for model in models}) < len(models):
        raise ConfigError("An ensemble needs at least two different models. Give --run for each of their runs.")
    for member, model in zip(members, models, strict=True):
        if model.is_ensemble:
            options = " ".join(f"--run {name}" for name in member.record.get("members", []))
            raise ConfigError(f"The run {member.run_id!r} is an ensemble. Give its members instead: {options}")
        _check_compatible(members[0], models[0], member, model)
    _check_aspect_ratios(members, models)


def _check_compatible(first: Run, first_model: Model, member: Run, model: Model) -> None:
    for kind, stage in ((Archive, "download"), (Dataset, "validate")):
        if member.artifact(kind, stage).key != first.artifact(kind, stage).key:
            raise ConfigError(f"The runs {first.run_id!r} and {member.run_id!r} have different data: their {stage} "
                              "differs. Run one of them again with the data of the other.")
    if model.class_names != first_model.class_names:
        raise ConfigError(f"The models of runs {first.run_id!r} and {member.run_id!r} have different classes.")
    member.artifact(Evaluation, "evaluate")  # raises ConfigError if it has not run


def _check_aspect_ratios(members: Sequence[Run], models: Sequence[Model]) -> None:
    sizes = [model.image_size for model in models]
    ratios = [width / height for height, width in sizes]
    if max(ratios) / min(ratios) <= 1 + MAX_ASPECT_DIFFERENCE:
        return
    listed = [f"{run.run_id}: {height}x{width}" for run, (height, width) in zip(members, sizes, strict=True)]
    raise ConfigError(f"The image sizes of the members have different aspect ratios ({', '.join(listed)}). Choose "
                      "models with the same ratio of model.image_height to model.image_width.")
