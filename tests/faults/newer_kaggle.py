"""The fault matrix against a newer Kaggle client, in a folder that is thrown away: ``make test-kaggle-newer``."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

WANTED = "kaggle>=2.2.5"
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """0 where the matrix holds with the newer client, or where that client cannot be had; that is said."""
    with tempfile.TemporaryDirectory(prefix="carclf-kaggle-") as folder:
        install = [Path(sys.executable).parent / "uv", "pip", "install", "-q", "-p", sys.executable, "--target", folder]
        installed = subprocess.run([*install, WANTED, "six"], capture_output=True, text=True)
        if installed.returncode:
            print(f"NOT RUN: {WANTED} cannot be installed here, so nothing is said about it:\n{installed.stderr}")
            return 0
        path = os.pathsep.join([folder, str(ROOT), os.environ.get("PYTHONPATH", "")])
        matrix = [sys.executable, "-m", "pytest", "-q", "tests/faults/test_kaggle_matrix.py"]
        return subprocess.run(matrix, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}).returncode


if __name__ == "__main__":
    sys.exit(main())
