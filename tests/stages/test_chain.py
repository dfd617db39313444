"""The chain of stages: its order, what it imports, and which settings are part of each stage's key."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_artifact, build_candidate

from carclf.artifacts import (
    Artifact,
    Dataset,
    Metrics,
    Model,
    Prediction,
    Provenance,
    RefittedModel,
    SoftTargets,
    StageContext,
    Submission,
)
from carclf.config import Config, iter_settings, load_config
from carclf.services.kaggle.client import CompetitionDetails, KaggleClient, SubmissionState
from carclf.services.storage import Store, open_store
from carclf.stages import train_head
from carclf.stages.chain import NO_OPTIONS, STAGES, StageCall
from carclf.training.weights import StartingWeights

BASE = {"model.weights": "none", "audit.enabled": False}  # an audit would compute features
CHANGED_VALUES: dict[str, Any] = {
    "fine_tune.teacher": 16 * "b",
    "data.source": "other-cars",
    "data.metric": "log_loss",
    "data.label_source": "table",
    "data.id_form": "stem",
    "data.class_names": "0=coupe",
    "submit.kind": "probabilities",
    "model.backbone": "EfficientNetB0",
    "model.weights": "imagenet",
    "model.precision": "float32",
    "fine_tune.schedule": "plateau",
    "fine_tune.batch_norm": "training",
    "fine_tune.size_fraction": 0.5,
    "fine_tune.mixup": 0.1,
    "fine_tune.cutmix": 0.1,
    "evaluate.zooms": "1,1.2",
    "evaluate.crops": "corners",
    "gate.champion_rule": "better",
    "gate.raise_threshold": "worse_bound",
    "gate.min_recall_by_class": "1=0.7",
    "gate.approval": "required",
    "gate.significance": 0.01,
    "split.seed": 7,
    "split.num_folds": 3,
    "split.fold": 1,
    "audit.drift_warn": 0.2,
    "augment.crop_scale": 0.5,
    "split.val_fraction": 0.2,
}
# Settings that are valid only together with another setting.
REQUIRED = {
    "split.fold": {"split.num_folds": 3}, "fine_tune.xla": {"model.deterministic": False},
    "data.source": {"data.class_names": "0=sedan"},  # the default source has class names
    "fine_tune.teacher": {"fine_tune.teacher": 16 * "a"}, "fine_tune.teacher_weight": {"fine_tune.teacher": 16 * "a"},
}
# audit.enabled runs the audit, download.extra_data needs folders (see test_data_stages), and force changes every key.
UNTESTED = {"audit.enabled", "force", "download.extra_data"}
SETTINGS = [name for name, _ in iter_settings() if name not in UNTESTED]


class KeyComputed(Exception):
    """Raised instead of building an artifact; the message is the key."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def inputs(store: Store, monkeypatch: pytest.MonkeyPatch) -> dict[str, Artifact]:
    """An artifact of each stage. No stage builds an artifact, and Kaggle gets no requests."""
    candidate = build_candidate(store, "candidate")
    dataset = build_artifact(store, Dataset, Provenance(1, {}, {}))
    metrics: Metrics = {"ref": 1, "num_rows": 1}
    submission = build_artifact(store, Submission, Provenance(1, {}, {}), metrics, {"submission.csv": b""})
    start = build_artifact(store, Model, Provenance(1, {}, {"name": "start"}))

    def raise_key(kind: type[Artifact], _make: object, provenance: Provenance, *_: object) -> tuple[Artifact, bool]:
        if kind is Prediction:  # submit builds it on the way to its own artifact
            return submission.model_copy(update={"key": provenance.key(kind)}), False
        raise KeyComputed(provenance.key(kind))

    for module in ("stages.download", "stages.validate", "stages.split", "stages.train_head", "stages.fine_tune",
                   "evaluation.evaluate", "stages.promote", "stages.refit", "stages.submit", "stages.score"):
        monkeypatch.setattr(f"carclf.{module}.build", raise_key)
    monkeypatch.setattr(KaggleClient, "list_files", lambda _: [])
    monkeypatch.setattr(KaggleClient, "details", lambda _: CompetitionDetails())
    monkeypatch.setattr(KaggleClient, "__init__", lambda self, competition: setattr(self, "competition", competition))
    monkeypatch.setattr(KaggleClient, "find_submission", lambda *_, **__: SubmissionState(1, "COMPLETE", None, "", ""))
    for stage in ("refit", "submit"):
        monkeypatch.setattr(f"carclf.stages.{stage}.require_promoted", lambda *_: None)
    monkeypatch.setattr(train_head, "starting_weights", StartingWeights)
    targets = build_artifact(store, SoftTargets, Provenance(1, {}, {}))
    monkeypatch.setattr("carclf.stages.fine_tune.soft_targets", lambda *_: targets)
    return {
        "download": candidate.archive,
        "validate": dataset,
        "split": candidate.split,
        "train_head": start,
        "fine_tune": candidate.model,
        "evaluate": candidate.evaluation,
        "refit": build_artifact(store, RefittedModel, Provenance(1, {"measured": candidate.model.key}, {})),
        "submit": submission,
    }


def stage_key(stage: str, store: Store, inputs: dict[str, Artifact], config: Config) -> str:
    spec = STAGES[stage]
    artifacts = {name: inputs[name] for name in spec.inputs}
    with pytest.raises(KeyComputed) as computed:
        spec.run(StageCall(artifacts, StageContext(store, config), NO_OPTIONS, "r"))
    return str(computed.value)


def changed_value(name: str) -> Any:
    if name in CHANGED_VALUES:
        return CHANGED_VALUES[name]
    value = load_config("gpu", BASE)
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, bool):
        return not value
    if value == "":
        return "changed"
    assert isinstance(value, int | float), f"{name} needs a value in CHANGED_VALUES"
    return value / 2 if isinstance(value, float) and value else value + 1


@pytest.mark.parametrize("stage", STAGES)
def test_exactly_the_settings_of_a_stage_change_its_key(
    stage: str, store: Store, inputs: dict[str, Artifact]
) -> None:
    mismatches = []
    for name in SETTINGS:
        required = REQUIRED.get(name, {})
        before = load_config("gpu", BASE | required)
        after = load_config("gpu", BASE | required | {name: changed_value(name)})
        is_changed = stage_key(stage, store, inputs, before) != stage_key(stage, store, inputs, after)
        if is_changed != (name in STAGES[stage].settings(before)):
            mismatches.append(name)
    assert mismatches == []


@pytest.mark.parametrize(("schedule", "name", "is_used"), [
    ("cosine", "patience", False), ("plateau", "patience", True),
    ("cosine", "warmup_fraction", True), ("plateau", "warmup_fraction", False),
])
def test_a_setting_that_the_schedule_ignores_does_not_change_the_key(
    schedule: str, name: str, is_used: bool, store: Store, inputs: dict[str, Artifact]
) -> None:
    settings = BASE | {"fine_tune.schedule": schedule}
    before, after = load_config("gpu", settings), load_config("gpu", settings | {f"fine_tune.{name}": 1})
    is_changed = stage_key("fine_tune", store, inputs, before) != stage_key("fine_tune", store, inputs, after)
    assert is_changed == (f"fine_tune.{name}" in STAGES["fine_tune"].settings(before)) == is_used


def test_the_inputs_of_a_stage_are_earlier_stages() -> None:
    names = list(STAGES)
    for position, spec in enumerate(STAGES.values()):
        assert set(spec.inputs) <= set(names[:position])


def test_sections_and_excluded_settings_exist() -> None:
    settings = {name for name, _ in iter_settings()}
    sections = {name.partition(".")[0] for name in settings}
    for spec in STAGES.values():
        assert set(spec.sections) <= settings | sections
        assert set(spec.excluded) <= settings


def test_importing_the_chain_loads_no_training_framework_and_no_pandas() -> None:
    code = "import sys, carclf.stages.chain; print({'tensorflow', 'keras', 'pandas', 'airflow'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
