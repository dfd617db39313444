"""champion.json: a history that only grows, rolling back, scores, and several writers at once."""

import json
import shutil
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from gate_candidates import Candidate, build_candidate, build_ensemble, build_split
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from carclf.champion import (
    ensure_state,
    event_action,
    find_promotion,
    promotion_of_model,
    promotions,
    read_state,
    record_promotion,
    record_score,
    roll_back,
    set_threshold,
)
from carclf.errors import ConfigError, DataError
from carclf.services.storage import Store, open_store


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


def promoted(store: Store, *names: str) -> list[Candidate]:
    found = [build_candidate(store, name, [place]) for place, name in enumerate(names)]
    for one in found:
        one.promote(store, run_id=f"run-{one.model.metrics['name']}")
    return found


def champion(store: Store) -> Any:
    return (ensure_state(store, 0.5)["champion"] or {}).get("model")


def history(store: Store) -> list[dict[str, Any]]:
    return ensure_state(store, 0.5)["history"]


class History(RuleBasedStateMachine):
    """Any sequence of promotions, rollings back, thresholds and scores."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.store = open_store(self.folder)
        self.candidates = [build_candidate(self.store, name) for name in "abcd"]
        self.threshold, self.champion, self.seen = ensure_state(self.store, 0.5)["threshold"], None, []
        self.scored: set[tuple[str, int]] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(which=st.integers(0, 3), raise_to=st.sampled_from([None, 0.3, 0.7, 0.95]))
    def promotes(self, which: int, raise_to: float | None) -> None:
        own, judged = self.candidates[which], ensure_state(self.store, 0.5)
        new = promotion_of_model(judged, own.model.key) is None
        event = {"model": own.model.key, "decision": "d", "evaluation": own.evaluation.key, "run": str(which)}
        assert record_promotion(self.store, event, judged, raise_to=raise_to) == new
        if new:
            self.champion, self.threshold = own.model.key, max(self.threshold, raise_to or 0)

    @rule(which=st.integers(0, 3))
    def promotes_what_was_judged_by_another_state(self, which: int) -> None:
        judged = ensure_state(self.store, 0.5) | {"threshold": 0.123}
        assert not record_promotion(self.store, {"model": self.candidates[which].model.key}, judged)

    @rule(which=st.integers(0, 3))
    def rolls_back(self, which: int) -> None:
        key = self.candidates[which].model.key
        if promotion_of_model(ensure_state(self.store, 0.5), key) and key != self.champion:
            roll_back(self.store, key)
            self.champion = key
        else:
            with pytest.raises(ConfigError):
                roll_back(self.store, key)

    @rule(threshold=st.sampled_from([0.2, 0.5, 0.8]))
    def sets_the_threshold(self, threshold: float) -> None:
        set_threshold(self.store, threshold)
        self.threshold = threshold

    @rule(which=st.integers(0, 3), ref=st.integers(1, 3), score=st.sampled_from([0.7, ""]))
    def scores(self, which: int, ref: int, score: float | str) -> None:
        key = self.candidates[which].model.key
        record_score(self.store, key, {"ref": ref, "public_score": score, "rank": 2})
        if score != "":
            self.scored.add((key, ref))

    @invariant()
    def the_history_grew_and_the_champion_is_the_last_that_was_crowned(self) -> None:
        found = ensure_state(self.store, 0.5)
        assert found["history"][: len(self.seen)] == self.seen
        self.seen = found["history"]
        crownings = [event for event in self.seen if event_action(event) in ("promoted", "rolled_back")]
        assert found["champion"] == (crownings[-1] if crownings else None)
        assert (found["champion"] or {}).get("model") == self.champion and found["threshold"] == self.threshold
        models = [event["model"] for event in promotions(found)]
        assert len(models) == len(set(models))
        scored = [(event["model"], event["ref"]) for event in self.seen if event_action(event) == "scored"]
        assert set(scored) == self.scored and len(scored) == len(self.scored)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=12, stateful_step_count=15, deadline=None,
                                suppress_health_check=[HealthCheck.too_slow])


def test_a_rolling_back_makes_the_one_before_the_champion_by_a_new_event(store: Store) -> None:
    first, second = promoted(store, "first", "second")
    before = history(store)
    event = roll_back(store, by="Ada")
    assert history(store) == [*before, ensure_state(store, 0.5)["champion"]] and champion(store) == first.model.key
    assert history(store)[-1] | {"time": ""} == event | {"time": ""} == {
        "action": "rolled_back", "model": first.model.key, "decision": before[0]["decision"],
        "evaluation": first.evaluation.key, "run": "run-first", "val_accuracy": before[0]["val_accuracy"],
        "from": second.model.key, "by": "Ada", "time": "",
    }


def test_the_one_before_is_who_was_champion_then_and_never_one_that_was_rolled_back_from(store: Store) -> None:
    first, second = promoted(store, "first", "second")
    roll_back(store)
    (third,) = promoted(store, "third")
    assert roll_back(store)["model"] == first.model.key
    with pytest.raises(ConfigError, match=rf"no champion before {first.model.key}\. Name another one: --to MODEL"):
        roll_back(store)
    assert roll_back(store, "run-second")["model"] == second.model.key
    assert roll_back(store, third.model.key[:8])["model"] == champion(store) == third.model.key


def test_whom_nobody_can_roll_back_to_is_told_in_words(store: Store) -> None:
    with pytest.raises(ConfigError, match="There is no champion in"):
        roll_back(store)
    refused = build_candidate(store, "rejected", range(40))
    refused.promote(store)
    first, second = promoted(store, "first", "second")
    for name, words in (
        (refused.model.key, f"The model {refused.model.key} was never champion. The champions were: "
                            f"{first.model.key}, {second.model.key}."),
        ("run-none", "has the key or the run 'run-none'. The champions were"),
        ("../x", "has the key or the run '../x'"),
        (second.model.key, f"{second.model.key} is the champion already"),
        ("run-second", f"{second.model.key} is the champion already"),
    ):
        before = history(store)
        with pytest.raises(ConfigError) as told:
            roll_back(store, name)
        assert words in str(told.value) and history(store) == before


def test_a_beginning_that_several_champions_share_is_ambiguous(store: Store) -> None:
    events = [{"model": "ab12", "run": "r"}, {"model": "ab34", "run": "r"}]
    state = {"champion": None, "threshold": 0.5, "history": events}
    for name in ("ab", "r"):
        with pytest.raises(ConfigError, match=rf"'{name}' may be ab12 or ab34\. Give more of the key\."):
            find_promotion(store, state, name)
    assert find_promotion(store, state, "ab3")["model"] == "ab34"


@pytest.mark.parametrize(("part", "how", "words"), [
    ("models", "manifest", "which is gone from"), ("models", "file", "model.keras of models/.* is gone from"),
    ("models", "damage", "model.keras of models/.* is damaged in"), ("splits", "file", "split.parquet of splits/"),
    ("splits", "manifest", "Restore splits/"),
])
def test_a_champion_that_is_not_whole_any_more_is_not_rolled_back_to(
    store: Store, tmp_path: Path, part: str, how: str, words: str
) -> None:
    first, second = promoted(store, "first", "second")
    artifact = first.model if part == "models" else first.split
    (file,) = artifact.files.values()
    if how == "damage":
        store.write(file.key, b"x" * file.num_bytes)
    else:
        name = f"{part}/{artifact.key}/manifest.json" if how == "manifest" else file.key
        (tmp_path / "store" / name).unlink()
    with pytest.raises(DataError, match=words):
        roll_back(store)
    assert champion(store) == second.model.key and len(history(store)) == 2


@pytest.mark.parametrize(("how", "words"), [
    ("manifest", "of a member of the ensemble .* is gone from .* Restore splits/"),
    ("file", "split.parquet of splits/.* is gone from"), ("damage", "split.parquet of splits/.* is damaged in"),
])
def test_an_ensemble_whose_members_splits_are_not_whole_is_not_rolled_back_to(
    store: Store, tmp_path: Path, how: str, words: str
) -> None:
    members = [build_candidate(store, name, [0], split=build_split(store, 60, name)) for name in ("one", "other")]
    build_ensemble(store, members, [0.5, 0.5], [1]).promote(store)
    second = build_candidate(store, "second", [], split=members[0].split)
    second.promote(store)
    (file,) = members[1].split.files.values()
    if how == "damage":
        store.write(file.key, b"x" * file.num_bytes)
    else:
        (tmp_path / "store" / (file.key if how == "file" else f"splits/{members[1].split.key}/manifest.json")).unlink()
    with pytest.raises(DataError, match=words):
        roll_back(store)
    assert champion(store) == second.model.key and len(history(store)) == 2


def test_a_threshold_is_an_event_and_the_same_one_again_is_none(store: Store) -> None:
    set_threshold(store, 0.7, by="Ada")
    set_threshold(store, 0.7, by="Bob")
    set_threshold(store, 0.8)
    assert [event | {"time": ""} for event in history(store)] == [
        {"action": "threshold", "threshold": 0.7, "before": None, "by": "Ada", "time": ""},
        {"action": "threshold", "threshold": 0.8, "before": 0.7, "by": "", "time": ""},
    ]


@pytest.mark.parametrize("raised", [float("nan"), float("inf"), 1.1])
def test_a_promotion_raises_the_threshold_to_no_number_that_is_no_accuracy(store: Store, raised: float) -> None:
    own, before = build_candidate(store, "own"), ensure_state(store, 0.5)
    with pytest.raises(DataError, match=f"cannot be raised to {raised}, which is no accuracy"):
        record_promotion(store, {"model": own.model.key}, before, raise_to=raised)
    assert read_state(store) == before


@pytest.mark.parametrize(("content", "activity"), [
    ('{"champion": nu', "it is no JSON ("), ("[]", "it is no JSON object."),
    ('{"champion": null}', "it has no history, no threshold."),
    ('{"champion": null, "history": [], "threshold": NaN}', "its threshold is no number."),
    ('{"champion": "m", "history": [], "threshold": 0.6}', "its champion names no model."),
    ('{"champion": null, "history": {}, "threshold": 0.6}', "its history is no list of events."),
])
def test_a_damaged_champions_file_is_told_in_words_and_left_as_it_is(store: Store, content: str, what: str) -> None:
    store.write("champion.json", content.encode())
    for use in (lambda: read_state(store), lambda: set_threshold(store, 0.7)):
        with pytest.raises(DataError) as told:
            use()
        assert str(told.value).startswith(f"champion.json in {store.url} is damaged: {what}")
        assert str(told.value).endswith(". Restore it from a backup.")
    found = store.read("champion.json")
    assert found is not None and found.data == content.encode()


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_accuracy_is_refused(store: Store, threshold: float) -> None:
    with pytest.raises(ConfigError, match="give a number from 0 to 1"):
        set_threshold(store, threshold)
    assert read_state(store) is None


def test_a_public_score_is_recorded_once_and_an_empty_one_not_at_all(store: Store) -> None:
    (first,) = promoted(store, "first")
    for metrics in ({"ref": 5, "public_score": ""}, {"ref": 5, "public_score": 0.81, "rank": 7},
                    {"ref": 5, "public_score": 0.82, "rank": 6}, {"ref": 6, "public_score": 0.8}):
        record_score(store, first.model.key, metrics)
    assert [event | {"time": ""} for event in history(store)[1:]] == [
        {"action": "scored", "model": first.model.key, "ref": 5, "public_score": 0.81, "rank": 7, "time": ""},
        {"action": "scored", "model": first.model.key, "ref": 6, "public_score": 0.8, "rank": "", "time": ""},
    ]
    assert champion(store) == first.model.key


def test_a_store_without_a_champions_file_gets_none_by_a_score(store: Store) -> None:
    record_score(store, "m", {"ref": 5, "public_score": 0.5})
    assert read_state(store) is None


def test_promotion_rolling_back_thresholds_and_scores_at_once_lose_nothing(url: str) -> None:
    place = open_store(url)
    first, second = promoted(place, "first", "second")
    late = [build_candidate(place, f"late {n}", [10 + n]) for n in range(3)]
    place.write("champion.json", json.dumps(ensure_state(place, 0.5)).encode())
    works: list[Any] = [lambda store, own=own: own.promote(store) for own in late]
    works += [lambda store: roll_back(store, first.model.key), lambda store: set_threshold(store, 0.55),
              lambda store: set_threshold(store, 0.56)]
    works += [lambda store, n=n: record_score(store, second.model.key, {"ref": n, "public_score": 0.5})
              for n in range(3)]
    before = history(place)
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work, open_store(url)) for work in works]:
            done.result()
    found = history(place)
    assert found[:2] == before
    assert sorted(map(event_action, found[2:])) == ["promoted"] * 3 + ["rolled_back"] + ["scored"] * 3 + ["threshold"] * 2
    crownings = [event for event in found if event_action(event) in ("promoted", "rolled_back")]
    assert ensure_state(place, 0.5)["champion"] == crownings[-1]
    assert ensure_state(place, 0.5)["threshold"] == [e for e in found if event_action(e) == "threshold"][-1]["threshold"]
