"""The values of the page that starts a run."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from carclf.config import POLICY_VARIABLE, flatten, iter_settings, load_config, parse_override
from carclf.dashboard.start_view import COMMON, FormField, start_view
from carclf.services.storage import Store, init_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv(POLICY_VARIABLE, raising=False)
    return init_store(tmp_path / "a store")


def fields_of(view: dict[str, Any]) -> dict[str, FormField]:
    return {field.name: field for fields in view["sections"].values() for field in fields}


def view_of(store: Store, overrides: Sequence[str] = (), recipe: str = "demo") -> dict[str, Any]:
    return start_view(store, recipe, overrides)


def test_every_setting_that_airflow_accepts_has_one_field(store: Store) -> None:
    view = view_of(store)
    names = [field.name for fields in view["sections"].values() for field in fields]
    assert sorted(names) == sorted(name for name, _ in iter_settings() if not name.startswith("score."))
    common = [field.name for field in view["sections"][COMMON]]
    assert common == ["data.source", "seed", "gate.approval", "submit.enabled", "force"]


def test_hints_are_the_values_of_the_recipe_and_the_deployment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fields_of(view_of(store))["fine_tune.epochs"].default == "10"
    assert fields_of(view_of(store, recipe="cpu"))["fine_tune.epochs"].default == "9"
    monkeypatch.setenv("CARCLF_SETTINGS", "fine_tune.epochs=4 submit.enabled=false")
    fields = fields_of(view_of(store))
    assert (fields["fine_tune.epochs"].default, fields["submit.enabled"].default) == ("4", "off")


def test_a_switch_has_three_states(store: Store) -> None:
    field = fields_of(view_of(store, ["force=true"]))["force"]
    assert (field.default, field.choices, field.value) == ("off", ("on", "off"), "on")
    assert fields_of(view_of(store))["force"].value == ""


def test_the_configuration_for_airflow_means_the_same_as_the_command(store: Store) -> None:
    overrides = ["fine_tune.epochs=3", "force=true", "fine_tune.learning_rate=0.000123456789",
                 "data.source=./my photos"]
    preview = view_of(store, overrides)["preview"]
    conf = json.loads(json.dumps(preview.conf))
    assert conf == {"recipe": "demo", "fine_tune.epochs": 3, "force": "on", "fine_tune.learning_rate": 0.000123456789,
                    "data.source": "./my photos"}
    words = shlex.split(preview.command)
    assert words[:6] == ["carclf", "run", "--store", store.url, "--recipe", "demo"]
    chosen = dict(map(parse_override, words[7::2]))
    by_conf = load_config(conf.pop("recipe"), conf)
    assert flatten(by_conf.model_dump()) == flatten(load_config("demo", chosen).model_dump())


def test_auto_is_sent_to_airflow_as_the_number_that_its_form_accepts(store: Store) -> None:
    preview = view_of(store, ["fine_tune.batch_size=auto", "fine_tune.drop_path=auto"])["preview"]
    assert preview.conf == {"recipe": "demo", "fine_tune.batch_size": 0, "fine_tune.drop_path": 0.0}


@pytest.mark.parametrize("override", ["fine_tune.epochs=-3", "fine_tune.epoch=3", "no equals sign", "force=perhaps"])
def test_an_invalid_setting_is_shown_before_a_run_exists(store: Store, override: str) -> None:
    view = view_of(store, [override])
    assert view["preview"].error
    assert view["preview"].conf == {}
    assert list(store.list_keys("runs/")) == []


@pytest.mark.parametrize(("settings", "sentence"), [
    ([], "A model that passes the gate becomes the champion and is submitted to Kaggle."),
    (["submit.enabled=off"], "A model that passes the gate becomes the champion and is not submitted."),
    (["data.source=./photos", "gate.approval=required"],
     "A model that passes the gate waits for a person's approval and is not submitted."),
])
def test_what_follows_the_training_is_stated(store: Store, settings: list[str], sentence: str) -> None:
    assert sentence in view_of(store, settings)["preview"].sentences


def test_the_form_offers_only_what_the_policy_allows(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[settings]\ngate.approval = "required"\ngate.threshold = 0.9\n'
                      '[allowed]\nrecipes = ["cpu", "demo"]\nsources = ["./photos"]\n')
    monkeypatch.setenv(POLICY_VARIABLE, str(policy))
    view = view_of(store, recipe="gpu")
    fields = fields_of(view)
    assert (view["recipe"], view["recipes"]) == ("cpu", ["cpu", "demo"])
    assert fields["gate.approval"].choices == ("required",)
    assert fields["gate.threshold"].policy == "Policy: at least 0.9."
    assert fields["data.source"].policy == "Policy: one of ./photos."
    assert "looser" in view_of(store, ["data.source=./photos", "gate.threshold=0.5"])["preview"].error
    assert view_of(store, ["data.source=./photos"])["preview"].error == ""
