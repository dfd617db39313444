"""All settings and their defaults in one frozen tree, from which CLI options, DAG params and the form are generated."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from carclf.config.backbones import FAMILY_BY_BACKBONE
from carclf.config.sources import parse_source
from carclf.errors import ConfigError
from carclf.natural_order import sort_naturally

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
HUB_NAME = r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w.-]*))?"  # repository, revision
WEIGHTS_URL = re.compile(rf"s3://[^/].*/[^/]+|{HUB_NAME}", re.ASCII)
SIZE_STEP = 32  # px: the total stride of the backbones
MIN_ZOOM = 0.5
# 0 means "auto", so that the fields of the trigger form stay numbers.
AUTO = 0
Auto = BeforeValidator(lambda value: AUTO if value == "auto" else value)
# Where 0 has a meaning, the default is this text, and becomes None until the backbone is known.
AUTO_TEXT: Any = "auto"
NoneIfAuto = BeforeValidator(lambda value: None if value == AUTO_TEXT else value)
Text = Annotated[str, Field(max_length=10_000, pattern=r"^[^\x00-\x1f\x7f]*$")]  # arguments have a size limit
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]  # 1 would leave nothing to learn


class Section(BaseModel):
    """A frozen section of the settings that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject true and false where pydantic would use them as the numbers 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("expected a number or text, not true or false")
        return value


class Download(Section):
    """Downloading the files of the source, and extra data."""

    timeout_seconds: int = Field(3600, ge=1, description="Longest time for one attempt to download the archive.")
    extra_data: Text = Field(
        "", description="More labeled images (<class>/*.jpg): folders or s3:// prefixes, separated by commas.")

    @field_validator("extra_data")
    @classmethod
    def _require_s3(cls, sources: str) -> str:
        if any("://" in source and not source.strip().startswith("s3://") for source in sources.split(",")):
            raise ValueError("a URL must start with s3://")
        return sources


class Data(Section):
    """The source of the images, and what its files mean. Everything but the source is detected by default."""

    source: Text = Field(
        "sf-dl-car-classification",
        description="A competition's slug on Kaggle, kaggle://owner/dataset[/version], s3://bucket/prefix, or the path "
                    "of a folder or an archive, such as ./photos.")
    metric: Literal["auto", "accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "log_loss", "roc_auc",
                    "quadratic_weighted_kappa"] = Field(
        "auto", description="Metric that judges a model; auto is the competition's, or follows from the submission.")
    label_source: Literal["auto", "folders", "table", "file_names", "json"] = Field(
        "auto", description="Where the labels are: class folders, a table, prefixes of file names, or COCO JSON.")
    class_level: int = Field(
        0, ge=0, le=20,
        description="Folder that is the class, counted from the topmost one below the training folder, which is 1; 0 "
                    "requires images directly in class folders.")
    label_table: Text = Field("", description="Path of the table with the labels, such as train.csv.")
    id_column: Text = Field("", description="Column of the label table that names the image.")
    label_column: Text = Field("", description="Column of the label table with the class.")
    group_column: Text = Field(
        "", description="Column whose groups, such as patients, are never in two subsets; 'none' ignores groups.")
    subset_column: Text = Field(
        "", description="Column that gives each image's subset, such as train or test; 'none' ignores such columns.")
    id_form: str = Field(  # not Text: pydantic applies only one pattern
        "auto", max_length=10_000,
        pattern=r"^(auto|path|name|stem|number|[^\x00-\x1f\x7f]*\{id\}[^\x00-\x1f\x7f]*)$",
        description="What an id is: the image's path, name, stem or number, or a pattern such as {id}_image.jpg.")
    train_folder: Text = Field("", description="Folder of the training images.")
    val_folder: Text = Field("", description="Folder of the validation images, if they are given.")
    test_folder: Text = Field("", description="Folder of the test images.")
    class_names: Text = Field(
        "", description="Names of the classes in the data, such as 0=Lada Priora,1=Ford Focus.")
    max_missing: Fraction = Field(
        0.0, description="Largest fraction of the label table's ids that may have no image.")

    @field_validator("source")
    @classmethod
    def _require_source(cls, text: str) -> str:
        parse_source(text)
        return text


class Validation(Section):
    """Criteria for usable images and classes."""

    min_images_per_class: int = Field(20, ge=2, description="The run fails if a class has fewer usable images.")
    min_side: int = Field(32, ge=1, description="Images with a shorter side, in pixels, are excluded.")
    max_megapixels: float = Field(50, gt=0, description="Larger images are excluded without being decoded.")
    max_unusable_fraction: Fraction = Field(
        0.1, description="The run fails if a larger fraction of the training images is unusable.")
    max_unreadable_test_fraction: Fraction = Field(
        0.01, description="The run fails if a larger fraction of the test images cannot be read.")
    max_aspect_ratio: float = Field(4, gt=1, description="Warn about images with a larger ratio of sides.")
    max_imbalance: float = Field(10, ge=1, description="Warn if the largest class is this many times the smallest one.")
    outlier_score: float = Field(
        4, gt=0, description="Warn about blurred, dark and bright images beyond this robust z-score.")


class Duplicates(Section):
    """Criteria for near-duplicate images."""

    # Measured on cars10 (benchmarks.near_duplicate_quality): all recompressed, resized and relit copies are detected.
    # Copies cropped by 1, 2, 3 and 5% per side: 100, 92, 65 and 13%; by random amounts up to these: 100, 99, 93 and
    # 65%. Of 1.8 million pairs of different images, 2 are merged. Of the re-encoded horizontal
    # flips 99.5% are detected (every tenth image), and no two different images are merged as flips.
    max_hash_distance: int = Field(
        8, ge=0, le=12, description="Near-duplicates' perceptual hashes differ in at most this many of 64 bits.")
    max_pixel_difference: float = Field(
        0.18, ge=0, le=0.5, description="Largest mean pixel difference of near-duplicates, in standard deviations.")


class Split(Section):
    """Assignment of images to training and validation."""

    val_fraction: float = Field(0.15, gt=0, lt=0.9, description="Fraction of each class held out for validation.")
    seed: int | None = Field(None, ge=0, lt=2**31, description="Seed of the split; if empty, the run's seed.")
    num_folds: int = Field(0, ge=0, le=20, description="Folds of a cross-validation; 0 holds out val_fraction instead.")
    fold: int = Field(0, ge=0, description="Fold to validate on, counted from 0. It must be 0 without folds.")

    @model_validator(mode="after")
    def _require_existing_fold(self) -> "Split":
        if self.num_folds == 1 or self.fold >= max(self.num_folds, 1):
            raise ValueError(f"split.fold = {self.fold} does not exist with split.num_folds = {self.num_folds}. Set "
                             "num_folds to 0 and fold to 0, or num_folds to at least 2 and fold to a number below it.")
        return self


class Audit(Section):
    """The search for label errors, and the limits of drift."""

    enabled: bool = Field(True, description="Search for label errors and measure drift before the head is trained.")
    drift_warn: Fraction = Field(0.1, description="Warn if the drift from the champion's data, 0 to 1, exceeds this.")
    drift_stop: Fraction = Field(
        0.5, description="The run fails if the drift from the champion's data exceeds this; 1 turns it off.")

    @model_validator(mode="after")
    def _require_warning_first(self) -> "Audit":
        if self.drift_warn > self.drift_stop:
            raise ValueError(f"audit.drift_warn = {self.drift_warn} is above audit.drift_stop = {self.drift_stop}. "
                             "Lower drift_warn.")
        return self


class Model(Section):
    """The network: a pretrained backbone and a head."""

    backbone: Backbone = Field(
        "EfficientNetV2S", description="A backbone of keras.applications, or 'Tiny', which has no pretrained weights.")
    weights: Text = Field(
        "imagenet", description="'imagenet', 'champion' (its backbone), 'none', the path or URL of a .weights.h5 or a "
                                "timm .safetensors, or a timm model such as hf://timm/convnext_tiny.in12k.")
    image_height: int = Field(
        AUTO, ge=0, le=1024, description="Height of the network's input, in pixels; 0 (auto) depends on the backbone.")
    image_width: int = Field(
        AUTO, ge=0, le=1024, description="Width of the network's input, in pixels; 0 (auto) depends on the backbone.")
    hidden_units: int = Field(0, ge=0, le=4096, description="Units of the head's hidden layer; 0 for no hidden layer.")
    batch_norm: bool = Field(True, description="Use BatchNormalization in the head.")
    dropout: FractionBelowOne = Field(0.25, description="Dropout rate before the classifier.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the computation; auto is bfloat16 on a GPU that supports it.")
    deterministic: bool = Field(
        True, description="Use only TensorFlow's deterministic kernels; without them, a GPU may train faster, but a "
                          "repeated run has slightly different weights.")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return self.image_height, self.image_width

    @model_validator(mode="before")
    @classmethod
    def _choose_size(cls, values: Any) -> Any:
        """Replace automatic sides: height to width 3:4, near the pretrained height, in steps of SIZE_STEP."""
        if not isinstance(values, dict):  # rejected by the next validator
            return values
        backbone = str(values.get("backbone", cls.model_fields["backbone"].default))
        if backbone not in FAMILY_BY_BACKBONE:  # rejected by the next validator
            return values
        num_steps = round(FAMILY_BY_BACKBONE[backbone].sizes[backbone] / (3 * SIZE_STEP))
        sides = {"image_height": 3 * SIZE_STEP * num_steps, "image_width": 4 * SIZE_STEP * num_steps}
        return values | {name: sides[name] for name in sides if values.get(name, AUTO) in (AUTO, "auto")}

    @field_validator("weights")
    @classmethod
    def _require_file_name(cls, weights: str) -> str:
        # No other URLs: they may contain a password, and settings are in the run's record and on the pages.
        if "://" in weights and not WEIGHTS_URL.fullmatch(weights):
            raise ValueError("a URL must name a file in S3, such as s3://bucket/folder/name.weights.h5, or a "
                             "repository of the Hugging Face Hub, such as hf://timm/convnext_tiny.in12k")
        return weights


def scaled_size(size: tuple[int, int], fraction: float) -> tuple[int, int]:
    """Return a fraction of a height and width, rounded to steps of SIZE_STEP; a fraction of 1 keeps them."""
    if fraction == 1:
        return size
    height, width = (max(SIZE_STEP, round(side * fraction / SIZE_STEP) * SIZE_STEP) for side in size)
    return height, width


class Augment(Section):
    """Random changes of the training images."""

    crop_scale: float = Field(
        0.6, ge=0.05, le=1, description="Smallest fraction of the image's area that a random crop keeps.")
    flip: bool = Field(True, description="Flip half of the images horizontally.")
    aspect_jitter: Fraction = Field(
        0.15, description="Largest random change of the aspect ratio, as a natural logarithm.")
    rotate_degrees: float = Field(5, ge=0, le=45, description="Largest random rotation, in degrees.")
    color: Fraction = Field(0.2, description="Strength of the random changes of brightness, contrast and saturation.")
    trivial: bool = Field(
        False, description="Replace augment.color by one color operation of random strength (TrivialAugment).")
    erasing: Fraction = Field(0.0, description="Fraction of the images in which a random rectangle becomes noise.")
    half_crop: Fraction = Field(0.0, description="Fraction of the images that are reduced to their left or right half.")


class Head(Section):
    """Training a new head on features of the frozen backbone."""

    epochs: int = Field(60, ge=1, le=1000, description="Epochs on the cached features.")
    num_trials: int = Field(
        6, ge=1, le=50,
        description="Learning rates and weight decays to try on held-out images; 1 uses the values below.")
    num_views: int = Field(3, ge=1, le=16, description="Views of each image: one plain, the others augmented.")
    batch_size: int = Field(64, ge=2, le=4096, description="Feature vectors per step.")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="Peak learning rate.")
    weight_decay: float = Field(0.05, ge=0, le=1, description="Weight decay of AdamW.")
    label_smoothing: FractionBelowOne = Field(0.05, description="Fraction of the target spread over all classes.")


class FineTune(Section):
    """Training the backbone's upper blocks with a low learning rate."""

    epochs: int = Field(12, ge=0, le=500, description="Epochs on the training images; 0 keeps train_head's model.")
    batch_size: Annotated[int, Auto] = Field(
        32, ge=0, le=1024, description="Images per step; 0 (auto) measures the fastest.")
    learning_rate: Annotated[float, Auto] = Field(
        AUTO, ge=0, le=1, description="Peak learning rate of the head; 0 (auto) depends on the backbone and the batch "
                                      "size.")
    layer_decay: Annotated[float, Auto] = Field(
        AUTO, ge=0, le=1, description="Learning rate of each block as a fraction of the rate of the block above it; 0 "
                                      "(auto) depends on the backbone.")
    weight_decay: Annotated[float | None, NoneIfAuto] = Field(
        AUTO_TEXT, ge=0, le=1, description="Weight decay of AdamW, on kernels; auto depends on the backbone's family.")
    drop_path: Annotated[float | None, NoneIfAuto] = Field(
        AUTO_TEXT, ge=0, lt=1,
        description="Stochastic depth: fraction of the images that skip the last block; fewer skip a lower one. Auto "
                    "depends on the backbone's family.")
    warmup_fraction: Fraction = Field(0.15, description="Fraction of the cosine schedule's steps for warmup.")
    schedule: Literal["cosine", "plateau"] = Field(
        "cosine", description="How the learning rate falls. Cosine keeps the last epoch, plateau the best one on "
                              "held-out training images.")
    unfrozen_fraction: Fraction = Field(1.0, description="Fraction of the backbone's blocks to train, from the top.")
    batch_norm: Literal["inference", "affine", "training"] = Field(
        "inference", description="BatchNormalization: nothing trains, scale and offset train (affine), or the "
                                 "statistics change too.")
    num_phases: int = Field(1, ge=1, le=10, description="Phases in which blocks are unfrozen and images grow.")
    size_fraction: float = Field(
        1.0, ge=0.25, le=1, description="Image side in training, as a fraction of the side that predicts; with several "
                                        "phases, the side grows from this fraction to the full side.")
    label_smoothing: FractionBelowOne = Field(0.1, description="Fraction of the target spread over all classes.")
    mixup: Fraction = Field(0.0, description="Fraction of the batches to which MixUp is applied.")
    cutmix: Fraction = Field(0.0, description="Fraction of the batches to which CutMix is applied.")
    teacher: str = Field(
        "", pattern=r"^([0-9a-f]{16})?$", description="Key of a model whose probabilities are a part of the targets "
                                                      "(distillation); empty for none.")
    teacher_weight: Fraction = Field(0.5, description="Weight of the teacher's probabilities in the targets.")
    ema_fraction: Fraction = Field(
        0.04, description="Fraction of the training's steps over which the weights are averaged, with exponential "
                          "weights; 0 turns it off.")
    global_clipnorm: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    refit: bool = Field(
        False, description="After a promotion, train again with the validation images, and submit that model.")
    patience: int = Field(
        5, ge=1, description="Plateau schedule only: stop after this many epochs of the last phase without a better "
                             "metric.")
    budget_minutes: float = Field(
        0, ge=0, description="Minutes after which training stops, even if the learning rate is not yet 0; 0 for no "
                             "limit.")
    checkpoint_minutes: float = Field(5, ge=0, description="Minutes between two checkpoints within an epoch.")
    xla: bool = Field(
        False, description="Compile training and validation with XLA on TensorFlow, if model.deterministic is "
                           "off; JAX always does.")
    num_workers: int = Field(0, ge=0, le=64, description="Processes that read and augment images; 0 uses threads.")
    cache_gb: float = Field(20, ge=0, description="Largest cache of decoded training images on this machine, in GB.")

    def resolve_auto(self, backbone: str) -> "FineTune":
        """Return the settings with the defaults of the backbone's family for automatic ones.

        The learning rate depends on the batch size, and stays automatic as long as that is.
        """
        family = FAMILY_BY_BACKBONE[backbone]
        defaults = {"layer_decay": family.layer_decay, "weight_decay": family.weight_decay,
                    "drop_path": family.drop_path}
        if self.batch_size != AUTO:
            defaults["learning_rate"] = family.scale_learning_rate(self.batch_size)
        empty = {"weight_decay": None, "drop_path": None}
        return self.model_copy(update={
            name: value for name, value in defaults.items() if getattr(self, name) == empty.get(name, AUTO)
        })


class Evaluate(Section):
    """Predicting the validation and test images."""

    flip_tta: bool = Field(True, description="Average the probabilities of the image and its horizontal flip.")
    zooms: str = Field(
        "1", pattern=r"^[0-9](\.[0-9]+)?(,[0-9](\.[0-9]+)?){0,7}$",
        description="Also average over these zoom factors of the image's center, such as 1,1.15.")
    crops: Literal["center", "corners"] = Field(
        "center", description="Crops of a zoomed image: the center, or also the four corners.")
    batch_size: int = Field(32, ge=1, le=1024, description="Images per prediction step.")

    @property
    def zoom_factors(self) -> list[float]:
        """``zooms`` as numbers."""
        return [float(zoom) for zoom in self.zooms.split(",")]

    @field_validator("zooms")
    @classmethod
    def _require_large_zooms(cls, zooms: str) -> str:
        if min(map(float, zooms.split(","))) < MIN_ZOOM:
            raise ValueError(f"each zoom must be at least {MIN_ZOOM}")
        return zooms


def parse_recalls(text: str) -> dict[str, float]:
    """Return the recall of each class; the names may contain commas and equals signs. Raise ValueError if invalid."""
    *pairs, rest = re.split(r"=\s*(0(?:\.[0-9]+)?|1(?:\.0+)?)\s*(?:,|$)", text)
    names = [name.strip() for name in pairs[::2]]
    if rest.strip() or not all(names) or len(set(names)) < len(names):
        raise ValueError("expected different classes, each with a recall from 0 to 1")
    return dict(zip(names, map(float, pairs[1::2]), strict=True))


class Gate(Section):
    """Requirements for promoting a candidate."""

    threshold: Fraction = Field(
        0.93, description="Smallest value of the metric for a promotion, in a new store. Log loss uses "
                          "gate.max_log_loss.")
    max_log_loss: Annotated[float, Auto] = Field(
        AUTO, ge=0, description="Largest log loss for a promotion, in a new store; 0 (auto) is half the log loss of "
                                "guessing.")
    raise_threshold: Literal["off", "worse_bound"] = Field(
        "off", description="Tighten the stored threshold at each promotion to the worse bound of the metric's 95% "
                           "interval.")
    champion_rule: Literal["not_worse", "better", "off"] = Field(
        "not_worse", description="Required result of a paired test against the champion on the same images.")
    significance: float = Field(
        0.05, ge=0.001, lt=0.5, description="Significance level of the paired test, and of all class floors together.")
    min_recall: Fraction = Field(0.8, description="Floor of each class: its recall must not be significantly lower.")
    min_recall_by_class: Text = Field(
        "", description="Floors of individual classes, such as Niva=0.7,Kalina=0.75; overrides min_recall.")
    max_calibration_error: Fraction = Field(0.1, description="Largest expected calibration error after calibration.")
    max_latency_ms: float = Field(1000, gt=0, description="Longest prediction time of one image, in milliseconds.")
    max_model_mb: float = Field(2000, gt=0, description="Largest model file, in MB.")
    max_reload_difference: Fraction = Field(
        0.01, description="Largest change of a probability after the model is saved and loaded in another process.")
    approval: Literal["none", "required"] = Field(
        "none", description="Require a person's approval before a promotion takes effect.")

    @property
    def min_recalls(self) -> dict[str, float]:
        """``min_recall_by_class`` as a mapping from class to recall."""
        return parse_recalls(self.min_recall_by_class)

    @field_validator("min_recall_by_class")
    @classmethod
    def _require_recalls(cls, text: str) -> str:
        parse_recalls(text)
        return text

    def require_classes(self, class_names: Sequence[str]) -> None:
        """Raise ConfigError if ``min_recall_by_class`` names a class that is not in the data."""
        if unknown := sort_naturally(set(self.min_recalls) - set(class_names)):
            raise ConfigError(f"gate.min_recall_by_class has a floor for {', '.join(unknown)}, but the classes "
                              f"are {', '.join(class_names)}. Remove the floor.")


class Submit(Section):
    """Sending the predictions to Kaggle."""

    enabled: bool = Field(True, description="Submit the predictions of a promoted model to the competition.")
    max_per_day: int = Field(
        0, ge=0, description="Most submissions per day (UTC) of the account's team; 0 is the competition's limit.")
    sample: Text = Field("", description="Path of the sample submission, if the data have several.")
    kind: Literal["auto", "label", "positive", "probabilities"] = Field(
        "auto", description="What a submission contains: the class, the probability of the positive class, or one "
                            "probability per class.")
    positive_class: Text = Field("", description="The class whose probability is submitted.")


class Score(Section):
    """Waiting for the public score."""

    poll_seconds: int = Field(30, ge=1, description="carclf run only: seconds between two attempts of a waiting stage.")
    timeout_seconds: int = Field(3600, ge=1, description="carclf run only: longest time to wait, in seconds.")


class Config(Section):
    """All settings of a run."""

    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the split, the augmentation and the training.")
    force: bool = Field(False, description="Rebuild every artifact for this run instead of reusing any.")
    data: Data = Data()
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

    @property
    def competition(self) -> str:
        """The competition's slug; empty if the source is not a competition."""
        source = parse_source(self.data.source)
        return source.name if source.kind == "competition" else ""

    @property
    def submission_obstacle(self) -> str:
        """The reason why nothing can be submitted to the source; empty for a competition."""
        kind = parse_source(self.data.source).kind
        return "" if kind == "competition" else f"data.source is a {kind}, not a competition: nothing is submitted"

    @model_validator(mode="after")
    def _resolve_auto(self) -> "Config":
        """Replace automatic settings of fine-tuning, so that keys, records and pages have their values."""
        fine_tune = self.fine_tune.resolve_auto(self.model.backbone)
        if fine_tune.drop_path and not FAMILY_BY_BACKBONE[self.model.backbone].drop_path:
            raise ValueError(f"{self.model.backbone} has no residual branches that can be dropped: set "
                             "fine_tune.drop_path to 0.")
        object.__setattr__(self, "fine_tune", fine_tune)  # the model is frozen
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> "Config":
        weights = self.model.weights
        if self.model.backbone == "Tiny" and weights not in ("none", "champion"):
            raise ValueError("The backbone Tiny has no pretrained weights: set model.weights to none.")
        if self.split.num_folds and weights == "champion":
            raise ValueError("model.weights = 'champion' cannot be combined with split.num_folds: the champion was "
                             "trained on most images of each fold. Change model.weights or set split.num_folds to 0.")
        return self

    @model_validator(mode="after")
    def _check_image_sizes(self) -> "Config":
        backbone, fraction = self.model.backbone, self.fine_tune.size_fraction
        if backbone == "Tiny" and fraction != 1:
            raise ValueError("The backbone Tiny has one image size: set fine_tune.size_fraction to 1.")
        min_size = FAMILY_BY_BACKBONE[backbone].min_size
        if min(*self.model.image_size, *scaled_size(self.model.image_size, fraction)) < min_size:
            raise ValueError(f"{backbone} needs images of at least {min_size} px. Raise model.image_height, "
                             "model.image_width or fine_tune.size_fraction.")
        return self

    @model_validator(mode="after")
    def _check_fine_tuning(self) -> "Config":
        settings = self.fine_tune
        if settings.mixup + settings.cutmix > 1:
            raise ValueError(f"fine_tune.mixup = {settings.mixup:g} and fine_tune.cutmix = {settings.cutmix:g} are "
                             "fractions of the same batches: their sum must be at most 1.")
        if settings.xla and self.model.deterministic:
            raise ValueError("fine_tune.xla = true needs model.deterministic = false: TensorFlow does not use XLA with "
                             "deterministic kernels.")
        if settings.epochs and settings.num_phases > settings.epochs:
            raise ValueError(f"fine_tune.num_phases = {settings.num_phases} needs at least as many epochs, not "
                             f"{settings.epochs}.")
        return self
