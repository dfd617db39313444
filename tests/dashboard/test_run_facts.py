"""Tests of a run's facts: complete, not started, damaged and malformed sections."""

import json
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_artifact, build_candidate
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recorded_runs import damage, record_candidate

from carclf.artifacts import Artifact, Audit, Dataset, Drift, Evaluation, Model, Provenance
from carclf.config import load_config
from carclf.dashboard.run_facts import artifact_file, run_facts
from carclf.dashboard.run_report import run_report
from carclf.errors import ConfigError, DataError
from carclf.runs.run import Result, Run, record_rejection
from carclf.services.storage import Store, open_store

JPEG = "data:image/jpeg;base64,/9g="


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def test_the_sections_of_a_new_run_are_empty(store: Store) -> None:
    Run.start_or_resume("r", store, "demo", load_config("demo"))
    facts = run_facts(store, "r")
    assert (facts.live, facts.curves) == ({}, {"train_head": (), "fine_tune": (), "refit": ()})
    assert (facts.data, facts.evaluation, facts.errors, facts.decision, facts.problems) == (None, None, (), None, ())
    assert (facts.row["state"], facts.row["champion"]) == ("not started", False)


def test_the_header_describes_the_machine_that_trained(store: Store) -> None:
    run = record_candidate(store, "r", build_candidate(store, "weak", range(30)))
    machine = run.record["stages"]["fine_tune"]["machine"]
    expected = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}"
    assert run_facts(store, "r").header.machine.startswith(expected)
    assert machine["versions"]["keras"]


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"key": "other"}', b'"text"'])
def test_a_damaged_artifact_affects_only_its_section(store: Store, content: bytes | None) -> None:
    run = record_candidate(store, "r", build_candidate(store, "one"))
    intact = run_facts(store, "r")
    assert intact.problems == ()
    folder = f"evaluations/{run.record['stages']['evaluate']['key']}"
    damage(store, f"{folder}/manifest.json", content)
    facts = run_facts(store, "r")
    assert [folder in problem.text for problem in facts.problems] == [True]
    assert (facts.evaluation, facts.errors) == (None, ())
    changed = {name for name in type(facts).model_fields if getattr(intact, name) != getattr(facts, name)}
    assert changed == {"evaluation", "problems", "stages", "unreadable"}
    pairs = zip(facts.stages, intact.stages, strict=True)
    assert [stage.name for stage, other in pairs if stage != other] == ["evaluate"]


def test_errors_with_unreadable_images_are_listed_without_images(store: Store) -> None:
    run = record_candidate(store, "r", build_candidate(store, "one"))
    error = {"id": "3.jpg", "path": "train/0/3.jpg", "label": "0", "predicted": "1", "probability": 0.9}
    evaluation = build_artifact(store, Evaluation, Provenance(1, {}, {}), {}, {
        "evaluation.json": json.dumps({"class_names": [], "confusion": [], "errors": [error, error]}).encode(),
        "error_images.json": json.dumps([{"image": JPEG}]).encode()})
    run.record_result(Result("evaluate", evaluation.key, False, 1.0, {}, ""))
    first, second = run_facts(store, "r").errors
    assert first.model_dump() == error | {"number": 0, "image": JPEG, "overlay": ""}
    assert second.model_dump() == error | {"number": 1, "image": "", "overlay": ""}
    Path(store.url, evaluation.files["error_images.json"].key).unlink()
    facts = run_facts(store, "r")
    assert [row.image for row in facts.errors] == ["", ""]
    assert "images" in facts.unreadable


@pytest.mark.parametrize("uri", ["javascript:alert(1)", "https://example.org/x.jpg", ""])
def test_only_jpeg_data_uris_are_shown(store: Store, uri: str) -> None:
    run = record_candidate(store, "r", build_candidate(store, "one"))
    error = {"id": "3.jpg", "path": "3.jpg", "label": "0", "predicted": "1", "probability": 0.9}
    evaluation = build_artifact(store, Evaluation, Provenance(1, {}, {}), {}, {
        "evaluation.json": json.dumps({"errors": [error]}).encode(),
        "error_images.json": json.dumps([{"image": JPEG, "overlay": uri}]).encode()})
    run.record_result(Result("evaluate", evaluation.key, False, 1.0, {}, ""))
    assert [(row.image, row.overlay) for row in run_facts(store, "r").errors] == [(JPEG, "")]


KEYS = [
    "rows", "errors", "class_names", "confusion", "class_counts", "findings", "reported", "problems", "path", "image",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(report=JSON, evaluation=JSON, images=JSON, history=st.binary(max_size=60))
@example(report=None, evaluation=None, images=None, history=b"\r\x00")  # raises csv.Error
def test_facts_of_malformed_files_are_valid_json(
    tmp_path_factory: pytest.TempPathFactory, report: Any, evaluation: Any, images: Any, history: bytes
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    evaluation_files = {"evaluation.json": evaluation, "error_images.json": images}
    artifacts: dict[str, tuple[type[Artifact], dict[str, bytes]]] = {
        "validate": (Dataset, {"report.json": json.dumps(report).encode()}),
        "fine_tune": (Model, {"history.csv": history}),
        "evaluate": (Evaluation, {name: json.dumps(value).encode() for name, value in evaluation_files.items()}),
    }
    for stage, (kind, files) in artifacts.items():
        artifact = build_artifact(store, kind, Provenance(1, {}, {"stage": stage}), {}, files)
        run.record_result(Result(stage, artifact.key, False, 1.0, {}, ""))
    facts = run_facts(store, "r")
    data = facts.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert facts.stages[1].state == "done"


@pytest.mark.parametrize(("change", "section"), [
    ({"recipe": "unknown"}, "settings"), ({"config": {"fine_tune": {"unknown": 1}}}, ""),
    ({"stages": {"evaluate": {"key": "../../champion"}}}, "evaluate"), ({"attempts": {"score": {}}}, ""),
])
def test_a_record_with_unknown_values_is_shown_as_far_as_possible(
    store: Store, change: dict[str, Any], section: str
) -> None:
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    store.write("runs/r.json", json.dumps(run.record | change).encode())
    assert [problem.section for problem in run_facts(store, "r").problems] == ([section] if section else [])


@pytest.mark.parametrize("kind", [Audit, Drift])
def test_the_audits_report_is_served_like_the_report_of_a_stage(store: Store, kind: type[Artifact]) -> None:
    candidate = build_candidate(store, "one")
    run = record_candidate(store, "r", candidate)
    report = {"findings": {"reported": []}, "class_counts": {"4": 2}, "problems": []}
    files = {"report.json": json.dumps(report).encode()}
    dataset = build_artifact(store, Dataset, Provenance(1, {}, {}), {}, files)
    audit_files = {"report.html": b"suspects", "drift.json": b"{}"}
    audit = build_artifact(store, kind, Provenance(1, {}, {}), {}, audit_files)

    def record_report(key: str) -> None:
        run.record_result(Result("train_head", candidate.model.key, False, 1.0, {"report": key}, ""))

    assert artifact_file(store, "r", "audit", "report.html") is None
    run.record_result(Result("validate", dataset.key, False, 1.0, {}, ""))
    record_report(audit.files["report.html"].key)
    assert artifact_file(store, "r", "audit", "report.html") == b"suspects"
    data = run_facts(store, "r").data
    assert data is not None and data.audit_reports == ("report.html",) and data.num_images_by_class == {"4": 2}
    Path(store.url, audit.folder, audit.key, "manifest.json").unlink()
    facts = run_facts(store, "r")
    assert facts.data is not None and (facts.data.audit_reports, facts.unreadable) == ((), ("audit",))
    for key in ("champion.json", "models/x/report.html", "audits/../../secret/report.html", ""):
        record_report(key)
        assert artifact_file(store, "r", "audit", "report.html") is None


def test_only_viewable_files_of_a_manifest_are_served(store: Store) -> None:
    record_candidate(store, "r", build_candidate(store, "one"))
    content = artifact_file(store, "r", "evaluate", "evaluation.json")
    assert content is not None and json.loads(content)["num_images"] == 60
    for stage, name in (("fine_tune", "model.keras"), ("evaluate", "predictions.parquet"),
                        ("evaluate", "manifest.json"), ("score", "x.html"), ("nope", "evaluation.json"),
                        ("evaluate", "../x.json")):
        assert artifact_file(store, "r", stage, name) is None
    key = run_facts(store, "r").stages[5].files["evaluation.json"].key
    store.write(key, b"{}")
    with pytest.raises(DataError, match=key):
        artifact_file(store, "r", "evaluate", "evaluation.json")


def test_a_run_with_rejected_settings_shows_them_and_the_reason(store: Store) -> None:
    record_rejection("r", store, "demo", {"fine_tune.epochs": -1, "x": 1}, ConfigError("Unknown setting 'x'."))
    facts = run_facts(store, "r")
    assert (facts.row["state"], facts.stages[0].state, facts.problems) == ("failed", "failed", ())
    assert "Unknown setting 'x'" in facts.stages[0].text
    assert {setting.name: setting.value for setting in facts.header.settings} == {"fine_tune.epochs": -1, "x": 1}
    assert "Unknown setting" in run_report(store, "r")
