"""The policy file: its format, its errors, and the settings that it limits."""

import re
from pathlib import Path

import pytest
from airflow_process import ROOT
from policy_cases import CASES, IMPLIED_CASES, policy_text

from carclf.config import (
    GOVERNED,
    RECIPES,
    RULES,
    Policy,
    flatten,
    load_config,
    load_policy,
    may_approve,
)
from carclf.config.policy import is_allowed_source
from carclf.errors import ConfigError

SOURCE = {"data.source": "demo-cars"}


@pytest.fixture
def policy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(policy_text())
    monkeypatch.setenv("CARCLF_POLICY", str(path))
    return path


def test_the_cases_cover_every_governed_setting() -> None:
    assert list(CASES) == list(GOVERNED)
    assert {**CASES, **IMPLIED_CASES}.keys() == RULES.keys()


@pytest.mark.parametrize("name", RULES)
def test_a_looser_value_is_rejected_with_the_setting_the_limit_and_the_file(name: str, policy_file: Path) -> None:
    case = (CASES | IMPLIED_CASES)[name]
    with pytest.raises(ConfigError) as error:
        load_config("demo", SOURCE | {name: case.looser})
    limit = load_policy().describe_limits()[name]
    assert [part for part in (name, limit, str(policy_file)) if part not in str(error.value)] == []
    assert flatten(load_config("demo", SOURCE | {name: case.allowed}).model_dump())[name] == case.allowed


@pytest.mark.parametrize("recipe", ["demo", "cpu", "cpu-accurate"])
def test_a_recipes_looser_values_are_tightened(recipe: str, policy_file: Path) -> None:
    settings = flatten(load_config(recipe, SOURCE).model_dump())
    assert load_policy().stricter_settings(settings) == {}
    names = ("gate.threshold", "gate.approval", "submit.enabled")
    assert [settings[name] for name in names] == [0.9, "required", False]
    policy_file.write_text("[settings]\naudit.drift_stop = 0.05\n")
    assert load_config(recipe, SOURCE).audit.drift_warn == 0.05  # otherwise above the limit of drift_stop


def test_floors_of_classes_are_raised_to_the_smallest_recall(policy_file: Path) -> None:
    floors = {"gate.min_recall_by_class": "a, b=0.4,c=0.00001,d=0.75"}
    config = load_config("demo", SOURCE, base=floors)
    assert config.gate.min_recalls == {"a, b": 0.5, "c": 0.5, "d": 0.75}


def test_recipes_and_sources_that_are_not_listed_are_rejected(policy_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe = 'gpu'.* cpu, cpu-fast, cpu-accurate, demo"):
        load_config("gpu", SOURCE)
    for source in ("sf-dl-car-classification", "kaggle://demo-owner/cars", "s3://other/x", "./demo-cars",
                   "s3://images/../other/x"):
        with pytest.raises(ConfigError, match=r"data\.source.*demo-\*, s3://images/\*"):
            load_config("demo", {"data.source": source})
    with pytest.raises(ConfigError, match=r"download\.extra_data = '/tmp/x'"):
        load_config("demo", SOURCE | {"download.extra_data": "s3://images/more, /tmp/x"})
    assert load_config("cpu-fast", {"data.source": "s3://images/2026"}).data.source == "s3://images/2026"


@pytest.mark.parametrize(("source", "pattern", "is_allowed"), [
    ("cars", "cars", True), ("cars", "car?", True), ("cars2", "cars", False), ("cars", "*", True),
    ("./cars", "cars", False), ("./cars", "./cars", True), ("./a/../cars", "./cars", True),
    ("/data/cars/", "/data/*", True), ("/data/../etc", "/data/*", False), ("cars.zip", "./*", True),
    ("kaggle://a/b/3", "kaggle://a/*", True), ("s3://b/p/", "s3://b/p", True), ("S3://b/p", "s3://b/p", False),
    ("~/cars", "./*", False), ("./~/cars", "./*", False), ("~/cars", "/home/ada/*", True), ("~/cars", "~/*", True),
    ("~unknown/cars", "/data/*", False), ("/data/cars", "~unknown/*", False),
])
def test_a_source_matches_patterns_of_its_kind(
    source: str, pattern: str, is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert is_allowed_source(source, [pattern]) is is_allowed


@pytest.mark.parametrize(("text", "parts"), [
    ("[settings]\ngate.thresold = 0.9", ["gate.thresold", "gate.threshold"]),
    ("[settings]\nfine_tune.epochs = 3", ["fine_tune.epochs", "gate.threshold"]),
    ("[settings]\naudit.drift_warn = 0.1", ["audit.drift_warn", "audit.drift_stop"]),
    ("[settings]\ngate.threshold = 2", ["gate.threshold = 2", "less than or equal to 1"]),
    ("[settings]\ngate.threshold = '0.9'", ["gate.threshold", "number"]),
    ("[settings]\ngate.threshold = true", ["gate.threshold", "number"]),
    ("[settings]\ngate.approval = 'yes'", ["gate.approval", "'none' or 'required'"]),
    ("[settings]\nsubmit.enabled = 'off'", ["submit.enabled", "true or false"]),
    ("[settings]\nsubmit.max_per_day = 0", ["submit.max_per_day = 0", "above 0"]),
    ("[settings]\ngate = 1", ["gate cannot be limited"]),
    ("[gate]\nthreshold = 0.9", ["gate is unknown", "settings, allowed, approval", "[settings]"]),
    ("[settings]\ngate.threshold = 0.9\n'gate.threshold' = 0.1", ["settings", "twice"]),
    ("[allowed]\nrecipes = 'gpu'", ["allowed.recipes", '["cpu"]']), ("settings = 3", ["settings", "a table"]),
    ("[settings]\nsubmit.enabled = 'off'", ["submit.enabled", "true or false"]),
    ("file = 'x'", ["file is unknown"]),
    ("[approval]\nown_run = false", ["approval.own_run", "own_runs, override"]),
    ("[approval]\nown_runs = 0", ["approval.own_runs", "true or false"]),
    ("[allowed]\nrecipes = ['cpus']", ["allowed.recipes", "'cpus'", "cpu-fast"]),
    ("[allowed]\nsources = 'cars'", ["allowed.sources"]),
    ("[settings", ["not valid TOML", "docs/policy.md"]),
    ("[settings]\ngate.approval = 'none'\ngate.approval = 'required'", ["not valid TOML"]),
    (b"\xff", ["not valid TOML"]),
])
def test_an_invalid_policy_is_an_error_with_the_file_and_the_key(
    text: str | bytes, parts: list[str], policy_file: Path
) -> None:
    policy_file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load_policy()
    assert [part for part in (str(policy_file), *parts) if part not in str(error.value)] == []


def test_a_missing_policy_is_an_error_and_not_an_empty_one(policy_file: Path) -> None:
    policy_file.unlink()
    with pytest.raises(ConfigError, match=r"policy\.toml.*CARCLF_POLICY"):
        load_config("demo")
    policy_file.mkdir()
    with pytest.raises(ConfigError, match=r"policy\.toml"):
        load_config("demo")


def test_without_a_policy_everything_is_allowed() -> None:
    policy = load_policy()
    assert (policy, policy.limits, policy.describe()) == (Policy(), {}, [])
    assert policy.allowed_recipes() == list(RECIPES)
    assert load_config("demo", {"gate.approval": "none", "gate.champion_rule": "off"}).gate.threshold == 0.6


@pytest.mark.parametrize(("started_by", "approver", "is_allowed"), [
    ("ada", "ada", False), ("Ada ", "ada", False), ("ada", "grace", True), ("", "ada", True), ("", "", True),
    ("ada", "ada\u200b", False), ("ada", "\uff41da", False), ("\u200b", "ada", True),
])
def test_people_may_approve_their_own_runs_unless_the_policy_forbids_it(
    started_by: str, approver: str, is_allowed: bool, policy_file: Path
) -> None:
    assert may_approve(load_policy(), started_by, approver) is True
    policy_file.write_text("[approval]\nown_runs = false\n")
    assert may_approve(load_policy(), started_by, approver) is is_allowed


def test_the_documentation_lists_the_governed_settings_and_a_valid_example(policy_file: Path) -> None:
    text = (ROOT / "docs/policy.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| ([^|]+) \|", text, re.MULTILINE))
    expected = {name: rule if isinstance(rule, str) else " < ".join(
        {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value for value in rule)
        for name, rule in GOVERNED.items()}
    assert rows == expected
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    policy_file.write_text(example)
    assert load_policy().limits["gate.approval"] == "required"
