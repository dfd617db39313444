"""Fine-tune a model: load it and its images, measure an automatic batch size, and train."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import AfterValidator
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.artifacts import Archive, Metrics, Model, Split, StageContext
from carclf.config import AUTO, FineTune
from carclf.dataset.archives import extract_images
from carclf.dataset.splits import units_of
from carclf.errors import DataError
from carclf.metrics import METRICS
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, LetterboxedSource, TrainingSource, batches
from carclf.pipeline.mixing import BatchMixer
from carclf.progress import log
from carclf.services.storage import parse_object
from carclf.training import auto_settings
from carclf.training.batch_norm import recompute_statistics
from carclf.training.checkpoints import Checkpoints
from carclf.training.compile import make_deterministic
from carclf.training.distribution import data_parallel
from carclf.training.head_search import is_held_out
from carclf.training.precision import compute_precision
from carclf.training.saving import save_model, write_reference_logits
from carclf.training.schedules import compile_for_fine_tuning, epoch_sizes
from carclf.training.soft_targets import mixed_targets, soft_targets
from carclf.training.trainer import Trainer, TrainerOptions, Validate
from carclf.training.validation import Objective, validate

TRIAL_BATCH_SIZE = 32
NUM_RATES = 100
SMALLEST_BATCH = 8
LARGEST_BATCH = 1024
MIN_STEPS_PER_EPOCH = 16  # limits the batch size: with fewer steps an epoch would hardly train
SELECTION_EVERY = 10  # with the plateau schedule, one unit of training images in ten selects the epoch
NUM_STATISTICS_IMAGES = 1024  # at least 1,000 images give precise statistics (Wu & Johnson 2021, arXiv:2105.07576)
Columns = dict[str, list[float | int | str | None]]
Trials = tuple[pd.DataFrame, float]  # the values tried for a setting, one per row, and the best value


def _require_equal_lengths(columns: Columns) -> Columns:
    if len({len(values) for values in columns.values()}) > 1:
        raise ValueError("the columns have different lengths")
    return columns


class StoredTrials(TypedDict):
    """The columns of the trials and the best batch size, as they are stored with the checkpoints."""

    best: int
    trials: Annotated[Columns, AfterValidator(_require_equal_lengths)]


class FineTuning:
    """The fine-tuning of the model ``start`` from train_head on the images of a split.

    ``activity`` names it in logs and progress.
    """

    def __init__(
        self, archive: Archive, split: Split, start: Model, context: StageContext, activity: str = "fine_tune"
    ) -> None:
        self.archive = archive
        self.split = split
        self.start = start
        self.context = context
        self.config = context.config
        self.store = context.store
        self.activity = activity

    @cached_property
    def rows(self) -> dict[str, pd.DataFrame]:
        """The split's rows by subset."""
        return {str(subset): table for subset, table in self.split.rows(self.store).groupby("subset")}

    def write_model(self, folder: Path, checkpoints: Checkpoints, pause_epoch: int) -> Metrics:
        """Train, write the files of the model to the folder, and return its metrics.

        Raise StageWaiting if training paused after ``pause_epoch``.
        """
        history = pd.DataFrame()
        metrics: Metrics = {"epoch": 0, **{name: self.start.number(name) for name in ("val_accuracy", "val_metric")}}
        with self.load_network() as network:
            if self.config.fine_tune.epochs:
                settings = self._choose_batch_size(network, folder, checkpoints)
                history, metrics = self._train(network, settings, checkpoints, pause_epoch)
        shared = self.write_files(network, history, self.rows["val"], folder)
        return metrics | {"metric": self.split.metric_name} | shared

    def write_files(self, network: keras.Model, history: pd.DataFrame, rows: pd.DataFrame, folder: Path) -> Metrics:
        """Write the files of a trained network, with logits of images of ``rows``, and return its properties."""
        images = extract_images(self.archive, self.store)
        write_reference_logits(network, rows, images, self.start.image_size, folder)
        save_model(network, history, folder)
        inherited = {name: self.start.metric(name) for name in ("num_classes", "image_height", "image_width")}
        return {"class_names": self.split.class_names} | inherited

    @cached_property
    def selection_mask(self) -> npt.NDArray[np.bool_]:
        """A mask of the training images that select an epoch and are not trained on; none with the cosine schedule.

        The cosine schedule ends with a learning rate of 0, so the last epoch is the result. The plateau schedule needs
        a selection, which must not use the validation images: they measure the result.
        """
        train, settings = self.rows["train"], self.config
        if settings.fine_tune.schedule == "cosine":
            return np.zeros(len(train), bool)
        mask = is_held_out(units_of(train).to_numpy(), SELECTION_EVERY, settings.seed)
        metric = METRICS[self.split.metric_name]
        if mask.all() or not metric.is_defined(train["class_index"].to_numpy()[mask]):
            raise DataError("fine_tune.schedule=plateau selects an epoch by a tenth of the groups of training images, "
                            f"which are too few for that by {metric.noun}. Set fine_tune.schedule=cosine.")
        return mask

    @property
    def training_rows(self) -> pd.DataFrame:
        """The rows of the images to train on."""
        return self.rows["train"][~self.selection_mask]

    @contextmanager
    def load_network(self) -> Iterator[keras.Model]:
        """Yield the network of ``start`` on this machine's devices and in the configured precision."""
        make_deterministic(self.config.seed, kernels=self.config.model.deterministic)
        batch_size = min(self.config.fine_tune.batch_size, len(self.training_rows)) or LARGEST_BATCH
        with data_parallel(batch_size):
            network = self.start.network(self.store)
            with compute_precision(self.config.model.precision, network) as precision:
                log.info("%s: computing precision=%s", self.activity, precision)
                yield network

    def find_learning_rate(self, network: keras.Model, settings: FineTune) -> Trials:
        """Find a learning rate by a range test."""
        settings = self._trial_settings(settings)
        source = self.training_source(settings)
        stream = batches(source, source.batch_size, mix=self.mixer(settings))
        with self._restored(network):
            table = auto_settings.range_test(
                lambda rate: compile_for_fine_tuning(settings, network, source, rate)[0], stream, NUM_RATES
            )
        return table, auto_settings.best_learning_rate(table)

    def find_batch_size(self, network: keras.Model, settings: FineTune, *, try_all: bool = False) -> Trials:
        """Find a fast batch size that gives each epoch enough steps.

        ``try_all`` also measures larger batches, which are never chosen, to show what fits into memory.
        """
        settings = self._trial_settings(settings)
        source = self.training_source(settings)
        largest = min(LARGEST_BATCH, max(SMALLEST_BATCH, len(source.examples) // MIN_STEPS_PER_EPOCH))
        with self._restored(network):
            trained, _ = compile_for_fine_tuning(settings, network, source)
            limit = LARGEST_BATCH if try_all else largest
            table = auto_settings.try_batch_sizes(trained, source.sizes[-1], SMALLEST_BATCH, limit)
        return table, auto_settings.best_batch_size(table, largest)

    @contextmanager
    def _restored(self, network: keras.Model) -> Iterator[None]:
        """Restore the network's weights after the block, and seed again.

        Training is then the same whether the trials ran in this process or in one that was killed.
        """
        weights = [keras.ops.convert_to_numpy(variable) for variable in network.variables]
        try:
            yield
        finally:
            for variable, array in zip(network.variables, weights, strict=True):
                variable.assign(array)
            make_deterministic(self.config.seed, kernels=self.config.model.deterministic)

    def _choose_batch_size(self, network: keras.Model, folder: Path, checkpoints: Checkpoints) -> FineTune:
        """Return the settings with the fastest batch size if it is automatic; plot the trials in the folder.

        The trials are kept with the checkpoints: if this process is killed, the next one continues with the same value.
        """
        settings = self.config.fine_tune
        if settings.batch_size != AUTO:
            return settings
        key = f"{checkpoints.folder}/batch_size-trials.json"
        if content := self._read_trials(key):
            trials, best = pd.DataFrame(content["trials"]), content["best"]
        else:
            trials, measured = self.find_batch_size(network, settings)
            best = int(measured)
            self.store.write(key, json.dumps({"best": best, "trials": trials.to_dict("list")}).encode())
        auto_settings.plot_trials(trials, best, folder / "batch_size.png")
        log.info("fine_tune: chose batch_size=%d", best)
        return self._with_batch_size(settings, best)

    def _with_batch_size(self, settings: FineTune, batch_size: int) -> FineTune:
        """Return the settings with this batch size and its learning rate, if that is automatic."""
        return settings.model_copy(update={"batch_size": batch_size}).resolve_auto(self.config.model.backbone)

    def _trial_settings(self, settings: FineTune) -> FineTune:
        """Return the settings for trials: a batch size, enough steps, and the largest images of the training."""
        settings = self._with_batch_size(settings, settings.batch_size or TRIAL_BATCH_SIZE)
        size_fraction = settings.size_fraction if settings.num_phases == 1 else 1.0
        return settings.model_copy(update={"epochs": NUM_RATES, "num_phases": 1, "size_fraction": size_fraction})

    def _read_trials(self, key: str) -> StoredTrials | None:
        if not (saved := self.store.read(key)):
            return None
        try:
            return parse_object(StoredTrials, saved.data, f"{key} in {self.store.url}", "The trials are repeated.")
        except DataError as error:
            log.warning("fine_tune: %s", error)
            return None

    def _train(
        self, network: keras.Model, settings: FineTune, checkpoints: Checkpoints, pause_epoch: int
    ) -> tuple[pd.DataFrame, Metrics]:
        source = self.training_source(settings)
        if source.batch_size < settings.batch_size:
            log.warning("fine_tune: fewer training images than a batch, batch_size=%d", source.batch_size)
        options = self.trainer_options(settings, self.training_rows, source.batch_size)
        validate_model = self._measure(self.rows["val"], source.batch_size, options.objective)
        options = replace(options, pause_epoch=pause_epoch, validate=validate_model)
        if not (held_out := self.rows["train"][self.selection_mask]).empty:
            options = replace(options, select=self._measure(held_out, source.batch_size, options.objective))
        trainer, num_blocks = self.build_trainer(network, source, checkpoints, options)
        history = trainer.run()
        result = {name: trainer.result_row[name] for name in ("epoch", "val_accuracy", "val_metric")}
        return history, {
            **result, "num_blocks": num_blocks, "num_restarts": trainer.state.restarts,
            "learning_rate": settings.learning_rate, "batch_size": source.batch_size,
        }

    def trainer_options(self, settings: FineTune, rows: pd.DataFrame, batch_size: int) -> TrainerOptions:
        """Return the options of a training on the images of ``rows``, without any measurement."""
        return TrainerOptions(
            settings, self.mixer(settings), Objective.from_split(self.split), activity=self.activity,
            recompute_statistics=self._statistics(settings, rows, batch_size),
        )

    def build_trainer(
        self, network: keras.Model, source: TrainingSource, checkpoints: Checkpoints, options: TrainerOptions,
        learning_rate: Any = None,
    ) -> tuple[Trainer, int]:
        """Return the trainer of a network, and the number of trainable blocks.

        ``learning_rate`` replaces the schedule of the settings.
        """
        trained, num_blocks = compile_for_fine_tuning(options.settings, network, source, learning_rate)
        trainer = Trainer(trained, source, checkpoints, options)
        log.info("%s: starting blocks=%d images=%d steps=%d", self.activity, num_blocks, len(source.examples),
                 trainer.last_step)
        return trainer, num_blocks

    def _measure(self, rows: pd.DataFrame, batch_size: int, objective: Objective) -> Validate:
        """Return a function that measures a model on images."""
        images, size = extract_images(self.archive, self.store), self.start.image_size
        source = LetterboxedSource(Examples.from_index(rows, images, size), size)
        return lambda model: validate(model, source, batch_size, objective)

    def training_source(
        self, settings: FineTune, rows: pd.DataFrame | None = None, max_steps: int = 0
    ) -> TrainingSource:
        """Return the source of a training on images, by default the training images.

        ``max_steps`` limits the steps of an epoch; 0 for no limit.
        """
        augmenter = Augmenter(self.config.augment)
        sizes = epoch_sizes(self.start.image_size, settings.size_fraction, settings.num_phases, settings.epochs)
        images = extract_images(self.archive, self.store)
        rows = self.training_rows if rows is None else rows
        examples = Examples.from_index(rows, images, augmenter.decode_size(max(sizes)))
        examples = examples.with_decode_cache(self.archive.content_hash, max_bytes=settings.cache_gb * 1e9)
        if settings.teacher:
            examples = replace(examples, labels=self._mixed_targets(rows))
        return TrainingSource(
            examples, augmenter, sizes, settings.batch_size, settings.epochs, self.config.seed, max_steps
        )

    def _mixed_targets(self, rows: pd.DataFrame) -> npt.NDArray[np.float32]:
        """Return targets with the teacher's probabilities, shape (rows, classes)."""
        targets = soft_targets(self.archive, self.split, self.context)
        weight = self.config.fine_tune.teacher_weight
        log.info("%s: training with a teacher model=%s soft_targets=%s weight=%g", self.activity,
                 targets.input("model"), targets.key, weight)
        return mixed_targets(rows, targets, self.split.class_names, weight, self.store)

    def _statistics(
        self, settings: FineTune, rows: pd.DataFrame, batch_size: int
    ) -> Callable[[keras.Model], None] | None:
        """Return a function that recomputes the statistics of BatchNormalization from images without augmentation.

        Return None unless the training changes the statistics and averages the weights. The images are whole batches in
        the order of their content's hash.
        """
        if settings.batch_norm != "training" or not settings.ema_fraction:
            return None
        rows = rows.sort_values(["sha256", "path"])[:NUM_STATISTICS_IMAGES]
        whole = rows[: max(1, len(rows) // batch_size) * batch_size]
        images, size = extract_images(self.archive, self.store), self.start.image_size
        source = LetterboxedSource(Examples.from_index(whole, images, size), size)
        return lambda model: recompute_statistics(model, source, batch_size)

    def mixer(self, settings: FineTune) -> BatchMixer:
        """Return the mixing of a batch's images."""
        num_classes = int(self.start.number("num_classes"))
        return BatchMixer(num_classes, self.config.seed, settings.mixup, settings.cutmix)
