"""champion.json: a history that only grows, rollbacks, thresholds, scores, and concurrent writers."""

import shutil
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from gate_candidates import Candidate, build_artifact, build_candidate, build_ensemble, build_split
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from carclf.artifacts import Artifact, Model, Provenance
from carclf.champion import (
    ensure_state,
    find_promotion,
    read_state,
    record_promotion,
    record_response,
    record_score,
    roll_back,
    set_threshold,
)
from carclf.champion_history import promotion_of_model, promotions
from carclf.ensembles.members import read_members
from carclf.errors import ConfigError, DamagedArtifactError, DataError
from carclf.services.storage import Store, open_store

CHAMPION_ACTIONS = ("promoted", "rolled_back")


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    request.getfixturevalue("aws")
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some/prefix"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def promote_all(store: Store, *names: str) -> list[Candidate]:
    """Promote a candidate of each name, in order."""
    candidates = [build_candidate(store, name, [position]) for position, name in enumerate(names)]
    for candidate in candidates:
        candidate.promote(store, run_id=f"run-{candidate.model.metrics['name']}")
    return candidates


def champion_key(store: Store) -> Any:
    return (ensure_state(store, 0.5)["champion"] or {}).get("model")


def history(store: Store) -> list[dict[str, Any]]:
    return ensure_state(store, 0.5)["history"]


def without_time(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "time"}


def damage(store: Store, artifact: Artifact, how: str) -> None:
    """Remove the manifest or the files of an artifact in a folder store, or change the content of the files."""
    if how == "manifest":
        Path(store.url, artifact.folder, artifact.key, "manifest.json").unlink()
        return
    for file in artifact.files.values():
        if how == "content":
            store.write(file.key, b"x" * file.num_bytes)
        else:
            Path(store.url, file.key).unlink(missing_ok=True)


class History(RuleBasedStateMachine):
    """Any sequence of promotions, rollbacks, threshold changes and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.store = open_store(self.folder)
        self.candidates: list[Candidate] = []
        self.threshold = 0.5
        self.champion: str | None = None
        self.seen: list[dict[str, Any]] = []
        self.scored: set[tuple[str, int]] = set()

    @initialize()
    def start(self) -> None:
        self.candidates = [build_candidate(self.store, name) for name in "abcd"]
        assert ensure_state(self.store, 0.5)["threshold"] == 0.5

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(number=st.integers(0, 3), raise_to=st.sampled_from([None, 0.3, 0.7, 0.95]))
    def promote(self, number: int, raise_to: float | None) -> None:
        candidate, state = self.candidates[number], ensure_state(self.store, 0.5)
        is_new = promotion_of_model(state, candidate.model.key) is None
        event = {
            "model": candidate.model.key,
            "decision": "d",
            "evaluation": candidate.evaluation.key,
            "run": str(number),
        }
        assert record_promotion(self.store, event, state, raise_to=raise_to) == is_new
        if is_new:
            self.champion, self.threshold = candidate.model.key, max(self.threshold, raise_to or 0)

    @rule(number=st.integers(0, 3))
    def promote_with_an_outdated_state(self, number: int) -> None:
        state = ensure_state(self.store, 0.5) | {"threshold": 0.123}
        assert not record_promotion(self.store, {"model": self.candidates[number].model.key}, state)

    @rule(number=st.integers(0, 3))
    def roll_back(self, number: int) -> None:
        key = self.candidates[number].model.key
        if promotion_of_model(ensure_state(self.store, 0.5), key) and key != self.champion:
            roll_back(self.store, key)
            self.champion = key
        else:
            with pytest.raises(ConfigError):
                roll_back(self.store, key)

    @rule(threshold=st.sampled_from([0.2, 0.5, 0.8]))
    def change_threshold(self, threshold: float) -> None:
        set_threshold(self.store, threshold)
        self.threshold = threshold

    @rule(number=st.integers(0, 3), ref=st.integers(1, 3), public_score=st.sampled_from([0.7, ""]))
    def score(self, number: int, ref: int, public_score: float | str) -> None:
        key = self.candidates[number].model.key
        record_score(self.store, key, {"ref": ref, "public_score": public_score, "rank": 2})
        if public_score != "":
            self.scored.add((key, ref))

    @invariant()
    def the_history_only_grows_and_names_the_champion(self) -> None:
        state = ensure_state(self.store, 0.5)
        assert state["history"][: len(self.seen)] == self.seen
        self.seen = state["history"]
        changes = [event for event in self.seen if event["action"] in CHAMPION_ACTIONS]
        assert state["champion"] == (changes[-1] if changes else None)
        assert (state["champion"] or {}).get("model") == self.champion
        assert state["threshold"] == self.threshold
        models = [event["model"] for event in promotions(state)]
        assert len(models) == len(set(models))
        scored = [(event["model"], event["ref"]) for event in self.seen if event["action"] == "scored"]
        assert set(scored) == self.scored and len(scored) == len(self.scored)


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_rollback_makes_the_previous_champion_the_champion_with_an_event(store: Store) -> None:
    first, second = promote_all(store, "first", "second")
    before = history(store)
    event = roll_back(store, by="Ada")
    assert history(store) == [*before, ensure_state(store, 0.5)["champion"]]
    assert champion_key(store) == first.model.key
    expected = {
        "action": "rolled_back",
        "model": first.model.key,
        "decision": before[0]["decision"],
        "evaluation": first.evaluation.key,
        "run": "run-first",
        "val_accuracy": before[0]["val_accuracy"],
        "metric": "accuracy",
        "val_metric": before[0]["val_metric"],
        "previous_model": second.model.key,
        "by": "Ada",
    }
    assert without_time(history(store)[-1]) == event == expected


def test_the_previous_champion_is_never_one_that_was_rolled_back_from(store: Store) -> None:
    first, second = promote_all(store, "first", "second")
    roll_back(store)
    (third,) = promote_all(store, "third")
    assert roll_back(store)["model"] == first.model.key
    with pytest.raises(ConfigError, match=rf"{first.model.key}.*--to"):
        roll_back(store)
    assert roll_back(store, "run-second")["model"] == second.model.key
    assert roll_back(store, third.model.key[:8])["model"] == champion_key(store) == third.model.key


def test_a_rollback_without_a_champion_raises_config_error(store: Store) -> None:
    with pytest.raises(ConfigError, match=store.url):
        roll_back(store)


def test_a_rollback_to_a_model_that_was_never_champion_raises_config_error(store: Store) -> None:
    rejected = build_candidate(store, "rejected", range(40))
    rejected.promote(store)
    first, second = promote_all(store, "first", "second")
    champions = f"{first.model.key}, {second.model.key}"
    for name, message in (
        (rejected.model.key, rf"{rejected.model.key} was never the champion.*{champions}"),
        ("run-none", f"'run-none'.*{champions}"),
        ("../x", "'../x'"),
        (second.model.key, f"{second.model.key} is already the champion"),
        ("run-second", f"{second.model.key} is already the champion"),
    ):
        before = history(store)
        with pytest.raises(ConfigError, match=message):
            roll_back(store, name)
        assert history(store) == before


def test_a_name_of_several_champions_is_ambiguous(store: Store) -> None:
    events = [{"action": "promoted", "model": model, "run": "r", "time": ""} for model in ("ab12", "ab34")]
    state = {"champion": None, "threshold": 0.5, "history": events}
    for name in ("ab", "r"):
        with pytest.raises(ConfigError, match=rf"'{name}' .*ab12 and ab34"):
            find_promotion(store, state, name)
    assert find_promotion(store, state, "ab3")["model"] == "ab34"


def test_a_run_takes_precedence_over_a_prefix(store: Store) -> None:
    events = [{"action": "promoted", "model": model, "run": run, "time": ""}
              for model, run in (("ab12", "night-1"), ("ab34", "night-10"))]
    state = {"champion": None, "threshold": 0.5, "history": events}
    assert find_promotion(store, state, "night-1")["model"] == "ab12"
    assert find_promotion(store, state, "night-10")["model"] == "ab34"
    with pytest.raises(ConfigError, match="'night' is ambiguous"):
        find_promotion(store, state, "night")


@pytest.mark.parametrize("part", ["model", "split"])
@pytest.mark.parametrize("how", ["manifest", "file", "content"])
def test_a_rollback_to_a_damaged_champion_raises_damaged_artifact_error(store: Store, part: str, how: str) -> None:
    first, second = promote_all(store, "first", "second")
    damaged = getattr(first, part)
    damage(store, damaged, how)
    with pytest.raises(DamagedArtifactError, match=damaged.key) as error:
        roll_back(store)
    assert error.value.path == f"{damaged.folder}/{damaged.key}"
    assert champion_key(store) == second.model.key and len(history(store)) == 2


@pytest.mark.parametrize("how", ["manifest", "file", "content"])
def test_a_rollback_to_an_ensemble_verifies_its_members_splits(store: Store, how: str) -> None:
    members = [build_candidate(store, name, [0], split=build_split(store, 60, name)) for name in ("one", "other")]
    build_ensemble(store, members, [0.5, 0.5], [1]).promote(store)
    second = build_candidate(store, "second", [], split=members[0].split)
    second.promote(store)
    damage(store, members[1].split, how)
    with pytest.raises(DamagedArtifactError) as error:
        roll_back(store)
    assert error.value.path == f"splits/{members[1].split.key}"
    assert champion_key(store) == second.model.key and len(history(store)) == 2


def test_a_rollback_to_an_ensemble_without_splits_of_its_members_raises_data_error(store: Store) -> None:
    first = build_candidate(store, "first", [])
    files = {"model.keras": b"ensemble", "ensemble.json": b'{"members": [{"model": "m"}]}'}
    model = build_artifact(store, Model, Provenance(1, first.model.inputs, {}), {}, files)
    for key in (model.key, first.model.key):
        assert record_promotion(store, {"model": key, "decision": "d"}, ensure_state(store, 0.5))
    for read in (roll_back, partial(read_members, model)):
        with pytest.raises(DataError, match=rf"models/{model.key}/ensemble\.json.*members\.0"):
            read(store)


def test_state_of_an_earlier_version_has_a_threshold_of_accuracy(store: Store) -> None:
    store.write("champion.json", b'{"champion": null, "history": [], "threshold": 0.6}')
    assert ensure_state(store, 0.5) == {"champion": None, "history": [], "threshold": 0.6, "metric": "accuracy"}


def test_threshold_of_another_metric_is_stored_with_its_metric(store: Store) -> None:
    set_threshold(store, 0.7)
    set_threshold(store, 1.4, metric_name="log_loss")
    state = read_state(store)
    assert state is not None
    assert (state["threshold"], state["metric"]) == (1.4, "log_loss")
    assert state["history"][-1]["previous_threshold"] == 0.7
    with pytest.raises(ConfigError, match="log loss"):
        set_threshold(store, -0.1)
    with pytest.raises(ConfigError, match="macro_f1"):
        set_threshold(store, 0.5, metric_name="f1")
    with pytest.raises(ConfigError, match="--metric accuracy"):
        ensure_state(store, 0.5)
    assert read_state(store) == state


CHANGED = {"action": "threshold_changed", "metric": "accuracy"}


def test_only_a_changed_threshold_adds_an_event(store: Store) -> None:
    set_threshold(store, 0.7, by="Ada")
    set_threshold(store, 0.7, by="Bob")
    set_threshold(store, 0.8)
    assert [without_time(event) for event in history(store)] == [
        CHANGED | {"threshold": 0.7, "previous_threshold": None, "by": "Ada"},
        CHANGED | {"threshold": 0.8, "previous_threshold": 0.7, "by": ""},
    ]


@pytest.mark.parametrize("raised", [float("nan"), float("inf"), 1.1])
def test_raising_the_threshold_to_an_invalid_accuracy_raises_data_error(store: Store, raised: float) -> None:
    candidate, before = build_candidate(store, "candidate"), ensure_state(store, 0.5)
    with pytest.raises(DataError, match=rf"{raised}.*gate\.raise_threshold"):
        record_promotion(store, {"model": candidate.model.key}, before, raise_to=raised)
    assert read_state(store) == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"champion": nu', "JSON"),
        ("[]", "object"),
        ('{"champion": null}', "threshold"),
        ('{"champion": null, "history": [], "threshold": NaN}', "threshold"),
        ('{"champion": null, "history": [], "threshold": 0.6, "metric": "f1"}', "metric"),
        ('{"champion": "m", "history": [], "threshold": 0.6}', "champion"),
        ('{"champion": null, "history": {}, "threshold": 0.6}', "history"),
        ('{"champion": null, "history": [{"model": "m"}], "threshold": 0.6}', "history"),
    ],
)
def test_a_damaged_champion_file_raises_data_error_and_stays_as_it_is(
    store: Store, content: str, problem: str
) -> None:
    store.write("champion.json", content.encode())
    for use in (lambda: read_state(store), lambda: set_threshold(store, 0.7)):
        with pytest.raises(DataError, match=rf"champion\.json in {store.url} is damaged: .*{problem}"):
            use()
    stored = store.read("champion.json")
    assert stored is not None and stored.data == content.encode()


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_not_an_accuracy_raises_config_error(store: Store, threshold: float) -> None:
    with pytest.raises(ConfigError, match="from 0 to 1"):
        set_threshold(store, threshold)
    assert read_state(store) is None


def test_a_public_score_is_recorded_once_and_an_empty_one_never(store: Store) -> None:
    (first,) = promote_all(store, "first")
    for metrics in (
        {"ref": 5, "public_score": ""},
        {"ref": 5, "public_score": 0.81, "rank": 7},
        {"ref": 5, "public_score": 0.82, "rank": 6},
        {"ref": 6, "public_score": 0.8},
    ):
        record_score(store, first.model.key, metrics)
    assert [without_time(event) for event in history(store)[1:]] == [
        {"action": "scored", "model": first.model.key, "ref": 5, "public_score": 0.81, "rank": 7},
        {"action": "scored", "model": first.model.key, "ref": 6, "public_score": 0.8, "rank": ""},
    ]
    assert champion_key(store) == first.model.key


def test_a_score_does_not_create_a_champion_file(store: Store) -> None:
    record_score(store, "m", {"ref": 5, "public_score": 0.5})
    assert read_state(store) is None


def test_a_candidate_that_is_declined_meanwhile_is_not_promoted(store: Store) -> None:
    (candidate, state) = build_candidate(store, "candidate"), ensure_state(store, 0.5)
    declined = {"action": "declined", "model": candidate.model.key, "by": "Ada"}
    for _ in range(2):  # a retried task repeats it
        record_response(store, declined)
    assert [without_time(event) for event in history(store)] == [declined]
    promotion = {"model": candidate.model.key, "decision": "d"}
    assert not record_promotion(store, promotion, state)
    assert champion_key(store) is None


def test_concurrent_promotions_rollbacks_thresholds_and_scores_lose_nothing(url: str) -> None:
    store = open_store(url)
    first, second = promote_all(store, "first", "second")
    late = [build_candidate(store, f"late {number}", [10 + number]) for number in range(3)]
    writers: list[Callable[[Store], object]] = [candidate.promote for candidate in late]
    writers += [
        lambda store: roll_back(store, first.model.key),
        lambda store: set_threshold(store, 0.55),
        lambda store: set_threshold(store, 0.56),
    ]
    writers += [
        lambda store, ref=ref: record_score(store, second.model.key, {"ref": ref, "public_score": 0.5})
        for ref in range(3)
    ]
    before = history(store)
    with ThreadPoolExecutor(len(writers)) as pool:
        for done in [pool.submit(write, open_store(url)) for write in writers]:
            done.result()
    state = ensure_state(store, 0.5)
    events = state["history"]
    assert events[:2] == before
    expected = ["promoted"] * 3 + ["rolled_back"] + ["scored"] * 3 + ["threshold_changed"] * 2
    assert sorted(event["action"] for event in events[2:]) == expected
    assert state["champion"] == [event for event in events if event["action"] in CHAMPION_ACTIONS][-1]
    changes = [event for event in events if event["action"] == "threshold_changed"]
    assert state["threshold"] == changes[-1]["threshold"]
