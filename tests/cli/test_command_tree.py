"""Every command of the command line: its help, and its errors for a missing store and for typing errors."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner, Result

from carclf.cli.app import EXIT_STATUSES, app
from carclf.errors import NotFoundError
from carclf.services.storage import init_store

REPOSITORY = Path(__file__).parents[2]
# Values of required arguments and options, and options without which a command does not open the store.
VALUES = {
    "--name": "e", "--run": "r", "--source": "./images", "--to": "out.csv", "--training-runs": "0", "files": "a.jpg",
    "run": "r", "run_a": "r", "run_b": "other", "shards": "1", "source": "./images", "threshold": "0.5",
}
OPTIONS = {("label-fixes",): ["--run", "r"]}
# inspect reads only the source, doctor has a line for each check, and the others read no store.
WITHOUT_STORE = [("demo-server",), ("doctor",), ("init",), ("inspect",), ("recipes",), ("settings",), ("store", "init")]


def find_commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from find_commands(command, (*path, name))
        else:
            assert isinstance(command, TyperCommand)
            yield (*path, name), command


ROOT = typer.main.get_command(app)
assert isinstance(ROOT, TyperGroup)
COMMANDS = dict(find_commands(ROOT))
READERS = [command for command in COMMANDS if command not in WITHOUT_STORE]
# These need nothing of the store that a new one lacks.
INDEPENDENT = {"champion candidates", "champion current", "champion set-threshold", "download", "experiment plan",
               "publish", "run", "source status", "store check", "store copy", "store gc"}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def invoke_on_store(command: tuple[str, ...], store: str) -> Result:
    required = [parameter for parameter in COMMANDS[command].params if parameter.required]
    arguments: list[str] = []
    for parameter in required:
        is_argument = parameter.param_type_name == "argument"
        name = parameter.opts[0]
        arguments += [VALUES[name]] if is_argument else [name, VALUES[name]]
    return invoke(*command, *arguments, *OPTIONS.get(command, []), "--store", store)


def test_the_version_is_printed_in_one_line() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"carclf {version('carclf')}\n")


def test_the_exit_statuses_are_documented() -> None:
    documented = re.findall(r"^\| (\d+) \|", (REPOSITORY / "docs/settings.md").read_text(), re.MULTILINE)
    assert [int(status) for status in documented] == list(EXIT_STATUSES)
    text = " ".join(invoke("--help").stdout.split())
    assert all(f"{status} {meaning}" in text for status, meaning in EXIT_STATUSES.items())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert f" {' '.join(command)} [OPTIONS]" in result.stdout


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_every_command_reports_a_missing_store(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CARCLF_CREATE_STORE")
    monkeypatch.chdir(tmp_path)
    error = invoke_on_store(command, str(tmp_path / "mistyped")).exception
    assert isinstance(error, NotFoundError) and error.exit_status == 66
    assert f"There is no store at {tmp_path}/mistyped" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_bucket_is_reported_like_a_missing_folder(aws: None) -> None:
    error = invoke("runs", "list", "--store", "s3://mistyped/store").exception
    assert isinstance(error, NotFoundError) and "'mistyped' does not exist" in str(error)


@pytest.mark.parametrize("command", [name for name in READERS if " ".join(name) not in INDEPENDENT], ids=" ".join)
def test_every_command_that_needs_a_run_or_a_champion_reports_an_empty_store(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = invoke_on_store(command, init_store(tmp_path / "new").url).exception
    assert isinstance(error, NotFoundError) and str(tmp_path / "new") in str(error)


@pytest.mark.parametrize("command", [("champion",), *COMMANDS], ids=" ".join)
def test_a_typing_error_in_a_command_gets_a_suggestion(command: tuple[str, ...]) -> None:
    *groups, name = command
    result = invoke(*groups, f"{name}x")
    assert result.exit_code == 2
    assert f"'{name}'" in re.sub(r"[\s│]+", " ", result.output).partition("Did you mean")[2]
