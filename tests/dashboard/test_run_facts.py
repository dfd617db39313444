"""Facts of a run where stages have not run, failed, or left what is damaged; and ids that are none."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import Candidate, build_artifact, build_candidate
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from carclf.artifacts import Artifact, Audit, Dataset, Drift, Evaluation, Provenance
from carclf.champion import set_threshold
from carclf.config import load_config
from carclf.dashboard.run_comparison import compare_runs
from carclf.dashboard.run_facts import artifact_file, champion_facts, error_image, run_facts
from carclf.errors import CarclfError, ConfigError
from carclf.runs.run import Result, Run
from carclf.services.storage import FolderStore, Store, VersionedObject, open_store
from carclf.stages.chain import STAGES


@pytest.fixture()
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def noted(store: Store, one: Candidate) -> Run:
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    for stage, artifact in (("download", one.archive), ("split", one.split), ("fine_tune", one.model),
                            ("evaluate", one.evaluation)):
        run.record_result(Result(stage, artifact.key, False, 1.0, artifact.metrics, ""))
    return run


def test_a_run_that_has_only_begun_is_shown_with_open_stages(store: Store) -> None:
    Run.start_or_resume("r", store, "demo", load_config("demo", {"seed": 3, "evaluate.zooms": "1,1.2", "competition": "my-cars"}))
    found = run_facts(store, "r")
    assert [(stage["name"], stage["state"]) for stage in found["stages"]] == [(stage, "pending") for stage in STAGES]
    assert found["header"]["settings"] == [
        {"name": "competition", "value": "my-cars", "default": "sf-dl-car-classification"},
        {"name": "seed", "value": 3, "default": 0}, {"name": "evaluate.zooms", "value": "1,1.2", "default": "1"}]
    assert found["stages"][0]["command"] == (
        f"carclf download --run r --store {store.url} --recipe demo --set competition=my-cars --set seed=3 "
        "--set evaluate.zooms=1,1.2")
    empty = {name: found[name] for name in ("live", "curves", "data", "evaluation", "errors", "decision", "problems")}
    assert empty == {"live": {}, "curves": {"train_head": [], "fine_tune": []}, "data": None, "evaluation": None,
                     "errors": [], "decision": None, "problems": []}
    assert (found["row"]["state"], found["row"]["champion"]) == ("pending", False)


def test_the_header_names_the_machine_that_trained(store: Store) -> None:
    run = noted(store, build_candidate(store, "weak", range(30)))
    where = run.record["stages"]["fine_tune"]["machine"]
    expected = f"{where['processor']}, {where['cores']} cores, {where['memory_gb']} GB, {where['system']}"
    assert run_facts(store, "r")["header"]["machine"].startswith(expected)
    assert where["versions"]["keras"] and "environment" in where


def test_a_text_that_looks_like_a_number_is_quoted_in_the_command(store: Store) -> None:
    Run.start_or_resume("r", store, "demo", load_config("demo", {"evaluate.zooms": "2"}))
    assert run_facts(store, "r")["stages"][0]["command"].endswith("""--set 'evaluate.zooms="2"'""")


def test_a_failed_a_waiting_and_a_skipped_stage_say_why(store: Store) -> None:
    one = build_candidate(store, "weak", range(30))
    run = noted(store, one)
    with pytest.raises(ConfigError):
        run.run_stage("submit")
    decision, _ = one.promote(store, load_config("demo", {"gate.threshold": 0.9}))
    run.record_result(Result("promote", decision.key, False, 1.0, decision.metrics, "", skip_reason=str(decision.metrics["reason"])))
    found = run_facts(store, "r")
    told = {stage["name"]: (stage["state"], stage["text"]) for stage in found["stages"]}
    reason = decision.metrics["reason"]
    assert told["promote"] == ("done", reason) and told["score"] == ("skipped", reason)
    assert told["submit"][0] == "failed" and told["submit"][1].startswith("ConfigError: validate has not run in 'r'")
    assert found["decision"]["reason"] == reason
    assert [rule["name"] for rule in found["decision"]["rules"]][:1] == ["accuracy"]


def test_a_run_that_waits_for_an_approval_shows_the_decision_that_waits(store: Store) -> None:
    needed = load_config("demo", {"gate.approval": "required", "gate.threshold": 0.1})
    one = build_candidate(store, "good", config=needed)
    run = Run.start_or_resume("r", store, "demo", needed)
    for stage, artifact in (("download", one.archive), ("split", one.split), ("fine_tune", one.model),
                            ("evaluate", one.evaluation)):
        run.record_result(Result(stage, artifact.key, False, 1.0, artifact.metrics, ""))
    assert run.run_stage("promote").waiting
    found = run_facts(store, "r")
    stage = found["stages"][6]
    assert (stage["state"], found["row"]["decision"], found["row"]["state"]) == (
        "waiting", "awaiting approval", "waiting")
    assert stage["command"] == f"carclf promote --run r --store {store.url} --approved-by NAME"
    assert found["decision"]["decision"] == "promoted" and stage["files"] != []
    page = artifact_file(store, "r", "promote", "report.html")
    assert page is not None and page.startswith(b"<!")


@pytest.mark.parametrize("since", ["2020-01-01T00:00:00.000+00:00", ""])
def test_a_stage_that_says_it_runs_and_is_not_heard_of_is_called_silent(store: Store, since: str) -> None:
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    run._tell("download", since or run.record["created"], state="running")
    expected = "stale" if since else "running"
    found = run_facts(store, "r")
    assert (found["stages"][0]["state"], found["row"]["state"]) == (expected, expected)


def manifests(run: Run) -> dict[str, str]:
    kinds = {"split": "splits", "fine_tune": "models", "evaluate": "evaluations"}
    return {stage: f"{kinds[stage]}/{run.record['stages'][stage]['key']}/manifest.json" for stage in kinds}


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"key": "other"}', b'"text"'])
def test_damaged_and_missing_artifacts_are_problems_of_their_part_and_the_rest_is_shown(
    store: Store, content: bytes | None
) -> None:
    run = noted(store, build_candidate(store, "one"))
    whole = run_facts(store, "r")
    assert whole["problems"] == []
    path = manifests(run)["evaluate"]
    if content is None:
        Path(store.url, path).unlink()
    else:
        store.write(path, content)
    found = run_facts(store, "r")
    said = "gone from" if content is None else "is damaged"
    assert [said in problem["text"] for problem in found["problems"]] == [True]
    assert (found["evaluation"], found["errors"]) == (None, [])
    unlike = {name for name in whole if whole[name] != found[name]}
    assert unlike == {"evaluation", "problems", "stages", "unread"}
    assert [stage["name"] for stage, other in zip(found["stages"], whole["stages"], strict=True) if stage != other] == [
        "evaluate"]


class Slow(FolderStore):
    """A folder that answers like a bucket far away, and counts how much is under way at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[str] = []
        self.under_way, self.most = 0, 0

    def read(self, key: str) -> VersionedObject | None:
        self.asked.append(key)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        time.sleep(0.1)
        self.under_way -= 1
        return super().read(key)


def test_a_run_on_a_slow_store_is_read_at_once_and_nothing_of_it_twice(store: Store) -> None:
    one = build_candidate(store, "good", config=load_config("demo", {"gate.threshold": 0.1}))
    run, (decision, _) = noted(store, one), one.promote(store)
    run.record_result(Result("promote", decision.key, False, 1.0, decision.metrics, ""))
    slow = Slow(Path(store.url))
    assert run_facts(slow, "r") == run_facts(store, "r")
    assert len(slow.asked) == len(set(slow.asked)) >= 9
    assert slow.most >= 5


def test_errors_whose_pictures_are_lost_are_told_without_them(store: Store) -> None:
    run = noted(store, build_candidate(store, "one"))
    error = {"id": "3.jpg", "path": "train/0/3.jpg", "label": 0, "predicted": 1, "probability": 0.9}
    told = build_artifact(store, Evaluation, Provenance(1, {}, {}), {}, {
        "evaluation.json": json.dumps({"class_names": [], "confusion": [], "errors": [error]}).encode(),
        "error_images.json": json.dumps([{"image": "data:image/jpeg;base64,/9g="}]).encode()})
    run.record_result(Result("evaluate", told.key, False, 1.0, {}, ""))
    assert run_facts(store, "r")["errors"] == [error | {"number": 0, "image": "data:image/jpeg;base64,/9g=",
                                                    "overlay": ""}]
    Path(store.url, told.files["error_images.json"].key).unlink()
    found = run_facts(store, "r")
    assert found["errors"] == [error | {"number": 0, "image": "", "overlay": ""}]
    assert found["unread"] == ["pictures"]


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["rows", "errors", "class_names", "confusion", "class_counts", "findings",
                                         "listed", "problems", "path", "picture"]), inner, max_size=4), max_leaves=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(report=JSON, found=JSON, pictures=JSON, history=st.binary(max_size=60))
@example(report=None, found=None, pictures=None, history=b"\r\x00")  # which csv refuses with an error of its own
def test_whatever_another_version_wrote_facts_are_json_and_nothing_is_raised(
    tmp_path_factory: pytest.TempPathFactory, report: Any, found: Any, pictures: Any, history: bytes
) -> None:
    from carclf.artifacts import Evaluation, Model

    store = open_store(str(tmp_path_factory.mktemp("store")))
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    files = {"validate": (Dataset, {"report.json": json.dumps(report).encode()}),
             "fine_tune": (Model, {"history.csv": history}),
             "evaluate": (Evaluation, {"evaluation.json": json.dumps(found).encode(),
                                       "error_images.json": json.dumps(pictures).encode()})}
    for stage, (kind, content) in files.items():
        artifact = build_artifact(store, kind, Provenance(1, {}, {"stage": stage}), {}, content)
        run.record_result(Result(stage, artifact.key, False, 1.0, {}, ""))
    told = run_facts(store, "r")
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert [stage["state"] for stage in told["stages"]][1] == "done"


@pytest.mark.parametrize(("change", "expected"), [
    ({"recipe": "of-another-version"}, "settings"), ({"config": {"fine_tune": {"old": 1}}}, ""),
    ({"stages": {"evaluate": {"key": "../../champion"}}}, "evaluate"),
    ({"attempts": {"score": {}}}, ""),
])
def test_a_record_of_another_version_is_shown_as_far_as_it_goes(
    store: Store, change: dict[str, Any], expected: str
) -> None:
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    store.write("runs/r.json", json.dumps(run.record | change).encode())
    assert [problem["part"] for problem in run_facts(store, "r")["problems"]] == ([expected] if expected else [])


def test_the_champion_with_its_figures_and_the_threshold_over_time(store: Store) -> None:
    assert champion_facts(store) is None
    set_threshold(store, 0.5, by="me")
    set_threshold(store, 0.6)
    one = build_candidate(store, "one", range(6))
    one.promote(store, load_config("demo", {"gate.raise_threshold": "accuracy"}), run_id="r", approved_by="you")
    found = champion_facts(store)
    assert found is not None
    metrics = one.evaluation.metrics
    assert found["champion"] | {"since": ""} == {
        "model": one.model.key, "run": "r", "val_accuracy": 0.9, "val_accuracy_low": metrics["val_accuracy_low"], "val_accuracy_high": metrics["val_accuracy_high"],
        "public_score": None, "rank": None, "since": "", "by": "you"}
    assert [entry["threshold"] for entry in found["thresholds"]] == [0.5, 0.5, 0.6, 0.9][-len(found["thresholds"]):]
    assert found["threshold"] == 0.9 and [event["action"] for event in found["events"]] == [
        "promoted", "threshold", "threshold"]


class Watched(FolderStore):
    """A store that notes which keys are asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[str] = []

    def read(self, key: str) -> VersionedObject | None:
        self.asked.append(key)
        return super().read(key)


STRANGE = st.one_of(
    st.text(max_size=40), st.text(alphabet="./\\%2e~r\n\0-_", max_size=30),
    st.sampled_from(["..", "../champion", "r/../../champion", "/etc/passwd", "r\n", "r\0", "r%2f..", "runs/r", ".r",
                     "r" * 300, "file:///etc/passwd", "..\\r", "\u202er", "ｒ"]),
)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    top = tmp_path_factory.mktemp("top")
    (top / "champion.json").write_text("secret")
    store = Watched(top / "store")
    noted(store, build_candidate(store, "one"))
    return store


@settings(max_examples=150, deadline=None)
@given(name=STRANGE, stage=STRANGE | st.sampled_from(list(STAGES)), file=STRANGE, number=st.integers(),
       kind=STRANGE | st.just("image"))
@example(name="r", stage="evaluate", file="evaluation.json", number=0, kind="overlay")
def test_no_run_id_stage_or_name_of_a_file_leads_out_of_the_store(
    watched: Watched, name: str, stage: str, file: str, number: int, kind: str
) -> None:
    watched.asked.clear()
    for use in (lambda: run_facts(watched, name), lambda: error_image(watched, name, number, kind),
                lambda: artifact_file(watched, name, stage, file), lambda: compare_runs(watched, name, "r"),
                lambda: artifact_file(watched, "r", stage, file), lambda: error_image(watched, "r", number, kind)):
        try:
            found = use()
        except ConfigError as error:
            said = str(error)
            assert any(words in said for words in ("is no run id", "There is no run", "is one run"))
        else:
            assert found is None or name == "r" or isinstance(found, bytes)
    assert set(watched.asked) <= {*watched.keys(), f"runs/{name}.json", "champion.json"}


@pytest.mark.parametrize("kind", [Audit, Drift])
def test_the_page_of_the_suspected_labels_is_given_like_a_stages(store: Store, kind: type[Artifact]) -> None:
    run = noted(store, one := build_candidate(store, "one"))
    report = {"findings": {"listed": []}, "class_counts": {}, "problems": []}
    dataset = build_artifact(store, Dataset, Provenance(1, {}, {}), {}, {"report.json": json.dumps(report).encode()})
    found = build_artifact(store, kind, Provenance(1, {}, {}), {}, {"report.html": b"suspects", "drift.json": b"{}"})
    assert artifact_file(store, "r", "audit", "report.html") is None
    run.record_result(Result("validate", dataset.key, False, 1.0, {}, ""))
    run.record_result(Result("train_head", one.model.key, False, 1.0, {"report": found.files["report.html"].key}, ""))
    assert artifact_file(store, "r", "audit", "report.html") == b"suspects"
    assert run_facts(store, "r")["data"]["audit_reports"] == ["report.html"]
    Path(store.url, found.folder, found.key, "manifest.json").unlink()
    told = run_facts(store, "r")
    assert (told["data"]["audit_reports"], told["unread"]) == ([], ["audit"])
    for page in ("champion.json", "models/x/report.html", "audits/../../secret/report.html", ""):
        run.record_result(Result("train_head", one.model.key, False, 1.0, {"report": page}, ""))
        assert artifact_file(store, "r", "audit", "report.html") is None


def test_only_what_a_manifest_names_and_a_browser_shows_is_given(store: Store) -> None:
    noted(store, build_candidate(store, "one"))
    content = artifact_file(store, "r", "evaluate", "evaluation.json")
    assert content is not None and json.loads(content)["num_images"] == 60
    for stage, name in (("fine_tune", "model.keras"), ("evaluate", "predictions.parquet"),
                        ("evaluate", "manifest.json"), ("score", "x.html"), ("nope", "evaluation.json"),
                        ("evaluate", "../x.json")):
        assert artifact_file(store, "r", stage, name) is None
    file = run_facts(store, "r")["stages"][5]["files"]
    key = next(one["key"] for one in file if one["name"] == "evaluation.json")
    store.write(key, b"{}")
    with pytest.raises(CarclfError, match=f"{key} is damaged in"):
        artifact_file(store, "r", "evaluate", "evaluation.json")
