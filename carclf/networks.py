"""Read a network from a file without executing code that the file contains."""

import errno
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from carclf.errors import DataError

if TYPE_CHECKING:
    import keras

MAX_REASON = 300  # characters of Keras' message, which quotes the whole configuration of the model
# What Keras raises for configurations and weights that are not valid. The errors of a device, such as no memory, are
# not among them.
INVALID = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError, OSError,
           RecursionError, TypeError, ValueError, zipfile.BadZipFile)


def load_network(path: Path) -> "keras.Model":
    """Return the network of a ``.keras`` file, uncompiled.

    Raise DataError if the file is damaged, contains Python code (a Lambda layer, a pickle), or needs objects that are
    not Keras' own. None of its code is executed.
    """
    import keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except INVALID as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE):
            raise
        reason = " ".join(str(error).split())[:MAX_REASON]
        raise DataError(f"{path} is not a model file that can be loaded: {type(error).__name__}: {reason}. Expected a "
                        ".keras file with layers of Keras only. Restore it from a backup, or train again.") from error
