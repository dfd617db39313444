"""Fine-tuning: repeatable, resumable bit by bit, robust, and in phases."""

import itertools
import json
import subprocess
import sys
import time
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
from carclf.training.steps import format_step_metrics
from carclf.training.trainer import Trainer, TrainerOptions
from carclf.training.validation import Objective, Validation, ema_weights, validate
from carclf.training.weights import StartingWeights

pytestmark = pytest.mark.integration

SIZE = (48, 64)
SETTINGS = {
    "fine_tune.epochs": 3, "fine_tune.batch_size": 8, "fine_tune.checkpoint_minutes": 0, "fine_tune.num_workers": 0,
    "fine_tune.mixup": 0.3, "fine_tune.cutmix": 0.3, "fine_tune.ema_fraction": 0.8, "augment.trivial": True,
    "augment.erasing": 0.5, "augment.half_crop": 0.5,
}
MEASURED = ["seconds", "images_per_second", "data_wait_fraction"]  # columns of the history that vary between runs
METRICS = {
    "epoch": 2.0, "loss": 0.5, "accuracy": 0.75, "learning_rate": 0.001, "images_per_second": 812.0,
    "data_wait_fraction": 0.031, "memory_mb": 1066.0,
}
METRICS_LINE = "epoch 2, loss 0.500, accuracy 0.750, learning rate 0.001, 812.0 img/s, data wait 3.1%, 1066 MB"


class Killed(Exception):
    """Simulates a power failure."""


class KilledAt(Checkpoints):
    """Raise Killed after n saves, in the middle of the next: its files are written, but ``latest.json`` is not."""

    def __init__(self, store, key, n):
        self.left = n
        dying_store = open_store(store.url)
        dying_store.write = self._write_or_die
        super().__init__(dying_store, key)
        self.intact_store = store

    def _write_or_die(self, key, data):
        if not self.left:
            raise Killed
        self.left -= 1
        self.intact_store.write(key, data)


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
    options = {name: settings.pop(name) for name in ("select", "last_step", "recompute_statistics", "activity")
               if name in settings}
    config = load_config("demo", SETTINGS | {f"fine_tune.{name}": value for name, value in settings.items()})
    fine_tune = config.fine_tune
    make_deterministic(0)
    backbone = build_backbone("Tiny", StartingWeights("none"), *SIZE)
    model = join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 3, config.model))
    examples = Examples.from_index(rows[:36], folder, SIZE)
    sizes = epoch_sizes(SIZE, fine_tune.size_fraction, fine_tune.num_phases, fine_tune.epochs)
    source = TrainingSource(
        examples, Augmenter(config.augment), sizes, fine_tune.batch_size, fine_tune.epochs, config.seed
    )
    val = LetterboxedSource(Examples.from_index(rows[36:], folder, SIZE), SIZE)
    trained, _ = compile_for_fine_tuning(fine_tune, model, source)
    change(trained)
    mixer = BatchMixer(3, 0, fine_tune.mixup, fine_tune.cutmix)
    measure = (lambda network: validate(network, val, 8, objective)) if validate else None
    options = TrainerOptions(fine_tune, mixer, objective, pause_epoch, measure, **options)
    return Trainer(trained, source, checkpoints, options)


class Select:
    """Measure a model by given losses, one per epoch, which are also the values of log loss."""

    def __init__(self, *losses):
        self.losses = losses
        self.weights = []

    def __call__(self, model):
        self.weights.append(model.get_weights())
        loss = self.losses[len(self.weights) - 1]
        return Validation(loss, 0.5, loss)


def weights_and_history(trainer):
    history = trainer.run()
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
@pytest.mark.parametrize("moments", [[0, 3], [4, 1, 1], [5], [7, 2, 1]])
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(images, uninterrupted, store, moments):
    for num_saves in moments:
        with pytest.raises(Killed):
            build_trainer(images, KilledAt(store, "k", num_saves)).run()
    assert_same(weights_and_history(build_trainer(images, Checkpoints(store, "k"))), uninterrupted)


def test_training_continues_while_a_checkpoint_is_written(images, uninterrupted, store):
    """The checkpoint before the first step is only written after that step."""
    class SlowCheckpoints(Checkpoints):
        def save(self, arrays, best, state):
            while not state["step"] and not trainer.state.step:
                time.sleep(0.01)
            super().save(arrays, best, state)

    trainer = build_trainer(images, SlowCheckpoints(store, "k"))
    assert_same(weights_and_history(trainer), uninterrupted)
    assert Checkpoints(store, "k").load()[2]["step"] == trainer.state.step == 12


def test_a_paused_training_ends_with_the_weights_of_an_uninterrupted_one(images, uninterrupted, store):
    for epoch in (1, 2):
        with pytest.raises(StageWaiting) as waiting:
            build_trainer(images, Checkpoints(store, "k"), pause_epoch=epoch).run()
        assert waiting.value.metrics["epoch"] == epoch
    assert_same(weights_and_history(build_trainer(images, Checkpoints(store, "k"))), uninterrupted)


def test_two_processes_do_not_overwrite_each_others_checkpoints(images, uninterrupted, store):
    with pytest.raises(Killed):
        build_trainer(images, KilledAt(store, "k", 4)).run()

    def checkpoint_files():
        return {key: store.read(key).data for key in store.list_keys("checkpoints/") if key.endswith(".npz")}

    before = checkpoint_files()
    other_process = (
        "import numpy as np; from carclf.services.storage import open_store; from carclf.training.checkpoints "
        f"import Checkpoints; Checkpoints(open_store({str(store.url)!r}), 'k').save([np.zeros(3)], [], {{'step': 9}})"
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

    def save(self, arrays, best, state):
        self.num_saves += 1
        if self.num_saves in self.unreachable:
            raise ServiceError("The store cannot be reached.")
        super().save(arrays, best, state)


def test_training_continues_while_the_store_is_unreachable(images, uninterrupted, store, caplog):
    checkpoints = UnreachableAt(store, "k", unreachable={1, 3, 4})
    assert_same(weights_and_history(build_trainer(images, checkpoints)), uninterrupted)
    assert checkpoints.num_saves > 5
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["cannot be reached" in line for line in warnings] == [True] * 3


def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(images, uninterrupted, store, caplog):
    with pytest.raises(StageWaiting):
        build_trainer(images, Checkpoints(store, "k"), pause_epoch=1).run()
    latest = json.loads(store.read("checkpoints/k/latest.json").data)
    store.write(f"checkpoints/k/{latest['file']}", b"half of it")
    caplog.set_level("INFO")
    assert_same(weights_and_history(build_trainer(images, Checkpoints(store, "k"))), uninterrupted)
    assert f"fine_tune: resumed step={latest['previous']['state']['step']}" in caplog.messages
    assert 0 < latest["previous"]["state"]["step"] < latest["state"]["step"]


def test_damaged_checkpoints_are_not_used(images, uninterrupted, store):
    with pytest.raises(Killed):
        build_trainer(images, KilledAt(store, "k", 3)).run()
    files = [key for key in store.list_keys("checkpoints/") if key.endswith(".npz")]
    assert len([key for key in files if "-state-" in key]) == 2
    for key in files:
        store.write(key, store.read(key).data[:-100])
    assert_same(weights_and_history(build_trainer(images, Checkpoints(store, "k"))), uninterrupted)


def test_a_checkpoint_of_another_network_is_ignored(images, uninterrupted, store):
    Checkpoints(store, "k").save([np.zeros(3)], [], {"step": 9})
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
    history = trainer.run()
    assert trainer.state.restarts == 1 and poisoned == [5]
    assert list(history["epoch"]) == [1, 2, 3] and np.isfinite(history["loss"]).all()
    assert float(trainer.optimizer.scale) == 0.5


def test_a_loss_that_stays_non_finite_raises_quality_error(images, store, monkeypatch):
    poison_batches(monkeypatch, lambda number: True)
    with pytest.raises(QualityError, match=r"fine_tune\.learning_rate"):
        build_trainer(images, Checkpoints(store, "k")).run()


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
    history = trainer.run()
    assert trainer.state.restarts == 1 and list(history["epoch"]) == [1, 2, 3]
    assert np.isfinite(history[["loss", "val_loss"]]).all(axis=None)
    assert all(np.isfinite(array).all() for array in trainer.model.get_weights())


def test_non_finite_initial_weights_raise_quality_error(images, store):
    def damage(model):
        model.get_layer("head").get_layer("logits").bias.assign([np.nan] * 3)

    with pytest.raises(QualityError, match=r"model\.weights"):
        build_trainer(images, Checkpoints(store, "k"), change=damage).run()


def test_every_progress_line_has_the_metrics_of_its_step(images, store, monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level("INFO", progress.log.name)
    build_trainer(images, Checkpoints(store, "k"), checkpoint_minutes=5).run()
    lines = [line for line in caplog.messages if ", learning rate " in line]
    assert [f"{step}/12," in line for step, line in enumerate(lines, 1)] == [True] * 12
    assert [("epoch 1, loss " in line, " learning rate 0," in line) for line in lines[:4]] == [(True, False)] * 4


def test_a_progress_line_shows_the_gpu_metrics_that_are_known():
    assert format_step_metrics(METRICS) == METRICS_LINE
    metrics = METRICS | {"gpu_memory_mb": 30720.0}
    assert format_step_metrics(metrics) == f"{METRICS_LINE}, GPU 30720 MB"
    assert format_step_metrics(metrics | {"gpu_utilization": 0.87}) == f"{METRICS_LINE}, GPU 30720 MB at 87%"


def test_a_training_ends_after_its_last_step_on_the_schedules_of_all_epochs(images, uninterrupted, store, caplog):
    """Without validation, the log line of an epoch has no values of it, and the averaged weights are needed once."""
    caplog.set_level("INFO", progress.log.name)
    statistics = []
    trainer = build_trainer(images, Checkpoints(store, "k"), validate=None, last_step=6, activity="refit",
                            recompute_statistics=statistics.append)
    history = trainer.run()
    assert list(history["step"]) == [4, 6] and len(statistics) == 1
    pd.testing.assert_frame_equal(
        history.loc[:0].drop(columns=MEASURED), uninterrupted[1].loc[:0, history.columns.drop(MEASURED)])
    lines = [line for line in caplog.messages if "epoch done" in line]
    assert [line.startswith("refit: ") and "  " not in line for line in lines] == [True] * 2


def test_without_an_average_the_statistics_of_the_training_are_kept(images, store):
    statistics = []
    trainer = build_trainer(images, Checkpoints(store, "k"), epochs=1, ema_fraction=0.01,
                            recompute_statistics=statistics.append)
    trainer.run()
    assert not trainer.optimizer.use_ema and not statistics


def test_a_spent_budget_ends_training_with_the_averaged_weights(images, store):
    trainer = build_trainer(images, Checkpoints(store, "k"), budget_minutes=1e-9)
    history = trainer.run()
    assert list(history["step"]) == [1]
    assert trainer.validate(trainer.model).loss == history["val_loss"][0]


def test_weights_of_a_spent_budget_are_validated_after_a_kill(images, store):
    """The second process has no time left, and the checkpoint is within an epoch: it takes one more step."""
    with pytest.raises(Killed):
        build_trainer(images, KilledAt(store, "k", 3)).run()
    history = build_trainer(images, Checkpoints(store, "k"), budget_minutes=1e-9).run()
    assert list(history["step"]) == [3] and np.isfinite(history["val_loss"][0])


def test_validation_counts_toward_the_budget(images, store, monkeypatch):
    """The clock advances by a millisecond per reading, and by half a minute per validation."""
    readings, validations = itertools.count(), []
    clock = SimpleNamespace(monotonic=lambda: next(readings) / 1000 + 30 * len(validations))
    monkeypatch.setattr("carclf.training.trainer.time", clock)

    def slow_validation(*_):
        validations.append(1)
        return Validation(1.0, 0.5, 0.5)

    trainer = build_trainer(images, Checkpoints(store, "k"), validate=slow_validation, budget_minutes=60)
    history = trainer.run()
    assert len(validations) == 3 and history["seconds"].sum() < 30
    assert trainer.state.seconds > history["seconds"].sum() + 3 * 30 - 0.1


def test_an_image_that_disappears_during_training_raises_data_error(images, store):
    folder, rows = images
    trainer = build_trainer((folder, rows.assign(path=rows["path"].replace("7.jpg", "gone.jpg"))),
                            Checkpoints(store, "k"), num_workers=0)
    with pytest.raises(DataError, match=r"gone\.jpg"):
        trainer.run()


def test_the_result_is_the_averaged_weights_of_the_last_step(images, store, uninterrupted):
    trainer = build_trainer(images, Checkpoints(store, "k"), patience=1)
    history = trainer.run()
    assert len(history) == 3 and float(trainer.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)
    averages = [np.array(average) for average in trainer.optimizer.moving_averages]
    for variable, average in zip(trainer.model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(np.array(variable), average)
    assert trainer.validate(trainer.model).loss == history["val_loss"].iloc[-1] == trainer.result_row["val_loss"]


def test_checkpoints_hold_no_second_copy_of_the_weights_without_a_selection(images, store):
    sizes = {}
    for key, select in (("last", None), ("best", Select(1.0))):
        trainer = build_trainer(images, Checkpoints(store, key), select=select, epochs=1)
        trainer.run()
        sizes[key] = len(Checkpoints(store, key).load()[1])
    assert sizes == {"last": 0, "best": len(trainer.model.get_weights())}


def test_the_plateau_schedule_keeps_the_epoch_that_held_out_images_select(images, store):
    """After the third epoch nothing improves; with patience 2 the fifth is the last, although it has the best loss."""
    select = Select(0.9, 0.8, 0.3, 0.5, 0.4, 0.1)
    trainer = build_trainer(images, Checkpoints(store, "k"), select=select, metric="log_loss", patience=2, epochs=9,
                            schedule="plateau")
    history = trainer.run()
    assert len(history) == 5 and trainer.state.best_epoch == trainer.result_row["epoch"] == 3
    assert float(trainer.optimizer.scale) == 0.25
    for selected, weight in zip(select.weights[2], trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(selected, weight)


def test_a_selection_continues_after_a_kill(images, store):
    """An epoch has four steps; the first process is killed in its second epoch."""
    losses, settings = [0.9, 0.2, 0.3], {"metric": "log_loss", "schedule": "plateau"}
    whole = build_trainer(images, Checkpoints(store, "whole"), select=Select(*losses), **settings)
    expected = weights_and_history(whole)
    with pytest.raises(Killed):
        build_trainer(images, KilledAt(store, "k", 7), select=Select(*losses), **settings).run()
    resumed = build_trainer(images, Checkpoints(store, "k"), select=Select(*losses[1:]), **settings)
    assert_same(weights_and_history(resumed), expected)
    assert resumed.state.best_epoch == whole.state.best_epoch == 2


def test_a_checkpoint_with_another_state_is_not_used(images, store):
    with pytest.raises(Killed):
        build_trainer(images, KilledAt(store, "k", 3)).run()
    checkpoints = Checkpoints(store, "k")
    arrays, best, state = checkpoints.load()
    del state["best"]
    checkpoints.save(arrays, best, state | {"best_accuracy": 0.9})
    assert list(build_trainer(images, checkpoints).run()["step"]) == [4, 8, 12]


def test_patience_only_counts_in_the_last_phase(images, store):
    select = Select(*range(6))  # the first epoch is the best
    trainer = build_trainer(images, Checkpoints(store, "k"), select=select, metric="log_loss", patience=1, epochs=6,
                            num_phases=2)
    assert list(trainer.run()["epoch"]) == [1, 2, 3, 4]


def test_ema_weights_are_in_the_model_only_within_the_block(images, store):
    trainer = build_trainer(images, Checkpoints(store, "k"))
    trainer.run()
    for variable in trainer.model.trainable_variables:  # which are the averages after a training
        variable.assign(variable + 1)
    weights = [np.array(variable) for variable in trainer.model.trainable_variables]
    with ema_weights(trainer.model):
        averages = [np.array(variable) for variable in trainer.model.trainable_variables]
    assert not np.allclose(weights[0], averages[0])
    np.testing.assert_array_equal(weights[0], np.array(trainer.model.trainable_variables[0]))


def test_blocks_start_to_train_from_the_top_phase_by_phase(images, store):
    trainer = build_trainer(images, Checkpoints(store, "k"), num_phases=3, layer_decay=0.5, epochs=3,
                            weight_decay=0.0, pause_epoch=1)
    convolutions = [layer for layer in flatten_layers(trainer.model) if "conv" in layer.name]
    before = [np.array(layer.kernel) for layer in convolutions]
    with pytest.raises(StageWaiting):  # after the four steps of the first phase
        trainer.run()
    pairs = zip(before, convolutions, strict=True)
    assert [not np.array_equal(kernel, np.array(layer.kernel)) for kernel, layer in pairs] == [False] * 3 + [True]
