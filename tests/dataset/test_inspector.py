"""A process that inspects images survives what decoders do to it: one bad file costs one file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import simplejpeg
from jpeg_parts import uniform_jpeg
from PIL import Image

from carclf.config import Validation
from carclf.dataset.indexing import write_inspection
from carclf.dataset.inspection import EMPTY_ROW, Row, inspect_image
from carclf.dataset.inspector import Inspector

CONFIG = Validation(min_side=8)


def inspect_unsafely(path: Path, *, max_size: float) -> Row:
    """Decode a JPEG at a reduced size without checking its type; block or fail for some contents."""
    data = path.read_bytes()
    if data == b"block":
        time.sleep(60)
    if data == b"fail":
        raise OSError("as an example")
    return EMPTY_ROW | {"width": simplejpeg.decode_jpeg(data, "RGB", min_height=60, min_width=80).shape[1]}


@contextmanager
def inspector(function: Any = inspect_unsafely) -> Iterator[Inspector]:
    with closing(Inspector(function)) as opened:
        yield opened


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_an_image_that_crashes_the_decoder_is_undecodable_and_the_next_is_inspected(tmp_path: Path) -> None:
    lossless = write(tmp_path / "lossless.jpg", uniform_jpeg(3))
    plain = write(tmp_path / "plain.jpg", uniform_jpeg(0))
    with inspector() as inspect:
        rows = [inspect(path) for path in (plain, lossless, plain)]
    assert [(row["width"], row["problem_kind"]) for row in rows] == [(80, ""), (0, "undecodable"), (80, "")]
    assert len(rows[1]["sha256"]) == 64 and "crash" in rows[1]["problem"]


def test_an_image_that_blocks_the_decoder_is_undecodable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with inspector() as inspect:
        inspect(write(tmp_path / "plain.jpg", uniform_jpeg(0)))
        monkeypatch.setattr("carclf.dataset.inspector.SECONDS_PER_IMAGE", 0.2)
        row = inspect(write(tmp_path / "slow.jpg", b"block"))
    assert row["problem_kind"] == "undecodable" and "0.2 seconds" in row["problem"]


def test_an_exception_of_the_inspection_is_raised(tmp_path: Path) -> None:
    with inspector() as inspect, pytest.raises(OSError, match="as an example"):
        inspect(write(tmp_path / "a.jpg", b"fail"))


def test_killed_processes_lose_no_images(tmp_path: Path) -> None:
    """The system may end any process if memory is short."""
    random = np.random.default_rng(0)
    for number in range(100):
        (folder := tmp_path / "train" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{number}.png")

    def kill(done: int, total: int) -> None:
        if done == 1:  # twice could hit the same image, on a busy machine
            for process in active_children():
                os.kill(process.pid or 0, signal.SIGKILL)

    before = set(active_children())
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("train/*/*"))
    write_inspection(tmp_path, paths, tmp_path / "killed.parquet", CONFIG, kill)
    assert set(active_children()) == before
    write_inspection(tmp_path, paths, tmp_path / "plain.parquet", CONFIG)
    tables = [pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("killed", "plain")]
    pd.testing.assert_frame_equal(*tables)
    assert (tables[0]["problem"] == "").all()


def test_a_lossless_jpeg_costs_at_most_itself(tmp_path: Path) -> None:
    write(tmp_path / "train/0/lossless.jpg", uniform_jpeg(3))
    write(tmp_path / "train/1/plain.jpg", uniform_jpeg(0))
    paths = ["train/0/lossless.jpg", "train/1/plain.jpg"]
    write_inspection(tmp_path, paths, tmp_path / "index.parquet", CONFIG)
    index = pd.read_parquet(tmp_path / "index.parquet")
    assert index["problem"].tolist() == ["", ""]


def test_images_are_inspected_with_a_long_path_of_temporary_files(tmp_path: Path) -> None:
    """The path of a socket is limited to 108 bytes."""
    write(tmp_path / "train/0/a.jpg", uniform_jpeg(0))
    temporary = tmp_path / ("t" * 100)
    temporary.mkdir()
    program = ("import sys; from pathlib import Path; from carclf.config import Validation\n"
               "from carclf.dataset.indexing import write_inspection\n"
               "if __name__ == '__main__':\n"
               "    write_inspection(Path(sys.argv[1]), ['train/0/a.jpg'], Path(sys.argv[2]), Validation())\n")
    write(tmp_path / "program.py", program.encode())
    command = [sys.executable, tmp_path / "program.py", tmp_path, tmp_path / "index.parquet"]
    subprocess.run(command, check=True, env=os.environ | {"TMPDIR": str(temporary)})
    assert pd.read_parquet(tmp_path / "index.parquet")["problem"].tolist() == [""]


def test_an_unexpected_exception_of_the_inspection_is_a_crash_and_prints_nothing(tmp_path: Path) -> None:
    program = ("import sys; from contextlib import closing; from pathlib import Path\n"
               "from carclf.dataset.inspector import Inspector\n"
               "def fail(path, *, max_size): raise ValueError('planted')\n"
               "if __name__ == '__main__':\n"
               "    with closing(Inspector(fail)) as inspect: print(inspect(Path(sys.argv[1]))['problem'])\n")
    write(tmp_path / "program.py", program.encode())
    command = [sys.executable, tmp_path / "program.py", write(tmp_path / "a.jpg", b"")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "crash" in done.stdout
    assert done.stderr == ""


def test_the_inspection_in_a_process_is_the_same_as_in_this_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", uniform_jpeg(0))
    with inspector(partial(inspect_image, config=CONFIG)) as inspect:
        assert inspect(path) == inspect_image(path, CONFIG)


def test_a_script_that_the_processes_cannot_import_gets_an_explanation(tmp_path: Path) -> None:
    """Without the usual guard, each process runs the script again instead of inspecting images."""
    script = write(tmp_path / "script.py", b"""
from functools import partial
from pathlib import Path
from carclf.config import Validation
from carclf.dataset.inspection import inspect_image
from carclf.dataset.inspector import Inspector
Inspector(partial(inspect_image, config=Validation()))(Path("a.jpg"))
""")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "carclf.errors.ConfigError" in ended.stderr and "if __name__ == '__main__':" in ended.stderr
