"""The startup messages of TensorFlow, absl and CUDA."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.cli.startup_messages import LEVEL_VARIABLE, quiet_stderr

NATIVE = ("WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
          "I0000 00:00:1796029418.144849    1798 port.cc:153] oneDNN custom operations are on.\n"
          "2026-11-30 09:00:00.000000: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:467] Unable\n")
# The callback of the app prepares the process, as before every command.
PROGRAM = """
import logging, sys
from typer.testing import CliRunner
from carclf.cli.app import app
assert CliRunner().invoke(app, [*sys.argv[1:], "recipes"]).exit_code == 0
import tensorflow
tensorflow.config.list_physical_devices()
print("from Python", file=sys.stderr)
"""


def run(*options: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != LEVEL_VARIABLE} | variables
    process = subprocess.run([sys.executable, "-c", PROGRAM, *options], env=environment, capture_output=True, text=True,
                             check=True)
    return process.stderr


@pytest.mark.integration
def test_the_startup_messages_are_hidden() -> None:
    assert run() == "from Python\n"


@pytest.mark.integration
def test_the_option_v_shows_them() -> None:
    assert "oneDNN" in run("-v")


@pytest.mark.parametrize(("options", "level"), [([], "2"), (["-v"], None)])
def test_the_log_level_is_set_unless_the_user_chose_one(
    options: list[str], level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delenv(LEVEL_VARIABLE)
    assert CliRunner().invoke(app, [*options, "recipes"]).exit_code == 0
    assert os.environ.get(LEVEL_VARIABLE) == level
    monkeypatch.setenv(LEVEL_VARIABLE, "1")
    finders = len(sys.meta_path)
    assert CliRunner().invoke(app, [*options, "recipes"]).exit_code == 0
    assert (os.environ[LEVEL_VARIABLE], len(sys.meta_path)) == ("1", finders)


def test_only_lines_of_native_code_are_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_stderr():
        os.write(2, f"{NATIVE}12:00:00 warning: of another thread\n".encode())
    assert capfd.readouterr().err == "12:00:00 warning: of another thread\n"


def test_everything_is_printed_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportError), quiet_stderr():
        os.write(2, NATIVE.encode())
        raise ImportError("libcudart.so is missing")
    assert capfd.readouterr().err == NATIVE
