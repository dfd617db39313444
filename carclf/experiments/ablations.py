"""Ablations: named changes to the settings of the baseline recipe.

They cover the ideas of the original notebook and of published solutions. Of two opposite ablations, the one that
matches the recipe changes nothing.
"""

from typing import Any, get_args

from carclf.config import Backbone

NO_AUGMENTATION = {
    "augment.crop_scale": 1.0, "augment.flip": False, "augment.aspect_jitter": 0.0, "augment.rotate_degrees": 0.0,
    "augment.color": 0.0, "head.num_views": 1,
}

ABLATIONS: dict[str, dict[str, Any]] = {
    "no-augmentation": NO_AUGMENTATION,
    "crops-and-flips-only": {"augment.aspect_jitter": 0.0, "augment.rotate_degrees": 0.0, "augment.color": 0.0},
    "strong-augmentation": {"augment.crop_scale": 0.3, "augment.color": 0.4, "augment.rotate_degrees": 10},
    "trivial-augment": {"augment.trivial": True},
    "random-erasing": {"augment.erasing": 0.25},
    "half-crops": {"augment.half_crop": 0.25},
    "head-with-batch-norm": {"model.batch_norm": True},
    "head-without-batch-norm": {"model.batch_norm": False},
    "hidden-layer": {"model.hidden_units": 256},
    "no-hidden-layer": {"model.hidden_units": 0},
    "frozen": {"fine_tune.epochs": 0},
    "half-unfrozen": {"fine_tune.unfrozen_fraction": 0.5},
    "all-unfrozen": {"fine_tune.unfrozen_fraction": 1.0},
    "gradual-unfreezing": {"fine_tune.num_phases": 3},
    "batch-norm-affine": {"fine_tune.batch_norm": "affine"},
    "batch-norm-training": {"fine_tune.batch_norm": "training"},
    "batch-16": {"fine_tune.batch_size": 16},
    "batch-32": {"fine_tune.batch_size": 32},
    "batch-64": {"fine_tune.batch_size": 64},
    "plateau": {"fine_tune.schedule": "plateau", "fine_tune.warmup_fraction": 0.0},
    "cosine": {"fine_tune.schedule": "cosine", "fine_tune.warmup_fraction": 0.15},
    "layer-decay": {"fine_tune.layer_decay": 0.9},
    "size-224": {"model.image_height": 224, "model.image_width": 224},
    "size-192x384": {"model.image_height": 192, "model.image_width": 384},
    "size-384x512": {"model.image_height": 384, "model.image_width": 512},
    "size-480x640": {"model.image_height": 480, "model.image_width": 640},
    "smaller-training": {"fine_tune.size_fraction": 0.83},
    "progressive-resizing": {"fine_tune.num_phases": 3, "fine_tune.size_fraction": 0.6},
    "label-smoothing": {"fine_tune.label_smoothing": 0.1, "head.label_smoothing": 0.05},
    "no-label-smoothing": {"fine_tune.label_smoothing": 0.0, "head.label_smoothing": 0.0},
    "mixup": {"fine_tune.mixup": 0.5},
    "cutmix": {"fine_tune.cutmix": 0.5},
    "no-drop-path": {"fine_tune.drop_path": 0.0},
    "ema": {"fine_tune.ema_fraction": 0.04},
    "no-ema": {"fine_tune.ema_fraction": 0.0},
    "longer": {"fine_tune.epochs": 20},
    "single-view": {"evaluate.flip_tta": False, "evaluate.zooms": "1"},
    "flip-view": {"evaluate.flip_tta": True, "evaluate.zooms": "1"},
    "flip-and-zoom-views": {"evaluate.flip_tta": True, "evaluate.zooms": "1,1.15"},
    **{f"backbone-{name}": {"model.backbone": name} for name in get_args(Backbone) if name != "Tiny"},
}
# A recipe without a training: it averages the probabilities of other recipes, by default of the baseline's seeds.
ENSEMBLE = "ensemble"
