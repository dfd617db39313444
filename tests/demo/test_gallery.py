"""The gallery: each entry is rendered alike, detected as expected, and (acceptance) trained, submitted and scored."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import reload_in_this_process

from carclf.config import load_config
from carclf.dataset.archives import IGNORED_FILES, extract
from carclf.dataset.detection.detect import detect
from carclf.dataset.detection.result import Layout
from carclf.demo.competition import Competition, ServedDataset, open_competition
from carclf.demo.gallery.drawing import TEST_PER_CLASS, TRAIN_PER_CLASS
from carclf.demo.gallery.entries import ENTRIES
from carclf.demo.gallery.entry import Entry, Expected, Rejection
from carclf.demo.gallery.files import zipped
from carclf.demo.gallery.page import layouts_page
from carclf.demo.gallery.served import serve_entry
from carclf.demo.grading import grade
from carclf.demo.server import DemoServer
from carclf.errors import CarclfError
from carclf.metrics import METRICS
from carclf.runs.run import Run
from carclf.services.storage import init_store

ROOT = Path(__file__).parents[2]
READABLE = {name: entry for name, entry in ENTRIES.items() if isinstance(entry.expected, Expected)}
REJECTED = {name: entry for name, entry in ENTRIES.items() if isinstance(entry.expected, Rejection)}
SCORED = [name for name, entry in READABLE.items() if entry.kind == "competition"]
MIN_ACCURACY = 0.7  # of the training below, on validation images; guessing gives 0.2 to 0.5
TRAINED = ("download", "validate", "split", "train_head", "fine_tune", "evaluate", "promote", "submit")
TRAINING = {
    "head.epochs": 1, "head.num_views": 1, "fine_tune.epochs": 6, "fine_tune.batch_size": 8,
    "gate.threshold": 0.0, "gate.min_recall": 0.0, "gate.max_calibration_error": 1.0,
}


def settings(entry: Entry) -> dict[str, Any]:
    return {"data.source": entry.source, **entry.settings}


def detect_entry(entry: Entry, folder: Path) -> Layout:
    archive = folder / "archive.zip"
    archive.write_bytes(zipped(entry.render().files))
    ignored = extract(archive, folder / "files")
    (folder / "files" / IGNORED_FILES).write_text(json.dumps(ignored))
    return detect(folder / "files", load_config("demo", settings(entry)), entry.evaluation_metric)


def perfect_submission(competition: Competition) -> bytes:
    assert competition.truth is not None
    lines = [",".join(competition.columns)]
    for name in competition.ids:
        label = competition.truth[name]
        values = {
            "label": [label], "positive": [f"{label == competition.positive_class:.1f}"],
            "probabilities": [f"{label == column:.1f}" for column in competition.columns[1:]],
        }[competition.kind]
        lines.append(",".join([name, *values]))
    return "\n".join(lines).encode()


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_rendered_to_the_same_bytes(name: str) -> None:
    assert ENTRIES[name].render() == ENTRIES[name].render()


@pytest.mark.parametrize("name", READABLE)
def test_an_entry_has_the_images_that_it_states(name: str) -> None:
    entry = READABLE[name]
    assert isinstance(entry.expected, Expected)
    num_images = entry.expected.num_images
    assert num_images["train"] == len(entry.expected.class_names) * TRAIN_PER_CLASS
    if entry.expected.kind:
        assert len(entry.render().truth) == num_images["test"] > 0
        assert entry.notebooks_only or num_images["test"] >= len(entry.expected.class_names) * TEST_PER_CLASS


@pytest.mark.parametrize("name", SCORED)
def test_a_perfect_submission_has_the_best_score(name: str, tmp_path: Path) -> None:
    competition = serve_entry(ENTRIES[name], tmp_path)
    assert isinstance(competition, Competition)
    if competition.metric == "quadratic_weighted_kappa" or len(competition.ids) > 1:
        best = "1.00000" if METRICS[competition.metric].higher_is_better else "0.00000"
        assert grade(competition, perfect_submission(competition)) == (best, "")


@pytest.mark.parametrize("name", READABLE)
def test_the_layout_is_detected(name: str, tmp_path: Path) -> None:
    entry = READABLE[name]
    expected = entry.expected
    assert isinstance(expected, Expected)
    layout = detect_entry(entry, tmp_path)
    images = layout.images
    assert images["source"].value_counts().to_dict() == dict(expected.num_images)
    assert set(layout.class_names) == set(expected.class_names)
    assert layout.metric == expected.metric
    assert (layout.submission.kind if layout.submission else "") == expected.kind
    groups = images.loc[images["source"] == "train", "group"]
    assert groups[groups != ""].nunique() == expected.num_groups
    results = {row.question: row.result for row in layout.detections}
    assert results["labels"] == expected.labels
    if layout.submission:
        assert expected.id_form in results["ids"].split(", ")
        assert set(entry.render().truth.values()) <= {*layout.submission.values.values(), "0", "1"}
        assert set(images.loc[images["source"] == "test", "id"]) == set(entry.render().truth)


@pytest.mark.parametrize("name", REJECTED)
def test_other_data_are_rejected_with_the_setting_or_the_reason(name: str, tmp_path: Path) -> None:
    entry = REJECTED[name]
    assert isinstance(entry.expected, Rejection)
    with pytest.raises(CarclfError) as caught:
        detect_entry(entry, tmp_path)
    assert (entry.expected.setting or entry.expected.word) in str(caught.value)


def test_docs_layouts_is_current() -> None:
    """If it is not, run ``python -m carclf.demo.gallery.page docs/layouts.md``."""
    assert (ROOT / "docs/layouts.md").read_text() == layouts_page()


@pytest.mark.parametrize("name", SCORED)
def test_a_folder_with_a_sample_is_served_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ENTRIES[name]
    rendering = entry.write(tmp_path / "folder")
    assert isinstance(entry.expected, Expected)
    overrides = [*entry.settings.items(), ("data.metric", entry.expected.metric)]
    monkeypatch.setenv("CARCLF_SETTINGS", " ".join(f"{key}={value}" for key, value in overrides))
    served = serve_entry(entry, tmp_path / "served")
    assert isinstance(served, Competition)
    truth = tmp_path / "truth.csv"
    truth.write_text("\n".join([f"{served.columns[0]},class", *map(",".join, rendering.truth.items())]))
    competition = open_competition(tmp_path / "folder", slug="own", work=tmp_path / "work", truth=truth)
    assert (competition.kind, competition.metric, competition.columns) == (served.kind, served.metric, served.columns)
    assert set(competition.ids) == set(served.ids)
    best = grade(served, perfect_submission(served))
    assert grade(competition, perfect_submission(replace(competition, ids=served.ids))) == best


@pytest.mark.parametrize("name", READABLE)
def test_a_holdout_makes_any_layout_a_competition(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = READABLE[name]
    entry.write(tmp_path / "folder")
    assert isinstance(entry.expected, Expected)
    overrides = [*entry.settings.items(), ("data.metric", entry.expected.metric)]
    monkeypatch.setenv("CARCLF_SETTINGS", " ".join(f"{key}={value}" for key, value in overrides))
    held = open_competition(tmp_path / "folder", slug="held", work=tmp_path / "work", holdout=0.25)
    assert held.truth is not None
    num_per_class = (entry.expected.num_images["train"] + entry.expected.num_images.get("val", 0)) / len(
        entry.expected.class_names)
    assert len(held.ids) == len(held.truth) == round(0.25 * num_per_class) * len(entry.expected.class_names)
    extract(held.archive, tmp_path / "files")
    layout = detect(tmp_path / "files", load_config("demo", {"data.source": "held"}), held.evaluation_metric)
    assert layout.images["source"].value_counts()["test"] == len(held.ids)
    assert set(layout.class_names) == set(held.truth.values())
    assert (layout.submission.kind if layout.submission else "", layout.metric) == (held.kind, held.metric)


@pytest.mark.acceptance
@pytest.mark.parametrize("name", READABLE)
def test_an_entry_is_trained_submitted_and_scored(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """The stages run against the demo server, which grades the submission with the entry's metric."""
    entry = READABLE[name]
    assert isinstance(entry.expected, Expected)
    metric = METRICS[entry.expected.metric]
    served = serve_entry(entry, tmp_path)
    reload_in_this_process(monkeypatch)
    if entry.kind == "folder":
        entry.write(tmp_path / entry.name)
        monkeypatch.chdir(tmp_path)
    first = served if isinstance(served, Competition) else Competition("other", tmp_path, (), None)
    with DemoServer(first, *([served] if isinstance(served, ServedDataset) else []), scoring_seconds=0) as server:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        monkeypatch.setenv("KAGGLE_API_TOKEN", server.token)
        config = load_config("demo", TRAINING | settings(entry))
        run = Run.start_or_resume("r", init_store(str(tmp_path / "store")), "demo", config)
        results = {stage: run.run_stage(stage) for stage in TRAINED}
        is_scored = bool(entry.expected.kind) and not entry.notebooks_only
        score = float(str(run.run_stage("score").metrics["public_score"])) if is_scored else None
    accuracy = float(str(results["evaluate"].metrics["val_accuracy"]))
    record_property("gallery", f"{name:<20}{_describe(entry.expected):<48}accuracy {accuracy:.3f}  "
                               f"{metric.noun} of the submission: {'none' if score is None else score}")
    assert accuracy >= MIN_ACCURACY
    assert results["evaluate"].metrics["metric"] == entry.expected.metric
    assert results["promote"].metrics["decision"] == "promoted"
    assert ("holdout" in entry.expected.num_images) == ("holdout_accuracy" in results["promote"].metrics)
    assert bool(results["submit"].skip_reason) != is_scored
    if score is not None:
        (submission,) = server.submissions
        assert submission.error == ""
        assert score == pytest.approx(float(submission.score))
        perfect, worst = (1.0, 0.5) if metric.higher_is_better else (0.0, 0.7)
        assert abs(score - perfect) <= abs(worst - perfect)


def _describe(expected: Expected) -> str:
    parts = (expected.labels, expected.id_form, expected.kind, expected.num_groups and f"{expected.num_groups} groups")
    return ", ".join(str(part) for part in parts if part)
