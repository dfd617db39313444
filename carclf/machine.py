"""What a stage ran on and with, as far as it can change a figure: for the record of the run."""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("carclf", "keras", "tensorflow", "jax", "numpy", "albumentations", "grain", "opencv-python-headless",
            "simplejpeg")
# Of the environment: what changes how the backend computes. No secret begins with these.
FLAGS = re.compile(r"(TF|XLA|KERAS|CUDA|OMP|OPENBLAS)_\w+")


def machine() -> dict[str, Any]:
    """``system``, ``processor``, ``cores`` (this process may use), ``memory_gb``, ``gpu``, ``backend`` ("" for the last
    two where nothing was computed), ``versions`` of the packages that are there, ``flags`` of the environment."""
    return {
        "system": platform.platform(), "processor": _processor(), "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1), "gpu": _gpu(), "backend": _backend(),
        "versions": versions(),
        "flags": {name: value for name, value in sorted(os.environ.items()) if FLAGS.fullmatch(name)},
    }


def versions() -> dict[str, str]:
    """The versions of what decides a figure, by package, and of Python."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # jax, where nobody trains with it
            continue
    return found


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _backend() -> str:
    return str(sys.modules["keras"].backend.backend()) if "keras" in sys.modules else ""


def _gpu() -> str:
    """The GPU that this process computes on, "" where it computes on none; a reused stage loads nothing to know."""
    if "keras" not in sys.modules:
        return ""
    from carclf.training.strategies import gpu_name

    return gpu_name()
