"""``carclf champion`` and ``carclf promote --approved-by``."""

import json
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import Candidate, build_candidate
from typer.testing import CliRunner, Result

from carclf.champion import read_state, record_score
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
    assert [row["name"] for row in shown["rules"]][:2] == ["accuracy", "champion"]
    assert shown["metrics"] == first.evaluation.metrics
    assert shown == json.loads(carclf(store, "champion", "show", "first", "--json").stdout)


@pytest.mark.parametrize("command", [["list"], ["show"], ["rollback"]])
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


def test_an_override_without_a_reason_raises_config_error(store: Store) -> None:
    evaluated_run(store, "weak", range(30))
    with pytest.raises(ConfigError, match="--override needs a reason"):
        carclf(store, "champion", "promote", "--run", "weak", "--override", " ")


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


def test_declining_a_promotion_is_recorded(store: Store) -> None:
    evaluated_run(store, "r", [0], gate__approval="required")
    with pytest.raises(ConfigError, match="does not wait"):
        Run.load("r", store).decline_promotion("Grace")
    carclf(store, "promote", "--run", "r")
    assert carclf(store, "promote", "--run", "r", "--declined-by", "Grace").exit_code == 0
    attempt = Run.load("r", store).record["attempts"]["promote"]
    assert (attempt["state"], attempt["text"]) == ("declined", "declined by Grace")
    assert state(store)["champion"] is None


def test_a_rejected_candidate_exits_with_the_skip_status(store: Store) -> None:
    evaluated_run(store, "weak", range(30))
    assert carclf(store, "promote", "--run", "weak").exit_code == 99
