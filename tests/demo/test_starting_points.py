"""The commands of docs/starting-points.md, run as they are written."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "starting-points.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)  # and its output


def read_commands(page: str) -> list[tuple[str, list[str]]]:
    """Return each command of the page with the lines that it prints."""
    return [(command, output.splitlines()) for block in BLOCK.findall(page)
            for command, output in COMMAND.findall(block)]


def without_times(line: str) -> str:
    """Return a line up to its ellipsis, without the values that depend on the machine."""
    line = re.sub(r"\s+[\d.]+ s\s+", " ", line.partition("...")[0])
    return re.sub(r"(val_accuracy|val_metric|public_score)=[\d.]+", r"\1=", line).strip()


def test_no_starting_point_needs_more_than_the_source() -> None:
    runs = [command for command, _ in read_commands(PAGE.read_text()) if command.startswith("carclf run")]
    assert len(runs) == 3
    assert all(re.findall(r"--set (\S+?)=", run) == ["data.source"] for run in runs)


@pytest.mark.trainings
@pytest.mark.timeout(900)
def test_the_starting_points_print_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = str(unused.getsockname()[1])
    page = read_commands(PAGE.read_text().replace("8001", port))
    (install, _), (activate, _), (enter, _), (exports, _), (serve, served), *commands, (stop, _) = page
    assert [install, activate, stop] == ["make install", "source .venv/bin/activate", "kill %1"]
    assert enter.startswith("mkdir")
    for name, value in (pair.split("=", 1) for pair in exports.removeprefix("export ").split()):
        monkeypatch.setenv(name, value)
    server = subprocess.Popen(serve.removesuffix(" &").split(), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        check_output([server.stdout.readline()], served)
        for command, expected in commands:
            process = subprocess.run(command.split(), cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
            check_output(process.stdout.splitlines(), expected)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(120)


def check_output(lines: list[str], expected: list[str]) -> None:
    """Each expected line is the beginning of a printed one, in the same order."""
    remaining = iter(map(without_times, lines))
    for line in filter(None, map(without_times, expected)):
        assert any(printed.startswith(line) for printed in remaining), (line, lines)
