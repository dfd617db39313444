"""What a run needs, checked before anything is spent."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from carclf.artifacts import cache_folder
from carclf.champion import champion_model
from carclf.config import Config
from carclf.errors import CarclfError, ConfigError
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import open_store

MIN_FREE_GB = 10


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether it passed (None: only a warning), and what was found or how to mend it."""

    name: str
    passed: bool | None
    text: str


def run_checks(config: Config, store_url: str) -> list[Finding]:
    """Run every check; none raises."""
    checks: dict[str, Callable[[], str | None]] = {
        "Kaggle": lambda: f"{KaggleClient(config.competition).check()} files in {config.competition}, rules accepted",
        "store": lambda: _store(store_url),
        "weights": lambda: _weights(config, store_url),
    }
    findings = [_examine(name, check) for name, check in checks.items()]
    return [*findings, _examine("disk", _disk), _gpu()]


def _examine(name: str, check: Callable[[], str | None]) -> Finding:
    try:
        return Finding(name, True, check() or "")
    except CarclfError as error:
        return Finding(name, False, str(error))


def _store(url: str) -> str:
    store = open_store(url)
    store.write("doctor/probe", b"written by carclf doctor")
    if store.read("doctor/probe") is None:
        raise ConfigError(f"{url} took an object and does not give it back. Check its permissions.")
    return f"{url} can be written and read"


def _weights(config: Config, store_url: str) -> str:
    if config.model.weights == "none":
        return "none wanted: the backbone starts at random"
    if config.model.weights == "champion":
        if (champion := champion_model(open_store(store_url))) is None:
            raise ConfigError(f"model.weights is 'champion', and {store_url} has none yet. Run once with 'imagenet'.")
        from carclf.training.warm_start import require_single_backbone

        require_single_backbone(champion)
        return f"those of the champion, {champion.key}"
    from carclf.training.backbones import build_backbone

    build_backbone(config.model.backbone, config.model.weights, *config.model.image_size)
    return f"{config.model.weights} of {config.model.backbone} can be loaded"


def _disk() -> str:
    free, text = shutil.disk_usage(cache_folder()).free / 1e9, f"GB free for {cache_folder()}"
    if free < MIN_FREE_GB:
        raise ConfigError(f"{free:.0f} {text}; {MIN_FREE_GB} GB are needed: free some, or set CARCLF_CACHE elsewhere.")
    return f"{free:.0f} {text}"


def _gpu() -> Finding:
    if seen := [path.name for path in Path("/dev").glob("nvidia[0-9]*")]:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
        text = f"{len(seen)} there, but CUDA_VISIBLE_DEVICES hides them" if hidden else f"{len(seen)} seen"
        return Finding("GPU", None if hidden else True, text)
    return Finding("GPU", None, "none seen: training will be slow. Use the recipe demo or cars10 on a CPU.")
