"""Fine-tuning: repeatable, resumable bit by bit, robust, and in phases."""

import itertools
import json
import subprocess
import sys
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from carclf import progress
from carclf.config import load_config
from carclf.errors import DataError, QualityError, ServiceError, StageWaiting
from carclf.metrics import METRICS as METRIC_BY_NAME
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, LetterboxedSource, TrainingSource
from carclf.pipeline.mixing import BatchMixer
from carclf.services.storage import open_store
from carclf.training.backbones import build_backbone, flatten_layers
from carclf.training.checkpoints import Checkpoints
from carclf.training.compile import make_deterministic
from carclf.training.feed import DataWaitCallback
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.schedules import compile_for_fine_tuning, epoch_sizes
from carclf.training.trainer import Trainer, TrainerOptions, format_step_metrics
from carclf.training.validation import Objective, Validation, ema_weights, validate

SIZE = (48, 64)
SETTINGS = {
    "fine_tune.epochs": 3, "fine_tune.batch_size": 8, "fine_tune.checkpoint_minutes": 0, "fine_tune.num_workers": 0,
    "fine_tune.patience": 9, "fine_tune.mixup": 0.3, "fine_tune.cutmix": 0.3, "fine_tune.ema_fraction": 0.8,
}
WORST = Validation(float("inf"), -1.0, -1.0)
MEASURED = ["seconds", "images_per_second", "data_wait_fraction"]  # columns of the history that vary between runs
METRICS = {
    "epoch": 2.0, "loss": 0.5, "accuracy": 0.75, "learning_rate": 0.001, "images_per_second": 812.0,
    "data_wait_fraction": 0.031, "memory_mb": 1066.0,
}
METRICS_LINE = "epoch 2, loss 0.500, accuracy 0.750, learning rate 0.001, 812.0 img/s, data wait 3.1%, 1066 MB"


class Killed(Exception):
    """Simulates a power failure."""


class KilledAt(Checkpoints):
    """Raise Killed before the n-th save, as a machine may fail at any moment."""

    def __init__(self, store, key, n):
        super().__init__(store, key)
        self.left = n

    def save(self, arrays, state):
        if not self.left:
            raise Killed
        self.left -= 1
        super().save(arrays, state)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(44):
        shape = (int(random.integers(40, 90)), int(random.integers(50, 120)), 3)
        cv2.imwrite(str(folder / f"{number}.jpg"), random.integers(0, 256, shape, np.uint8))
    paths = [f"{number}.jpg" for number in range(44)]
    return folder, pd.DataFrame({"path": paths, "problem": "", "class_index": [number % 3 for number in range(44)]})


def build_trainer(images, checkpoints, change=lambda model: None, pause_epoch=0, validate=validate, **settings):
    folder, rows = images
    objective = Objective(METRIC_BY_NAME[settings.pop("metric", "accuracy")], ("0", "1", "2"))
    config = load_config("demo", SETTINGS | {f"fine_tune.{name}": value for name, value in settings.items()})
    fine_tune = config.fine_tune
    make_deterministic(0)
    backbone = build_backbone("Tiny", "none", *SIZE)
    model = join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 3, config.model))
    examples = Examples.from_index(rows[:36], folder, SIZE)
    sizes = epoch_sizes(SIZE, fine_tune.initial_size_fraction, fine_tune.num_phases, fine_tune.epochs)
    source = TrainingSource(
        examples, Augmenter(config.augment), sizes, fine_tune.batch_size, fine_tune.epochs, config.seed
    )
    val = LetterboxedSource(Examples.from_index(rows[36:], folder, SIZE), SIZE)
    trained, _ = compile_for_fine_tuning(fine_tune, model, source)
    change(trained)
    options = TrainerOptions(fine_tune, BatchMixer(3, 0, fine_tune.mixup, fine_tune.cutmix), objective, pause_epoch)
    return Trainer(trained, source, lambda network: validate(network, val, 8, objective), checkpoints, options)


def weights_and_history(trainer):
    history = trainer.run(WORST)
    return trainer.model.get_weights(), history.drop(columns=MEASURED)


@pytest.fixture(scope="module")
def uninterrupted(images, tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("store")))
    return weights_and_history(build_trainer(images, Checkpoints(store, "k")))


def assert_same(actual, expected):
    for actual_weight, expected_weight in zip(actual[0], expected[0], strict=True):
        np.testing.assert_array_equal(actual_weight, expected_weight)
    pd.testing.assert_frame_equal(actual[1], expected[1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_seed_gives_identical_weights(images, uninterrupted, store, num_workers):
    trainer = build_trainer(images, Checkpoints(store, "k"), num_workers=num_workers)
    assert_same(weights_and_history(trainer), uninterrupted)


# An epoch has 4 steps; saves happen before the first step, after each step, and after each epoch's validation.
@pytest.mark.parametrize("moments", [[0], [3], [4], [5], [7, 2, 1], [1, 1, 1, 1]])
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(images, uninterrupted, store, moments):
    for num_saves in moments:
        with pytest.raises(Killed):
            build_trainer(images, KilledAt(store, "k", num_saves)).run(WORST)
    assert_same(weights_and_history(build_trainer(images, Checkpoints(store, "k"))), uninterrupted)


def test_a_paused_training_ends_with_the_weights_of_an_uninterrupted_one(images, uninterrupted, store):
    for epoch in (1, 2):
        with pytest.raises(StageWaiting) as waiting:
            build_trainer(images, Checkpoints(store, "k"), pause_epoch=epoch).run(WORST)
        assert waiting.value.metrics["epoch"] == epoch
    assert_same(weights_and_history(build_trainer(images, Checkpoints(store, "k"))), uninterrupted)


def test_two_processes_do_not_overwrite_each_others_checkpoints(images, uninterrupted, store):
    with pytest.raises(Killed):
        build_trainer(images, KilledAt(store, "k", 4)).run(WORST)

    def checkpoint_files():
        return {key: store.read(key).data for key in store.list_keys("checkpoints/") if key.endswith(".npz")}

    before = checkpoint_files()
    other_process = (
        "import numpy as np; from carclf.services.storage import open_store; from carclf.training.checkpoints "
        f"import Checkpoints; Checkpoints(open_store({str(store.url)!r}), 'k').save([np.zeros(3)], {{'step': 9}})"
    )
    subprocess.run([sys.executable, "-c", other_process], check=True)
    assert {key: store.read(key).data for key in before} == before
    assert_same(weights_and_history(build_trainer(images, Checkpoints(store, "k"))), uninterrupted)
    assert set(checkpoint_files().values()) != {b""}
    Checkpoints(store, "k").clear()
    assert set(checkpoint_files().values()) == {b""}


class UnreachableAt(Checkpoints):
    """Raise ServiceError at some saves, as if the store were unreachable."""

    def __init__(self, store, key, unreachable):
        super().__init__(store, key)
        self.unreachable = unreachable
        self.num_saves = 0

    def save(self, arrays, state):
        self.num_saves += 1
        if self.num_saves in self.unreachable:
            raise ServiceError("The store cannot be reached.")
        super().save(arrays, state)


def test_training_continues_while_the_store_is_unreachable(images, uninterrupted, store, caplog):
    checkpoints = UnreachableAt(store, "k", unreachable={1, 3, 4})
    assert_same(weights_and_history(build_trainer(images, checkpoints)), uninterrupted)
    assert checkpoints.num_saves > 5
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["cannot be reached" in line for line in warnings] == [True] * 3


def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(images, uninterrupted, store, caplog):
    with pytest.raises(Killed):
        build_trainer(images, KilledAt(store, "k", 7)).run(WORST)
    latest = json.loads(store.read("checkpoints/k/latest.json").data)
    store.write(f"checkpoints/k/{latest['file']}", b"half of it")
    caplog.set_level("INFO")
    assert_same(weights_and_history(build_trainer(images, Checkpoints(store, "k"))), uninterrupted)
    assert f"fine_tune: resumed step={latest['previous']['state']['step']}" in caplog.messages
    assert 0 < latest["previous"]["state"]["step"] < latest["state"]["step"]


def test_damaged_checkpoints_are_not_used(images, uninterrupted, store):
    with pytest.raises(Killed):
        build_trainer(images, KilledAt(store, "k", 3)).run(WORST)
    files = [key for key in store.list_keys("checkpoints/") if key.endswith(".npz")]
    assert len(files) == 2
    for key in files:
        store.write(key, store.read(key).data[:-100])
    assert_same(weights_and_history(build_trainer(images, Checkpoints(store, "k"))), uninterrupted)


def test_a_checkpoint_of_another_network_is_ignored(images, uninterrupted, store):
    Checkpoints(store, "k").save([np.zeros(3)], {"step": 9})
    assert_same(weights_and_history(build_trainer(images, Checkpoints(store, "k"))), uninterrupted)


def poison_batches(monkeypatch, is_poisoned):
    """Make the label targets of some batches NaN."""
    original = BatchMixer.__call__

    def mix(self, number, batch):
        pixels, targets = original(self, number, batch)
        return pixels, targets * np.float32("nan" if is_poisoned(number) else 1)

    monkeypatch.setattr(BatchMixer, "__call__", mix)


def test_a_non_finite_loss_restarts_from_the_checkpoint_with_half_the_rate(images, store, monkeypatch):
    trainer = build_trainer(images, Checkpoints(store, "k"))
    poisoned = []

    def is_poisoned(number):
        if number == 5 and not poisoned:
            poisoned.append(number)
            return True
        return False

    poison_batches(monkeypatch, is_poisoned)
    history = trainer.run(WORST)
    assert trainer.state.restarts == 1 and poisoned == [5]
    assert list(history["epoch"]) == [1, 2, 3] and np.isfinite(history["loss"]).all()
    assert float(trainer.optimizer.scale) == 0.5


def test_a_loss_that_stays_non_finite_raises_quality_error(images, store, monkeypatch):
    poison_batches(monkeypatch, lambda number: True)
    with pytest.raises(QualityError, match=r"fine_tune\.learning_rate"):
        build_trainer(images, Checkpoints(store, "k")).run(WORST)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="within fit, only JAX itself can change a variable")
@pytest.mark.parametrize(("step", "checkpoint_minutes"), [(4, 5), (6, 0)])  # an epoch's last step; before a save
def test_weights_damaged_by_a_step_are_not_saved(images, store, monkeypatch, step, checkpoint_minutes):
    trainer = build_trainer(images, Checkpoints(store, "k"), checkpoint_minutes=checkpoint_minutes)
    original, damaged = DataWaitCallback.on_train_batch_end, []

    def damage(self, batch, logs=None):  # the loss of the step itself is finite
        if trainer.state.step + 1 == step and not damaged:
            damaged.append(step)
            for variable in [*trainer.model.trainable_variables, *trainer.optimizer.moving_averages]:
                variable.assign(np.full(variable.shape, np.nan))
        original(self, batch, logs)

    monkeypatch.setattr(DataWaitCallback, "on_train_batch_end", damage)
    history = trainer.run(WORST)
    assert trainer.state.restarts == 1 and list(history["epoch"]) == [1, 2, 3]
    assert np.isfinite(history[["loss", "val_loss"]]).all(axis=None)
    assert all(np.isfinite(array).all() for array in trainer.model.get_weights())


def test_non_finite_initial_weights_raise_quality_error(images, store):
    def damage(model):
        model.get_layer("head").get_layer("logits").bias.assign([np.nan] * 3)

    with pytest.raises(QualityError, match=r"model\.weights"):
        build_trainer(images, Checkpoints(store, "k"), change=damage).run(WORST)


def test_every_progress_line_has_the_metrics_of_its_step(images, store, monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level("INFO", progress.log.name)
    build_trainer(images, Checkpoints(store, "k"), checkpoint_minutes=5).run(WORST)
    lines = [line for line in caplog.messages if ", learning rate " in line]
    assert [f"{step}/12," in line for step, line in enumerate(lines, 1)] == [True] * 12
    assert [("epoch 1, loss " in line, " learning rate 0," in line) for line in lines[:4]] == [(True, False)] * 4


def test_a_progress_line_shows_the_gpu_metrics_that_are_known():
    assert format_step_metrics(METRICS) == METRICS_LINE
    metrics = METRICS | {"gpu_memory_mb": 30720.0}
    assert format_step_metrics(metrics) == f"{METRICS_LINE}, GPU 30720 MB"
    assert format_step_metrics(metrics | {"gpu_utilization": 0.87}) == f"{METRICS_LINE}, GPU 30720 MB at 87%"


def test_a_spent_budget_ends_training_with_the_best_weights_so_far(images, store):
    trainer = build_trainer(images, Checkpoints(store, "k"), budget_minutes=1e-9)
    start = trainer.model.get_weights()
    history = trainer.run(Validation(0.0, 1.0, 1.0))  # no epoch can be better than the start
    assert list(history["step"]) == [1] and trainer.state.best_epoch == 0
    for before, after in zip(start, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_validation_counts_toward_the_budget(images, store, monkeypatch):
    """The clock advances by a millisecond per reading, and by half a minute per validation."""
    readings, validations = itertools.count(), []
    clock = SimpleNamespace(monotonic=lambda: next(readings) / 1000 + 30 * len(validations))
    monkeypatch.setattr("carclf.training.trainer.time", clock)

    def slow_validation(*_):
        validations.append(1)
        return Validation(1.0, 0.5, 0.5)

    trainer = build_trainer(images, Checkpoints(store, "k"), validate=slow_validation, budget_minutes=60)
    history = trainer.run(WORST)
    assert len(validations) == 3 and history["seconds"].sum() < 30
    assert trainer.state.seconds > history["seconds"].sum() + 3 * 30 - 0.1


def test_an_epoch_stopped_by_the_budget_can_be_the_best(images, store):
    trainer = build_trainer(images, Checkpoints(store, "k"), budget_minutes=1e-9)
    history = trainer.run(WORST)
    assert trainer.state.best_epoch == 1 and trainer.state.best.accuracy == history["val_accuracy"][0]
    assert trainer.validate(trainer.model).accuracy == history["val_accuracy"][0]


def test_an_image_that_disappears_during_training_raises_data_error(images, store):
    folder, rows = images
    trainer = build_trainer((folder, rows.assign(path=rows["path"].replace("7.jpg", "gone.jpg"))),
                            Checkpoints(store, "k"), num_workers=0)
    with pytest.raises(DataError, match=r"gone\.jpg"):
        trainer.run(WORST)


def test_early_stopping_keeps_the_best_weights(images, store):
    trainer = build_trainer(images, Checkpoints(store, "k"), patience=1, epochs=50)
    history = trainer.run(WORST)
    best = int(history["val_accuracy"].argmax())
    assert len(history) == best + 2 < 50
    assert trainer.validate(trainer.model).accuracy == history["val_accuracy"][best] == trainer.state.best.accuracy


@pytest.mark.parametrize("metric", ["log_loss", "macro_f1"])
def test_the_metric_selects_the_epoch_in_its_direction(images, store, metric):
    sign = 1 if METRIC_BY_NAME[metric].higher_is_better else -1
    trainer = build_trainer(images, Checkpoints(store, "k"), metric=metric, patience=2, epochs=12)
    history = trainer.run(Validation(float("inf"), 0.0, -sign * float("inf")))
    best = max(range(len(history)), key=lambda n: (sign * history["val_metric"][n], -history["val_loss"][n]))
    assert trainer.state.best_epoch == best + 1 and len(history) == min(12, best + 3)
    assert trainer.state.best.metric == history["val_metric"][best] == trainer.validate(trainer.model).metric
    assert metric == "macro_f1" or history["val_metric"][best] == pytest.approx(history["val_loss"][best])


def test_a_checkpoint_without_the_best_validation_is_not_used(images, store):
    """Older versions saved ``best_accuracy`` instead."""
    with pytest.raises(Killed):
        build_trainer(images, KilledAt(store, "k", 3)).run(WORST)
    checkpoints = Checkpoints(store, "k")
    arrays, state = checkpoints.load()
    del state["best"]
    checkpoints.save(arrays, state | {"best_accuracy": 0.9})
    trainer = build_trainer(images, checkpoints)
    assert len(trainer.run(WORST)) == 3 and trainer.state.best.accuracy < 0.9


def test_patience_only_counts_in_the_last_phase(images, store):
    trainer = build_trainer(images, Checkpoints(store, "k"), patience=1, epochs=6, num_phases=2)
    history = trainer.run(Validation(0.0, 1.0, 1.0))  # no epoch can be better than the start
    assert list(history["epoch"]) == [1, 2, 3, 4]


def test_ema_weights_are_in_the_model_only_within_the_block(images, store):
    trainer = build_trainer(images, Checkpoints(store, "k"))
    trainer.run(WORST)
    weights = [np.array(variable) for variable in trainer.model.trainable_variables]
    with ema_weights(trainer.model):
        averages = [np.array(variable) for variable in trainer.model.trainable_variables]
    assert not np.allclose(weights[0], averages[0])
    np.testing.assert_array_equal(weights[0], np.array(trainer.model.trainable_variables[0]))


def test_blocks_start_to_train_from_the_top_phase_by_phase(images, store):
    trainer = build_trainer(images, KilledAt(store, "k", 4), num_phases=3, layer_decay=0.5, epochs=3, weight_decay=0.0)
    convolutions = [layer for layer in flatten_layers(trainer.model) if "conv" in layer.name]
    before = [np.array(layer.kernel) for layer in convolutions]
    with pytest.raises(Killed):  # after the four steps of the first phase
        trainer.run(WORST)
    pairs = zip(before, convolutions, strict=True)
    assert [not np.array_equal(kernel, np.array(layer.kernel)) for kernel, layer in pairs] == [False] * 3 + [True]
