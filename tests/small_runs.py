"""Runs of real stages on a few rendered cars, in seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carclf.config import load_config
from carclf.demo.rendering import render_competition
from carclf.evaluation import reload_check
from carclf.inference.runtimes import LOADERS
from carclf.runs.run import Run
from carclf.services.storage import Store

SMALL = {
    "data.source": "cars", "audit.enabled": False, "head.epochs": 3, "head.num_views": 1, "fine_tune.epochs": 0,
    "gate.threshold": 0, "gate.min_recall": 0, "gate.max_calibration_error": 1, "gate.champion_rule": "off",
    "submit.enabled": False, "split.val_fraction": 0.3,
    "validation.min_images_per_class": 5, "validation.max_unusable_fraction": 0.5,
}
FOLDS = {"split.num_folds": 2, "evaluate.flip_tta": False}


def render_car_folders(folder: Path) -> Path:
    """Render 80 cars into a folder; return the folder with a folder of images for each class."""
    render_competition(folder, num_train=80, num_test=10)
    return folder / "train"


@contextmanager
def evaluation_in_this_process(cache: Path) -> Iterator[None]:
    """Use a cache of its own, and reload models in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARCLF_CACHE", str(cache))
        reload_in_this_process(patch)
        yield


def reload_in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Let evaluations reload models in this process, which saves the imports of another one (six CPU seconds).

    ``tests/evaluation/test_evaluate.py`` reloads a model in a new process.
    """
    patch.setattr(reload_check, "predict_logits", lambda name, path, images: LOADERS[name](path)(images))


def run_to(last: str, store: Store, name: str, **settings: object) -> Run:
    """Run the stages of a new run up to ``last``."""
    run = Run.start_or_resume(name, store, "demo", load_config("demo", SMALL | settings))
    for stage in run.stages[: run.stages.index(last) + 1]:
        run.run_stage(stage)
    return run
