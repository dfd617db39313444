"""``carclf champion`` and ``carclf promote --approved-by``, as a user types them."""

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
from carclf.services.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def run(store: Store, name: str, wrong: Any, **settings: Any) -> Candidate:
    """A run that is evaluated and not promoted yet."""
    config = load_config("demo", {key.replace("__", "."): value for key, value in settings.items()})
    own = build_candidate(store, name, wrong, config=config)
    record = Run.start_or_resume(name, store, "demo", config).record
    record["stages"] = {stage: {"key": artifact.key} for stage, artifact in (
        ("download", own.archive), ("split", own.split), ("fine_tune", own.model), ("evaluate", own.evaluation))}
    store.write(f"runs/{name}.json", json.dumps(record).encode())
    return own


def carclf(store: Store, *arguments: str) -> Result:
    found = CliRunner(env={"USER": "ada"}).invoke(app, [*arguments, "--store", store.url])
    if isinstance(found.exception, Exception) and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def state(store: Store) -> dict[str, Any]:
    found = read_state(store)
    assert found is not None
    return found


def test_the_list_has_each_promotion_with_its_interval_its_public_score_and_a_star_at_the_champion(
    store: Store
) -> None:
    first, second = run(store, "first", [0, 1, 2]), run(store, "second", [1])
    for name in ("first", "second"):
        carclf(store, "champion", "promote", "--run", name)
    record_score(store, first.model.key, {"ref": 3, "public_score": 0.9125, "rank": 4})
    times = [event["time"] for event in state(store)["history"]]
    lines = carclf(store, "champion", "list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["model", "run", "accuracy", "95%", "public", "rank", "when", "by"],
        [first.model.key, "first", "0.9500", "0.8630-0.9829", "0.9125", "4", times[0], "ada"],
        ["*", second.model.key, "second", "0.9833", "0.9114-0.9971", times[1], "ada"],
        ["The", "stored", "threshold", "is", "0.6000."],
    ]
    found = json.loads(carclf(store, "champion", "list", "--json").stdout)
    assert found["champion"] == second.model.key and found["history"] == state(store)["history"]
    assert [(one["model"], one["champion"], one["public_score"]) for one in found["promotions"]] == [
        (first.model.key, False, 0.9125), (second.model.key, True, None)]


def test_show_tells_the_decision_the_rules_the_figures_and_where_the_files_lie(store: Store) -> None:
    first, second = run(store, "first", [0]), run(store, "second", [1])
    for name in ("first", "second"):
        carclf(store, "champion", "promote", "--run", name)
    text = carclf(store, "champion", "show").stdout
    for part in (f"{second.model.key} of the run second, the champion", "promoted: accuracy 0.9833 reaches",
                 "prediction_time", "calibration_error", f"{store.url}/{second.model.files['model.keras'].key}",
                 "promoted, by ada"):
        assert part in text
    found = json.loads(carclf(store, "champion", "show", first.model.key[:9], "--json").stdout)
    assert (found["model"], found["champion"], found["run"]) == (first.model.key, False, "first")
    assert [row["name"] for row in found["rules"]][:2] == ["accuracy", "champion"]
    assert found["metrics"] == first.evaluation.metrics
    assert found == json.loads(carclf(store, "champion", "show", "first", "--json").stdout)


@pytest.mark.parametrize("command", [["list"], ["show"], ["rollback"]])
def test_a_store_without_a_champion_is_told_in_words(store: Store, command: list[str]) -> None:
    with pytest.raises(ConfigError, match="There is no champion in"):
        carclf(store, "champion", *command)


def test_a_promotion_by_hand_is_judged_by_the_same_gate_and_noted_in_the_runs_record(store: Store) -> None:
    weak = run(store, "weak", range(30))
    with pytest.raises(QualityError, match=r"rejected: accuracy 0\.5000.* nevertheless: --override REASON"):
        carclf(store, "champion", "promote", "--run", "weak")
    assert state(store)["champion"] is None
    told = carclf(store, "champion", "promote", "--run", "weak", "--override", "the season ends").stdout
    assert told.startswith("promoted by hand, because the season ends, though refused: accuracy 0.5000 is below")
    event = state(store)["champion"]
    assert (event["model"], event["run"], event["approved_by"], event["override"]) == (
        weak.model.key, "weak", "ada", "the season ends")
    assert Run.load("weak", store).record["stages"]["promote"]["key"] == event["decision"]
    assert "by hand, because the season ends" in carclf(store, "champion", "list").stdout


def test_an_override_without_a_reason_is_refused(store: Store) -> None:
    run(store, "weak", range(30))
    with pytest.raises(ConfigError, match="--override needs a reason"):
        carclf(store, "champion", "promote", "--run", "weak", "--override", " ")


def test_a_rolled_back_model_is_not_promoted_again_but_rolled_back_to(store: Store) -> None:
    first, second = run(store, "first", [0]), run(store, "second", [1])
    for name in ("first", "second"):
        carclf(store, "champion", "promote", "--run", name)
    told = carclf(store, "champion", "rollback").stdout
    assert told == (f"The champion is {first.model.key} of the run first, and no more {second.model.key}. The stored "
                    "threshold is still 0.6000: carclf champion set-threshold changes it.\n")
    with pytest.raises(ConfigError) as told_why:
        carclf(store, "champion", "promote", "--run", "second")
    assert str(told_why.value) == (
        f"The model {second.model.key} of the run second was promoted before and is not crowned again: the champion is "
        f"{first.model.key}. To bring it back: carclf champion rollback --to {second.model.key} "
        f"--store {store.url}")
    assert state(store)["champion"]["model"] == first.model.key
    carclf(store, "champion", "rollback", "--to", "second")
    assert [(event["action"], event.get("by")) for event in state(store)["history"][2:]] == [
        ("rolled_back", "ada"), ("rolled_back", "ada")]
    assert state(store)["champion"]["model"] == second.model.key


def test_a_reason_and_a_runs_name_forge_no_line_of_a_terminal(store: Store) -> None:
    own = run(store, "weak", range(30))
    forged = "why\n*  forged\x1b[2J"
    texts = [carclf(store, "champion", "promote", "--run", "weak", "--override", forged, "--by", forged).stdout]
    own_state = state(store)
    own_state["champion"]["run"] = own_state["history"][0]["run"] = forged
    store.write("champion.json", json.dumps(own_state).encode())
    texts += [carclf(store, "champion", command).stdout for command in ("list", "show")]
    second = run(store, "second", [])
    second.promote(store)
    texts.append(carclf(store, "champion", "rollback", "--to", own.model.key).stdout)
    for text in texts:
        assert r"why\n*  forged\x1b[2J" in text and "\x1b" not in text
        assert not any(line.startswith("*  forged") for line in text.splitlines())


def test_a_threshold_is_set_by_somebody(store: Store) -> None:
    said = [carclf(store, "champion", "set-threshold", value, "--by", "Bob").stdout for value in ("0.7", "0.8")]
    assert said == [f"The stored threshold in {store.url} is 0.7000; there was none.\n",
                    f"The stored threshold in {store.url} is 0.8000; it was 0.7000.\n"]
    assert (state(store)["threshold"], state(store)["history"][0]["by"]) == (0.8, "Bob")


def test_the_promote_stage_waits_for_approval_and_goes_on_once_it_is_given(store: Store, tmp_path: Path) -> None:
    own = run(store, "r", [0], gate__approval="required")
    path = str(tmp_path / "result.json")
    assert carclf(store, "promote", "--run", "r").exit_code == 75
    assert carclf(store, "promote", "--run", "r", "--result", path).exit_code == 75
    found = json.loads(Path(path).read_text())
    assert (found["waiting"], found["metrics"]["decision"], found["until"]) == (True, "awaiting approval", "")
    assert found["metrics"]["val_accuracy"] == own.evaluation.metrics["val_accuracy"]
    assert state(store)["champion"] is None and "promote" not in Run.load("r", store).record["stages"]
    assert carclf(store, "promote", "--run", "r", "--result", path, "--approved-by", "Grace").exit_code == 0
    found = json.loads(Path(path).read_text())
    assert (found["waiting"], found["metrics"]["decision"]) == (False, "promoted")
    assert (state(store)["champion"]["approved_by"], state(store)["champion"]["run"]) == ("Grace", "r")


def test_a_refusal_ends_the_promote_stage_with_skip_what_follows(store: Store) -> None:
    run(store, "weak", range(30))
    assert carclf(store, "promote", "--run", "weak").exit_code == 99
