"""Submissions: what is sent, when, and once."""

import multiprocessing
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from carclf.artifacts import Archive, Dataset, Metrics, Model, Prediction, Provenance, Split, Submission, build
from carclf.champion import change_state
from carclf.config import load_config
from carclf.demo.server import DemoServer, Fault
from carclf.errors import ConfigError, DataError, ServiceError, StageWaiting
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import Store, open_store
from carclf.services.storage.leases import acquire_lease, release_lease
from carclf.stages.submit import CLAIM_SECONDS, VERSION, check_submission, send_submission, submit

CONFIG = load_config("demo", {"competition": "demo-cars"})
SAMPLE = "Id,Category\n1.jpg,0\n2.jpg,0\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def inputs(store: Store, ids: tuple[str, ...]) -> tuple[Archive, Dataset, Split, Model]:
    def made(kind: Any, **metrics: Any) -> Any:
        return build(kind, lambda _: metrics, Provenance(1, {}, {}), store)[0]

    def sample(folder: Path) -> Metrics:
        (folder / "sample-submission.csv").write_text("Id,Category\n" + "".join(f"{name},0\n" for name in ids))
        return {}

    dataset, _ = build(Dataset, sample, Provenance(1, {}, {}), store)
    return made(Archive), dataset, made(Split, class_names=list(range(8))), made(Model)


def predicted(store: Store, ids: tuple[str, ...], answer: int = 0) -> Prediction:
    """What an earlier try of submit left, before it asked for a quota."""
    archive, dataset, _, model = inputs(store, ids)

    def make(folder: Path) -> Metrics:
        (folder / "submission.csv").write_text("Id,Category\n" + "".join(f"{name},{answer}\n" for name in ids))
        return {"num_rows": len(ids)}

    settings = CONFIG.evaluate.model_dump(exclude={"batch_size"}) | {"salt": ""}
    return build(Prediction, make, Provenance(VERSION, {"archive": archive.key, "dataset": dataset.key, "model": model.key}, settings), store)[0]


def sent(store: Store, ids: tuple[str, ...], answer: int = 0) -> tuple[Submission, bool]:
    return send_submission(predicted(store, ids, answer), *inputs(store, ids)[1:], CONFIG, store)


def crown(store: Store, model: Model) -> None:
    event = {"model": model.key, "decision": "d"}  # as versions without actions wrote it
    change_state(store, lambda _: {"champion": event, "threshold": 0.5, "history": [event]})


def test_a_model_that_was_never_promoted_is_not_submitted_and_the_way_on_is_told(
    store: Store, kaggle: DemoServer
) -> None:
    given = inputs(store, kaggle.competition.ids)
    with pytest.raises(ConfigError, match=r"never promoted.*carclf promote --run RUN.*--approved-by NAME"):
        submit(*given, CONFIG, store)
    assert kaggle.calls == {} and not list(store.list_keys("predictions/"))


def test_without_a_submission_left_nothing_is_sent_until_the_reset_and_the_predictions_are_kept(
    store: Store, kaggle: DemoServer
) -> None:
    given, prediction = inputs(store, kaggle.competition.ids), predicted(store, kaggle.competition.ids)
    crown(store, given[3])
    kaggle.daily_limit = 0
    with pytest.raises(StageWaiting, match=r"00:00 UTC.*Nothing was sent, and the predictions are kept") as caught:
        submit(*given, CONFIG, store)
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    assert caught.value.until == datetime(tomorrow.year, tomorrow.month, tomorrow.day, 0, 5, tzinfo=UTC)
    assert kaggle.submissions == []
    kaggle.daily_limit = 1
    found, reused = submit(*given, CONFIG, store)
    assert (found.metrics, reused, found.inputs) == ({"ref": 1001, "num_rows": 12}, False,
                                                     {"prediction": prediction.key})
    assert found.files == {"submission.csv": prediction.files["submission.csv"]}
    assert submit(*given, CONFIG, store) == (found, True)
    mark = prediction.files["submission.csv"].sha256[:16]
    assert [entry.description for entry in kaggle.submissions] == [f"carclf {mark} model {given[3].key}"]


def test_a_cached_file_that_was_altered_while_it_waited_is_not_what_is_sent(
    store: Store, kaggle: DemoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path / "cache"))
    path = predicted(store, kaggle.competition.ids).path(store, "submission.csv")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"0.jpg,0", b"x.jpg,7", 1))
    assert path.stat().st_size == len(whole) and path.read_bytes() != whole
    sent(store, kaggle.competition.ids)
    assert [entry.data for entry in kaggle.submissions] == [whole] == [path.read_bytes()]


@pytest.mark.parametrize(("answer", "words"), [(0, "has 11 rows that are not the sample's 12 ids"),
                                               (8, r"names unknown classes \['8'\]")])
def test_kept_predictions_that_are_not_as_the_sample_wants_them_are_not_sent(
    store: Store, kaggle: DemoServer, answer: int, words: str
) -> None:
    ids = kaggle.competition.ids
    given, kept = inputs(store, ids), predicted(store, ids if answer else ids[1:], answer)
    with pytest.raises(DataError, match=words):
        send_submission(kept, *given[1:], CONFIG, store)
    assert kaggle.calls == {} and kaggle.submissions == []


def test_a_submission_that_kaggle_could_not_grade_is_not_called_sent_until_it_was_sent_by_hand(
    store: Store, kaggle: DemoServer, tmp_path: Path
) -> None:
    file = predicted(store, kaggle.competition.ids).files["submission.csv"]
    broken, mark = tmp_path / "submission.csv", file.sha256[:16]
    broken.write_text("Id,Category\n")
    KaggleClient("demo-cars").submit(broken, description="altered on its way", fingerprint=mark)
    with pytest.raises(DataError, match=f"could not score submission 1001.*send .*{file.key} by hand.* with {mark} in"):
        sent(store, kaggle.competition.ids)
    assert len(kaggle.submissions) == 1 and not [key for key in store.list_keys("submissions/") if "manifest" in key]
    broken.write_bytes(predicted(store, kaggle.competition.ids).path(store, "submission.csv").read_bytes())
    KaggleClient("demo-cars").submit(broken, description=f"by hand: {mark}", fingerprint="by hand")
    assert sent(store, kaggle.competition.ids)[0].metrics["ref"] == 1002


def test_the_same_answers_of_another_model_are_not_sent_again(store: Store, kaggle: DemoServer, tmp_path: Path) -> None:
    other = open_store(tmp_path / "other")  # another team mate's store, for all we know
    first, _ = sent(store, kaggle.competition.ids)
    second, reused = sent(other, kaggle.competition.ids)
    assert (first.metrics, reused, len(kaggle.submissions)) == (second.metrics, False, 1)


ROUNDS = 8


def send_together(url: str, endpoint: str, ids: tuple[str, ...], barrier: Any, answers: Any) -> None:
    """One of two processes: send the same predictions at the same moment, again and again."""
    os.environ |= {"CARCLF_KAGGLE_ENDPOINT": endpoint, "KAGGLE_API_TOKEN": "demo-key"}
    for number in range(ROUNDS):
        store = open_store(f"{url}-{number}")
        predicted(store, ids, number)
        barrier.wait(60)
        try:
            sent(store, ids, number)
            answers.put("sent")
        except StageWaiting as waiting:
            answers.put(str(waiting))
    assert "tensorflow" not in sys.modules


def test_two_processes_that_send_the_same_predictions_at_the_same_moment_send_them_once(
    store: Store, kaggle: DemoServer
) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    arguments = (store.url, kaggle.url, kaggle.competition.ids, barrier, answers)
    both = [context.Process(target=send_together, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    found = [answers.get(timeout=100) for _ in range(2 * ROUNDS)]
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0]
    assert len({entry.description for entry in kaggle.submissions}) == len(kaggle.submissions) == ROUNDS
    waited = [text for text in found if text != "sent"]
    assert all("another process is sending" in text for text in waited) and len(waited) <= ROUNDS


def test_a_claim_holds_until_it_is_given_up_or_its_time_is_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def become(name: str) -> None:
        monkeypatch.setattr("carclf.services.storage.leases.OWNER_ID", name)

    become("one")
    assert acquire_lease(store, "claims/x", 60) and acquire_lease(store, "claims/x", 60)
    become("two")
    assert not acquire_lease(store, "claims/x", 60)
    release_lease(store, "claims/x")  # not its own
    assert not acquire_lease(store, "claims/x", 60)
    become("one")
    release_lease(store, "claims/x")
    become("two")
    assert acquire_lease(store, "claims/x", -1)
    become("three")
    assert acquire_lease(store, "claims/x", 60)


def test_a_failed_sending_leaves_no_claim_behind(store: Store, kaggle: DemoServer, monkeypatch: Any) -> None:
    kaggle.faults.append(Fault("CreateSubmission", "status", 429, retry_after=4000))
    with pytest.raises(ServiceError, match="asks to wait 4000 s"):
        sent(store, kaggle.competition.ids)
    monkeypatch.setattr("carclf.services.storage.leases.OWNER_ID", "a retry's process")
    assert sent(store, kaggle.competition.ids)[0].metrics["ref"] == 1001


def test_a_claim_that_a_slow_list_outlasts_is_renewed_and_the_list_read_again_before_sending(
    store: Store, kaggle: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carclf.services.kaggle.client.CALL_SECONDS", CLAIM_SECONDS - 2)
    limits = KaggleClient.remaining_submissions

    def then_slow(self: KaggleClient) -> int | None:
        kaggle.faults.append(Fault("ListSubmissions", "status", 503, retry_after=3))
        return limits(self)

    monkeypatch.setattr(KaggleClient, "remaining_submissions", then_slow)
    assert sent(store, kaggle.competition.ids)[0].metrics["ref"] == 1001
    # Once before the claim; under it refused, then answered too late; and once more under the renewed claim.
    assert (kaggle.calls["ListSubmissions"], len(kaggle.submissions)) == (4, 1)


def test_a_claim_that_ran_out_in_a_slow_list_and_was_taken_by_another_process_sends_nothing(
    store: Store, kaggle: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carclf.stages.submit.CLAIM_SECONDS", 1.0)
    monkeypatch.setattr("carclf.services.kaggle.client.CALL_SECONDS", 0.5)
    limits, look = KaggleClient.remaining_submissions, KaggleClient.find_submission
    mark = predicted(store, kaggle.competition.ids).files["submission.csv"].sha256[:16]

    def then_slow(self: KaggleClient) -> int | None:
        kaggle.faults.append(Fault("ListSubmissions", "status", 503, retry_after=2))
        return limits(self)

    def overtaken(self: KaggleClient, fingerprint: str) -> Any:
        found = look(self, fingerprint)
        if "GetSubmissionLimits" in kaggle.calls:  # another process came while this one waited for the list
            monkeypatch.setattr("carclf.services.storage.leases.OWNER_ID", "another")
            assert acquire_lease(store, f"submissions/claims/demo-cars-{mark}.json", 60)
            monkeypatch.setattr("carclf.services.storage.leases.OWNER_ID", "this")
        return found

    monkeypatch.setattr(KaggleClient, "remaining_submissions", then_slow)
    monkeypatch.setattr(KaggleClient, "find_submission", overtaken)
    with pytest.raises(StageWaiting, match="another process is sending"):
        sent(store, kaggle.competition.ids)
    assert kaggle.submissions == []


@pytest.mark.parametrize(("during", "given_up"), [("_create", False), ("_upload", True), ("find_submission", True)])
def test_an_interruption_gives_the_claim_up_only_where_nothing_can_have_been_sent(
    store: Store, kaggle: DemoServer, monkeypatch: pytest.MonkeyPatch, during: str, given_up: bool
) -> None:
    call, calls = getattr(KaggleClient, during), []

    def interrupted(self: KaggleClient, *arguments: Any) -> Any:
        calls.append(call(self, *arguments))
        if during != "find_submission" or len(calls) == 2:  # the second look is under the claim
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(KaggleClient, during, interrupted)
    with pytest.raises(KeyboardInterrupt):
        sent(store, kaggle.competition.ids)
    mark = predicted(store, kaggle.competition.ids).files["submission.csv"].sha256[:16]
    monkeypatch.setattr("carclf.services.storage.leases.OWNER_ID", "a retry's process")
    assert acquire_lease(store, f"submissions/claims/demo-cars-{mark}.json", 60) == given_up


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns"),
        ("Id,Class\n1.jpg,0\n2.jpg,0\n", "has the columns"),
        ("Id,Category\n1.jpg,0\n", "has 1 rows that are not the sample's 2 ids"),
        ("Id,Category\n2.jpg,0\n1.jpg,0\n", "has 2 rows that are not the sample's 2 ids in their order"),
        ("Id,Category\n1.jpg,0\n1.jpg,0\n", "has 1 ids twice"),
        ("Id,Category\n1.jpg,0\n2.jpg,0,1\n", "has a row of 3 values"),
        ("Id,Category\n1.jpg,0\n2.jpg\n", "has a row of 1 values"),
        ("Id,Category\n1.jpg,0\n2.jpg,7\n", r"names unknown classes \['7'\]"),
        ("Id,Category\n1.jpg,0\n2.jpg,0\n3.jpg,0\n", "has 3 rows"),
    ],
)
def test_a_file_that_is_not_exactly_as_the_sample_wants_it_is_not_sent(text: str, words: str) -> None:
    with pytest.raises(DataError, match=f"submission.csv {words}.*it was not sent"):
        check_submission(text, SAMPLE, ["0", "1"])


def test_a_file_as_the_sample_wants_it_passes() -> None:
    check_submission("Id,Category\n1.jpg,1\n2.jpg,0\n", SAMPLE, ["0", "1"])
