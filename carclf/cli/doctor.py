"""``carclf doctor``: check the requirements of a run before it starts."""

import json
import os
import resource
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import typer

from carclf.artifacts import cache_folder
from carclf.champion import champion_model, read_state
from carclf.cli.options import JsonOption, ReadingRecipeOption, SetOption, StoreOption
from carclf.config import POLICY_VARIABLE, THRESHOLDS, Config, Policy, load_policy, load_settings
from carclf.config.sources import require_source
from carclf.dataset.listing import list_source, open_listed
from carclf.dataset.source_files import ArchiveFile
from carclf.errors import CarclfError, ConfigError
from carclf.formatting import format_count
from carclf.os_errors import MIN_OPEN_FILES, os_error_message, require_shared_memory
from carclf.progress import log
from carclf.redaction import kaggle_files
from carclf.services.kaggle.client import KaggleClient
from carclf.services.kaggle.datasets import DatasetClient
from carclf.services.storage import require_store
from carclf.training.warm_start import require_single_backbone
from carclf.training.weights import starting_weights

MIN_FREE_GB = 10
MISSING = "MISSING"


def doctor(
    store_url: StoreOption = "store", recipe: ReadingRecipeOption = "gpu", set_: SetOption = [],
    as_json: JsonOption = False,
) -> None:
    """Check Kaggle, the store, the weights, the disk and the GPU; exit status 78 if something is missing.

    Also print the policy (CARCLF_POLICY), which limits the settings of runs.
    """
    results = _check_settings(recipe, set_, store_url) | {
        "secrets": _check_secrets(),
        "store": _run_check(lambda: _check_store(store_url)),
        "disk": _run_check(_check_disk),
        "GPU": _check_gpu(),
        "policy": _check_policy(),
    }
    if as_json:
        checks = {name: {"state": mark, "text": text} for name, (mark, text) in results.items()}
        policy = None if results["policy"][0] == MISSING else load_policy().model_dump()
        print(json.dumps({"checks": checks, "policy": policy}, indent=1))
    else:
        print(*(f"{name:<10}{mark:<10}{text}" for name, (mark, text) in results.items()), sep="\n")
    if any(mark == MISSING for mark, _ in results.values()):
        raise typer.Exit(ConfigError.exit_status)


def _check_settings(recipe: str, overrides: list[str], store_url: str) -> dict[str, tuple[str, str]]:
    """Return the checks that need the settings by name; if the settings are invalid or not allowed, only that."""
    try:
        config = load_settings(recipe, overrides)
    except ConfigError as error:
        return {"settings": (MISSING, str(error))}
    return {
        "source": _run_check(lambda: _check_source(config)),
        "Kaggle": _run_check(lambda: _check_kaggle(config)),
        "weights": _run_check(lambda: _check_weights(config, store_url)),
        "system": _run_check(lambda: _check_system(config)),
    }


def _run_check(check: Callable[[], str]) -> tuple[str, str]:
    """Return a mark and the details, or the fix for what is missing."""
    try:
        return "ok", check()
    except CarclfError as error:
        return MISSING, str(error)
    except OSError as error:
        return MISSING, os_error_message(error, []) or str(error)


def _check_policy() -> tuple[str, str]:
    """Return what the policy limits; a warning if a run could bypass the limit of a threshold by another metric."""
    mark, text = _run_check(lambda: _describe_policy(load_policy()))
    limits = {} if mark == MISSING else load_policy().limits
    missing = [name for name in THRESHOLDS if name not in limits]
    if len(missing) == 1 and limits.get("data.metric", "auto") == "auto":
        return "warning", (f"{text}. A run with another data.metric has no limit of its threshold: fix data.metric, or "
                           f"add {missing[0]}.")
    return mark, text


def _describe_policy(policy: Policy) -> str:
    if not policy.file:
        return f"none: {POLICY_VARIABLE} is not set, so a run may change every setting"
    return f"{policy.file}: {'; '.join(policy.describe()) or 'it limits nothing'}"


def _check_source(config: Config) -> str:
    """List a folder, a bucket or the volumes of an archive as a run does."""
    source = require_source(config.data.source)
    if source.kind == "file":
        return f"{format_count(len(ArchiveFile(source.name).paths), 'file')} of the archive {source.name}"
    if source.kind in ("folder", "bucket"):
        files = list_source(open_listed(source))
        return f"{format_count(len(files.entries), 'file')} in {source.name}"
    return f"{source.name}, a {source.kind} on Kaggle"


def _check_kaggle(config: Config) -> str:
    source = require_source(config.data.source)
    if source.kind == "dataset":
        return f"version {DatasetClient(source.name).resolve(source.version)} of {source.name} is ready"
    if source.kind != "competition":
        return f"not needed: data.source is a {source.kind}"
    kaggle = KaggleClient(source.name)
    obstacle = kaggle.details().submission_obstacle
    accepted = f"{format_count(kaggle.check_access(), 'file')} in {source.name}, rules accepted"
    return f"{accepted}; no submission: {obstacle}" if obstacle else accepted


def _check_secrets() -> tuple[str, str]:
    """Return a warning if other users can read a file with credentials."""
    files = [path for path in kaggle_files() if os.access(path, os.R_OK)]
    if readable := [str(path) for path in files if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)]:
        return "warning", f"other users can read {', '.join(readable)}: run chmod 600 {shlex.join(readable)}"
    return "ok", "no other user can read a file with Kaggle's credentials"


def _check_store(url: str) -> str:
    store = require_store(url)
    store.write("doctor/probe", b"written by carclf doctor")
    if store.read("doctor/probe") is None:
        raise ConfigError(f"An object was written to {url} but cannot be read back. Check the permissions.")
    read_state(store)  # raises DataError if champion.json is damaged
    return f"{store.url} is readable and writable"


def _check_weights(config: Config, store_url: str) -> str:
    weights = config.model.weights
    if weights == "none":
        return "model.weights=none: the backbone starts from random weights"
    if weights == "champion":
        return _check_champion_weights(store_url)
    from carclf.training.backbones import build_backbone

    log.info("doctor: loading %s with weights %s; they are downloaded if they are missing", config.model.backbone,
             weights)
    build_backbone(config.model.backbone, starting_weights(weights), *config.model.image_size)
    return f"{config.model.backbone} can be loaded with weights {weights}"


def _check_champion_weights(store_url: str) -> str:
    if (champion := champion_model(require_store(store_url))) is None:
        raise ConfigError(f"model.weights=champion, but {store_url} has no champion yet. Run once with "
                          "model.weights=imagenet.")
    require_single_backbone(champion)
    return f"weights of the champion {champion.key}"


def _check_disk() -> str:
    folder = cache_folder()
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < MIN_FREE_GB:
        raise ConfigError(f"{free_gb:.0f} GB are free in {folder}, but {MIN_FREE_GB} GB are needed. Free some space, "
                          "or set CARCLF_CACHE to another folder.")
    return f"{free_gb:.0f} GB are free in {folder}"


def _check_system(config: Config) -> str:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < MIN_OPEN_FILES:
        raise ConfigError(f"A process may open {limit} files, but {MIN_OPEN_FILES} are needed. Raise the limit with "
                          f"`ulimit -n {MIN_OPEN_FILES}`.")
    if config.fine_tune.num_workers:
        require_shared_memory()
    return f"up to {limit} open files; temporary files in {tempfile.gettempdir()}"


def _check_gpu() -> tuple[str, str]:
    num_gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if not num_gpus:
        return "warning", "none: training will be slow. On a CPU, use the recipe cpu."
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return "warning", f"{num_gpus}, but CUDA_VISIBLE_DEVICES hides them"
    return "ok", str(num_gpus)
