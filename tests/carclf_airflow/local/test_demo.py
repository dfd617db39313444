"""What ``make demo`` checks before it starts a process, and the outcome that it prints."""

from pathlib import Path
from typing import Any

import pytest
from source_files import write_files

from carclf.errors import CarclfError, ConfigError, DataError
from carclf.stages.chain import STAGES
from carclf_airflow.local.demo import DemoOptions, run_demo
from carclf_airflow.local.demo_server import _error_line
from carclf_airflow.local.retrain_run import OPTIONAL_TASKS, _print_outcome, _print_task

OUTCOME: dict[str, Any] = {
    "state": "success", "seconds": 9.0, "val_accuracy": 0.5, "metric": "accuracy", "val_metric": 0.5,
    "reason": "rejected: weak", "public_score": None, "rank": None, "warning": "",
}


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        ("missing", {}, (ConfigError, "missing")),
        ("missing", {"holdout": 0.2}, (ConfigError, "DATA=.*missing")),
        ("cars.zip", {"truth": __file__}, (ConfigError, r"DATA=.*cars\.zip")),
        ("empty", {}, (DataError, "no files")),
        ("documents", {}, (DataError, r"readme\.txt")),
        ("documents/readme.txt", {}, (DataError, r"readme\.txt")),
        ("flat", {}, (DataError, "labels")),
    ],
)
def test_invalid_data_are_reported_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, options: dict[str, Any],
    expected: tuple[type[CarclfError], str],
) -> None:
    error, problem = expected
    (tmp_path / "empty").mkdir()
    write_files(tmp_path, [f"flat/{number}.jpg" for number in range(4)], {"documents/readme.txt": "x", "cars.zip": ""})
    monkeypatch.setenv("CARCLF_LOCAL_FOLDER", str(tmp_path / "local"))
    given: dict[str, Any] = {"weights": "", "truth": "", "holdout": None, "recipe": "demo", "experiment": ""} | options
    with pytest.raises(error, match=problem):
        run_demo(DemoOptions(data=str(tmp_path / data), exit=True, **given))
    assert not (tmp_path / "local").exists()


@pytest.mark.parametrize(("reason", "num_lines"), [("rejected: weak", 0), ("data.source is a folder", 1), ("", 0)])
def test_the_outcome_has_the_gates_reason_once(
    capsys: pytest.CaptureFixture[str], reason: str, num_lines: int
) -> None:
    _print_outcome(OUTCOME | {"skip_reason": reason})
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("submission") for line in lines) == num_lines
    assert sum("rejected: weak" in line for line in lines) == 1


@pytest.mark.parametrize("state", ["success", "upstream_failed"])
@pytest.mark.parametrize("name", [*STAGES, *OPTIONAL_TASKS])
def test_the_name_the_state_and_the_seconds_of_a_task_are_aligned(
    name: str, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_task("download", {"state": "success", "seconds": 1.0}, {})
    _print_task(name, {"state": state, "seconds": 12.5}, {"summary": "text"})
    first, line = capsys.readouterr().out.splitlines()
    assert line.split() == [name, state, "12.5", "s", "text"]
    assert (line.index(f" {state}"), line.index(" s ")) == (first.index(" success"), first.index(" s "))


def test_an_error_of_the_demo_server_is_shown_without_its_prefix() -> None:
    assert _error_line("x\ncarclf: DataError: No labels. Add some.\n") == "No labels. Add some."
    assert _error_line("Traceback\nKeyError") == "Traceback\nKeyError"
