"""Every default of carclf in one frozen tree; CLI flags, DAG params and the trigger form come from it."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Backbone = Literal[
    "Tiny", "Xception", "InceptionResNetV2", "InceptionV3",
    "EfficientNetB0", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3",
    "EfficientNetB4", "EfficientNetB5", "EfficientNetB6", "EfficientNetB7",
    "EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3",
    "EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L",
    "ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge",
    "MobileNetV3Small", "MobileNetV3Large",
]
NAMED_WEIGHTS = ("imagenet", "champion", "none")
SMALLEST = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}  # px, as in keras.applications; others 32
# px, the square pictures that each is made for there; others 224
PUBLISHED = {
    "Xception": 299, "InceptionResNetV2": 299, "InceptionV3": 299,
    "EfficientNetB1": 240, "EfficientNetB2": 260, "EfficientNetB3": 300, "EfficientNetB4": 380, "EfficientNetB5": 456,
    "EfficientNetB6": 528, "EfficientNetB7": 600, "EfficientNetV2B1": 240, "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300, "EfficientNetV2S": 384, "EfficientNetV2M": 480, "EfficientNetV2L": 480,
}
# 0 stands for "auto", so that the trigger form's fields stay numbers.
AUTO = 0
Auto = BeforeValidator(lambda value: AUTO if value == "auto" else value)
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]  # with all of it nothing could be learnt


class Section(BaseModel):
    """A part of the tree: frozen, and it refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class Download(Section):
    """Fetching the competition's archive."""

    timeout_seconds: int = Field(3600, ge=1, description="Longest time for one try of the download.")
    extra_data: str = Field(
        "", description="More labelled pictures (<class>/*.jpg): folders or s3:// prefixes, separated by commas."
    )


class Validation(Section):
    """What a usable image and a usable class are."""

    min_images_per_class: int = Field(20, ge=2, description="Fewer usable images in a class stop the run.")
    min_side: int = Field(32, ge=1, description="Images with a shorter side, in pixels, are left out.")
    max_megapixels: float = Field(50, gt=0, description="Larger images are refused before decoding.")
    max_unusable_fraction: Fraction = Field(0.1, description="A larger share of unusable images stops the run.")
    max_aspect_ratio: float = Field(4, gt=1, description="Images with a longer shape than this are warned of.")
    max_imbalance: float = Field(10, ge=1, description="Largest class over smallest class from which is warned.")
    outlier_score: float = Field(4, gt=0, description="Robust z-score from which blurred, dark or bright is warned of.")


class Duplicates(Section):
    """Which images are near-copies of each other."""

    # Measured on cars10 (benchmarks.near_duplicate_quality): of copies saved again, resized or lit all are found, of those cropped
    # by 1, 2, 3, 5% on each side 100, 92, 65, 13%, by up to that much 100, 99, 93, 65%; of 1.8 million pairs of its
    # pictures 2 are joined. Mirrored ones are not found; cars10 has none.
    max_hash_distance: int = Field(8, ge=0, le=12, description="Bits of 64 in which near-copies' hashes differ at most.")
    max_pixel_difference: float = Field(
        0.18, ge=0, le=0.5, description="Mean difference of near-copies' pixels at most, in standard deviations."
    )


class Split(Section):
    """Which images train and which validate."""

    val_fraction: float = Field(0.15, gt=0, lt=0.9, description="Share of each class held out for validation.")
    seed: int | None = Field(None, ge=0, lt=2**31, description="Seed of the split; empty takes the run's seed.")
    num_folds: int = Field(0, ge=0, le=20, description="Folds of a cross-validation; 0 holds val_fraction out.")
    fold: int = Field(0, ge=0, description="The fold that validates, from 0; without folds it must be 0.")

    @model_validator(mode="after")
    def _fold_is_there(self) -> "Split":
        if self.num_folds == 1 or self.fold >= max(self.num_folds, 1):
            raise ValueError(f"split.fold = {self.fold} and split.num_folds = {self.num_folds} do not fit: give 0 "
                             "folds and fold 0, or at least 2 folds and one of their numbers, from 0.")
        return self


class Audit(Section):
    """What is suspected of the labels, and how far the data may be from the champion's."""

    enabled: bool = Field(True, description="Look for label errors and for drift before the head is trained.")
    drift_warn: Fraction = Field(0.1, description="Drift from the champion's data, 0 to 1, from which is warned.")
    drift_stop: Fraction = Field(0.5, description="Drift from the champion's data that stops the run; 1 for none.")

    @model_validator(mode="after")
    def _warns_first(self) -> "Audit":
        if self.drift_warn > self.drift_stop:
            raise ValueError(f"audit.drift_warn = {self.drift_warn} is above audit.drift_stop = {self.drift_stop}: "
                             "give it at most that.")
        return self


class Model(Section):
    """The network: an ImageNet backbone and a head."""

    backbone: Backbone = Field("EfficientNetV2S", description="A net of keras.applications, or 'Tiny' (untrained).")
    weights: str = Field(
        "imagenet", description="'imagenet', 'champion' (its backbone), a path or URL of a .weights.h5, or 'none'."
    )
    image_height: int = Field(
        AUTO, ge=0, le=1024, description="Height of the network's input, in pixels; 0 (auto) goes by the backbone."
    )
    image_width: int = Field(
        AUTO, ge=0, le=1024, description="Width of the network's input, in pixels; 0 (auto) goes by the backbone."
    )
    hidden_units: int = Field(0, ge=0, le=4096, description="Units of the head's hidden layer; 0 for none.")
    batch_norm: bool = Field(True, description="BatchNormalization in the head.")
    dropout: Share = Field(0.25, description="Dropout before the classifier.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the network's computation; auto is bfloat16 on a GPU that has it."
    )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.image_height, self.image_width

    @model_validator(mode="before")
    @classmethod
    def _size_by_backbone(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Sides that were left to us: photographs' shape, 3:4, near the published height, in steps of 32 px."""
        backbone = str(given.get("backbone", cls.model_fields["backbone"].default))
        steps = round(PUBLISHED.get(backbone, 224) / 96)
        own = {"image_height": 96 * steps, "image_width": 128 * steps}
        return given | {side: own[side] for side in own if given.get(side, AUTO) in (AUTO, "auto")}

    @field_validator("weights")
    @classmethod
    def _names_a_file(cls, weights: str) -> str:
        if "://" in weights and not re.fullmatch(r"\w+://[^/].*/[^/]+", weights):
            raise ValueError("a URL must name a file, such as s3://bucket/folder/name.weights.h5")
        return weights


def scaled_size(size: tuple[int, int], share: float) -> tuple[int, int]:
    """That share of a height and width, in steps of 32 px; all of it as it is."""
    height, width = (side if share == 1 else max(32, round(side * share / 32) * 32) for side in size)
    return height, width


class Augment(Section):
    """Random changes of the training images."""

    crop_scale: float = Field(
        0.6, ge=0.05, le=1, description="Smallest share of the image's area that a random crop keeps."
    )
    flip: bool = Field(True, description="Mirror half of the images.")
    aspect_jitter: Fraction = Field(0.15, description="Largest change of the aspect ratio, as a natural logarithm.")
    rotate_degrees: float = Field(5, ge=0, le=45, description="Largest rotation, in degrees.")
    color: Fraction = Field(0.2, description="Strength of brightness, contrast and saturation changes.")


class Head(Section):
    """Training a new head on the frozen backbone's features."""

    epochs: int = Field(60, ge=1, le=1000, description="Passes over the cached features.")
    num_trials: int = Field(
        6, ge=1, le=50, description="Learning rates and weight decays tried on held-out images; 1: those below."
    )
    num_views: int = Field(3, ge=1, le=16, description="Views of each image: one plain, the others augmented.")
    batch_size: int = Field(64, ge=2, le=4096, description="Features a step.")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="Peak learning rate.")
    weight_decay: float = Field(0.05, ge=0, le=1, description="AdamW's weight decay.")
    label_smoothing: Share = Field(0.05, description="Share of the target spread over all classes.")


class FineTune(Section):
    """Training the backbone's upper blocks with a low learning rate."""

    epochs: int = Field(12, ge=0, le=500, description="Passes over the training images; 0 keeps the head's model.")
    batch_size: Annotated[int, Auto] = Field(32, ge=0, le=1024, description="Images a step; 0 (auto) finds a fast one.")
    learning_rate: Annotated[float, Auto] = Field(
        1e-3, ge=0, le=1, description="Peak learning rate of the head; 0 (auto) finds one by a range test."
    )
    layer_decay: float = Field(0.95, gt=0, le=1, description="Each block's rate is this share of the block's above it.")
    weight_decay: float = Field(0.05, ge=0, le=1, description="AdamW's weight decay, on kernels.")
    warmup_fraction: Fraction = Field(0.15, description="Share of the cosine schedule's steps in which the rate rises.")
    schedule: Literal["cosine", "plateau"] = Field("cosine", description="How the learning rate falls.")
    unfrozen_fraction: Fraction = Field(1.0, description="Share of the backbone's blocks, from the top, that train.")
    batch_norm: Literal["inference", "training"] = Field(
        "inference", description="BatchNormalization while fine-tuning; in training mode its statistics drift."
    )
    num_phases: int = Field(1, ge=1, le=10, description="Steps in which blocks are unfrozen and pictures grow.")
    initial_size_fraction: float = Field(1.0, ge=0.25, le=1, description="Side of the first phase's pictures, as a share.")
    label_smoothing: Share = Field(0.1, description="Share of the target spread over all classes.")
    mixup: Fraction = Field(0.0, description="Share of the batches that MixUp blends.")
    cutmix: Fraction = Field(0.0, description="Share of the batches that CutMix pastes into.")
    ema_momentum: float = Field(0.98, ge=0, lt=1, description="Momentum of the weights' moving average; 0 for none.")
    global_clipnorm: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    patience: int = Field(5, ge=1, description="Epochs of the last phase without a better accuracy before the end.")
    budget_minutes: float = Field(0, ge=0, description="Minutes after which training ends with the best; 0: no limit.")
    checkpoint_minutes: float = Field(5, ge=0, description="Minutes between two checkpoints within an epoch.")
    num_workers: int = Field(0, ge=0, le=64, description="Processes that read and augment; 0 for threads.")
    cache_gb: float = Field(20, ge=0, description="Largest cache of decoded training images on this machine, in GB.")


class Evaluate(Section):
    """Measuring the candidate on the validation images."""

    flip_tta: bool = Field(True, description="Average the probabilities of the image and its mirror image.")
    zooms: str = Field(
        "1", pattern=r"^\d(\.\d+)?(,\d(\.\d+)?){0,7}$",
        description="Average over these enlargements of the image's middle too, such as 1,1.15.",
    )
    crops: Literal["center", "corners"] = Field(
        "center", description="What enlargements show: the image's middle, or its four corners as well."
    )
    batch_size: int = Field(32, ge=1, le=1024, description="Images a prediction step.")

    @property
    def zoom_factors(self) -> list[float]:
        """``zooms`` as numbers."""
        return [float(zoom) for zoom in self.zooms.split(",")]

    @field_validator("zooms")
    @classmethod
    def _large_enough(cls, zooms: str) -> str:
        if min(map(float, zooms.split(","))) < 0.5:
            raise ValueError("each must be at least 0.5")
        return zooms


class Gate(Section):
    """What a candidate must reach, and who must agree."""

    threshold: Fraction = Field(0.93, description="First stored accuracy threshold; later the store's own holds.")
    raise_threshold: Literal["off", "lower_bound", "accuracy"] = Field(
        "off", description="To what a promotion raises the stored threshold: the accuracy's lower bound, or itself."
    )
    champion_rule: Literal["not_worse", "better", "off"] = Field(
        "not_worse", description="What a paired test against the champion on the same images must show."
    )
    significance: float = Field(0.05, gt=0, lt=0.5, description="Level of the paired test.")
    min_recall: Fraction = Field(0.8, description="Floor of each class's recall.")
    min_recall_by_class: str = Field(
        "", pattern=r"^(\d+=(0(\.\d+)?|1(\.0+)?)(,\d+=(0(\.\d+)?|1(\.0+)?))*)?$",
        description="Floors of single classes instead, such as 7=0.7,9=0.75.",
    )
    max_calibration_error: Fraction = Field(0.1, description="Largest expected calibration error, once calibrated.")
    max_latency_ms: float = Field(1000, gt=0, description="Longest prediction time of one image, in milliseconds.")
    max_model_mb: float = Field(2000, gt=0, description="Largest model file, in MB.")
    max_reload_difference: Fraction = Field(
        0.01, description="Largest difference of a probability once the model was saved and loaded in another process."
    )
    approval: Literal["none", "required"] = Field(
        "none", description="Whether a person must approve a promotion before it is made and submitted."
    )

    @property
    def min_recalls(self) -> dict[int, float]:
        """``min_recall_by_class`` by class."""
        pairs = (pair.partition("=") for pair in self.min_recall_by_class.split(",") if pair)
        return {int(name): float(floor) for name, _, floor in pairs}


class Submit(Section):
    """Sending the predictions to Kaggle."""

    enabled: bool = Field(True, description="Send the predictions of a promoted model to the competition.")


class Score(Section):
    """Waiting for the public score."""

    poll_seconds: int = Field(30, ge=1, description="Seconds between two looks at the submission.")
    timeout_seconds: int = Field(3600, ge=1, description="Longest wait for the score.")


class Config(Section):
    """The whole configuration of a run."""

    competition: str = Field(
        "sf-dl-car-classification", pattern=r"^[a-z0-9][a-z0-9-]*$", description="The competition's slug on Kaggle."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the split, the augmentation and the training.")
    force: bool = Field(False, description="Make every artifact anew for this run instead of reusing any.")
    download: Download = Download()
    validation: Validation = Validation()
    duplicates: Duplicates = Duplicates()
    split: Split = Split()
    audit: Audit = Audit()
    model: Model = Model()
    augment: Augment = Augment()
    head: Head = Head()
    fine_tune: FineTune = FineTune()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    submit: Submit = Submit()
    score: Score = Score()

    @model_validator(mode="after")
    def _fit_together(self) -> "Config":
        own = self.fine_tune
        if self.model.backbone == "Tiny" and (self.model.weights not in ("none", "champion") or own.initial_size_fraction != 1):
            raise ValueError("The backbone Tiny has no weights to load and takes pictures of one size only: set "
                             "model.weights to none and fine_tune.initial_size_fraction to 1.")
        if self.split.num_folds and self.model.weights == "champion":
            raise ValueError("split.num_folds makes folds, and the champion was trained on most of each of them: set "
                             "model.weights to something else, or split.num_folds to 0.")
        smallest = SMALLEST.get(self.model.backbone, 32)
        if min(*self.model.image_size, *scaled_size(self.model.image_size, own.initial_size_fraction)) < smallest:
            raise ValueError(f"{self.model.backbone} needs pictures of at least {smallest} px: raise "
                             "model.image_height, model.image_width or fine_tune.initial_size_fraction.")
        if own.initial_size_fraction < 1 and own.num_phases == 1:
            raise ValueError(f"fine_tune.initial_size_fraction = {own.initial_size_fraction:g} is the size in the first of several phases: "
                             "set fine_tune.num_phases to at least 2, or fine_tune.initial_size_fraction to 1.")
        if own.mixup + own.cutmix > 1:
            raise ValueError(f"fine_tune.mixup = {own.mixup:g} and fine_tune.cutmix = {own.cutmix:g} are shares of "
                             "the same batches: together they must be at most 1.")
        if own.epochs and own.num_phases > own.epochs:
            raise ValueError(f"fine_tune.num_phases = {own.num_phases} needs as many epochs, not {own.epochs}.")
        return self
