"""The promote stage on artifacts in a folder store: decisions, the champion and its history."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_artifact, build_candidate, build_ensemble, build_evaluation, build_split

from carclf.artifacts import Decision, Evaluation, Provenance, Split, StageContext
from carclf.champion import read_state, require_common_classes, roll_back, set_threshold
from carclf.config import Evaluate, load_config
from carclf.errors import ConfigError, DataError, StageWaiting
from carclf.evaluation.evaluate import with_champion_tta
from carclf.reports.decision_report import render_decision
from carclf.services.storage import FolderStore, Store, open_store
from carclf.stages.train_head import train_head

COMPARED_FIELDS = ("num_images", "num_trained_on", "candidate_only_correct_ids", "champion_only_correct_ids")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def stored_state(store: Store) -> dict[str, Any]:
    state = read_state(store)
    assert state is not None
    return state


def champion_key(store: Store) -> str | None:
    return (stored_state(store)["champion"] or {}).get("model")


def read_decision(store: Store, decision: Decision) -> dict[str, Any]:
    return json.loads(decision.path(store, "decision.json").read_text())


def failed_rules(store: Store, decision: Decision) -> list[str]:
    return [rule["name"] for rule in read_decision(store, decision)["rules"] if not rule["passed"]]


def comparison(store: Store, decision: Decision, *names: str) -> dict[str, Any]:
    fields = read_decision(store, decision)["champion_comparison"]
    return {name: fields[name] for name in names}


def test_the_first_good_candidate_becomes_the_champion_with_an_event(store: Store) -> None:
    first = build_candidate(store, "first", [0, 1, 2])
    decision, reused = first.promote(store, run_id="r1")
    event = stored_state(store)["history"][0]
    assert event == stored_state(store)["champion"] == {
        "action": "promoted",
        "model": first.model.key,
        "decision": decision.key,
        "evaluation": first.evaluation.key,
        "run": "r1",
        "val_accuracy": 0.95,
        "metric": "accuracy",
        "val_metric": 0.95,
        "time": event["time"],
    }
    assert stored_state(store)["threshold"] == 0.6 and not reused
    assert decision.metrics == {
        "decision": "promoted",
        "threshold": 0.6,
        "val_accuracy": 0.95,
        "metric": "accuracy",
        "val_metric": 0.95,
        "reason": "promoted: accuracy 0.9500 reaches the threshold 0.6000; there is no champion yet",
    }


@pytest.mark.parametrize(
    ("rule", "wrong_positions", "metrics"),
    [
        ("threshold", range(14), {}),
        ("champion", range(4, 16), {}),
        ("class_floor", [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33], {}),
        ("calibration", [0], {"calibration_error": 0.21}),
        ("prediction_time", [0], {"latency_ms": 1200.0}),
        ("model_size", [0], {"model_mb": 2500.0}),
        ("reload", [0], {"reload_difference": 0.02}),
        ("reload", [0], {"reload_difference": None}),
    ],
)
def test_a_candidate_that_breaks_one_rule_is_rejected_for_that_rule(
    store: Store, rule: str, wrong_positions: Any, metrics: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {"gate.threshold": 0.8, "gate.min_recall": 0.8}
    if rule in ("threshold", "class_floor"):
        settings["gate.champion_rule"] = "off"
    config = load_config("demo", settings)
    first = build_candidate(store, "first", [0], config=config)
    first.promote(store)
    if rule == "threshold":
        set_threshold(store, 0.9)
    decision, _ = build_candidate(store, "weak", wrong_positions, config=config, **metrics).promote(store)
    assert failed_rules(store, decision) == [rule]
    assert decision.metrics["decision"] == "rejected" and champion_key(store) == first.model.key
    promoted = [event["model"] for event in stored_state(store)["history"] if event["action"] == "promoted"]
    assert promoted == [first.model.key]


def test_only_set_threshold_changes_the_stored_threshold(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    weak = build_candidate(store, "weak", range(30))
    weak.promote(store)
    caplog.set_level("INFO", "carclf")
    decision, _ = weak.promote(store, load_config("demo", {"gate.threshold": 0.4}))
    assert decision.metrics["decision"] == "rejected" and "stored_threshold=0.6000" in caplog.text
    set_threshold(store, 0.45)
    decision, _ = weak.promote(store)
    assert decision.metrics["decision"] == "promoted" and champion_key(store) == weak.model.key


def test_the_champion_keeps_its_own_tta_in_the_comparison(store: Store) -> None:
    first = build_candidate(store, "first", [0])
    first.promote(store)
    harmful = load_config("demo", {"evaluate.zooms": "1.5", "evaluate.crops": "corners", "evaluate.flip_tta": False})
    decision, _ = build_candidate(store, "second", range(20), config=harmful).promote(store)
    assert decision.inputs["champion_evaluation"] == first.evaluation.key
    assert decision.metrics["decision"] == "rejected"
    assert comparison(store, decision, "champion_only_correct") == {"champion_only_correct": 19}


def test_champion_tta_is_read_from_the_evaluation_of_its_promotion(store: Store) -> None:
    settings = {"flip_tta": False, "zooms": "1.2", "crops": "center", "salt": ""}
    evaluation = build_artifact(store, Evaluation, Provenance(1, {}, settings))
    config = load_config("demo", {"evaluate.crops": "corners", "evaluate.batch_size": 7})
    changed = with_champion_tta(config, {"evaluation": evaluation.key}, store)
    assert changed.evaluate == Evaluate(flip_tta=False, zooms="1.2", crops="center", batch_size=7)
    assert changed.model_copy(update={"evaluate": config.evaluate}) == config
    with pytest.raises(DataError, match="evaluations/missing"):
        with_champion_tta(config, {"evaluation": "missing"}, store)


def test_the_decision_compares_both_models_on_the_same_images(store: Store) -> None:
    first, second = build_candidate(store, "first", [0, 1, 2, 3]), build_candidate(store, "second", [3, 4])
    first.promote(store)
    decision, _ = second.promote(store)
    assert read_decision(store, decision)["champion"] == decision.metrics["champion"] == first.model.key
    assert decision.inputs == {
        "model": second.model.key,
        "evaluation": second.evaluation.key,
        "champion_evaluation": first.evaluation.key,
    }
    expected = {
        "num_images": 60,
        "num_trained_on": 0,
        "candidate_only_correct": 3,
        "champion_only_correct": 1,
        "both_correct": 55,
        "both_incorrect": 1,
        "candidate_only_correct_ids": ["0.jpg", "1.jpg", "2.jpg"],
        "champion_only_correct_ids": ["4.jpg"],
        "classes": [
            {"label": "0", "num_images": 20, "candidate": 0.95, "champion": 0.9},
            {"label": "1", "num_images": 20, "candidate": 0.95, "champion": 0.95},
            {"label": "2", "num_images": 20, "candidate": 1.0, "champion": 0.95},
        ],
        "p_worse": 0.9375,
    }
    assert comparison(store, decision, *expected) == expected
    assert decision.metrics["p_value"] == 0.9375
    smallest = comparison(store, decision, "minimum_detectable_difference")
    assert decision.metrics["minimum_detectable_difference"] == smallest["minimum_detectable_difference"]
    difference = comparison(store, decision, "difference", "interval")
    assert decision.metrics["difference"] == difference["difference"] > 0
    assert [decision.metrics["difference_low"], decision.metrics["difference_high"]] == difference["interval"]
    assert decision.metrics["largest_class_change"] == "2: recall 1.000, the champion's 0.950 (20 images)"


def test_the_report_shows_rules_and_ids_without_scripts_and_links(store: Store) -> None:
    first, second = build_candidate(store, "first", [0, 1]), build_candidate(store, "second", [4])
    first.promote(store)
    decision, _ = second.promote(store)
    page = decision.path(store, "report.html").read_text()
    assert ">passed</span>" in page and ">promoted<" not in page  # it may still need an approval
    reason = str(decision.metrics["reason"]).removeprefix("promoted: ")
    for text in (reason, "prediction time", "0.jpg", "4.jpg", first.model.key, "default-src"):
        assert str(text) in page
    assert "<script" not in page and "http://" not in page


def test_the_report_escapes_markup_in_names() -> None:
    fields = {
        "num_images": 1,
        "num_trained_on": 0,
        "num_same_members": 0,
        "candidate_only_correct": 1,
        "champion_only_correct": 0,
        "both_correct": 0,
        "both_incorrect": 0,
        "p_worse": 1.0,
        "p_better": 0.5,
        "p_different": 1.0,
        "difference": 1.0,
        "interval": (0.0, 1.0),
        "classes": [],
        "candidate_only_correct_ids": ["<img src=x>"],
        "champion_only_correct_ids": [],
    }
    decision = {
        "decision": "rejected",
        "reason": "<b>",
        "rules": [],
        "champion": None,
        "threshold": 0.9,
        "metric": "accuracy",
        "model": "m",
        "evaluation": "e",
        "champion_comparison": fields,
        "override": None,
    }
    page = render_decision(decision)
    assert "&lt;img src=x&gt;" in page and "<b>" not in page and "<img" not in page


class InterruptedStore(FolderStore):
    """A store that calls ``interrupt`` once, between a decision and its promotion."""

    def __init__(self, root: Path, interrupt: Callable[[], object]) -> None:
        super().__init__(root)
        self.interrupt: Callable[[], object] | None = interrupt

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        written = super().write_if(key, data, version)
        if self.interrupt and key.startswith("decisions/"):
            assert json.loads(data)["metrics"]["decision"] == "promoted"
            interrupt, self.interrupt = self.interrupt, None
            interrupt()
        return written


def test_a_candidate_that_loses_a_race_is_compared_with_the_new_champion(store: Store, tmp_path: Path) -> None:
    first = build_candidate(store, "first", range(20))
    better, late = build_candidate(store, "better", [0]), build_candidate(store, "late", range(10, 18))
    first.promote(store)
    decision, _ = late.promote(InterruptedStore(tmp_path / "store", lambda: better.promote(store)))
    assert (decision.metrics["decision"], decision.metrics["champion"]) == ("rejected", better.model.key)
    assert champion_key(store) == better.model.key


def test_a_threshold_raised_during_the_comparison_applies(store: Store, tmp_path: Path) -> None:
    late = build_candidate(store, "late", range(12))
    decision, _ = late.promote(InterruptedStore(tmp_path / "store", lambda: set_threshold(store, 0.9)))
    assert (decision.metrics["decision"], decision.metrics["threshold"]) == ("rejected", 0.9)
    assert champion_key(store) is None


def test_a_rollback_during_the_comparison_repeats_it_with_the_earlier_champion(store: Store, tmp_path: Path) -> None:
    first, second = build_candidate(store, "1", [0]), build_candidate(store, "2", [1])
    late = build_candidate(store, "late", [2])
    first.promote(store)
    second.promote(store)
    decision, _ = late.promote(InterruptedStore(tmp_path / "store", lambda: roll_back(store)))
    assert decision.metrics["champion"] == first.model.key and champion_key(store) == late.model.key
    actions = [event["action"] for event in stored_state(store)["history"]]
    assert actions == ["promoted", "promoted", "rolled_back", "promoted"]


def test_running_an_old_run_again_leaves_a_later_champion_and_warns(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = build_candidate(store, "old", [0]), build_candidate(store, "new", [1])
    first, _ = old.promote(store)
    new.promote(store)
    before = stored_state(store)
    again, reused = old.promote(store)
    assert reused and again.key == first.key and stored_state(store) == before
    assert again.metrics["decision"] == "promoted"
    reason = str(again.metrics["reason"])
    assert new.model.key in reason and reason.endswith(f"carclf champion rollback --to {old.model.key}")
    assert "not promoted again" in caplog.text
    assert "not promoted again" not in str(new.promote(store)[0].metrics["reason"])


def test_a_champion_that_runs_again_with_other_gate_settings_keeps_its_decision_with_a_note(store: Store) -> None:
    champion = build_candidate(store, "champion", [0])
    first, _ = champion.promote(store)
    assert champion.promote(store)[0] == first
    again, reused = champion.promote(store, load_config("demo", {"gate.min_recall": 0.99}))
    assert reused and again.key == first.key and again.metrics["decision"] == "promoted"
    assert "other settings of the gate" in str(again.metrics["reason"])


def test_a_rolled_back_run_that_runs_again_is_not_promoted_again(store: Store) -> None:
    first, second = build_candidate(store, "first", [0]), build_candidate(store, "second", [1])
    first.promote(store)
    second.promote(store)
    roll_back(store, by="me")
    before = stored_state(store)
    again, reused = second.promote(store)
    assert reused and "not promoted again" in str(again.metrics["reason"])
    assert stored_state(store) == before and champion_key(store) == first.model.key


def test_a_rejected_candidate_is_promoted_once_the_threshold_is_lower(store: Store) -> None:
    weak = build_candidate(store, "weak", range(30))
    decision, _ = weak.promote(store)
    assert failed_rules(store, decision) == ["threshold"]
    assert stored_state(store) == {"champion": None, "threshold": 0.6, "metric": "accuracy", "history": []}
    assert weak.promote(store)[1]
    set_threshold(store, 0.4, by="me")
    assert weak.promote(store)[0].metrics["decision"] == "promoted" and champion_key(store) == weak.model.key


def test_a_promotion_waits_for_its_required_approval(store: Store) -> None:
    config = load_config("demo", {"gate.approval": "required"})
    candidate = build_candidate(store, "candidate", [0], config=config)
    with pytest.raises(StageWaiting) as waiting:
        candidate.promote(store, run_id="r7")
    metrics = waiting.value.metrics
    assert str(waiting.value).startswith(str(metrics["reason"]))
    assert str(waiting.value).endswith(f"carclf promote --run r7 --store {store.url} --approved-by NAME")
    assert metrics["reason"] == (
        "awaiting approval: accuracy 0.9833 reaches the threshold 0.6000; there is no champion yet"
    )
    assert metrics["decision"] == "awaiting approval" and champion_key(store) is None
    decision, reused = candidate.promote(store, run_id="r7", approved_by="Ada")
    assert reused and decision.metrics["decision"] == "promoted"
    assert (champion_key(store), stored_state(store)["champion"]["approved_by"]) == (candidate.model.key, "Ada")


def test_a_rejection_needs_no_approval(store: Store) -> None:
    config = load_config("demo", {"gate.approval": "required"})
    weak = build_candidate(store, "weak", range(30), config=config)
    assert weak.promote(store)[0].metrics["decision"] == "rejected"


def test_an_override_promotes_a_rejected_model_and_keeps_the_rejection(store: Store) -> None:
    weak = build_candidate(store, "weak", range(30))
    rejected, _ = weak.promote(store)
    decision, _ = weak.promote(store, override_reason="the season ends", approved_by="Ada")
    rejection = str(rejected.metrics["reason"])
    reason = str(decision.metrics["reason"])
    assert "the season ends" in reason and rejection in reason
    event = stored_state(store)["champion"]
    assert (event["override"], event["rejection"], event["approved_by"]) == ("the season ends", rejection, "Ada")
    assert failed_rules(store, decision) == ["threshold"] and decision.key != rejected.key
    assert weak.promote(store) == (decision, True)


def test_an_override_does_not_change_the_promotion_of_a_passing_candidate(store: Store) -> None:
    decision, _ = build_candidate(store, "candidate", [0]).promote(store, override_reason="to be sure")
    assert "override" not in stored_state(store)["champion"] and "override" not in decision.metrics


@pytest.mark.parametrize("setting", ["off", "worse_bound"])
def test_raise_threshold_never_lowers_the_threshold(store: Store, setting: str) -> None:
    config = load_config("demo", {"gate.raise_threshold": setting})
    first = build_candidate(store, "first", [0, 1, 2], config=config)
    first.promote(store)
    raised = 0.6 if setting == "off" else first.evaluation.metrics["val_accuracy_low"]
    assert stored_state(store)["threshold"] == raised
    assert stored_state(store)["champion"].get("threshold") == (None if setting == "off" else raised)
    set_threshold(store, 0.5)
    set_threshold(store, 0.97)
    second = build_candidate(store, "second", [0], config=config)
    second.promote(store)
    assert champion_key(store) == second.model.key
    assert stored_state(store)["threshold"] == 0.97


def test_images_that_the_champion_was_trained_on_are_not_compared(store: Store) -> None:
    split = build_split(store, 60, "fold 1")
    subsets = ["train"] * 20 + ["excluded"] * 5 + ["val"] * 35
    first = build_candidate(store, "first", [30], split=build_split(store, 60, "fold 0", subsets))
    first.promote(store)
    build_evaluation(store, split, first.model, [50, 51], first.config)
    decision, _ = build_candidate(store, "second", [0, 1, 55], split=split).promote(store)
    assert comparison(store, decision, *COMPARED_FIELDS) == {
        "num_images": 35,
        "num_trained_on": 25,
        "candidate_only_correct_ids": ["50.jpg", "51.jpg"],
        "champion_only_correct_ids": ["55.jpg"],
    }


@pytest.mark.parametrize("rule", ["not_worse", "better"])
def test_an_ensemble_that_repeats_the_champions_predictions_is_rejected(store: Store, rule: str) -> None:
    """The champion is the only member of the ensemble that may predict the validation images."""
    champion = build_candidate(store, "fold 0", [0], split=build_split(store, 60, "fold 0"))
    member_split = build_split(store, 61, "fold 1", ["train"] * 60 + ["val"])
    member = build_candidate(store, "fold 1", [], split=member_split)
    champion.promote(store)
    ensemble = build_ensemble(store, [champion, member], [0.5, 0.5], [0, 1])
    decision, _ = ensemble.promote(store, load_config("demo", {"gate.champion_rule": rule}))
    assert failed_rules(store, decision) == ["champion"]
    expected = {"num_images": 0, "num_trained_on": 0, "num_same_members": 60}
    assert comparison(store, decision, *expected) == expected


def test_an_ensemble_is_compared_on_images_that_other_members_predict_too(store: Store) -> None:
    champion = build_candidate(store, "fold 0", [0], split=build_split(store, 60, "fold 0"))
    member_split = build_split(store, 60, "other", ["train"] * 25 + ["val"] * 35)
    member = build_candidate(store, "other", [], split=member_split)
    champion.promote(store)
    ensemble = build_ensemble(store, [champion, member], [0.5, 0.5], [1, 30, 31])
    decision, _ = ensemble.promote(store, load_config("demo", {"gate.champion_rule": "not_worse"}))
    expected = {
        "num_images": 35,
        "num_same_members": 25,
        "candidate_only_correct_ids": [],
        "champion_only_correct_ids": ["30.jpg", "31.jpg"],
    }
    assert comparison(store, decision, *expected) == expected
    assert "without 25 that the same members" in decision.path(store, "report.html").read_text()


def test_ensembles_of_the_same_members_are_compared_where_their_weights_matter(store: Store) -> None:
    first = build_candidate(store, "fold 0", [0], split=build_split(store, 60, "fold 0"))
    other_split = build_split(store, 60, "other", ["train"] * 25 + ["val"] * 35)
    other = build_candidate(store, "other", [0], split=other_split)
    build_ensemble(store, [first, other], [0.5, 0.5], [0]).promote(store)
    decision, _ = build_ensemble(store, [first, other], [0.8, 0.2], [40]).promote(store)
    expected = {"num_images": 35, "num_same_members": 25, "champion_only_correct_ids": ["40.jpg"]}
    assert comparison(store, decision, *expected) == expected


def test_without_common_images_only_champion_rule_off_lets_a_candidate_pass(store: Store) -> None:
    split = build_split(store, 60, "fold 1")
    champion_split = build_split(store, 90, "fold 0", ["train"] * 60 + ["val"] * 30)
    first = build_candidate(store, "first", [], split=champion_split)
    first.promote(store)
    build_evaluation(store, split, first.model, [], first.config)
    second = build_candidate(store, "second", [0], split=split)
    decision, _ = second.promote(store)
    assert decision.metrics["decision"] == "rejected" and failed_rules(store, decision) == ["champion"]
    off = load_config("demo", {"gate.champion_rule": "off"})
    accepted, _ = second.promote(store, off)
    assert (accepted.metrics["decision"], accepted.metrics["champion"]) == ("promoted", first.model.key)
    assert champion_key(store) == second.model.key


def test_a_recall_floor_for_an_unknown_class_raises_config_error(store: Store) -> None:
    candidate = build_candidate(store, "candidate", [0])
    with pytest.raises(ConfigError, match=r"gate\.min_recall_by_class has a floor for 8"):
        candidate.promote(store, load_config("demo", {"gate.min_recall_by_class": "8=0.5"}))
    assert champion_key(store) is None


def test_a_champion_missing_from_the_store_raises_data_error(store: Store, tmp_path: Path) -> None:
    first = build_candidate(store, "first", [0])
    first.promote(store)
    shutil.rmtree(tmp_path / "store" / "models" / first.model.key)
    with pytest.raises(DataError, match=f"models/{first.model.key}"):
        build_candidate(store, "second", [1]).promote(store)


def test_a_promotion_whose_decision_is_missing_raises_data_error(store: Store, tmp_path: Path) -> None:
    first = build_candidate(store, "first", [0])
    decision, _ = first.promote(store)
    shutil.rmtree(tmp_path / "store" / "decisions" / decision.key)
    with pytest.raises(DataError, match=f"decisions/{decision.key}"):
        first.promote(store)


def test_deciding_does_not_import_the_training_framework(store: Store, tmp_path: Path) -> None:
    build_candidate(store, "first", [0]).promote(store)
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from gate_candidates import build_candidate\n"
        "from carclf.services.storage import open_store\n"
        f"store = open_store({str(tmp_path / 'store')!r})\n"
        "second = build_candidate(store, 'second', [1])\n"
        "print([second.promote(store)[1] for _ in range(2)], {'tensorflow', 'keras'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, True] set()", done.stderr


@pytest.mark.parametrize("class_names", [["Lada Priora", "Ford Focus", "Niva"], ["0", "4", "5"]])
def test_a_champion_of_other_classes_is_not_compared(store: Store, class_names: list[str]) -> None:
    """Its accuracy on renamed classes is 0, so that any candidate would replace it."""
    first = build_candidate(store, "first", [0])
    first.promote(store)
    renamed = build_artifact(store, Split, Provenance(1, {}, {"names": class_names}), {"class_names": class_names})
    config = load_config("demo")
    with pytest.raises(ConfigError, match=r"data\.class_names.*data\.source.*--store"):
        train_head(first.archive, renamed, StageContext(store, config))
    second = build_candidate(store, "second", [1])
    with pytest.raises(ConfigError, match=class_names[1]):
        dataclasses.replace(second, split=renamed).promote(store)
    assert champion_key(store) == first.model.key


def test_added_classes_do_not_prevent_the_comparison(store: Store) -> None:
    split = build_split(store)
    more = build_artifact(store, Split, Provenance(1, {}, {"more": True}), {"class_names": ["0", "1", "2", "3", "4"]})
    champion = build_candidate(store, "first", [0], split=split).model
    require_common_classes(champion, more, store)
