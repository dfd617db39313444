"""Errors of the operating system that a user can fix, and folders below the home folder."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from carclf.artifacts import cache_folder
from carclf.config import require_weights
from carclf.dataset.extra_data import gather_extra_data
from carclf.errors import ConfigError
from carclf.os_errors import os_error_message
from carclf.services.storage import open_store

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


def test_a_tilde_in_a_folder_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CARCLF_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "home/cache"
    assert open_store("~/store").url == f"{tmp_path}/home/store"
    assert not (tmp_path / "~").exists()


def test_an_unknown_home_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARCLF_CACHE", "~unknown-user/cache")
    with pytest.raises(ConfigError, match="CARCLF_CACHE"):
        cache_folder()
    with pytest.raises(ConfigError, match="CARCLF_STORE"):
        open_store("~unknown-user/store")
    with pytest.raises(ConfigError, match=r"model\.weights"):
        require_weights("~unknown-user/w.h5")
    with pytest.raises(ConfigError, match=r"download\.extra_data"), gather_extra_data("~unknown-user/cars"):
        pass


@pytest.mark.parametrize(("error", "parts"), [
    (OSError(errno.EMFILE, "Too many open files"), ["ulimit -n"]),
    (PermissionError(errno.EACCES, "denied", "/data/x"), ["/data/x", "Permission denied"]),
    (OSError(errno.EROFS, "read-only", "/data/x"), ["/data/x", "Read-only file system"]),
    (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), ["/tmp", "TMPDIR"]),
])  # fmt: skip
def test_an_error_that_the_user_can_fix_is_explained(error: OSError, parts: list[str]) -> None:
    wrapped = RuntimeError("a library failed")
    wrapped.__context__ = error
    message = os_error_message(wrapped, [])
    assert message and all(part in message for part in parts)
    assert os_error_message(ValueError("a bug"), []) is None
