"""What the record of a run says of where a stage ran."""

import json
import subprocess
import sys

import pytest

from carclf.hardware import describe_machine, package_versions


def test_the_processor_and_the_flags_that_change_figures_are_named_and_no_secret_is(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XLA_FLAGS", "TF_DETERMINISTIC_OPS", "AWS_SECRET_ACCESS_KEY", "KAGGLE_KEY", "NVIDIA_API_KEY"):
        monkeypatch.setenv(name, "1")
    found = describe_machine()
    assert found["cores"] >= 1 and found["memory_gb"] > 0.1 and found["processor"] and found["system"]
    assert {"XLA_FLAGS", "TF_DETERMINISTIC_OPS"} <= found["flags"].keys()
    assert not {name for name in found["flags"] if "KEY" in name}
    json.dumps(found)


def test_versions_are_those_of_the_packages_that_are_there() -> None:
    assert package_versions()["keras"].startswith("3.") and set(package_versions()) >= {"python", "tensorflow", "numpy", "grain"}


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.acceptance)])
def test_the_backend_is_named_only_where_something_was_computed(backend: str) -> None:
    code = ("import json; from carclf.hardware import machine; before = machine(); import keras; "
            "print(json.dumps([before['backend'], machine()['backend'], machine()['gpu']]))")
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": "", "KERAS_BACKEND": backend},
                          capture_output=True, text=True)
    assert json.loads(done.stdout) == ["", backend, ""], done.stderr[-2000:]
