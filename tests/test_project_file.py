"""``carclf.toml``: defaults of the store, the recipe and the settings."""

import importlib
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

import carclf_airflow
from carclf.cli.app import app
from carclf.config import apply_project_file, apply_recipe_file, load_settings, write_project_file
from carclf.errors import ConfigError, NotFoundError

VARIABLES = ("CARCLF_STORE", "CARCLF_RECIPE", "CARCLF_SETTINGS", "CARCLF_PROJECT_FILE")
CONTENT = """\
store = "data/store"
source = "./photos"
recipe = "demo"

[settings]
fine_tune.epochs = 3
submit.enabled = false

[settings.gate]
threshold = 0.8
min_recall_by_class = "Lada Priora=0.7"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a project file. The variables that the test sets are removed after it."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "carclf.toml").write_text(CONTENT)
    (tmp_path / "photos").mkdir()
    return tmp_path


def test_the_file_gives_defaults_in_its_folder_and_below(folder: Path) -> None:
    apply_project_file(folder / "photos")
    assert (os.environ["CARCLF_STORE"], os.environ["CARCLF_RECIPE"]) == (f"{folder}/data/store", "demo")
    config = load_settings("demo", [])
    assert (config.data.source, config.fine_tune.epochs, config.submit.enabled) == (f"{folder}/photos", 3, False)
    assert (config.gate.threshold, config.gate.min_recall_by_class) == (0.8, "Lada Priora=0.7")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_not_read(folder: Path) -> None:
    os.chown(folder / "carclf.toml", 65534, -1)
    apply_project_file(folder / "photos")
    assert "CARCLF_STORE" not in os.environ


def test_variables_take_precedence_over_the_file_and_the_command_line_over_both(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARCLF_RECIPE", "cpu")
    monkeypatch.setenv("CARCLF_SETTINGS", "fine_tune.epochs=4 gate.threshold=0.9")
    apply_project_file(folder)
    apply_project_file(folder)  # a child process applies it again
    assert os.environ["CARCLF_RECIPE"] == "cpu"
    config = load_settings("cpu", ["gate.threshold=0.95"])
    assert (config.fine_tune.epochs, config.gate.threshold, config.submit.enabled) == (4, 0.95, False)


def test_a_command_uses_the_store_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "photos")

    def missing_store(*options: str) -> str:
        error = CliRunner().invoke(app, ["runs", "list", *options]).exception
        assert isinstance(error, NotFoundError)
        return str(error)

    assert f"There is no store at {folder}/data/store" in missing_store()
    assert f"There is no store at {folder}/photos/other" in missing_store("--store", "other")
    monkeypatch.setenv("CARCLF_STORE", str(folder / "variable"))
    assert f"There is no store at {folder}/variable" in missing_store()


def test_airflow_reads_only_the_file_that_the_variable_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    importlib.reload(carclf_airflow)
    assert "CARCLF_STORE" not in os.environ
    error = CliRunner().invoke(app, ["runs", "list"]).exception
    assert f"There is no store at {folder}/store" in str(error)  # also in a child process of Airflow
    monkeypatch.setenv("CARCLF_PROJECT_FILE", str(folder / "carclf.toml"))
    importlib.reload(carclf_airflow)
    assert os.environ["CARCLF_STORE"] == f"{folder}/data/store"


@pytest.mark.parametrize(("content", "line", "message"), [
    ('\nstroe = "x"\n', 2, "unknown key 'stroe'. Expected store, source, recipe, settings. Did you mean store?"),
    ('fine_tune.epochs = 3\n', 1, r"unknown key 'fine_tune'.* Move it to the table \[settings\]"),
    ('recipe = "cpu"\n[settings]\nfine_tune.num_epochs = 3\n', 3, "num_epochs'. Did you mean fine_tune.epochs"),
    ('[settings.head]\nepochs = 3\n[settings.fine_tune]\n"num_epochs" = 3\n', 4, "Did you mean fine_tune.epochs"),
    ('store = 3\n', 1, "store must be a text, not 3"),
    ('store = "x"\nrecipe = "cpu-fats"\n', 2, "Did you mean cpu-fast?"),
    ('source = "https://example.com"\n', 1, "expected a competition's slug"),
    ('[settings]\nfine_tune.epochs = [3]\n', 2, "must be a text, a number, true or false"),
])
def test_an_invalid_key_is_an_error_with_the_file_and_the_line(
    folder: Path, content: str, line: int, message: str
) -> None:
    (folder / "carclf.toml").write_text(content)
    with pytest.raises(ConfigError, match=rf"^{folder}/carclf\.toml, line {line}: .*{message}"):
        apply_project_file(folder)


def test_a_file_that_is_not_toml_or_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "carclf.toml").write_text("store = x\n")
    with pytest.raises(ConfigError, match=rf"{folder}/carclf\.toml is not valid TOML: .*line 1"):
        apply_project_file(folder)
    monkeypatch.setenv("CARCLF_PROJECT_FILE", str(folder / "missing.toml"))
    with pytest.raises(ConfigError, match=r"missing\.toml cannot be read.*CARCLF_PROJECT_FILE"):
        apply_project_file(folder)


def test_init_writes_a_file_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "photos")
    result = CliRunner().invoke(app, ["init", "my-competition", "--recipe", "cpu", "--store", "s3://bucket/store"])
    assert (result.exit_code, result.stdout.split()[0]) == (0, f"{folder}/photos/carclf.toml")
    apply_project_file(folder / "photos")
    assert (os.environ["CARCLF_STORE"], os.environ["CARCLF_RECIPE"]) == ("s3://bucket/store", "cpu")
    assert load_settings("cpu", []).data.source == "my-competition"
    with pytest.raises(ConfigError, match=r"carclf\.toml exists"):
        write_project_file(Path("carclf.toml"), store="store", source="", recipe="cpu")
    with pytest.raises(ConfigError, match="Did you mean cpu"):
        write_project_file(Path("other.toml"), store="store", source="", recipe="cqu")


RECIPE = 'base = "demo"\n[settings]\nfine_tune.epochs = 7\n"gate.threshold" = 0.5\n'


def test_a_recipe_may_be_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.toml").write_text(RECIPE)
    assert apply_recipe_file(str(folder / "mine.toml")) == "demo"
    config = load_settings("demo", ["gate.threshold=0.9"])
    assert (config.fine_tune.epochs, config.gate.threshold, config.model.backbone) == (7, 0.9, "Tiny")
    assert apply_recipe_file("cpu") == "cpu"


def test_the_settings_of_the_project_file_precede_those_of_its_recipe(folder: Path) -> None:
    (folder / "mine.toml").write_text(RECIPE)
    (folder / "carclf.toml").write_text('recipe = "mine.toml"\n[settings]\nfine_tune.epochs = 3\n')
    apply_project_file(folder / "photos")
    assert os.environ["CARCLF_RECIPE"] == "demo"
    config = load_settings("demo", [])
    assert (config.fine_tune.epochs, config.gate.threshold) == (3, 0.5)


@pytest.mark.parametrize(("content", "problem"), [
    ('base = "dmo"\n', r"line 1: Unknown recipe 'dmo'\. Did you mean demo"),
    ('[settings]\nseed = 1\n', r"line 1: the key base is missing"),
    ('base = "demo"\nstore = "x"\n', r"line 2: unknown key 'store'"),
    ('base = "demo"\n[settings]\nfine_tune.epoch = 1\n', r"line 3: .*Did you mean fine_tune\.epochs"),
])
def test_an_invalid_recipe_is_an_error_with_the_line(folder: Path, content: str, problem: str) -> None:
    (folder / "mine.toml").write_text(content)
    with pytest.raises(ConfigError, match=rf"mine\.toml, {problem}"):
        apply_recipe_file(str(folder / "mine.toml"))
    with pytest.raises(ConfigError, match=r"missing\.toml cannot be read.*Fix the recipe"):
        apply_recipe_file(str(folder / "missing.toml"))


def test_commands_read_a_recipe_from_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.toml").write_text(RECIPE)
    monkeypatch.chdir(folder)
    shown = CliRunner().invoke(app, ["recipes", "mine.toml", "--json"])
    (recipe,) = json.loads(shown.stdout)
    assert (recipe["name"], recipe["settings"]["fine_tune.epochs"]) == ("mine.toml", 7)
    assert recipe["settings"]["model.backbone"] == "Tiny"
    result = CliRunner().invoke(app, ["doctor", "--recipe", "mine.toml", "--set", "fine_tune.epochs=0.5"])
    assert result.exit_code == ConfigError.exit_status
    assert "fine_tune.epochs=7" in os.environ["CARCLF_SETTINGS"]
