"""The stages in order, for the command line, runs, pages and notifications.

``dags/car_retrain.py`` names them again, because each task has its own time limits and trigger. Importing this module
loads neither TensorFlow nor pandas, so a DAG file may import it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from carclf import artifacts
from carclf.artifacts import (
    Archive,
    Artifact,
    Dataset,
    Evaluation,
    Model,
    RefittedModel,
    Split,
    StageContext,
    Submission,
)
from carclf.champion import champion_split
from carclf.config import Config, flatten
from carclf.stages.download import download
from carclf.stages.evaluate import evaluate
from carclf.stages.fine_tune import fine_tune
from carclf.stages.promote import EXCLUDED_GATE_SETTINGS, Candidate, PromotionOptions, promote
from carclf.stages.promote import NO_OPTIONS as NO_PROMOTION_OPTIONS
from carclf.stages.refit import refit
from carclf.stages.score import score
from carclf.stages.split import split
from carclf.stages.submit import submit
from carclf.stages.train_head import train_head
from carclf.stages.validate import LAYOUT_SETTINGS, validate
from carclf.training.warm_start import excluded_settings

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class StageOptions:
    """Options of one call of a stage. None of them is part of a key.

    ``promotion`` has a person's approval; its run id is that of the call. Fine-tuning pauses after ``pause_epoch``; 0
    means never. The download of an ``experiment`` leaves a change of the source to the next run.
    """

    promotion: PromotionOptions = NO_PROMOTION_OPTIONS
    pause_epoch: int = 0
    experiment: bool = False


NO_OPTIONS = StageOptions()


@dataclass(frozen=True)
class StageCall:
    """One call of a stage: the artifacts of its input stages by stage name, the context, the options and the run."""

    artifacts: Mapping[str, Artifact]
    context: StageContext
    options: StageOptions
    run_id: str

    def input(self, kind: type[A], stage: str) -> A:
        """Return the artifact of an input stage."""
        artifact = self.artifacts[stage]
        assert isinstance(artifact, kind)
        return artifact


@dataclass(frozen=True)
class StageSpec:
    """A stage: its input stages, the settings in its key, the kind of its artifact, and the function that runs it.

    ``sections`` names sections of the settings or single settings. They are part of the artifact's key, except for the
    settings in ``excluded`` and the ``excluded_settings`` of fine-tuning, which do not affect the result. ``force``
    salts every key. A run has the stage only if the setting ``switch`` is on, or if it is empty.
    """

    name: str
    inputs: tuple[str, ...]
    sections: tuple[str, ...]
    artifact: type[Artifact]
    run: Callable[[StageCall], tuple[Artifact, bool]]
    excluded: tuple[str, ...] = ()
    switch: str = ""

    def settings(self, config: Config) -> dict[str, Any]:
        """Return the settings that are part of the stage's key, by dotted name."""
        excluded = {*self.excluded, *(f"fine_tune.{name}" for name in excluded_settings(config.fine_tune))}
        return {
            name: value
            for name, value in flatten(config.model_dump()).items()
            if not {name, name.partition(".")[0]}.isdisjoint(self.sections) and name not in excluded
        }


def _download(call: StageCall) -> tuple[Artifact, bool]:
    return download(call.context, of_run=not call.options.experiment)


def _fine_tune(call: StageCall) -> tuple[Artifact, bool]:
    archive, data_split = call.input(Archive, "download"), call.input(Split, "split")
    start = call.input(Model, "train_head")
    return fine_tune(archive, data_split, start, call.context, pause_epoch=call.options.pause_epoch)


def _evaluate(call: StageCall) -> tuple[Artifact, bool]:
    archive, data_split = call.input(Archive, "download"), call.input(Split, "split")
    return evaluate(archive, data_split, call.input(Model, "fine_tune"), call.context)


def _promote(call: StageCall) -> tuple[Artifact, bool]:
    archive, data_split = call.input(Archive, "download"), call.input(Split, "split")
    model, evaluation = call.input(Model, "fine_tune"), call.input(Evaluation, "evaluate")
    options = replace(call.options.promotion, run_id=call.run_id)
    return promote(Candidate(archive, data_split, model, evaluation), call.context, options)


def _refit(call: StageCall) -> tuple[Artifact, bool]:
    archive, data_split = call.input(Archive, "download"), call.input(Split, "split")
    start, measured = call.input(Model, "train_head"), call.input(Model, "fine_tune")
    return refit(archive, data_split, start, measured, call.context)


def _submit(call: StageCall) -> tuple[Artifact, bool]:
    archive, dataset = call.input(Archive, "download"), call.input(Dataset, "validate")
    evaluation = call.input(Evaluation, "evaluate")
    if "refit" in call.artifacts:
        return submit(archive, dataset, call.input(RefittedModel, "refit"), evaluation, call.context)
    return submit(archive, dataset, call.input(Model, "fine_tune"), evaluation, call.context)


_SPECS = (
    StageSpec("download", (), ("data.source", "download.extra_data"), Archive, _download),
    StageSpec("validate", ("download",), ("data", *LAYOUT_SETTINGS, "validation", "duplicates"), Dataset,
              lambda call: validate(call.input(Archive, "download"), call.context), excluded=("data.source",)),
    StageSpec("split", ("validate",), ("seed", "split"), Split,
              lambda call: split(call.input(Dataset, "validate"), champion_split(call.context.store), call.context)),
    StageSpec("train_head", ("download", "split"), ("seed", "model", "augment", "head"), Model,
              lambda call: train_head(call.input(Archive, "download"), call.input(Split, "split"), call.context)),
    StageSpec("fine_tune", ("download", "split", "train_head"),
              ("seed", "model.precision", "model.deterministic", "augment", "fine_tune"), Model, _fine_tune),
    StageSpec("evaluate", ("download", "split", "fine_tune"), ("evaluate",), Evaluation, _evaluate,
              excluded=("evaluate.batch_size",)),
    StageSpec("promote", ("download", "split", "fine_tune", "evaluate"), ("gate",), artifacts.Decision, _promote,
              excluded=tuple(f"gate.{name}" for name in sorted(EXCLUDED_GATE_SETTINGS))),
    StageSpec("refit", ("download", "split", "train_head", "fine_tune"), (), RefittedModel, _refit,
              switch="fine_tune.refit"),
    StageSpec("submit", ("download", "validate", "fine_tune", "evaluate", "refit"),
              ("data.source", "submit.positive_class", "evaluate"), Submission, _submit,
              excluded=("evaluate.batch_size",)),
    StageSpec("score", ("submit", "evaluate"), ("data.source",), artifacts.PublicScore,
              lambda call: score(call.input(Submission, "submit"), call.input(Evaluation, "evaluate"), call.context)),
)
STAGES: dict[str, StageSpec] = {spec.name: spec for spec in _SPECS}


def stages_of(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the stages of a run with this dumped configuration, in order."""
    settings = flatten(config)
    return [name for name, spec in STAGES.items() if not spec.switch or settings.get(spec.switch)]
