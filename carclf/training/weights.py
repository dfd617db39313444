"""Starting weights and their identity, without the training framework, so that a reused stage does not load it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from carclf.artifacts import cache_folder, file_sha256
from carclf.config import NAMED_WEIGHTS, require_weights
from carclf.errors import ConfigError
from carclf.services.huggingface.repository import MAX_TEXT_BYTES, REPOSITORY, HubRepository
from carclf.services.storage import open_store
from carclf.temporary import temporary_folder

CHECKPOINT = ".safetensors"
HUB_FILE = "model.safetensors"  # of every timm model on the Hugging Face Hub
CONFIG, README = "config.json", "README.md"
NUM_CHANNELS = 3
UNKNOWN = "unknown"
LICENSE = re.compile(r"\A---\n(?:(?!---).*\n)*?license: *['\"]?([\w.-]+)")  # in the header of a model's page


@dataclass(frozen=True)
class CheckpointConfig:
    """The content of timm's ``config.json`` for a checkpoint.

    ``mean`` and ``std`` normalize RGB values in [0, 1]. ``license`` is an SPDX identifier in lower case, "other" or
    "unknown".
    """

    architecture: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    license: str

    @classmethod
    def read(cls, weights: str, read_file: Callable[[str], bytes | None]) -> "CheckpointConfig":
        """Read the ``config.json`` of a checkpoint, and its model's page if only that states the license.

        ``read_file`` returns the content of the file with a name next to the checkpoint, or None if it is missing.
        Raise ConfigError if ``config.json`` is missing or invalid.
        """
        try:
            content = json.loads(read_file(CONFIG) or b"")
            pretrained = content["pretrained_cfg"]
            mean, std = (tuple(map(float, pretrained[name])) for name in ("mean", "std"))
            if not (len(mean) == len(std) == NUM_CHANNELS and all(map(isfinite, mean + std)) and min(std) > 0):
                raise ValueError(f"mean = {mean}, std = {std}")
            stated = str(pretrained.get("license") or _page_license(read_file(README)))
            return cls(str(content["architecture"]), mean, std, stated.lower())
        except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            raise ConfigError(f"The {CONFIG} of {weights} is missing or not one of timm ({type(error).__name__}: "
                              f"{error}). A {CHECKPOINT} checkpoint needs it in the same folder, for the "
                              "architecture, mean and deviation. Download it from the model's page.") from error


@dataclass(frozen=True)
class StartingWeights:
    """The weights that a backbone starts from, read once, so that a model has the weights that its key names.

    ``setting`` is model.weights. ``path`` and ``sha256`` are those of its local file, and None and empty for named
    weights. ``checkpoint`` is None unless the file is one of timm.
    """

    setting: str
    path: Path | None = None
    sha256: str = ""
    checkpoint: CheckpointConfig | None = None

    @property
    def identity(self) -> str:
        """The name, or the content of the file, whatever its path; of a checkpoint also mean and standard deviation."""
        if self.path is None:
            return self.setting
        normalization = f" mean={self.checkpoint.mean} std={self.checkpoint.std}" if self.checkpoint else ""
        return f"sha256:{self.sha256}{normalization}"

    @property
    def license(self) -> str:
        """The license of a checkpoint; "unknown" for other files, and empty for named weights."""
        if self.path is None:
            return ""
        return self.checkpoint.license if self.checkpoint else UNKNOWN


def starting_weights(weights: str) -> StartingWeights:
    """Return the weights of a name, a path, a store URL or ``hf://owner/repository[@revision]``, as they are now.

    Raise ConfigError if a file is missing, or not a file of Keras or safetensors: others, such as those of PyTorch,
    can execute code when they are loaded.
    """
    if weights in NAMED_WEIGHTS:
        return StartingWeights(weights)
    if REPOSITORY.fullmatch(weights):
        return _from_hub(weights)
    if "://" in weights:
        return _from_store(weights)
    path = local_weights(weights)
    config = _config_of(path.name, str(path), lambda name: _read_local(path.with_name(name)))
    return StartingWeights(weights, path, file_sha256(path), config)


def local_weights(weights: str) -> Path:
    """Return the file of a path; raise ConfigError if it is missing, or not a file of Keras or safetensors."""
    return _require_safe_type(require_weights(weights))


def _from_hub(weights: str) -> StartingWeights:
    repository = HubRepository(weights)
    config = _config_of(HUB_FILE, weights, repository.read)
    downloaded = repository.download(HUB_FILE, cache_folder() / "weights")
    if downloaded is None:
        raise ConfigError(f"{weights} has no {HUB_FILE}. Set model.weights to a repository of timm with it; pickled "
                          "checkpoints are never loaded.")
    return StartingWeights(weights, *downloaded, config)


def _from_store(weights: str) -> StartingWeights:
    url, _, name = weights.rpartition("/")
    store = open_store(url)
    _require_safe_type(Path(name))

    def read_file(key: str) -> bytes | None:
        return current.data if (current := store.read(key)) else None

    config = _config_of(name, weights, read_file)
    folder = cache_folder() / "weights"
    with temporary_folder(folder) as work:
        try:
            store.download(name, work / name)  # every time: the file at the URL may have changed
        except KeyError as error:
            raise ConfigError(f"The file {weights} is missing. Set model.weights to an existing file.") from error
        sha256 = file_sha256(work / name)
        path = folder / sha256 / name
        path.parent.mkdir(exist_ok=True)
        (work / name).replace(path)
    return StartingWeights(weights, path, sha256, config)


def _config_of(name: str, weights: str, read_file: Callable[[str], bytes | None]) -> CheckpointConfig | None:
    return CheckpointConfig.read(weights, read_file) if name.endswith(CHECKPOINT) else None


def _read_local(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(MAX_TEXT_BYTES)


def _require_safe_type(path: Path) -> Path:
    if path.suffix not in (".h5", CHECKPOINT):
        raise ConfigError(f"model.weights: {path.name} is not a .weights.h5 file of Keras or a {CHECKPOINT} file. "
                          "Files of PyTorch (.pth, .pt, .bin, .ckpt) can execute code and are never loaded: convert "
                          f"them to {CHECKPOINT} with the safetensors library.")
    return path


def _page_license(readme: bytes | None) -> str:
    """Return the license in the header of a model's page."""
    match = LICENSE.match((readme or b"").decode(errors="replace"))
    return match[1] if match else UNKNOWN
