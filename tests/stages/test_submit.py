"""Submissions: their content, their conditions, and sending them only once."""

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

from carclf.artifacts import Archive, Dataset, Model, Prediction, Provenance, Split, StageContext, Submission
from carclf.champion import ensure_state, record_promotion
from carclf.config import load_config
from carclf.demo.server import DemoServer, Fault
from carclf.errors import ConfigError, DataError, ServiceError, StageWaiting
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import Store, open_store
from carclf.services.storage.leases import acquire_lease, release_lease
from carclf.stages.submit import CLAIM_SECONDS, VERSION, check_submission, send_submission, submit

CONFIG = load_config("demo", {"competition": "demo-cars"})
SAMPLE = "Id,Category\n1.jpg,0\n2.jpg,0\n"
OWNER_ID = "carclf.services.storage.leases.OWNER_ID"
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
    split: Split
    model: Model
    store: Store

    def submit(self) -> tuple[Submission, bool]:
        context = StageContext(self.store, CONFIG)
        return submit(self.archive, self.dataset, self.split, self.model, context)

    def predict(self, ids: tuple[str, ...], label: int = 0) -> Prediction:
        """Build the prediction left by an earlier attempt to submit."""
        keys = {"archive": self.archive.key, "dataset": self.dataset.key, "model": self.model.key}
        settings = CONFIG.evaluate.model_dump(exclude={"batch_size"}) | {"salt": ""}
        files = {"submission.csv": submission_csv(ids, label)}
        provenance = Provenance(VERSION, keys, settings)
        return build_artifact(self.store, Prediction, provenance, {"num_rows": len(ids)}, files)

    def send(self, prediction: Prediction) -> tuple[Submission, bool]:
        context = StageContext(self.store, CONFIG)
        return send_submission(prediction, self.dataset, self.split, self.model, context)


def build_inputs(store: Store, ids: tuple[str, ...]) -> Inputs:
    def build(kind: Any, metrics: Mapping[str, Any] = {}, files: Mapping[str, bytes] = {}) -> Any:
        return build_artifact(store, kind, Provenance(1, {}, {}), dict(metrics), files)

    dataset = build(Dataset, files={"sample-submission.csv": submission_csv(ids)})
    return Inputs(build(Archive), dataset, build(Split, {"class_names": list(range(8))}), build(Model), store)


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


def test_without_submissions_left_submit_waits_and_keeps_the_predictions(
    store: Store, kaggle_server: DemoServer
) -> None:
    ids = kaggle_server.competition.ids
    inputs = build_inputs(store, ids)
    prediction = inputs.predict(ids)
    promote(store, inputs.model)
    kaggle_server.daily_limit = 0
    with pytest.raises(StageWaiting, match="00:00 UTC") as waiting:
        inputs.submit()
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    assert waiting.value.until == datetime(tomorrow.year, tomorrow.month, tomorrow.day, 0, 5, tzinfo=UTC)
    assert kaggle_server.submissions == []
    kaggle_server.daily_limit = 1
    submission, reused = inputs.submit()
    assert submission.metrics == {"ref": 1001, "num_rows": 12} and not reused
    assert submission.inputs == {"prediction": prediction.key}
    assert submission.files == {"submission.csv": prediction.files["submission.csv"]}
    assert inputs.submit() == (submission, True)
    descriptions = [entry.description for entry in kaggle_server.submissions]
    assert descriptions == [f"carclf {fingerprint(store, ids)} model {inputs.model.key}"]


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


@pytest.mark.parametrize(("label", "problem"), [(0, "11 rows .* 12 ids"), (8, r"unknown classes \['8'\]")])
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
    KaggleClient("demo-cars").submit(path, description="altered on its way", fingerprint=mark)
    with pytest.raises(DataError, match=rf"submission 1001.*{file.key}.*{mark}"):
        send(store, ids)
    assert len(kaggle_server.submissions) == 1
    assert not [key for key in store.list_keys("submissions/") if "manifest" in key]
    path.write_bytes(prediction.path(store, "submission.csv").read_bytes())
    KaggleClient("demo-cars").submit(path, description=f"by hand: {mark}", fingerprint="by hand")
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
    assert all("another process is sending" in result for result in waited) and len(waited) <= NUM_ROUNDS


def test_a_lease_holds_until_it_is_released_or_expires(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def become(owner: str) -> None:
        monkeypatch.setattr(OWNER_ID, owner)

    become("one")
    assert acquire_lease(store, "claims/x", 60) and acquire_lease(store, "claims/x", 60)
    become("two")
    assert not acquire_lease(store, "claims/x", 60)
    release_lease(store, "claims/x")  # another owner's lease
    assert not acquire_lease(store, "claims/x", 60)
    become("one")
    release_lease(store, "claims/x")
    become("two")
    assert acquire_lease(store, "claims/x", -1)
    become("three")
    assert acquire_lease(store, "claims/x", 60)


def test_a_failed_request_releases_the_lease(
    store: Store, kaggle_server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle_server.faults.append(Fault("CreateSubmission", "status", 429, retry_after=4000))
    with pytest.raises(ServiceError, match="4000 s"):
        send(store, kaggle_server.competition.ids)
    monkeypatch.setattr(OWNER_ID, "the process of a retry")
    assert send(store, kaggle_server.competition.ids)[0].metrics["ref"] == 1001


def test_the_lease_is_renewed_if_listing_submissions_is_slow(
    store: Store, kaggle_server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carclf.services.kaggle.client.CALL_SECONDS", CLAIM_SECONDS - 2)
    remaining_submissions = KaggleClient.remaining_submissions

    def delay_the_list(self: KaggleClient) -> int | None:
        kaggle_server.faults.append(Fault("ListSubmissions", "status", 503, retry_after=3))
        return remaining_submissions(self)

    monkeypatch.setattr(KaggleClient, "remaining_submissions", delay_the_list)
    assert send(store, kaggle_server.competition.ids)[0].metrics["ref"] == 1001
    # Lists: before the lease; with the lease, a 503 and a response that came too late; with the renewed lease.
    assert (kaggle_server.calls["ListSubmissions"], len(kaggle_server.submissions)) == (4, 1)


def test_nothing_is_sent_if_another_process_acquired_the_expired_lease(
    store: Store, kaggle_server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carclf.stages.submit.CLAIM_SECONDS", 1.0)
    monkeypatch.setattr("carclf.services.kaggle.client.CALL_SECONDS", 0.5)
    remaining_submissions, find_submission = KaggleClient.remaining_submissions, KaggleClient.find_submission
    mark = fingerprint(store, kaggle_server.competition.ids)

    def delay_the_list(self: KaggleClient) -> int | None:
        kaggle_server.faults.append(Fault("ListSubmissions", "status", 503, retry_after=2))
        return remaining_submissions(self)

    def overtake(self: KaggleClient, fingerprint: str) -> Any:
        submission = find_submission(self, fingerprint)
        if "GetSubmissionLimits" in kaggle_server.calls:  # this process is waiting for the list
            monkeypatch.setattr(OWNER_ID, "another process")
            assert acquire_lease(store, f"submissions/claims/demo-cars-{mark}.json", 60)
            monkeypatch.setattr(OWNER_ID, "this process")
        return submission

    monkeypatch.setattr(KaggleClient, "remaining_submissions", delay_the_list)
    monkeypatch.setattr(KaggleClient, "find_submission", overtake)
    with pytest.raises(StageWaiting, match="another process is sending"):
        send(store, kaggle_server.competition.ids)
    assert kaggle_server.submissions == []


@pytest.mark.parametrize(("method", "is_released"), [("_create", False), ("_upload", True), ("find_submission", True)])
def test_an_interruption_releases_the_lease_only_before_sending(
    store: Store, kaggle_server: DemoServer, monkeypatch: pytest.MonkeyPatch, method: str, is_released: bool
) -> None:
    call, results = getattr(KaggleClient, method), []

    def interrupt(self: KaggleClient, *arguments: Any) -> Any:
        results.append(call(self, *arguments))
        if method != "find_submission" or len(results) == 2:  # the second call is made with the lease
            raise KeyboardInterrupt
        return results[-1]

    monkeypatch.setattr(KaggleClient, method, interrupt)
    with pytest.raises(KeyboardInterrupt):
        send(store, kaggle_server.competition.ids)
    mark = fingerprint(store, kaggle_server.competition.ids)
    monkeypatch.setattr(OWNER_ID, "the process of a retry")
    assert acquire_lease(store, f"submissions/claims/demo-cars-{mark}.json", 60) == is_released


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has the columns"),
        ("Id,Class\n1.jpg,0\n2.jpg,0\n", "has the columns"),
        ("id,Category\n1.jpg,0\n2.jpg,0\n", "has the columns"),
        ("Id,Category\n1.jpg,0\n", "has 1 rows that are not the sample's 2 ids"),
        ("Id,Category\n2.jpg,0\n1.jpg,0\n", "has 2 rows that are not the sample's 2 ids in their order"),
        ("Id,Category\n1.jpg,0\n1.jpg,0\n", "has 1 repeated ids"),
        ("Id,Category\n1.jpg,0\n2.jpg,0,1\n", "has a row of 3 values"),
        ("Id,Category\n1.jpg,0\n2.jpg\n", "has a row of 1 values"),
        ("Id,Category\n1.jpg,0\n2.jpg,7\n", r"has unknown classes \['7'\]"),
        ("Id,Category\n1.jpg,0\n2.jpg,0\n3.jpg,0\n", "has 3 rows"),
    ],
)
def test_a_file_that_does_not_match_the_sample_raises_data_error(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=rf"submission\.csv {problem}"):
        check_submission(text, SAMPLE, ["0", "1"])


def test_a_file_that_matches_the_sample_passes() -> None:
    check_submission("Id,Category\n1.jpg,1\n2.jpg,0\n", SAMPLE, ["0", "1"])
