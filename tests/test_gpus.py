"""What is asked of the GPUs: without one, and by a management library that stands in for two."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from otlp_receiver import otlp_receiver

from carclf.hardware import gpu_metrics, list_gpus
from carclf.training.trainer import _words

without_gpu = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
FIGURES = {"epoch": 2.0, "loss": 0.5, "accuracy": 0.75, "learning_rate": 0.001, "images_per_second": 812.0,
           "data_wait_fraction": 0.031, "memory_mb": 1066.0}
WORDS = "epoch 2, loss 0.500, accuracy 0.750, rate 0.001, 812.0 img/s, data wait 3.1%, 1066 MB"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).parent / "nvml.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", str(path), str(source)], check=True)
    return path.parent


def in_child(code: str, library: Path, **environment: str) -> str:
    own = {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": ":".join(sys.path), "PATH": os.defpath,
           "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", code], env=own | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@without_gpu
def test_without_a_gpu_nothing_is_known_and_nothing_is_said() -> None:
    assert (list_gpus(), gpu_metrics(), _words(FIGURES)) == ([], {}, WORDS)


def test_a_line_of_progress_says_what_the_gpu_does_as_far_as_it_is_known() -> None:
    assert _words(FIGURES | {"gpu_memory_mb": 30720.0}) == f"{WORDS}, GPU 30720 MB"
    assert _words(FIGURES | {"gpu_memory_mb": 30720.0, "gpu_utilization": 0.87}) == f"{WORDS}, GPU 30720 MB at 87%"


@pytest.mark.parametrize(("visible", "expected"), [
    (None, ["0"]), ("0,1", ["0"]), ("GPU-first", ["0"]), ("1", []), ("", []), ("7,0", []), ("-1", []),
])
def test_only_the_gpus_that_cuda_shows_are_asked_and_a_slice_that_cannot_say_is_left_out(
    library: Path, visible: str | None, expected: list[str]
) -> None:
    code = "import json; from carclf.hardware import gpus; print(json.dumps([vars(gpu) for gpu in gpus()]))"
    shown = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert json.loads(in_child(code, library, **shown)) == [
        {"name": name, "utilization": 0.87, "memory_used_bytes": 30 << 30, "memory_total_bytes": 80 << 30}
        for name in expected]


def test_what_the_gpus_do_is_among_the_metrics(library: Path) -> None:
    code = ("from carclf.services.telemetry import export_stage_metrics\n"
            "with export_stage_metrics('fine_tune', 'gpu', '2026-01-01T00:00:00+00:00') as report_outcome:\n"
            "    report_outcome('created', {})")
    with otlp_receiver() as receiver:
        in_child(code, library, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    labels = {"stage": "fine_tune", "recipe": "gpu", "hw.id": "0"}
    assert receiver.last("hw.gpu.utilization", **labels) == 0.87
    assert receiver.last("hw.gpu.memory.usage", **labels) == 30 << 30
    assert receiver.last("hw.gpu.memory.limit", **labels) == 80 << 30
