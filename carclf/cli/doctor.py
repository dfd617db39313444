"""``carclf doctor``: check what a run needs before anything is spent."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from carclf.artifacts import cache_folder
from carclf.champion import champion_model
from carclf.cli.options import RecipeOption, SetOption, StoreOption, load_settings
from carclf.config import Config
from carclf.errors import CarclfError, ConfigError
from carclf.services.kaggle.client import KaggleClient
from carclf.services.storage import open_store

MIN_FREE_GB = 10


@dataclass(frozen=True)
class Check:
    """The result of a check: ``passed`` is None for a warning; ``text`` gives details or how to fix it."""

    name: str
    passed: bool | None
    text: str


def doctor(store_url: StoreOption = "store", recipe: RecipeOption = "gpu", set_: SetOption = []) -> None:
    """Check Kaggle, the store, the weights, the disk and the GPU; exit status 78 if something is missing."""
    checks = run_checks(load_settings(recipe, set_), store_url)
    for check in checks:
        mark = {True: "ok", False: "MISSING", None: "warning"}[check.passed]
        print(f"{check.name:<10}{mark:<10}{check.text}")
    if any(check.passed is False for check in checks):
        raise typer.Exit(ConfigError.exit_status)


def run_checks(config: Config, store_url: str) -> list[Check]:
    """Run all checks and return their results; a check that fails does not raise."""
    return [
        _run_check("Kaggle", lambda: _check_kaggle(config.competition)),
        _run_check("store", lambda: _check_store(store_url)),
        _run_check("weights", lambda: _check_weights(config, store_url)),
        _run_check("disk", _check_disk),
        _check_gpu(),
    ]


def _run_check(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except CarclfError as error:
        return Check(name, False, str(error))


def _check_kaggle(competition: str) -> str:
    return f"{KaggleClient(competition).check()} files in {competition}, rules accepted"


def _check_store(url: str) -> str:
    store = open_store(url)
    store.write("doctor/probe", b"written by carclf doctor")
    if store.read("doctor/probe") is None:
        raise ConfigError(f"An object was written to {url} but cannot be read back. Check the permissions.")
    return f"{url} is readable and writable"


def _check_weights(config: Config, store_url: str) -> str:
    weights = config.model.weights
    if weights == "none":
        return "model.weights=none: the backbone starts from random weights"
    if weights == "champion":
        return _check_champion_weights(store_url)
    from carclf.training.backbones import build_backbone

    build_backbone(config.model.backbone, weights, *config.model.image_size)
    return f"{config.model.backbone} can be loaded with weights {weights}"


def _check_champion_weights(store_url: str) -> str:
    from carclf.training.warm_start import require_single_backbone

    if (champion := champion_model(open_store(store_url))) is None:
        raise ConfigError(
            f"model.weights=champion, but {store_url} has no champion yet. Run once with model.weights=imagenet."
        )
    require_single_backbone(champion)
    return f"the champion's, {champion.key}"


def _check_disk() -> str:
    folder = cache_folder()
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < MIN_FREE_GB:
        raise ConfigError(
            f"{free_gb:.0f} GB are free in {folder}, but {MIN_FREE_GB} GB are needed. Free some space, or set "
            "CARCLF_CACHE to another folder."
        )
    return f"{free_gb:.0f} GB are free in {folder}"


def _check_gpu() -> Check:
    num_gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if not num_gpus:
        return Check("GPU", None, "none: training will be slow. On a CPU use the recipe demo or cpu.")
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return Check("GPU", None, f"{num_gpus}, but CUDA_VISIBLE_DEVICES hides them")
    return Check("GPU", True, str(num_gpus))
