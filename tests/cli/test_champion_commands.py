"""``carclf champion`` and ``carclf promote --approved-by``."""

import json
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import Candidate, build_artifact, build_candidate
from typer.testing import CliRunner, Result

from carclf.artifacts import Decision, Provenance, RefittedModel
from carclf.champion import read_state, record_refit, record_score
from carclf.cli.app import app
from carclf.config import load_config
from carclf.errors import ConfigError, QualityError
from carclf.runs.run import Run
from carclf.services.storage import Store, init_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(str(tmp_path / "store"))


def evaluated_run(store: Store, name: str, wrong: Any, **settings: Any) -> Candidate:
    """Create a run that is evaluated but not promoted; ``wrong`` are the positions of the wrong predictions."""
    config = load_config("demo", {key.replace("__", "."): value for key, value in settings.items()})
    candidate = build_candidate(store, name, wrong, config=config)
    record = Run.start_or_resume(name, store, "demo", config).record
    record["stages"] = {stage: {"key": artifact.key} for stage, artifact in (
        ("download", candidate.archive), ("split", candidate.split), ("fine_tune", candidate.model),
        ("evaluate", candidate.evaluation))}
    store.write(f"runs/{name}.json", json.dumps(record).encode())
    return candidate


def carclf(store: Store, *arguments: str) -> Result:
    result = CliRunner(env={"USER": "ada"}).invoke(app, [*arguments, "--store", store.url])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def state(store: Store) -> dict[str, Any]:
    current = read_state(store)
    assert current is not None
    return current


def test_list_shows_every_promotion_and_marks_the_champion(store: Store) -> None:
    first, second = evaluated_run(store, "first", [0, 1, 2]), evaluated_run(store, "second", [1])
    for name in ("first", "second"):
        carclf(store, "champion", "promote", "--run", name)
    record_score(store, first.model.key, {"ref": 3, "public_score": 0.9125, "rank": 4})
    times = [event["time"] for event in state(store)["history"]]
    lines = carclf(store, "champion", "list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["model", "run", "accuracy", "95%", "public", "rank", "when", "by"],
        [first.model.key, "first", "0.9500", "0.8630-0.9829", "0.9125", "4", times[0], "ada"],
        ["*", second.model.key, "second", "0.9833", "0.9114-0.9971", times[1], "ada"],
        ["The", "stored", "threshold", "is", "0.6000", "(accuracy)."],
    ]
    listed = json.loads(carclf(store, "champion", "list", "--json").stdout)
    assert listed["champion"] == second.model.key and listed["history"] == state(store)["history"]
    assert [(row["model"], row["champion"], row["public_score"]) for row in listed["promotions"]] == [
        (first.model.key, False, 0.9125), (second.model.key, True, None)]


def test_history_lists_every_event_with_person_note_and_evidence(store: Store) -> None:
    first, second = evaluated_run(store, "first", [0]), evaluated_run(store, "second", [1])
    carclf(store, "champion", "promote", "--run", "first", "--note", "by phone")
    carclf(store, "champion", "promote", "--run", "second")
    record_score(store, second.model.key, {"ref": 3, "public_score": 0.9125, "rank": 4})
    carclf(store, "champion", "set-threshold", "0.7", "--by", "bob")
    carclf(store, "champion", "rollback")
    events = json.loads(carclf(store, "champion", "history", "--json").stdout)
    assert events == state(store)["history"]
    header, promoted, _, scored, changed, rolled_back = carclf(store, "champion", "history").stdout.splitlines()
    assert header.split() == ["when", "event", "model", "run", "by", "details", "evidence"]
    for line, parts in (
        (promoted, [events[0]["time"], "promoted", first.model.key, "first", "ada", "accuracy 0.9833", "note: by phone",
                    f"decisions/{events[0]['decision']}", f"evaluations/{first.evaluation.key}"]),
        (scored, ["scored", second.model.key, "public score 0.9125, rank 4, submission 3"]),
        (changed, ["threshold changed", "bob", "threshold 0.7000 (accuracy)", "before 0.6000"]),
        (rolled_back, ["rolled back", first.model.key, "ada", f"replaces {second.model.key}"]),
    ):
        assert [part for part in parts if part not in line] == []


def test_show_has_the_decision_the_rules_the_metrics_and_the_files(store: Store) -> None:
    first, second = evaluated_run(store, "first", [0]), evaluated_run(store, "second", [1])
    for name in ("first", "second"):
        carclf(store, "champion", "promote", "--run", name)
    text = carclf(store, "champion", "show").stdout
    for part in (f"{second.model.key} of run second, the champion", "promoted: accuracy 0.9833 reaches",
                 "prediction_time", "calibration_error", f"{store.url}/{second.model.files['model.keras'].key}",
                 "promoted, by ada"):
        assert part in text
    shown = json.loads(carclf(store, "champion", "show", first.model.key[:9], "--json").stdout)
    assert (shown["model"], shown["champion"], shown["run"]) == (first.model.key, False, "first")
    assert [row["name"] for row in shown["rules"]][:2] == ["threshold", "champion"]
    assert shown["metrics"] == first.evaluation.metrics
    assert shown == json.loads(carclf(store, "champion", "show", "first", "--json").stdout)


@pytest.mark.parametrize("command", [["list"], ["history"], ["show"], ["rollback"]])
def test_a_store_without_a_champion_raises_config_error(store: Store, command: list[str]) -> None:
    with pytest.raises(ConfigError, match="There is no champion in"):
        carclf(store, "champion", *command)


def test_the_gate_judges_a_manual_promotion_unless_it_is_overridden(store: Store) -> None:
    weak = evaluated_run(store, "weak", range(30))
    with pytest.raises(QualityError, match=r"accuracy 0\.5000.* --override REASON"):
        carclf(store, "champion", "promote", "--run", "weak")
    assert state(store)["champion"] is None
    printed = carclf(store, "champion", "promote", "--run", "weak", "--override", "the season ends").stdout
    assert printed.startswith("promoted") and "the season ends" in printed and "accuracy 0.5000 is below" in printed
    event = state(store)["champion"]
    assert (event["model"], event["run"], event["approved_by"], event["override"]) == (
        weak.model.key, "weak", "ada", "the season ends")
    assert Run.load("weak", store).record["stages"]["promote"]["key"] == event["decision"]
    assert "override: the season ends" in carclf(store, "champion", "list").stdout


@pytest.mark.parametrize("reason", ["", " ", "\u200b"])
def test_an_override_without_a_reason_raises_config_error(store: Store, reason: str) -> None:
    evaluated_run(store, "weak", range(30))
    with pytest.raises(ConfigError, match="--override needs a reason"):
        carclf(store, "champion", "promote", "--run", "weak", "--override", reason)


def test_an_override_needs_the_name_of_the_person(store: Store) -> None:
    evaluated_run(store, "weak", range(30))
    with pytest.raises(ConfigError, match="--by"):
        carclf(store, "champion", "promote", "--run", "weak", "--override", "the season ends", "--by", "")


@pytest.mark.parametrize("option", ["--approved-by", "--declined-by"])
def test_a_person_needs_a_name_with_visible_characters(store: Store, option: str) -> None:
    evaluated_run(store, "r1", [0])
    with pytest.raises(ConfigError, match="The name of the person"):
        carclf(store, "promote", "--run", "r1", option, "\u200b")


def test_only_rollback_restores_an_earlier_champion(store: Store) -> None:
    first, second = evaluated_run(store, "first", [0]), evaluated_run(store, "second", [1])
    for name in ("first", "second"):
        carclf(store, "champion", "promote", "--run", name)
    printed = carclf(store, "champion", "rollback").stdout
    assert f"{first.model.key} of run first" in printed and f"replaces {second.model.key}" in printed
    assert "threshold is still 0.6000" in printed
    with pytest.raises(ConfigError) as error:
        carclf(store, "champion", "promote", "--run", "second")
    assert str(error.value).startswith(f"The model {second.model.key} of run second")
    assert str(error.value).endswith(f": carclf champion rollback --to {second.model.key} --store {store.url}")
    assert state(store)["champion"]["model"] == first.model.key
    carclf(store, "champion", "rollback", "--to", "second")
    assert [(event["action"], event.get("by")) for event in state(store)["history"][2:]] == [
        ("rolled_back", "ada"), ("rolled_back", "ada")]
    assert state(store)["champion"]["model"] == second.model.key


def test_reasons_and_names_are_escaped_in_the_output(store: Store) -> None:
    weak = evaluated_run(store, "weak", range(30))
    forged = "why\n*  forged\x1b[2J"
    texts = [carclf(store, "champion", "promote", "--run", "weak", "--override", forged, "--by", forged).stdout]
    current = state(store)
    current["champion"]["run"] = current["history"][0]["run"] = forged
    store.write("champion.json", json.dumps(current).encode())
    texts += [carclf(store, "champion", command).stdout for command in ("list", "show")]
    second = evaluated_run(store, "second", [])
    second.promote(store)
    texts.append(carclf(store, "champion", "rollback", "--to", weak.model.key).stdout)
    for text in texts:
        assert r"why\n*  forged\x1b[2J" in text and "\x1b" not in text
        assert not any(line.startswith("*  forged") for line in text.splitlines())


def test_set_threshold_records_the_name_and_prints_the_previous_threshold(store: Store) -> None:
    printed = [carclf(store, "champion", "set-threshold", value, "--by", "Bob").stdout for value in ("0.7", "0.8")]
    assert "is 0.7000 (accuracy);" in printed[0]
    assert "is 0.8000 (accuracy); it was 0.7000 (accuracy)" in printed[1]
    assert (state(store)["threshold"], state(store)["history"][0]["by"]) == (0.8, "Bob")


def test_set_threshold_changes_the_metric(store: Store) -> None:
    printed = carclf(store, "champion", "set-threshold", "1.5", "--metric", "log_loss").stdout
    assert "1.5000 (log loss)" in printed
    assert (state(store)["threshold"], state(store)["metric"]) == (1.5, "log_loss")
    with pytest.raises(ConfigError, match="macro_f1"):
        carclf(store, "champion", "set-threshold", "0.5", "--metric", "f1")


def test_the_promote_stage_waits_until_it_is_approved(store: Store, tmp_path: Path) -> None:
    candidate = evaluated_run(store, "r", [0], gate__approval="required")
    path = str(tmp_path / "result.json")
    assert carclf(store, "promote", "--run", "r").exit_code == 75
    assert carclf(store, "promote", "--run", "r", "--result", path).exit_code == 75
    result = json.loads(Path(path).read_text())
    assert (result["waiting"], result["metrics"]["decision"], result["until"]) == (True, "awaiting approval", "")
    assert result["metrics"]["val_accuracy"] == candidate.evaluation.metrics["val_accuracy"]
    assert state(store)["champion"] is None and "promote" not in Run.load("r", store).record["stages"]
    assert carclf(store, "promote", "--run", "r", "--result", path, "--approved-by", "Grace").exit_code == 0
    result = json.loads(Path(path).read_text())
    assert (result["waiting"], result["metrics"]["decision"]) == (False, "promoted")
    assert (state(store)["champion"]["approved_by"], state(store)["champion"]["run"]) == ("Grace", "r")


def test_declining_a_promotion_is_recorded_once_and_needs_an_override(store: Store) -> None:
    candidate = evaluated_run(store, "r", [0], gate__approval="required")
    decline = ("promote", "--run", "r", "--declined-by", "Grace", "--note", "too few cars")
    with pytest.raises(ConfigError, match="does not wait"):
        carclf(store, *decline)
    carclf(store, "promote", "--run", "r")
    for contradiction in (["--approved-by", "Ada"], ["--expired"]):
        with pytest.raises(ConfigError, match="only one"):
            carclf(store, *decline, *contradiction)
    with pytest.raises(ConfigError, match="empty"):
        carclf(store, "promote", "--run", "r", "--declined-by", " ")
    assert "awaiting approval: " in carclf(store, "runs", "show", "r").output
    for _ in range(2):  # a retried task repeats it
        assert carclf(store, *decline).exit_code == 99
    attempt = Run.load("r", store).record["attempts"]["promote"]
    assert (attempt["state"], attempt["text"]) == ("declined", "declined by Grace: too few cars")
    assert "promoted" not in carclf(store, "runs", "show", "r").output
    (declined,) = state(store)["history"]
    decision = Decision.require(store, declined.pop("shown_decision"))
    assert decision.metrics["decision"] == "promoted"
    assert declined == {"action": "declined", "model": candidate.model.key, "run": "r", "by": "Grace",
                        "note": "too few cars", "shown_champion": None, "time": declined["time"]}
    with pytest.raises(QualityError, match=r"declined by Grace: too few cars.*--override"):
        carclf(store, "champion", "promote", "--run", "r")
    carclf(store, "champion", "promote", "--run", "r", "--override", "checked", "--note", "by phone")
    event = state(store)["champion"]
    assert (event["override"], event["approved_by"], event["note"]) == ("checked", "ada", "by phone")
    assert event["rejection"] == "rejected: declined by Grace: too few cars"


def test_an_approval_after_the_champion_has_changed_names_both_decisions(store: Store) -> None:
    weak = evaluated_run(store, "weak", range(12), gate__approval="required")
    better = evaluated_run(store, "better", [0], gate__approval="required")
    for run in ("weak", "better"):
        carclf(store, "promote", "--run", run)
    evaluated_run(store, "good", [0, 1])
    carclf(store, "champion", "promote", "--run", "good")
    assert carclf(store, "promote", "--run", "weak", "--approved-by", "Ada", "--note", "go").exit_code == 99
    approved = state(store)["history"][-1]
    assert {name: approved[name] for name in ("action", "model", "by", "note", "shown_champion")} == {
        "action": "approved", "model": weak.model.key, "by": "Ada", "note": "go", "shown_champion": None}
    assert approved["decision"] == Run.load("weak", store).record["stages"]["promote"]["key"]
    assert approved["decision"] != approved["shown_decision"]
    assert carclf(store, "promote", "--run", "better", "--approved-by", "Ada").exit_code == 0
    event = state(store)["champion"]
    assert (event["model"], event["shown_champion"]) == (better.model.key, None)
    assert event["decision"] != event["shown_decision"]
    assert event["shown_decision"] in Run.load("better", store).record["stages"]["promote"]["metrics"]["reason"]


def test_candidates_are_claimed_by_one_name(store: Store) -> None:
    for run in ("first", "second"):
        evaluated_run(store, run, [0] if run == "first" else [1], gate__approval="required")
    carclf(store, "promote", "--run", "first")

    def candidates(*arguments: str) -> list[str]:
        printed = carclf(store, "champion", "candidates", *arguments).stdout
        return [candidate["run"] for candidate in json.loads(printed)]

    assert candidates("--claim", "a") == ["first"]
    carclf(store, "promote", "--run", "second")
    assert candidates("--claim", "b") == ["second"]
    assert candidates("--claim", "a") == ["first"]
    assert sorted(candidates()) == ["first", "second"]
    carclf(store, "promote", "--run", "first", "--declined-by", "Grace")
    assert candidates("--claim", "a") == []


def test_the_current_champion_has_the_sequence_number_of_its_event(store: Store) -> None:
    assert json.loads(carclf(store, "champion", "current").stdout) is None
    first, second = evaluated_run(store, "first", [0, 1]), evaluated_run(store, "second", [1])
    for run in ("first", "second"):
        carclf(store, "champion", "promote", "--run", run)
    carclf(store, "champion", "set-threshold", "0.5")
    current = json.loads(carclf(store, "champion", "current").stdout)
    assert (current["model"], current["sequence"], current["by"]) == (second.model.key, 2, "ada")
    carclf(store, "champion", "rollback")
    current = json.loads(carclf(store, "champion", "current").stdout)
    assert (current["model"], current["sequence"], current["action"]) == (first.model.key, 4, "rolled_back")
    assert current["refit"] == ""


def test_a_refit_of_the_champion_has_a_new_sequence_number_and_of_another_model_has_not(store: Store) -> None:
    first, second = evaluated_run(store, "first", [0, 1]), evaluated_run(store, "second", [1])
    refits = [build_artifact(store, RefittedModel, Provenance(1, {"measured": candidate.model.key}, {}))
              for candidate in (first, second)]

    def current() -> tuple[Any, ...]:
        facts = json.loads(carclf(store, "champion", "current").stdout)
        return facts["model"], facts["refit"], facts["sequence"]

    carclf(store, "champion", "promote", "--run", "first")
    record_refit(store, refits[0])
    assert current() == (first.model.key, refits[0].key, 2)
    carclf(store, "champion", "promote", "--run", "second")
    assert current() == (second.model.key, "", 3)
    record_refit(store, build_artifact(store, RefittedModel, Provenance(1, {"measured": first.model.key}, {"n": 2})))
    assert current() == (second.model.key, "", 3)
    record_refit(store, refits[1])
    assert current() == (second.model.key, refits[1].key, 5)


def test_a_rejected_candidate_exits_with_the_skip_status(store: Store) -> None:
    evaluated_run(store, "weak", range(30))
    assert carclf(store, "promote", "--run", "weak").exit_code == 99


def test_an_empty_name_is_not_the_previous_champion(store: Store) -> None:
    with pytest.raises(ConfigError, match="--to is empty"):
        CliRunner().invoke(app, ["champion", "rollback", "--to", "", "--store", store.url], catch_exceptions=False)
