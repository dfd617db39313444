"""Weights files and their identity, without the training framework, so that a reused stage does not load it."""

import json
import re
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from carclf.artifacts import cache_folder, file_sha256, fingerprint
from carclf.config import NAMED_WEIGHTS, require_weights
from carclf.errors import ConfigError
from carclf.services.huggingface.download import REPOSITORY, download_file
from carclf.services.storage import open_store
from carclf.temporary import temporary_folder

CHECKPOINT = ".safetensors"
HUB_FILE = "model.safetensors"  # of every timm model on the Hugging Face Hub
CONFIG, README = "config.json", "README.md"
MAX_TEXT_BYTES = 1_000_000
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
    def read(cls, checkpoint: Path) -> "CheckpointConfig":
        """Read the ``config.json`` in the folder of a checkpoint; raise ConfigError if it is missing or invalid."""
        path = checkpoint.with_name(CONFIG)
        try:
            content = json.loads(_read_text(path))
            pretrained = content["pretrained_cfg"]
            mean, std = (tuple(map(float, pretrained[name])) for name in ("mean", "std"))
            if not (len(mean) == len(std) == NUM_CHANNELS and all(map(isfinite, mean + std)) and min(std) > 0):
                raise ValueError(f"mean = {mean}, std = {std}")
            return cls(str(content["architecture"]), mean, std, _license(pretrained, checkpoint.with_name(README)))
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise ConfigError(f"{path} is missing or not a config.json of timm ({type(error).__name__}: {error}). A "
                              f"{CHECKPOINT} checkpoint needs it in the same folder: it names the architecture, mean "
                              "and standard deviation. Download it from the model's page.") from error


def weights_file(weights: str) -> Path:
    """Return the local copy of a weights file, given as a path, a store URL or ``hf://owner/repository[@revision]``.

    The ``config.json`` of a checkpoint is in the same folder. Raise ConfigError if a file is missing, or not a file of
    Keras or safetensors: others, such as those of PyTorch, can execute code when they are loaded.
    """
    if "://" not in weights:
        return _require_safe_type(require_weights(weights))
    if REPOSITORY.fullmatch(weights):
        return _hub_file(weights)
    url, _, name = weights.rpartition("/")
    cache = cache_folder() / "weights"
    store = open_store(url)
    path = _require_safe_type(cache / fingerprint(url=url) / name)
    names = [name, CONFIG, README] if path.suffix == CHECKPOINT else [name]
    with temporary_folder(cache) as work:
        for file in names:
            try:
                store.download(file, work / file)  # every time: the file at the URL may have changed
            except KeyError as error:
                if file == name:
                    raise ConfigError(f"The file {weights} is missing. Set model.weights to an existing "
                                      "file.") from error
        path.parent.mkdir(exist_ok=True)
        _replace(work, path.parent, names)
    return path


def weights_identity(weights: str) -> str:
    """Return the identity of the weights in a fingerprint: a name, or a file's content hash, whatever its path.

    The identity of a checkpoint also contains the mean and standard deviation.
    """
    if weights in NAMED_WEIGHTS:
        return weights
    path = weights_file(weights)
    identity = f"sha256:{file_sha256(path)}"
    if path.suffix != CHECKPOINT:
        return identity
    config = CheckpointConfig.read(path)
    return f"{identity} mean={config.mean} std={config.std}"


def read_license(weights: str) -> str:
    """Return the license of a checkpoint; "unknown" for other files, and an empty string for named weights."""
    if weights in NAMED_WEIGHTS:
        return ""
    path = weights_file(weights)
    return CheckpointConfig.read(path).license if path.suffix == CHECKPOINT else UNKNOWN


def _hub_file(weights: str) -> Path:
    folder = cache_folder() / "weights" / fingerprint(repository=weights)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, HUB_FILE):
        if not download_file(weights, name, folder / name):
            raise ConfigError(f"{weights} has no {name}. Set model.weights to a repository of timm with "
                              f"{HUB_FILE}; pickled checkpoints are never loaded.")
    download_file(weights, README, folder / README)
    return folder / HUB_FILE


def _replace(source: Path, target: Path, names: list[str]) -> None:
    """Move the files that exist in ``source`` to ``target``, and remove the others there."""
    for name in names:
        if (source / name).exists():
            (source / name).replace(target / name)
        else:
            (target / name).unlink(missing_ok=True)


def _require_safe_type(path: Path) -> Path:
    if path.suffix not in (".h5", CHECKPOINT):
        raise ConfigError(f"model.weights: {path.name} is not a .weights.h5 file of Keras or a {CHECKPOINT} file. "
                          "Files of PyTorch (.pth, .pt, .bin, .ckpt) can execute code and are never loaded: convert "
                          f"them to {CHECKPOINT} with the safetensors library.")
    return path


def _license(pretrained: dict[str, Any], readme: Path) -> str:
    """Return the license in timm's configuration, or in the header of the model's page."""
    if name := str(pretrained.get("license", "")):
        return name.lower()
    match = LICENSE.match(_read_text(readme)) if readme.is_file() else None
    return match[1].lower() if match else UNKNOWN


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_TEXT_BYTES).decode(errors="replace")
