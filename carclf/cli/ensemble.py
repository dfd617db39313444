"""``carclf ensemble``: finished runs' models as one model, and a run of its own that takes it through the gate."""

import time
from collections.abc import Sequence
from functools import reduce

from carclf import config as configuration
from carclf.artifacts import Archive, Dataset, Evaluation, Model, Split
from carclf.champion import champion_split
from carclf.ensembles.build import TrainedModel, build_ensemble_model
from carclf.errors import ConfigError
from carclf.runs.run import Result, Run
from carclf.services.storage import format_command

MAX_ASPECT_DIFFERENCE = 0.01
OWN = ("evaluate", "gate", "submit", "score", "force")  # sections that an ensemble's run has of its own


def start_ensemble_run(name: str, members: Sequence[Run], overrides: Sequence[str]) -> Run:
    """A new run, or one that goes on, with the first member's configuration and these changes of it.

    ConfigError where the members do not fit together.
    """
    _require_alike(members)
    first, changes = members[0], dict(configuration.parse_override(text) for text in overrides)
    if settled := sorted(key for key in changes if key.partition(".")[0] not in OWN):
        raise ConfigError(f"{settled[0]} was settled when the members were made. --set changes {', '.join(OWN)}.")
    theirs = {key: reduce(getattr, key.split("."), first.config) for key, _ in configuration.iter_settings()}
    recipe = str(first.record["recipe"])
    return Run.start_or_resume(name, first.store, recipe, configuration.load_config(recipe, theirs | changes))


def join_runs(run: Run, members: Sequence[Run]) -> Result:
    """Join the members' models as the fine-tuned model of ``run``, and note it in its record."""
    members = _in_order(run, members)
    run.add_members(members)
    started = time.monotonic()
    archive = members[0].artifact(Archive, "download")
    trained = [_trained_model(member) for member in members]
    model, reused = build_ensemble_model(archive, trained, run.context)
    summary = ", ".join(f"{name} {value}" for name, value in model.metrics.items())
    result = Result("fine_tune", model.key, reused, round(time.monotonic() - started, 2), model.metrics, summary)
    run.record_result(result)
    return result


def _trained_model(run: Run) -> TrainedModel:
    model = run.artifact(Model, "fine_tune")
    return TrainedModel(run.run_id, run.config, model, run.artifact(Evaluation, "evaluate"), run.artifact(Split, "split"))


def _in_order(run: Run, members: Sequence[Run]) -> list[Run]:
    """As they are in the record, if it is there; else the one first whose split is the champion's.

    The champion is compared on the first one's validation pictures: on those it was not trained.
    """
    if {member.run_id for member in members} == set(known := run.record.get("members", [])):
        return sorted(members, key=lambda member: known.index(member.run_id))
    split = champion_split(run.store)
    of_champion = (member for member in members if split and member.artifact(Split, "split").key == split.key)
    first = next(of_champion, members[0])
    return [first, *(member for member in members if member is not first)]


def _require_alike(members: Sequence[Run]) -> None:
    models = [member.artifact(Model, "fine_tune") for member in members]
    if len({model.key for model in models}) < max(2, len(models)):
        raise ConfigError("An ensemble is of two models or more, each once. Give --run for each of their runs.")
    first = members[0]
    for member, model in zip(members, models, strict=True):
        if model.is_ensemble:
            raise ConfigError(f"The run {member.run_id!r} is an ensemble itself. Give its members instead: "
                              f"{' '.join(f'--run {name}' for name in member.record.get('members', []))}")
        for kind, stage in ((Archive, "download"), (Dataset, "validate")):
            if member.artifact(kind, stage).key != first.artifact(kind, stage).key:
                raise ConfigError(f"The runs {first.run_id!r} and {member.run_id!r} have not the same data: their "
                                  f"{stage} differs. Run one of them again on the other's.")
        if model.class_names != models[0].class_names:
            raise ConfigError(f"The runs {first.run_id!r} and {member.run_id!r} know different classes.")
        if "temperature" not in member.artifact(Evaluation, "evaluate").metrics:
            raise ConfigError(f"The evaluation of the run {member.run_id!r} is of an older version and tells no "
                              f"temperature. Evaluate it again: "
                              f"{format_command(member.store, f'evaluate --run {member.run_id}')}")
    _require_shape(members, models)


def _require_shape(members: Sequence[Run], models: Sequence[Model]) -> None:
    sizes = [model.image_size for model in models]
    ratios = [width / height for height, width in sizes]
    if max(ratios) / min(ratios) > 1 + MAX_ASPECT_DIFFERENCE:
        told = ", ".join(f"{member.run_id}: {height}x{width}" for member, (height, width) in
                         zip(members, sizes, strict=True))
        raise ConfigError(f"The members' pictures have different shapes ({told}): one frame cannot serve them all. "
                          "Take models whose image_height and image_width are in one proportion.")
