"""The recipes. Each contains only the settings that differ from the defaults in ``settings.py``."""

from typing import Any

Settings = dict[str, Any]

# What the published notebooks of the competition have in common: a plateau schedule on the upper half of the blocks,
# without TTA. It is an approximation: benchmarks/original_notebook.py is one of them as it was written.
_BASELINE: Settings = {
    "model.image_height": 224, "model.image_width": 224, "model.hidden_units": 256,
    "head.num_views": 1, "head.num_trials": 1, "head.learning_rate": 1e-3, "head.weight_decay": 1e-3,
    "head.label_smoothing": 0.0,
    "fine_tune.epochs": 8, "fine_tune.schedule": "plateau", "fine_tune.learning_rate": 1e-4,
    "fine_tune.weight_decay": 0.0, "fine_tune.warmup_fraction": 0.0, "fine_tune.label_smoothing": 0.0,
    "fine_tune.unfrozen_fraction": 0.5, "fine_tune.layer_decay": 1.0, "fine_tune.ema_fraction": 0.0,
    "evaluate.flip_tta": False,
}

# Two CPU cores and a small backbone. The gate's limits suit cars10, a dataset of 1,897 photographs of ten makes.
_CPU: Settings = {
    "model.backbone": "EfficientNetV2B0", "head.num_trials": 1, "gate.threshold": 0.7, "gate.min_recall": 0.4,
}

_CPU_TRAINING: Settings = {
    "augment.crop_scale": 0.5, "head.num_views": 1, "fine_tune.unfrozen_fraction": 0.5,
    "fine_tune.learning_rate": 1.5e-3, "fine_tune.layer_decay": 1.0, "fine_tune.ema_fraction": 0.067,
}

# Accuracies and times of the CPU recipes: cars10 on two shared cores, see benchmarks/README.md.
RECIPE_DESCRIPTIONS: dict[str, str] = {
    "gpu": "The default, for a GPU: EfficientNetV2-S with its family's defaults and TTA. Accuracy and time have not "
           "been measured yet.",
    "gpu-fast": "A first result on a GPU: smaller images, half of the epochs, one view. Accuracy and time have not "
                "been measured yet.",
    "gpu-accurate": "More time on a GPU: EfficientNetV2-M, more epochs, MixUp, CutMix and zoomed views. Accuracy and "
                    "time have not been measured yet.",
    "baseline-xception": "After the published notebook with Xception, to compare with.",
    "baseline-b5": "After the published notebook with EfficientNet-B5, to compare with.",
    "cpu": "A useful model without a GPU: held-out accuracy 0.905 (mean of 3 seeds) in 9 minutes.",
    "cpu-fast": "The quickest useful model without a GPU: held-out accuracy 0.850 (mean of 3 seeds) in 4 minutes.",
    "cpu-accurate": "The best model without a GPU: held-out accuracy 0.936 (three seeds) in 67 minutes.",
    "demo": "The rendered competition of make demo: validation accuracy 0.904 in about a minute, without downloaded "
            "weights.",
}
RECIPES: dict[str, Settings] = {
    "gpu": {},
    "gpu-fast": {
        "model.image_height": 288, "model.image_width": 384, "head.num_views": 1, "head.num_trials": 1,
        "fine_tune.epochs": 6, "fine_tune.size_fraction": 0.778,  # 224x288 px
    },
    "gpu-accurate": {
        "model.backbone": "EfficientNetV2M", "fine_tune.epochs": 30, "fine_tune.mixup": 0.2, "fine_tune.cutmix": 0.3,
        "evaluate.zooms": "1,1.15",
    },
    "baseline-xception": _BASELINE | {"model.backbone": "Xception"},
    "baseline-b5": _BASELINE | {"model.backbone": "EfficientNetB5", "fine_tune.batch_size": 16},
    # Frames of 1:2 put about 50% more pixels on a car than squares. The lower blocks, which cost the most, stay frozen,
    # and training uses smaller images than predictions.
    "cpu": _CPU | _CPU_TRAINING | {
        "model.image_height": 224, "model.image_width": 448, "fine_tune.epochs": 9,
        "fine_tune.size_fraction": 0.857,  # 192x384 px
    },
    "cpu-fast": _CPU | _CPU_TRAINING | {
        "model.image_height": 160, "model.image_width": 320, "fine_tune.epochs": 5,
        "fine_tune.size_fraction": 0.8,  # 128x256 px
    },
    "cpu-accurate": _CPU | {
        "model.image_height": 224, "model.image_width": 448, "augment.crop_scale": 0.4, "head.num_views": 2,
        "fine_tune.epochs": 24, "fine_tune.learning_rate": 1.5e-3, "fine_tune.mixup": 0.2,
    },
    "demo": {
        "model.backbone": "Tiny", "model.weights": "none", "model.image_height": 48, "model.image_width": 64,
        "model.batch_norm": False, "head.epochs": 10, "head.num_views": 2, "head.num_trials": 1,
        "head.learning_rate": 1e-3, "head.weight_decay": 1e-3, "augment.crop_scale": 0.9,
        "fine_tune.epochs": 10, "fine_tune.learning_rate": 1.5e-3, "fine_tune.layer_decay": 1.0,
        "fine_tune.ema_fraction": 0.1,
        "gate.threshold": 0.6, "gate.min_recall": 0.1, "gate.max_calibration_error": 0.2,
        "score.poll_seconds": 2, "score.timeout_seconds": 120, "validation.min_images_per_class": 10,
    },
}

# Settings that come with a source, unless the run changes them.
SOURCE_SETTINGS: dict[str, Settings] = {
    "sf-dl-car-classification": {
        "data.class_names": "0=Lada Priora,1=Ford Focus,2=Lada 2114 (Samara),3=Lada 2110,4=Lada 2107,5=Niva,6=Kalina,"
                            "7=Lada 2109,8=VW Passat,9=Lada 21099",
    },
}
