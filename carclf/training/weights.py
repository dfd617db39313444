"""Weights files and their identity, without the training framework, so that a reused stage does not load it."""

from pathlib import Path

from carclf.artifacts import cache_folder, file_sha256, fingerprint
from carclf.config import NAMED_WEIGHTS, require_weights
from carclf.errors import ConfigError
from carclf.services.storage import open_store
from carclf.temporary import temporary_folder


def weights_file(weights: str) -> Path:
    """Return the local copy of a weights file, given as a path or a store URL. Raise ConfigError if it is missing."""
    if "://" not in weights:
        return require_weights(weights)
    url, _, name = weights.rpartition("/")
    cache = cache_folder() / "weights"
    path = cache / fingerprint(url=url) / name
    with temporary_folder(cache) as work:
        try:
            open_store(url).download(name, work / name)  # every time: the file at the URL may have changed
        except KeyError as error:
            raise ConfigError(f"The file {weights} is missing. Set model.weights to an existing file.") from error
        path.parent.mkdir(exist_ok=True)
        (work / name).replace(path)
    return path


def weights_identity(weights: str) -> str:
    """Return the identity of the weights in a fingerprint: a name, or a file's content hash, whatever its path."""
    return weights if weights in NAMED_WEIGHTS else f"sha256:{file_sha256(weights_file(weights))}"
