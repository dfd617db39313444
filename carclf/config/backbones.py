"""The families of backbones: image sizes, pixel ranges, and the values of automatic settings of fine-tuning.

Sources: [1] arXiv:2201.03545 and TRAINING.md of facebookresearch/ConvNeXt, [2] arXiv:2104.00298 and
efficientnetv2/datasets.py of google/automl, [3] arXiv:1905.11946, [4] keras.applications, [5] benchmarks/README.md.
For the families of [2] to [4] nothing is published for AdamW.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Defaults of fine-tuning with AdamW, and the input, of backbones that share an architecture.

    ``learning_rate`` is the peak rate of the head for batches of ``batch_size`` images. ``layer_decay`` is per block.
    ``drop_path`` is the rate at the last block; 0 if the network has no branches that can be dropped. ``pixel_range``
    is what keras.applications expects. ``sizes`` has the side, in pixels, of the square images that each backbone was
    pretrained on; ``min_size`` is the smallest that keras.applications accepts.
    """

    sizes: Mapping[str, int]
    learning_rate: float
    batch_size: int
    weight_decay: float
    layer_decay: float
    drop_path: float
    pixel_range: tuple[int, int] = (0, 255)
    min_size: int = 32

    def scale_learning_rate(self, batch_size: int) -> float:
        """Return the peak rate for a batch size: Adam's grows with its square root (Malladi 2022, arXiv:2205.10287)."""
        return float(f"{self.learning_rate * (batch_size / self.batch_size) ** 0.5:.3g}")


FAMILIES: dict[str, Family] = {
    # Not published. Measured in the demo, where it starts from random weights.
    "Tiny": Family({"Tiny": 224}, 1.5e-3, 32, 0.05, 1.0, 0.0),
    # Not published. At 3e-4, EfficientNetV2B0 lost 1.6 points against 1e-3 [5]; higher rates are not measured here.
    "Xception": Family({"Xception": 299}, 3e-4, 32, 0.05, 0.95, 0.0, (-1, 1), 71),
    "Inception": Family({"InceptionResNetV2": 299, "InceptionV3": 299}, 3e-4, 32, 0.05, 0.95, 0.0, (-1, 1), 75),
    # Rates and decays as EfficientNetV2's, which has the same blocks; drop path of the pretraining [3, 4].
    "EfficientNet": Family(
        {"EfficientNetB0": 224, "EfficientNetB1": 240, "EfficientNetB2": 260, "EfficientNetB3": 300,
         "EfficientNetB4": 380, "EfficientNetB5": 456, "EfficientNetB6": 528, "EfficientNetB7": 600},
        1e-3, 32, 0.05, 0.95, 0.2),
    # Measured with V2B0 [5]: 1e-3 to 2e-3, layer decay 0.95 to 1; S, M and L are not measured. The authors use RMSProp
    # with 5e-4 for 512 images and weight decay 1e-5; drop path is theirs [2, 4].
    "EfficientNetV2": Family(
        {"EfficientNetV2B0": 224, "EfficientNetV2B1": 240, "EfficientNetV2B2": 260, "EfficientNetV2B3": 300,
         "EfficientNetV2S": 384, "EfficientNetV2M": 480, "EfficientNetV2L": 480},
        1e-3, 32, 0.05, 0.95, 0.2),
    # Published for AdamW [1], not measured here. Drop path is that of Base (Large 0.3, XLarge 0.4). The authors' layer
    # decay of 0.8 is per group of up to three blocks: 0.8^13 = 0.055 at the stem, here 0.9^19 = 0.14 (Tiny) or 0.9^37 =
    # 0.02 (the others).
    "ConvNeXt": Family(
        {"ConvNeXtTiny": 224, "ConvNeXtSmall": 224, "ConvNeXtBase": 224, "ConvNeXtLarge": 224, "ConvNeXtXLarge": 224},
        5e-5, 512, 1e-8, 0.9, 0.2),
    # Not published. As EfficientNetV2, without drop path: keras.applications has none [4].
    "MobileNetV3": Family({"MobileNetV3Small": 224, "MobileNetV3Large": 224}, 1e-3, 32, 0.05, 0.95, 0.0),
}
FAMILY_BY_BACKBONE: dict[str, Family] = {name: family for family in FAMILIES.values() for name in family.sizes}
