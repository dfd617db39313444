"""Files of weights, without the training framework: a reused stage asks for their identity only."""

from pathlib import Path

from carclf.artifacts import cache_folder, file_sha256, fingerprint
from carclf.config import NAMED_WEIGHTS, require_weights
from carclf.errors import ConfigError
from carclf.services.storage import open_store


def weights_file(weights: str) -> Path:
    """The local file of a path or store URL; ConfigError where there is none."""
    if "://" not in weights:
        return require_weights(weights)
    url, _, name = weights.rpartition("/")
    path = cache_folder() / "weights" / fingerprint(url=url) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        open_store(url).download(name, path)  # anew each time: another file may stand there now
    except KeyError as error:
        raise ConfigError(f"model.weights: there is nothing at {weights}.") from error
    return path


def weights_identity(weights: str) -> str:
    """What a fingerprint knows the weights by: a name, or a file's content, so that a moved file changes no key."""
    return weights if weights in NAMED_WEIGHTS else f"sha256:{file_sha256(weights_file(weights))}"
