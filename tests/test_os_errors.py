"""Errors of the operating system that a user can fix, in a process of its own."""

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

CODE = """
import pathlib, sys
from carclf.errors import ConfigError
from carclf.services.storage import open_store
try:
    for number in range(1000):
        open_store(sys.argv[1]).write(f"file-{number}", b"x")
except ConfigError as error:
    print(error)
"""


def test_a_disk_without_inodes_is_not_reported_as_full(
    tmp_path: Path, run_on_small_disk: Callable[..., CompletedProcess[str]]
) -> None:
    small = tmp_path / "small"
    done = run_on_small_disk(small, 20, [sys.executable, "-c", CODE, str(small)], max_files=50)
    assert f"{small} has no free inodes" in done.stdout
    assert "50 files" in done.stdout and "MB" not in done.stdout
