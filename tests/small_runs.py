"""Runs of real stages on a few rendered cars, in seconds."""

import pytest

from carclf.config import load_config
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
