"""The promote stage on artifacts in a folder store: who is crowned, who is not, and what stands in the history."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_artifact, build_candidate, build_ensemble, build_evaluation, build_split

from carclf.artifacts import Decision, Evaluation
from carclf.champion import read_state, roll_back, set_threshold
from carclf.config import Evaluate, load_config
from carclf.errors import ConfigError, DataError, StageWaiting
from carclf.evaluation.evaluate import with_champion_tta
from carclf.services.storage import FolderStore, Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def state(store: Store) -> dict[str, Any]:
    found = read_state(store)
    assert found is not None
    return found


def champion(store: Store) -> str | None:
    return (state(store)["champion"] or {}).get("model")


def content(store: Store, decision: Decision) -> dict[str, Any]:
    return json.loads(decision.path(store, "decision.json").read_text())


def test_the_first_good_candidate_is_crowned_and_the_history_says_who_when_and_why(store: Store) -> None:
    first = build_candidate(store, "first", [0, 1, 2])
    decision, reused = first.promote(store, run_id="r1")
    event = state(store)["history"][0]
    assert event == state(store)["champion"] == {
        "action": "promoted", "model": first.model.key, "decision": decision.key, "evaluation": first.evaluation.key,
        "run": "r1", "val_accuracy": 0.95, "time": event["time"],
    }
    assert state(store)["threshold"] == 0.6 and not reused
    assert decision.metrics == {
        "decision": "promoted", "threshold": 0.6, "val_accuracy": 0.95,
        "reason": "promoted: accuracy 0.9500 reaches the threshold 0.6000; there is no champion yet",
    }


@pytest.mark.parametrize(("broken", "wrong", "measures"), [
    ("accuracy", range(14), {}),
    ("champion", range(4, 16), {}),
    ("class_floor", [0, 3, 6, 9, 12, 15, 18, 21, 24], {}),
    ("calibration", [0], {"calibration_error": 0.21}),
    ("prediction_time", [0], {"latency_ms": 1200.0}),
    ("model_size", [0], {"model_mb": 2500.0}),
    ("reload", [0], {"reload_difference": 0.02}),
    ("reload", [0], {"reload_difference": None}),
])
def test_a_candidate_that_breaks_one_rule_is_refused_by_just_that_and_the_champion_stays(
    store: Store, broken: str, wrong: Any, measures: dict[str, Any]
) -> None:
    settings = {"gate.threshold": 0.8, "gate.min_recall": 0.6}
    alone = {"gate.champion_rule": "off"} if broken in ("accuracy", "class_floor") else {}
    config = load_config("demo", settings | alone)
    first = build_candidate(store, "first", [0], config=config)
    first.promote(store)
    if broken == "accuracy":
        set_threshold(store, 0.9)
    weak = build_candidate(store, "weak", wrong, config=config, **measures)
    decision, _ = weak.promote(store)
    rules = content(store, decision)["rules"]
    assert [row["name"] for row in rules if not row["passed"]] == [broken]
    assert decision.metrics["decision"] == "rejected" and champion(store) == first.model.key
    assert [event.get("model") for event in state(store)["history"] if event["action"] == "promoted"] == [
        first.model.key]


def test_the_champion_is_judged_by_its_own_looks_and_not_by_those_of_the_candidate(store: Store) -> None:
    first = build_candidate(store, "first", [0])
    first.promote(store)
    spoiled = load_config("demo", {"evaluate.zooms": "1.5", "evaluate.crops": "corners", "evaluate.flip_tta": False})
    second = build_candidate(store, "second", range(20), config=spoiled)
    decision, _ = second.promote(store)
    assert decision.inputs["champion_evaluation"] == first.evaluation.key
    assert decision.metrics["decision"] == "rejected" and content(store, decision)["champion_comparison"]["champion_only_correct"] == 19


def test_a_champion_from_before_there_were_crops_is_looked_at_without_them(store: Store) -> None:
    old = build_artifact(store, Evaluation, {}, {"flip_tta": False, "zooms": "1.2", "salt": ""}, {})
    config = load_config("demo", {"evaluate.crops": "corners", "evaluate.batch_size": 7})
    own = with_champion_tta(config, {"evaluation": old.key}, store)
    assert own.evaluate == Evaluate(flip_tta=False, zooms="1.2", crops="center", batch_size=7)
    assert own.model_copy(update={"evaluate": config.evaluate}) == config
    with pytest.raises(DataError, match="evaluations/gone"):
        with_champion_tta(config, {"evaluation": "gone"}, store)


def test_the_decision_holds_both_models_answers_on_the_same_images(store: Store) -> None:
    first, second = build_candidate(store, "first", [0, 1, 2, 3]), build_candidate(store, "second", [3, 4])
    first.promote(store)
    decision, _ = second.promote(store)
    found = content(store, decision)
    assert found["champion"] == decision.metrics["champion"] == first.model.key
    assert decision.inputs == {"model": second.model.key, "evaluation": second.evaluation.key,
                               "champion_evaluation": first.evaluation.key}
    paired = found["champion_comparison"]
    assert {name: paired[name] for name in ("num_images", "num_trained_on", "candidate_only_correct", "champion_only_correct", "both_correct", "both_incorrect",
                                            "candidate_only_correct_ids", "champion_only_correct_ids")} == {
        "num_images": 60, "num_trained_on": 0, "candidate_only_correct": 3, "champion_only_correct": 1, "both_correct": 55, "both_incorrect": 1,
        "candidate_only_correct_ids": ["0.jpg", "1.jpg", "2.jpg"], "champion_only_correct_ids": ["4.jpg"],
    }
    assert paired["classes"] == [
        {"label": 0, "num_images": 20, "candidate": 0.95, "champion": 0.9},
        {"label": 1, "num_images": 20, "candidate": 0.95, "champion": 0.95},
        {"label": 2, "num_images": 20, "candidate": 1.0, "champion": 0.95},
    ]
    assert decision.metrics["p_value"] == paired["p_worse"] == 0.9375
    assert decision.metrics["minimum_detectable_difference"] == paired["minimum_detectable_difference"]


def test_the_page_shows_rules_answers_and_ids_and_lets_nothing_in(store: Store) -> None:
    first, second = build_candidate(store, "first", [0, 1]), build_candidate(store, "second", [4])
    first.promote(store)
    decision, _ = second.promote(store)
    page = decision.path(store, "report.html").read_text()
    for text in (decision.metrics["reason"], "prediction time", "0.jpg", "4.jpg", first.model.key, "default-src"):
        assert str(text) in page
    assert "<script" not in page and "http://" not in page


def test_a_name_that_looks_like_markup_is_shown_as_text() -> None:
    from carclf.reports.decision_report import render_decision

    paired = {"num_images": 1, "num_trained_on": 0, "num_same_members": 0, "candidate_only_correct": 1, "champion_only_correct": 0,
              "both_correct": 0, "both_incorrect": 0, "p_worse": 1.0, "p_better": 0.5, "p_different": 1.0, "classes": [],
              "candidate_only_correct_ids": ["<img src=x>"], "champion_only_correct_ids": []}
    page = render_decision({"decision": "rejected", "reason": "<b>", "rules": [], "champion": None, "threshold": 0.9,
                            "model": "m", "evaluation": "e", "champion_comparison": paired})
    assert "&lt;img src=x&gt;" in page and "<b>" not in page and "<img" not in page


class Interrupted(FolderStore):
    """A store in which something else happens between a decision and its crowning."""

    meanwhile: Callable[[], object] | None = None

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        meanwhile, self.meanwhile = self.meanwhile, None if key.startswith("decisions/") else self.meanwhile
        written = super().write_if(key, data, version)
        if meanwhile and key.startswith("decisions/"):
            assert json.loads(data)["metrics"]["decision"] == "promoted"
            meanwhile()
        return written


def test_a_lost_race_is_judged_again_beside_the_new_champion(store: Store, tmp_path: Path) -> None:
    first, better, late = (build_candidate(store, name, wrong) for name, wrong in (
        ("first", range(20)), ("better", [0]), ("late", range(10, 18))))
    first.promote(store)
    own = Interrupted(tmp_path / "store")
    own.meanwhile = lambda: better.promote(store)
    decision, _ = late.promote(own)
    assert (decision.metrics["decision"], decision.metrics["champion"]) == ("rejected", better.model.key)
    assert champion(store) == better.model.key


def test_a_threshold_that_was_raised_meanwhile_holds(store: Store, tmp_path: Path) -> None:
    late, own = build_candidate(store, "late", range(12)), Interrupted(tmp_path / "store")
    own.meanwhile = lambda: set_threshold(store, 0.9)
    decision, _ = late.promote(own)
    assert (decision.metrics["decision"], decision.metrics["threshold"]) == ("rejected", 0.9)
    assert champion(store) is None


def test_a_candidate_that_is_judged_while_the_champion_is_rolled_back_is_judged_by_the_one_before(
    store: Store, tmp_path: Path
) -> None:
    first, second, late = build_candidate(store, "1", [0]), build_candidate(store, "2", [1]), build_candidate(store, "late", [2])
    first.promote(store)
    second.promote(store)
    own = Interrupted(tmp_path / "store")
    own.meanwhile = lambda: roll_back(store)
    decision, _ = late.promote(own)
    assert decision.metrics["champion"] == first.model.key and champion(store) == late.model.key
    assert [event["action"] for event in state(store)["history"]] == [
        "promoted", "promoted", "rolled_back", "promoted"]


def test_running_an_old_run_again_takes_nothing_from_a_later_champion_and_says_so(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = build_candidate(store, "old", [0]), build_candidate(store, "new", [1])
    first, _ = old.promote(store)
    new.promote(store)
    before = state(store)
    again, reused = old.promote(store)
    assert reused and again.key == first.key and state(store) == before
    assert again.metrics["decision"] == "promoted" and str(again.metrics["reason"]).endswith(
        f"it was promoted before and is not crowned again: the champion is {new.model.key}. To bring it back: carclf "
        f"champion rollback --to {old.model.key}")
    assert "is not crowned again" in caplog.text
    assert "not crowned again" not in str(new.promote(store)[0].metrics["reason"])


def test_a_rolled_back_run_that_runs_again_is_not_crowned_again(store: Store) -> None:
    first, second = build_candidate(store, "first", [0]), build_candidate(store, "second", [1])
    first.promote(store)
    second.promote(store)
    roll_back(store, by="me")
    before = state(store)
    again, reused = second.promote(store)
    assert reused and "is not crowned again" in str(again.metrics["reason"])
    assert state(store) == before and champion(store) == first.model.key


def test_a_refused_candidate_is_judged_again_once_the_threshold_is_lower(store: Store) -> None:
    weak = build_candidate(store, "weak", range(30))
    assert weak.promote(store)[0].metrics["reason"] == (
        "rejected: accuracy 0.5000 is below the threshold 0.6000; there is no champion yet")
    assert state(store) == {"champion": None, "threshold": 0.6, "history": []}
    assert weak.promote(store)[1]
    set_threshold(store, 0.4, by="me")
    assert weak.promote(store)[0].metrics["decision"] == "promoted" and champion(store) == weak.model.key


def test_a_promotion_that_must_be_approved_waits_and_crowns_nobody_until_somebody_is_named(store: Store) -> None:
    config = load_config("demo", {"gate.approval": "required"})
    own = build_candidate(store, "own", [0], config=config)
    with pytest.raises(StageWaiting) as waiting:
        own.promote(store, run_id="r7")
    text = ("awaiting approval: promoted: accuracy 0.9833 reaches the threshold 0.6000; there is no champion yet. To go "
            f"on: carclf promote --run r7 --store {store.url} --approved-by NAME")
    assert str(waiting.value) == waiting.value.metrics["reason"] == text
    assert waiting.value.metrics["decision"] == "awaiting approval" and champion(store) is None
    decision, reused = own.promote(store, run_id="r7", approved_by="Ada")
    assert reused and decision.metrics["decision"] == "promoted"
    assert (champion(store), state(store)["champion"]["approved_by"]) == (own.model.key, "Ada")


def test_a_refusal_needs_no_approval(store: Store) -> None:
    own = build_candidate(store, "own", range(30), config=load_config("demo", {"gate.approval": "required"}))
    assert own.promote(store)[0].metrics["decision"] == "rejected"


def test_an_override_crowns_a_refused_model_and_reason_and_refusal_stay_for_ever(store: Store) -> None:
    weak = build_candidate(store, "weak", range(30))
    refused, _ = weak.promote(store)
    decision, _ = weak.promote(store, override="the season ends", approved_by="Ada")
    refusal = refused.metrics["reason"]
    assert decision.metrics["reason"] == f"promoted manually (the season ends); the gate's decision: {refusal}"
    event = state(store)["champion"]
    assert (event["override"], event["rejection"], event["approved_by"]) == ("the season ends", refusal, "Ada")
    rules = content(store, decision)["rules"]
    assert [row["name"] for row in rules if not row["passed"]] == ["accuracy"] and decision.key != refused.key
    assert weak.promote(store) == (decision, True)


def test_an_override_of_what_the_gate_lets_through_is_a_promotion_like_any(store: Store) -> None:
    own = build_candidate(store, "own", [0])
    decision, _ = own.promote(store, override="sure is sure")
    assert "override" not in state(store)["champion"] and "manually" not in str(decision.metrics["reason"])


@pytest.mark.parametrize(("how", "raised"), [("off", 0.6), ("accuracy", 0.95), ("lower_bound", "val_accuracy_low")])
def test_a_promotion_raises_the_threshold_as_the_setting_says_and_never_lowers_it(
    store: Store, how: str, raised: Any
) -> None:
    config = load_config("demo", {"gate.raise_threshold": how})
    first = build_candidate(store, "first", [0, 1, 2], config=config)
    first.promote(store)
    wanted = first.evaluation.metrics["val_accuracy_low"] if raised == "val_accuracy_low" else raised
    assert state(store)["threshold"] == wanted
    assert state(store)["champion"].get("threshold") == (None if how == "off" else wanted)
    set_threshold(store, 0.5)
    set_threshold(store, 0.97)
    second = build_candidate(store, "second", [0], config=config)
    second.promote(store)
    assert champion(store) == second.model.key
    assert state(store)["threshold"] == (second.evaluation.metrics["val_accuracy"] if how == "accuracy" else 0.97)


def test_in_folds_images_that_trained_the_champion_are_not_compared(store: Store) -> None:
    own = build_split(store, 60, "fold 1")
    trained = ["train"] * 20 + ["excluded"] * 5 + ["val"] * 35
    first = build_candidate(store, "first", [30], split=build_split(store, 60, "fold 0", trained))
    first.promote(store)
    build_evaluation(store, first.archive, own, first.model, [50, 51], first.config)
    second = build_candidate(store, "second", [0, 1, 55], split=own)
    paired = content(store, second.promote(store)[0])["champion_comparison"]
    assert {name: paired[name] for name in ("num_images", "num_trained_on", "candidate_only_correct_ids", "champion_only_correct_ids")} == {
        "num_images": 35, "num_trained_on": 25, "candidate_only_correct_ids": ["50.jpg", "51.jpg"], "champion_only_correct_ids": ["55.jpg"]}


@pytest.mark.parametrize("rule", ["not_worse", "better"])
def test_an_ensemble_is_not_compared_where_the_champion_alone_answers_for_it(store: Store, rule: str) -> None:
    champion_ = build_candidate(store, "fold 0", [0], split=build_split(store, 60, "fold 0"))
    member = build_candidate(store, "fold 1", [], split=build_split(store, 61, "fold 1", ["train"] * 60 + ["val"]))
    champion_.promote(store)
    decision, _ = build_ensemble(store, [champion_, member], [0.5, 0.5], [0, 1]).promote(
        store, load_config("demo", {"gate.champion_rule": rule}))
    assert str(decision.metrics["reason"]).startswith("rejected: cannot be compared with the champion; accuracy")
    paired = content(store, decision)["champion_comparison"]
    assert (paired["num_images"], paired["num_trained_on"], paired["num_same_members"]) == (0, 0, 60)


def test_where_another_member_answers_too_the_two_are_compared(store: Store) -> None:
    champion_ = build_candidate(store, "fold 0", [0], split=build_split(store, 60, "fold 0"))
    member = build_candidate(store, "other", [], split=build_split(store, 60, "other", ["train"] * 25 + ["val"] * 35))
    champion_.promote(store)
    both = build_ensemble(store, [champion_, member], [0.5, 0.5], [1, 30, 31])
    decision, _ = both.promote(store, load_config("demo", {"gate.champion_rule": "not_worse"}))
    paired = content(store, decision)["champion_comparison"]
    assert {name: paired[name] for name in ("num_images", "num_same_members", "candidate_only_correct_ids", "champion_only_correct_ids")} == {
        "num_images": 35, "num_same_members": 25, "candidate_only_correct_ids": [], "champion_only_correct_ids": ["30.jpg", "31.jpg"]}
    assert "without 25 that the same members predict for both models" in decision.path(store, "report.html").read_text()


def test_an_ensemble_beside_a_champion_of_the_same_members_is_compared_where_they_count_differently(
    store: Store,
) -> None:
    own, other = (build_candidate(store, name, [0], split=build_split(store, 60, name, subsets)) for name, subsets in (
        ("fold 0", []), ("other", ["train"] * 25 + ["val"] * 35)))
    build_ensemble(store, [own, other], [0.5, 0.5], [0]).promote(store)
    decision, _ = build_ensemble(store, [own, other], [0.8, 0.2], [40]).promote(store)
    paired = content(store, decision)["champion_comparison"]
    assert (paired["num_images"], paired["num_same_members"], paired["champion_only_correct_ids"]) == (35, 25, ["40.jpg"])


def test_where_all_of_a_fold_trained_the_champion_the_candidate_is_refused_unless_the_rule_is_off(
    store: Store
) -> None:
    own = build_split(store, 60, "fold 1")
    first = build_candidate(store, "first", [], split=build_split(store, 90, "fold 0", ["train"] * 60 + ["val"] * 30))
    first.promote(store)
    build_evaluation(store, first.archive, own, first.model, [], first.config)
    second = build_candidate(store, "second", [0], split=own)
    decision, _ = second.promote(store)
    assert str(decision.metrics["reason"]).startswith("rejected: cannot be compared with the champion")
    off = load_config("demo", {"gate.champion_rule": "off"})
    assert second.promote(store, off)[0].metrics["decision"] == "promoted" and champion(store) == second.model.key


def test_a_floor_for_an_unknown_class_stops_the_run_in_words(store: Store) -> None:
    own = build_candidate(store, "own", [0])
    with pytest.raises(ConfigError, match=r"gate\.min_recall_by_class has a floor for 8"):
        own.promote(store, load_config("demo", {"gate.min_recall_by_class": "8=0.5"}))
    assert champion(store) is None


def test_a_champion_that_is_gone_from_the_store_stops_the_run_in_words(store: Store, tmp_path: Path) -> None:
    first = build_candidate(store, "first", [0])
    first.promote(store)
    shutil.rmtree(tmp_path / "store" / "models" / first.model.key)
    with pytest.raises(DataError, match=f"which is gone from .*Restore models/{first.model.key}"):
        build_candidate(store, "second", [1]).promote(store)


def test_a_promotion_whose_decision_is_gone_is_told(store: Store, tmp_path: Path) -> None:
    first = build_candidate(store, "first", [0])
    decision, _ = first.promote(store)
    shutil.rmtree(tmp_path / "store" / "decisions" / decision.key)
    with pytest.raises(DataError, match=f"Restore decisions/{decision.key}"):
        first.promote(store)


def test_a_champion_of_an_older_version_is_read_and_the_history_goes_on(store: Store) -> None:
    first, second = build_candidate(store, "first", [0]), build_candidate(store, "second", [1])
    decision, _ = first.promote(store)
    entry = {"model": first.model.key, "decision": decision.key, "val_accuracy": 0.98, "promoted": "2026-01-01"}
    store.write("champion.json", json.dumps({"champion": entry, "threshold": 0.6, "history": [entry]}).encode())
    assert first.promote(store) == (decision, True)
    second.promote(store)
    assert state(store)["history"][0] == entry and champion(store) == second.model.key
    assert roll_back(store)["model"] == first.model.key


def test_a_decision_is_made_and_reused_without_the_training_framework(store: Store, tmp_path: Path) -> None:
    build_candidate(store, "first", [0]).promote(store)
    code = ("import sys; sys.path.insert(0, 'tests')\n"
            "from candidates import candidate\nfrom carclf.services.storage import open_store\n"
            f"store = open_store({str(tmp_path / 'store')!r})\nsecond = candidate(store, 'second', [1])\n"
            "print([second.promote(store)[1] for _ in range(2)], {'tensorflow', 'keras'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[False, True] set()", done.stderr
