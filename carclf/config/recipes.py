"""The recipes: each holds only what differs from the defaults."""

from typing import Any

# Each recipe says only what differs from the defaults above. Sources: facts of the published solutions.
RECIPES: dict[str, dict[str, Any]] = {
    "gpu": {},
    "baseline-xception": {
        "model.backbone": "Xception", "model.image_height": 224, "model.image_width": 224,
        "model.hidden_units": 256, "head.num_views": 1, "head.label_smoothing": 0.0, "head.num_trials": 1,
        "head.learning_rate": 1e-3, "head.weight_decay": 1e-3,
        "fine_tune.schedule": "plateau", "fine_tune.learning_rate": 1e-4, "fine_tune.weight_decay": 0.0,
        "fine_tune.warmup_fraction": 0.0, "fine_tune.label_smoothing": 0.0, "fine_tune.epochs": 8,
        "fine_tune.unfrozen_fraction": 0.5, "evaluate.flip_tta": False,
        "fine_tune.layer_decay": 1.0, "fine_tune.ema_momentum": 0.0,
    },
    "baseline-b5": {
        "model.backbone": "EfficientNetB5", "model.image_height": 224, "model.image_width": 224,
        "model.hidden_units": 256, "head.num_views": 1, "head.label_smoothing": 0.0, "head.num_trials": 1,
        "head.learning_rate": 1e-3, "head.weight_decay": 1e-3,
        "fine_tune.schedule": "plateau", "fine_tune.learning_rate": 1e-4, "fine_tune.weight_decay": 0.0,
        "fine_tune.warmup_fraction": 0.0, "fine_tune.label_smoothing": 0.0, "fine_tune.epochs": 8,
        "fine_tune.batch_size": 16, "fine_tune.unfrozen_fraction": 0.5, "evaluate.flip_tta": False,
        "fine_tune.layer_decay": 1.0, "fine_tune.ema_momentum": 0.0,
    },
    "cpu": {
        # wide, as the cars are: as many pixels as 224x224, half as many again of them on the picture
        "model.backbone": "EfficientNetV2B0", "model.image_height": 160, "model.image_width": 320,
        "head.num_views": 2, "head.num_trials": 1, "augment.crop_scale": 0.5,
        "gate.threshold": 0.7, "gate.min_recall": 0.4,
        "fine_tune.epochs": 5, "fine_tune.layer_decay": 1.0, "fine_tune.ema_momentum": 0.9,
    },
    "cpu-fast": {
        # the head's features see one view, and the lower blocks, which cost the most, are not trained
        "model.backbone": "EfficientNetV2B0", "model.image_height": 192, "model.image_width": 384,
        "head.num_views": 1, "head.num_trials": 1, "augment.crop_scale": 0.5,
        "gate.threshold": 0.7, "gate.min_recall": 0.4,
        "fine_tune.epochs": 3, "fine_tune.unfrozen_fraction": 0.4, "fine_tune.learning_rate": 1.5e-3,
        "fine_tune.layer_decay": 1.0, "fine_tune.ema_momentum": 0.9,
    },
    "cpu-accurate": {
        "model.backbone": "EfficientNetV2B0", "model.image_height": 224, "model.image_width": 448,
        "head.num_views": 2, "head.num_trials": 1, "augment.crop_scale": 0.4,
        "gate.threshold": 0.7, "gate.min_recall": 0.4,
        "fine_tune.epochs": 24, "fine_tune.learning_rate": 1.5e-3, "fine_tune.mixup": 0.2, "fine_tune.patience": 24,
    },
    "demo": {
        "model.backbone": "Tiny", "model.weights": "none", "model.image_height": 48, "model.image_width": 64,
        "model.batch_norm": False, "head.epochs": 10, "head.num_views": 2, "head.num_trials": 1,
        "head.learning_rate": 1e-3, "head.weight_decay": 1e-3, "augment.crop_scale": 0.9,
        "fine_tune.epochs": 10, "fine_tune.learning_rate": 1.5e-3, "fine_tune.layer_decay": 1.0, "gate.threshold": 0.6,
        "gate.min_recall": 0.1, "gate.max_calibration_error": 0.2,
        "score.poll_seconds": 2, "score.timeout_seconds": 120, "validation.min_images_per_class": 10,
    },
}
