"""Hide what TensorFlow, absl and CUDA print when TensorFlow is imported and searches for GPUs."""

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
ERRORS_ONLY = "2"
STDERR = 2
# Lines of native code, at any level below fatal. Others, such as log lines of other threads, are printed afterwards.
NATIVE_LINE = re.compile(
    rb"WARNING: All log messages before absl|[IWE]\d{4} \d\d:|\d{4}-\d\d-\d\d .*: [IWE] |To enable the following"
)


def hide_startup_messages() -> None:
    """Hide the messages of the next import of TensorFlow, unless TF_CPP_MIN_LOG_LEVEL has a value.

    TensorFlow 2.21 prints messages of its native libraries before it reads the variable
    (https://github.com/tensorflow/tensorflow/issues/100442), so stderr itself is redirected meanwhile.
    """
    if not os.environ.get(LEVEL_VARIABLE):
        os.environ[LEVEL_VARIABLE] = ERRORS_ONLY
        sys.meta_path.insert(0, _QuietImport())


class _QuietImport(MetaPathFinder):
    """Imports TensorFlow, once, and lets it search for GPUs, without its output."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's own spec with a loader that hides the output; None for other modules."""
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        if (spec := importlib.util.find_spec(fullname)) is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_quietly(module: ModuleType) -> None:
            with quiet_stderr():
                execute(module)
                module.config.list_physical_devices()  # without CUDA, it reports an error

        spec.loader.exec_module = execute_quietly  # type: ignore[method-assign]
        return spec


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Redirect stderr to a file; then print its lines that are not of native code, or all if the block raises."""
    sys.stderr.flush()
    saved = os.dup(STDERR)
    failed = True
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), STDERR)
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(saved, STDERR)
            os.close(saved)
            hidden.seek(0)
            os.write(STDERR, b"".join(line for line in hidden if failed or not NATIVE_LINE.match(line)))
