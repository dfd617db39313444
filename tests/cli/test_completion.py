"""Shell completion: the names of runs, recipes and settings."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.config import RECIPES, load_config
from carclf.runs.run import Run
from carclf.services.storage import init_store


def complete(line: str, **variables: str) -> list[str]:
    """Return the first words that typer offers to the shell fish."""
    environment = {"_ROOT_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args",
                   "_TYPER_COMPLETE_ARGS": f"root {line}"} | variables
    result = CliRunner().invoke(app, [], env=environment, prog_name="root")
    return [text.split("\t")[0] for text in result.stdout.splitlines() if text]


@pytest.fixture
def store(tmp_path: Path) -> str:
    store = init_store(tmp_path / "store")
    for name in ("nightly-1", "nightly-2"):
        Run.start_or_resume(name, store, "demo", load_config("demo"))
    return store.url


@pytest.mark.parametrize("line", ["runs show ", "runs compare nightly-1 ", "champion promote --run ", "predict --run ",
                                  "ensemble --run ", "fine_tune --run ", "label-fixes --run "])
def test_runs_are_completed_wherever_a_run_is_expected(store: str, line: str) -> None:
    assert set(complete(line, CARCLF_STORE=store)) == {"last", "champion", "nightly-1", "nightly-2"}
    assert complete(f"{line}night", CARCLF_STORE=store) == ["nightly-1", "nightly-2"]


def test_the_store_of_the_command_line_is_read(store: str, tmp_path: Path) -> None:
    assert complete(f"runs show --store {store} n") == ["nightly-1", "nightly-2"]
    assert complete(f"runs show --store {tmp_path}/mistyped n") == []
    assert not (tmp_path / "mistyped").exists()


def test_recipes_and_settings_are_completed() -> None:
    assert complete("run --recipe ") == complete("recipes ") == list(RECIPES)
    assert complete("run --set fine_tune.epo") == ["fine_tune.epochs="]
    assert complete("settings fine_tune.epo") == ["fine_tune.epochs"]


def test_a_store_that_does_not_respond_delays_the_shell_by_a_second(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def list_slowly(*_: object) -> list[str]:
        time.sleep(30)
        return ["late"]

    monkeypatch.setattr("carclf.cli.completion.list_run_ids", list_slowly)
    started = time.monotonic()
    assert complete(f"runs show --store {tmp_path} ") == ["last", "champion"]
    assert time.monotonic() - started < 10


@pytest.mark.integration
def test_the_command_line_imports_no_heavy_package() -> None:
    code = ("import sys, carclf.cli.app\n"
            "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'pandas', 'boto3', 'jax')))")
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
