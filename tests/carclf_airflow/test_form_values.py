"""Values of the trigger form and of a run's conf: Airflow's check, and the configuration that they result in."""

import json
import os
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from airflow_process import airflow_environment, printed_json
from mutations import mutation_counts

from carclf.config import flatten, iter_settings, load_config, parse_override
from carclf.errors import ConfigError

SETTINGS = dict(iter_settings())
NAMES = [*SETTINGS, *SETTINGS, "unknown", "seed=1", "--set", "\ud800", "x" * 200_000, ""]
LEAVES = [None, True, False, 0, 1, -1, 3, 5.0, 0.5, 1e-9, 1e308, float("inf"), float("nan"), 2**31, 10**30, "", "0",
          "on", "off", "true", "1\n", "1,1.15", "\u0661", "auto", "none", "null", "NaN", "[1]", "\0", "a\nb", "a=b",
          " ", "ä\ud800", "demo-cars", "7=0.5", "7=0.5\n", "x" * 200_000, "9" * 5000, "[" * 5000, [], [1], {}, {"a": 1}]


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fields of both forms by DAG, as Airflow stores them."""
    code = """
        import json
        import car_experiments, car_retrain
        dags = {"car_retrain": car_retrain.car_retrain(), "car_experiments": car_experiments.car_experiments()}
        print(json.dumps({name: {key: param.schema | {"description": param.description} for key, param
                                 in dag.params._ParamsDict__dict.items()} for name, dag in dags.items()}))
    """
    home = tmp_path_factory.mktemp("airflow")
    return printed_json(code, airflow_environment(home, CARCLF_SETTINGS="data.source=demo-cars 'fine_tune.patience=7'"))


@pytest.fixture
def form(schemas: dict[str, Any]) -> dict[str, Any]:
    return schemas["car_retrain"]


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Return whether Airflow accepts a value (``airflow.sdk.Param.resolve``)."""
    try:
        jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
    except jsonschema.ValidationError:
        return False
    return True


def download_arguments(params: list[dict[str, Any]], environment: dict[str, str]) -> list[list[str]]:
    """Return the arguments of ``carclf download`` for the values of each run."""
    code = """
        import json, sys
        from carclf_airflow.stage_process import download_arguments
        print(json.dumps([download_arguments({"recipe": "demo"} | params) for params in json.load(open(sys.argv[1]))]))
    """
    path = Path(environment["AIRFLOW_HOME"]) / "params.json"
    path.write_text(json.dumps(params))
    return printed_json(code, environment, str(path))


def config_of(arguments: list[str]) -> dict[str, Any]:
    """Return the settings that ``carclf download`` gets from its arguments."""
    return flatten(load_config(arguments[1], dict(map(parse_override, arguments[3::2]))).model_dump())


def test_a_switch_is_a_choice_that_shows_that_it_is_not_set(form: dict[str, Any]) -> None:
    for name, field in SETTINGS.items():
        if field.annotation is bool:
            assert form[name]["enum"] == [None, "on", "off"]
            assert form[name]["type"][0] == "string"  # Airflow draws a boolean as a switch
    assert load_config("demo", {"submit.enabled": "off"}).submit.enabled is False


def test_no_choice_is_shown_as_null(form: dict[str, Any]) -> None:
    choices = [schema for schema in form.values() if None in schema.get("enum", [])]
    assert choices
    assert {schema["values_display"]["null"] for schema in choices} == {"as in the recipe"}


def test_hints_show_the_values_of_all_recipes_and_of_the_deployment(form: dict[str, Any]) -> None:
    assert form["data.source"]["description"].endswith("(demo-cars)")
    assert form["fine_tune.patience"]["description"].endswith("(7)")
    assert form["evaluate.flip_tta"]["description"].endswith("demo: on; baseline-xception, baseline-b5: off)")


def test_the_form_does_not_change_a_number_that_is_out_of_range(schemas: dict[str, Any]) -> None:
    """Airflow's form replaces a number beyond a field's minimum or maximum when the field loses the focus."""
    fields = [schema for dag in schemas.values() for schema in dag.values()]
    assert not [schema for schema in fields if {"minimum", "maximum"} & schema.keys()]
    assert not accepts(schemas["car_retrain"]["head.learning_rate"], 5)
    assert accepts(schemas["car_retrain"]["head.learning_rate"], 1)
    assert not accepts(schemas["car_experiments"]["folds"], 21)


@pytest.mark.parametrize(("name", "default"), [("weight_decay", 0.05), ("drop_path", 0.2)])
def test_auto_replaces_a_recipes_number_where_zero_has_a_meaning(
    name: str, default: float, form: dict[str, Any], tmp_path: Path
) -> None:
    schema = form[f"fine_tune.{name}"]
    assert [accepts(schema, value) for value in ("auto", 0, 0.5, None)] == [True] * 4
    assert [accepts(schema, value) for value in ("0.5", "", "auto\n", 2, -1)] == [False] * 5
    params = [{"recipe": "baseline-b5", f"fine_tune.{name}": value} for value in (None, 0, "auto")]
    arguments = download_arguments(params, airflow_environment(tmp_path))
    assert [config_of(run)[f"fine_tune.{name}"] for run in arguments][1:] == [0, default]
    assert "auto depends on the backbone's family" in schema["description"].replace("Auto", "auto")


@pytest.mark.parametrize(("name", "value"), [
    ("evaluate.zooms", "1\n"), ("gate.min_recall_by_class", "7=0.5\n"), ("data.source", "cars\n"),
    ("model.weights", "a\nb"), ("evaluate.zooms", "\u0661"),
])
def test_text_with_a_line_end_or_other_digits_is_rejected(form: dict[str, Any], name: str, value: str) -> None:
    assert not accepts(form[name], value)
    with pytest.raises(ConfigError, match=name):
        load_config("gpu", {name: value})


def test_an_unknown_key_of_the_conf_is_rejected(tmp_path: Path) -> None:
    confs: list[dict[str, Any]] = [{"fine_tune.epoch": 1}, {"unknown": None}, {"model.weights=none": 1}]
    for arguments in download_arguments(confs, airflow_environment(tmp_path)):
        with pytest.raises(ConfigError, match="Unknown setting"):
            config_of(arguments)


@mutation_counts(120)
def test_a_value_is_used_as_it_is_or_rejected(num: int, form: dict[str, Any], tmp_path: Path) -> None:
    chance = random.Random(0)
    runs = [{chance.choice(NAMES): chance.choice(LEAVES) for _ in range(chance.choice((1, 1, 2)))}
            for _ in range(num)]
    outcomes = {"used": 0, "rejected": 0}
    for run, arguments in zip(runs, download_arguments(runs, airflow_environment(tmp_path)), strict=True):
        assert max(map(len, map(os.fsencode, arguments))) < 128 * 1024
        try:
            settings = config_of(arguments)
        except ConfigError as error:
            assert len(str(error)) < 2500  # a message may list all settings
            outcomes["rejected"] += 1
            continue
        for name, value in run.items():  # carclf chooses for 0 and auto
            if name in form and value not in (None, 0, "auto") and accepts(form[name], value):
                if SETTINGS[name].annotation is bool:
                    value = {"on": True, "off": False}[value]  # noqa: PLW2901
                elif isinstance(settings[name], float):
                    value = float(value)  # noqa: PLW2901  # 10**30 has no exact float
                assert settings[name] == value, name
        outcomes["used"] += 1
    assert min(outcomes.values()) > num // 20
