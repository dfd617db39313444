"""The description of the machine and its GPUs: without one, and with a fake management library of two."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from otlp_receiver import otlp_receiver

from carclf.hardware import describe_machine, gpu_metrics, list_gpus, package_versions

without_gpu = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")


def run_python(code: str, environment: dict[str, str]) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a compiled fake of NVIDIA's management library."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).parent / "nvml.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", str(path), str(source)], check=True)
    return path.parent


def run_with_gpus(code: str, library: Path, **environment: str) -> str:
    base = {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": ":".join(sys.path), "PATH": os.defpath,
            "NO_PROXY": "127.0.0.1"}
    return run_python(code, base | environment)


def test_the_environment_has_the_backends_variables_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XLA_FLAGS", "TF_DETERMINISTIC_OPS", "AWS_SECRET_ACCESS_KEY", "KAGGLE_KEY", "NVIDIA_API_KEY"):
        monkeypatch.setenv(name, "1")
    machine = describe_machine()
    assert machine["cores"] >= 1 and machine["memory_gb"] > 0.1 and machine["processor"] and machine["system"]
    assert {"XLA_FLAGS", "TF_DETERMINISTIC_OPS"} <= machine["environment"].keys()
    assert not {name for name in machine["environment"] if "KEY" in name}
    json.dumps(machine)


def test_versions_are_those_of_the_installed_packages() -> None:
    versions = package_versions()
    assert versions["keras"].startswith("3.") and set(versions) >= {"python", "tensorflow", "numpy", "grain"}


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.acceptance)])
def test_the_backend_is_only_named_if_keras_was_imported(backend: str) -> None:
    code = (
        "import json; from carclf.hardware import describe_machine; before = describe_machine(); import keras; "
        "after = describe_machine(); print(json.dumps([before['backend'], after['backend'], after['gpu']]))"
    )
    environment = {"PATH": "", "KERAS_BACKEND": backend, "PYTHONPATH": ":".join(sys.path)}
    assert json.loads(run_python(code, environment)) == ["", backend, ""]


@without_gpu
def test_without_a_gpu_there_are_no_gpu_metrics() -> None:
    assert (list_gpus(), gpu_metrics()) == ([], {})


@pytest.mark.parametrize(("visible", "expected"), [
    (None, ["0"]), ("0,1", ["0"]), ("GPU-first", ["0"]), ("1", []), ("", []), ("7,0", []), ("-1", []),
])
def test_only_visible_gpus_that_report_their_utilization_are_listed(
    library: Path, visible: str | None, expected: list[str]
) -> None:
    """The second GPU of the library is a MIG slice, which reports no utilization."""
    code = (
        "import json; from carclf.hardware import list_gpus; print(json.dumps([vars(gpu) for gpu in list_gpus()]))"
    )
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert json.loads(run_with_gpus(code, library, **environment)) == [
        {"name": name, "utilization": 0.87, "memory_used_bytes": 30 << 30, "memory_total_bytes": 80 << 30}
        for name in expected
    ]


def test_telemetry_exports_the_gpus_utilization_and_memory(library: Path) -> None:
    code = (
        "from carclf.services.telemetry import export_stage_metrics as export\n"
        "with export('fine_tune', 'gpu', '2026-01-01T00:00:00+00:00') as ended: ended('created', {})"
    )
    with otlp_receiver() as receiver:
        run_with_gpus(code, library, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    labels = {"stage": "fine_tune", "recipe": "gpu", "hw.id": "0"}
    assert receiver.last("hw.gpu.utilization", **labels) == 0.87
    assert receiver.last("hw.gpu.memory.usage", **labels) == 30 << 30
    assert receiver.last("hw.gpu.memory.limit", **labels) == 80 << 30
