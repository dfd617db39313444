"""Submissions: their content, their conditions, and sending them only once."""

import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_artifact
from submissions import layout_json, submit_file

from carclf.artifacts import (
    Archive,
    Dataset,
    Evaluation,
    Model,
    Prediction,
    Provenance,
    RefittedModel,
    StageContext,
    Submission,
)
from carclf.champion import ensure_state, record_promotion
from carclf.config import load_config
from carclf.demo.server import DemoServer
from carclf.errors import ConfigError, DataError, ServiceError, StageSkipped, StageWaiting
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import FolderStore, Store, VersionedObject, open_store
from carclf.stages.submit import VERSION, send_submission, submit

CONFIG = load_config("demo", {"data.source": "demo-cars"})
CLASS_NAMES = [str(number) for number in range(8)]
NUM_ROUNDS = 8


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def submission_csv(ids: tuple[str, ...], label: int = 0) -> bytes:
    return ("Id,Category\n" + "".join(f"{name},{label}\n" for name in ids)).encode()


@dataclass(frozen=True)
class Inputs:
    """The artifacts that submit receives, and a store."""

    archive: Archive
    dataset: Dataset
    model: Model | RefittedModel
    evaluation: Evaluation
    store: Store

    def submit(self) -> tuple[Submission, bool]:
        return submit(self.archive, self.dataset, self.model, self.evaluation, StageContext(self.store, CONFIG))

    def predict(self, ids: tuple[str, ...], label: int = 0) -> Prediction:
        """Build the prediction left by an earlier attempt to submit."""
        keys = {"archive": self.archive.key, "dataset": self.dataset.key, "model": self.model.key}
        settings = CONFIG.evaluate.model_dump(exclude={"batch_size"}) | {
            "temperature": 1.0, "positive_class": "", "salt": ""}
        files = {"submission.csv": submission_csv(ids, label)}
        provenance = Provenance(VERSION, keys, settings)
        return build_artifact(self.store, Prediction, provenance, {"num_rows": len(ids)}, files)

    def send(self, prediction: Prediction) -> tuple[Submission, bool]:
        return send_submission(prediction, self.dataset, StageContext(self.store, CONFIG))


def build_inputs(store: Store, ids: tuple[str, ...]) -> Inputs:
    def build(kind: Any, metrics: Mapping[str, Any] = {}, files: Mapping[str, bytes] = {}) -> Any:
        return build_artifact(store, kind, Provenance(1, {}, {}), dict(metrics), files)

    dataset = build(Dataset, files={"layout.json": layout_json(ids, CLASS_NAMES)})
    return Inputs(build(Archive), dataset, build(Model), build(Evaluation, {"temperature": 1.0}), store)


def send(store: Store, ids: tuple[str, ...], label: int = 0) -> tuple[Submission, bool]:
    inputs = build_inputs(store, ids)
    return inputs.send(inputs.predict(ids, label))


def promote(store: Store, model: Model) -> None:
    assert record_promotion(store, {"model": model.key, "decision": "d"}, ensure_state(store, 0.5))


def fingerprint(store: Store, ids: tuple[str, ...]) -> str:
    return build_inputs(store, ids).predict(ids).files["submission.csv"].sha256[:16]


def test_a_model_that_was_never_promoted_raises_config_error(store: Store, kaggle_server: DemoServer) -> None:
    inputs = build_inputs(store, kaggle_server.competition.ids)
    with pytest.raises(ConfigError, match=rf"{inputs.model.key}.*carclf promote --run RUN.*--approved-by NAME"):
        inputs.submit()
    assert kaggle_server.calls == {} and not list(store.list_keys("predictions/"))


def test_a_refitted_model_is_submitted_if_its_measured_model_was_promoted(
    store: Store, kaggle_server: DemoServer
) -> None:
    ids = kaggle_server.competition.ids
    measured = build_inputs(store, ids)
    refitted = build_artifact(store, RefittedModel, Provenance(1, {"measured": measured.model.key}, {}))
    inputs = dataclasses.replace(measured, model=refitted)
    prediction = inputs.predict(ids)
    with pytest.raises(ConfigError, match=measured.model.key):
        inputs.submit()
    promote(store, measured.model)
    assert inputs.submit()[0].inputs == {"prediction": prediction.key}
    assert [entry.description.split()[-1] for entry in kaggle_server.submissions] == [refitted.key]


def test_without_submissions_left_submit_waits_and_keeps_the_predictions(
    store: Store, kaggle_server: DemoServer
) -> None:
    ids = kaggle_server.competition.ids
    inputs = build_inputs(store, ids)
    prediction = inputs.predict(ids)
    promote(store, inputs.model)
    kaggle_server.daily_limit = 1
    submit_file(KaggleClient("demo-cars"), prediction.path(store, "submission.csv"), "another")
    with pytest.raises(StageWaiting, match="00:00 UTC") as waiting:
        inputs.submit()
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    assert waiting.value.until == datetime(tomorrow.year, tomorrow.month, tomorrow.day, 0, 5, tzinfo=UTC)
    assert len(kaggle_server.submissions) == 1
    kaggle_server.daily_limit = 2
    submission, reused = inputs.submit()
    assert submission.metrics == {"ref": 1002, "num_rows": 12, "model": inputs.model.key} and not reused
    assert submission.inputs == {"prediction": prediction.key}
    assert submission.files == {"submission.csv": prediction.files["submission.csv"]}
    assert inputs.submit() == (submission, True)
    descriptions = [entry.description for entry in kaggle_server.submissions]
    assert descriptions[1:] == [f"carclf {fingerprint(store, ids)} model {inputs.model.key}"]


@pytest.mark.parametrize("change", ["is_notebooks_only", "submissions_disabled"])
def test_a_competition_that_accepts_no_files_skips_the_stage(
    store: Store, kaggle_server: DemoServer, change: str
) -> None:
    open_competition = kaggle_server.competition
    inputs = build_inputs(store, open_competition.ids)
    promote(store, inputs.model)
    kaggle_server.competition = dataclasses.replace(open_competition, **{change: True})
    with pytest.raises(StageSkipped):
        inputs.submit()  # predicts nothing: the model has no file
    prediction = inputs.predict(open_competition.ids)
    with pytest.raises(StageSkipped):
        inputs.submit()
    assert kaggle_server.submissions == []
    kaggle_server.competition = open_competition
    submission, _ = inputs.submit()
    kaggle_server.competition = dataclasses.replace(open_competition, **{change: True})
    assert inputs.submit() == (submission, True)
    forced = StageContext(store, CONFIG, "forced")  # what Kaggle has already is no new submission
    assert not send_submission(prediction, inputs.dataset, forced)[1]
    assert len(kaggle_server.submissions) == 1


@pytest.mark.parametrize("source", ["kaggle://ford/cars", "./photos", "s3://photos/cars", "cars.zip"])
def test_a_source_that_is_no_competition_skips_the_stage(store: Store, source: str) -> None:
    inputs = build_inputs(store, ())
    context = StageContext(store, load_config("demo", {"data.source": source}))
    with pytest.raises(StageSkipped, match=r"data\.source"):
        submit(inputs.archive, inputs.dataset, inputs.model, inputs.evaluation, context)


def test_a_cached_file_that_was_altered_is_not_sent(
    store: Store, kaggle_server: DemoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))
    ids = kaggle_server.competition.ids
    path = build_inputs(store, ids).predict(ids).path(store, "submission.csv")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0.jpg,0", b"x.jpg,7", 1))
    assert path.stat().st_size == len(content) and path.read_bytes() != content
    send(store, ids)
    assert [entry.data for entry in kaggle_server.submissions] == [content] == [path.read_bytes()]


@pytest.mark.parametrize(("label", "problem"), [(0, "11 rows, .* 12 ids"), (8, r"unknown classes \['8'\]")])
def test_kept_predictions_that_do_not_match_the_sample_are_not_sent(
    store: Store, kaggle_server: DemoServer, label: int, problem: str
) -> None:
    ids = kaggle_server.competition.ids
    inputs = build_inputs(store, ids)
    prediction = inputs.predict(ids if label else ids[1:], label)
    with pytest.raises(DataError, match=problem):
        inputs.send(prediction)
    assert kaggle_server.calls == {} and kaggle_server.submissions == []


def test_a_submission_that_kaggle_cannot_score_raises_data_error(
    store: Store, kaggle_server: DemoServer, tmp_path: Path
) -> None:
    ids = kaggle_server.competition.ids
    prediction = build_inputs(store, ids).predict(ids)
    file, path = prediction.files["submission.csv"], tmp_path / "submission.csv"
    mark = file.sha256[:16]
    path.write_text("Id,Category\n")
    submit_file(KaggleClient("demo-cars"), path, mark)
    with pytest.raises(DataError, match=rf"submission 1001.*{file.key}.*{mark}"):
        send(store, ids)
    assert len(kaggle_server.submissions) == 1
    assert not [key for key in store.list_keys("submissions/") if "manifest" in key]
    path.write_bytes(prediction.path(store, "submission.csv").read_bytes())
    submit_file(KaggleClient("demo-cars"), path, f"by hand: {mark}")
    assert send(store, ids)[0].metrics["ref"] == 1002


def test_the_same_predictions_from_another_store_are_not_sent_again(
    store: Store, kaggle_server: DemoServer, tmp_path: Path
) -> None:
    first, _ = send(store, kaggle_server.competition.ids)
    second, reused = send(open_store(tmp_path / "other"), kaggle_server.competition.ids)
    assert (first.metrics, reused, len(kaggle_server.submissions)) == (second.metrics, False, 1)


def send_at_the_barrier(url: str, endpoint: str, ids: tuple[str, ...], barrier: Any, outcomes: Any) -> None:
    """Send the same predictions at the same moment as the other process, round after round."""
    os.environ |= {"CARCLF_KAGGLE_ENDPOINT": endpoint, "KAGGLE_API_TOKEN": "demo-key"}
    for number in range(NUM_ROUNDS):
        inputs = build_inputs(open_store(f"{url}-{number}"), ids)
        prediction = inputs.predict(ids, number)
        barrier.wait(60)
        try:
            inputs.send(prediction)
            outcomes.put("sent")
        except StageWaiting as waiting:
            outcomes.put(str(waiting))
    assert "tensorflow" not in sys.modules


def test_two_processes_that_send_the_same_predictions_send_them_once(store: Store, kaggle_server: DemoServer) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, outcomes = context.Barrier(2), context.Queue()
    arguments = (store.url, kaggle_server.url, kaggle_server.competition.ids, barrier, outcomes)
    processes = [context.Process(target=send_at_the_barrier, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    results = [outcomes.get(timeout=300) for _ in range(2 * NUM_ROUNDS)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    descriptions = {entry.description for entry in kaggle_server.submissions}
    assert len(descriptions) == len(kaggle_server.submissions) == NUM_ROUNDS
    waited = [result for result in results if result != "sent"]
    assert len(waited) <= NUM_ROUNDS


def claim_key(store: Store, ids: tuple[str, ...]) -> str:
    return f"submissions/claims/demo-cars-{fingerprint(store, ids)}.json"


@pytest.mark.parametrize(("method", "is_claimed"), [("create_submission", True), ("upload", False)])
def test_an_interruption_keeps_the_claim_if_the_predictions_may_have_been_sent(
    store: Store, kaggle_server: DemoServer, monkeypatch: pytest.MonkeyPatch, method: str, is_claimed: bool
) -> None:
    ids, call = kaggle_server.competition.ids, getattr(KaggleClient, method)
    kaggle_server.list_lag_seconds = 3600

    def interrupt(self: KaggleClient, *arguments: Any) -> None:
        call(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(KaggleClient, method, interrupt)
        send(store, ids)
    if is_claimed:
        with pytest.raises(StageWaiting, match=fingerprint(store, ids)):
            send(store, ids)
    else:
        assert send(store, ids)[0].metrics["ref"] == 1001
    assert len(kaggle_server.submissions) == 1


def test_a_forced_run_does_not_send_predictions_again_that_kaggle_does_not_list_yet(
    store: Store, kaggle_server: DemoServer
) -> None:
    kaggle_server.list_lag_seconds = 3600
    inputs = build_inputs(store, kaggle_server.competition.ids)
    prediction = inputs.predict(kaggle_server.competition.ids)
    first, _ = inputs.send(prediction)
    forced = StageContext(store, CONFIG, "forced")
    second, reused = send_submission(prediction, inputs.dataset, forced)
    assert (second.metrics["ref"], reused, len(kaggle_server.submissions)) == (first.metrics["ref"], False, 1)


class FailingStore(FolderStore):
    """From the first claim on, reading a claim fails."""

    fails = False

    def read(self, key: str) -> VersionedObject | None:
        if self.fails and "/claims/" in key:
            raise ServiceError("the store cannot be reached")
        return super().read(key)

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        written = super().write_if(key, data, version)
        self.fails = self.fails or "/claims/" in key
        return written


def test_a_store_that_fails_after_the_claim_does_not_keep_the_predictions_from_being_sent(
    store: Store, kaggle_server: DemoServer
) -> None:
    ids = kaggle_server.competition.ids
    with pytest.raises(ServiceError):
        send(FailingStore(Path(store.url)), ids)
    assert len(kaggle_server.submissions) == 1
    assert send(store, ids)[0].metrics["ref"] == 1001


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sent_at": 5}', b'{"sent_at": "2026-03-01T12:00Z"}', b"\xff"])
def test_a_damaged_claim_raises_data_error_until_kaggle_lists_the_predictions(
    store: Store, kaggle_server: DemoServer, content: bytes
) -> None:
    ids = kaggle_server.competition.ids
    key = claim_key(store, ids)
    store.write(key, content)
    with pytest.raises(DataError, match=f"{store.url}/{key}"):
        send(store, ids)
    assert kaggle_server.submissions == []
    path = build_inputs(store, ids).predict(ids).path(store, "submission.csv")
    submit_file(KaggleClient("demo-cars"), path, fingerprint(store, ids))
    assert send(store, ids)[0].metrics["ref"] == 1001
