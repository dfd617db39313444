"""Fine-tuning: repeatable, resumable to the bit, guarded, and in phases."""

import json
import subprocess
import sys
import time

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from carclf.config import load_config
from carclf.errors import DataError, QualityError, ServiceError
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, LetterboxedSource, TrainingSource
from carclf.pipeline.mixing import BatchMixer
from carclf.services.storage import open_store
from carclf.training import trainer as loop
from carclf.training.backbones import build_backbone, flatten_layers
from carclf.training.checkpoints import Checkpoints
from carclf.training.compile import make_deterministic
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.schedules import compile_for_fine_tuning, epoch_sizes
from carclf.training.validation import ema_weights, validate

SIZE = (48, 64)
SETTINGS = {"fine_tune.epochs": 3, "fine_tune.batch_size": 8, "fine_tune.checkpoint_minutes": 0, "fine_tune.num_workers": 0,
            "fine_tune.patience": 9, "fine_tune.mixup": 0.3, "fine_tune.cutmix": 0.3}


class Killed(Exception):
    """Stands for the power going."""


class KilledAt(Checkpoints):
    """Dies before the n-th save, as a machine may at any moment."""

    def __init__(self, store, key, n):
        super().__init__(store, key)
        self.left = n

    def save(self, arrays, state):
        if not self.left:
            raise Killed
        self.left -= 1
        super().save(arrays, state)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(44):
        shape = (int(random.integers(40, 90)), int(random.integers(50, 120)), 3)
        cv2.imwrite(str(folder / f"{number}.jpg"), random.integers(0, 256, shape, np.uint8))
    paths = [f"{number}.jpg" for number in range(44)]
    return folder, pd.DataFrame({"path": paths, "problem": "", "label": [number % 3 for number in range(44)]})


def trainer(pictures, checkpoints, change=lambda model: None, **settings):
    folder, rows = pictures
    config = load_config("demo", SETTINGS | {f"fine_tune.{name}": value for name, value in settings.items()})
    own = config.fine_tune
    make_deterministic(0)
    backbone = build_backbone("Tiny", "none", *SIZE)
    model = join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 3, config.model))
    examples = Examples.from_index(rows[:36], folder, SIZE)
    sizes = epoch_sizes(SIZE, own.initial_size_fraction, own.num_phases, own.epochs)
    source = TrainingSource(examples, Augmenter(config.augment), sizes, own.batch_size, own.epochs, config.seed)
    val = LetterboxedSource(Examples.from_index(rows[36:], folder, SIZE), SIZE)
    trained, _ = compile_for_fine_tuning(own, model, source)
    change(trained)
    return loop.Trainer(trained, source, BatchMixer(3, 0, own.mixup, own.cutmix), own,
                        lambda network: validate(network, val, 8), checkpoints)


def weights_and_history(one):
    history = one.run(0.0)
    timings = ["seconds", "images_per_second", "data_wait_fraction"]
    return one.model.get_weights(), history.drop(columns=timings)


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    return weights_and_history(trainer(pictures, Checkpoints(open_store(str(tmp_path_factory.mktemp("s"))), "k")))


def assert_same(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(a, b)
    pd.testing.assert_frame_equal(one[1], other[1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_seed_gives_the_same_weights_to_the_bit_with_any_number_of_workers(
    pictures, undisturbed, tmp_path, num_workers
):
    store = open_store(str(tmp_path))
    assert_same(undisturbed, weights_and_history(trainer(pictures, Checkpoints(store, "k"), num_workers=num_workers)))


# 4 steps an epoch; a save before the first step, after each step, and one after each epoch's validation
@pytest.mark.parametrize("moments", [[0], [3], [4], [5], [7, 2, 1], [1, 1, 1, 1]])
def test_a_training_killed_at_any_moment_ends_with_the_weights_of_one_never_killed(
    pictures, undisturbed, tmp_path, moments
):
    store = open_store(str(tmp_path))
    for saves in moments:
        with pytest.raises(Killed):
            trainer(pictures, KilledAt(store, "k", saves)).run(0.0)
    assert_same(undisturbed, weights_and_history(trainer(pictures, Checkpoints(store, "k"))))


def test_of_two_that_train_the_same_at_once_neither_writes_over_the_others_checkpoint(pictures, undisturbed, tmp_path):
    store = open_store(str(tmp_path))
    with pytest.raises(Killed):
        trainer(pictures, KilledAt(store, "k", 4)).run(0.0)
    before = {key: store.read(key).data for key in store.list_keys("checkpoints/") if key.endswith(".npz")}
    code = ("import numpy as np; from carclf.services.storage import open_store; from carclf.training.checkpoints "
            f"import Checkpoints; Checkpoints(open_store({str(tmp_path)!r}), 'k').save([np.zeros(3)], {{'step': 9}})")
    subprocess.run([sys.executable, "-c", code], check=True)  # one that was taken for dead
    assert {key: store.read(key).data for key in before} == before
    assert_same(undisturbed, weights_and_history(trainer(pictures, Checkpoints(store, "k"))))
    assert {store.read(key).data for key in store.list_keys("checkpoints/") if key.endswith(".npz")} != {b""}
    Checkpoints(store, "k").clear()
    assert {store.read(key).data for key in store.list_keys("checkpoints/") if key.endswith(".npz")} == {b""}


class AwayAt(Checkpoints):
    """Its store is away for some savings and then back."""

    def __init__(self, store, key, away):
        super().__init__(store, key)
        self.away, self.saved = away, 0

    def save(self, arrays, state):
        self.saved += 1
        if self.saved in self.away:
            raise ServiceError("The store cannot be reached.")
        super().save(arrays, state)


def test_a_store_that_is_away_for_a_minute_ends_no_training(pictures, undisturbed, tmp_path, caplog):
    checkpoints = AwayAt(open_store(str(tmp_path)), "k", away={1, 3, 4})
    weights, history = weights_and_history(trainer(pictures, checkpoints))
    assert checkpoints.saved > 5
    told = [line for line in caplog.messages if line.startswith("fine_tune: no checkpoint at step")]
    assert [line.partition(", ")[2] for line in told] == ["training goes on: The store cannot be reached."] * 3
    for one, other in zip(weights, undisturbed[0], strict=True):
        np.testing.assert_array_equal(one, other)
    pd.testing.assert_frame_equal(history, undisturbed[1])


@pytest.mark.parametrize("left", [b"", b'{"file": "ab', b"[]", b"{}"])
def test_a_damaged_name_of_the_latest_checkpoint_counts_as_none(tmp_path, left):
    checkpoints = Checkpoints(open_store(str(tmp_path)), "k")
    checkpoints.save([np.arange(3)], {"step": 1})
    checkpoints.store.write("checkpoints/k/latest.json", left)
    assert checkpoints.load() is None
    checkpoints.save([np.arange(3)], {"step": 2})
    assert checkpoints.load()[1] == {"step": 2}
    checkpoints.store.write("checkpoints/k/latest.json", left)
    checkpoints.clear()
    assert {checkpoints.store.read(key).data for key in checkpoints.store.list_keys("checkpoints/")} == {b"null", b""}


def test_where_the_latest_checkpoint_is_damaged_the_one_before_it_is_taken_up(pictures, undisturbed, tmp_path, caplog):
    store = open_store(str(tmp_path))
    with pytest.raises(Killed):
        trainer(pictures, KilledAt(store, "k", 7)).run(0.0)
    latest = json.loads(store.read("checkpoints/k/latest.json").data)
    store.write(f"checkpoints/k/{latest['file']}", b"half of it")
    caplog.set_level("INFO")
    assert_same(undisturbed, weights_and_history(trainer(pictures, Checkpoints(store, "k"))))
    assert f"fine_tune: taken up at step {latest['previous']['state']['step']}" in caplog.messages
    assert 0 < latest["previous"]["state"]["step"] < latest["state"]["step"]


def test_a_damaged_checkpoint_is_not_used(pictures, undisturbed, tmp_path):
    store = open_store(str(tmp_path))
    with pytest.raises(Killed):
        trainer(pictures, KilledAt(store, "k", 3)).run(0.0)
    files = [key for key in store.list_keys("checkpoints/") if key.endswith(".npz")]
    assert len(files) == 2
    for key in files:
        store.write(key, store.read(key).data[:-100])
    assert_same(undisturbed, weights_and_history(trainer(pictures, Checkpoints(store, "k"))))


def test_a_loss_that_is_no_number_goes_back_to_the_checkpoint_with_half_the_rate(pictures, tmp_path, monkeypatch):
    one = trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"))
    original, poisoned = BatchMixer.__call__, []

    def poison(self, number, batch):
        pixels, shares = original(self, number, batch)
        if number == 5 and not poisoned:
            poisoned.append(number)
            return pixels, shares * np.float32("nan")
        return pixels, shares

    monkeypatch.setattr(BatchMixer, "__call__", poison)
    history = one.run(0.0)
    assert one.progress.restarts == 1 and poisoned == [5]
    assert list(history["epoch"]) == [1, 2, 3] and np.isfinite(history["loss"]).all()
    assert float(one.optimizer.scale) == 0.5


def test_each_line_of_progress_has_the_figures_of_its_step(pictures, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loop.Meter, "_line_due", True)
    caplog.set_level("INFO", loop.log.name)
    trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"), checkpoint_minutes=5).run(0.0)
    told = [line for line in caplog.messages if line.startswith("fine_tune ") and ", rate " in line]
    assert [line.split()[1] for line in told] == [f"{step}/12," for step in range(1, 13)]
    assert [("epoch 1, loss " in line, " rate 0," in line) for line in told[:4]] == [(True, False)] * 4


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="within fit nobody but JAX itself changes a variable")
@pytest.mark.parametrize(("step", "checkpoint_minutes"), [(4, 5), (6, 0)])  # an epoch's last one; before a save within one
def test_weights_that_a_step_spoils_reach_no_checkpoint(pictures, tmp_path, monkeypatch, step, checkpoint_minutes):
    one = trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"), checkpoint_minutes=checkpoint_minutes)
    original, spoiled = loop._Steps.on_train_batch_end, []

    def spoil(self, batch, logs=None):  # the loss of the step itself is a number
        if one.progress.step + 1 == step and not spoiled:
            spoiled.append(step)
            variables = [*one.model.trainable_variables, *one.optimizer._model_variables_moving_average]
            for variable in variables:
                variable.assign(np.full(variable.shape, np.nan))
        original(self, batch, logs)

    monkeypatch.setattr(loop._Steps, "on_train_batch_end", spoil)
    history = one.run(0.0)
    assert one.progress.restarts == 1 and list(history["epoch"]) == [1, 2, 3]
    assert np.isfinite(history[["loss", "val_loss"]]).all(axis=None)
    assert all(np.isfinite(array).all() for array in one.model.get_weights())


def test_a_loss_that_stays_no_number_ends_with_advice(pictures, tmp_path, monkeypatch):
    original = BatchMixer.__call__

    def poison(self, number, batch):
        pixels, shares = original(self, number, batch)
        return pixels, shares * np.float32("nan")

    monkeypatch.setattr(BatchMixer, "__call__", poison)
    with pytest.raises(QualityError, match=r"Lower fine_tune\.learning_rate"):
        trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k")).run(0.0)


def test_weights_that_are_no_numbers_are_not_trained(pictures, tmp_path):
    def break_it(model):
        model.get_layer("head").get_layer("logits").bias.assign([np.nan] * 3)

    with pytest.raises(QualityError, match=r"begins with hold no numbers: look at the file that model\.weights names"):
        trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"), change=break_it).run(0.0)


def test_a_spent_budget_ends_training_with_the_best_model_so_far(pictures, tmp_path):
    one = trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"), budget_minutes=1e-9)
    start = one.model.get_weights()
    history = one.run(1.0)  # nothing can be better than the start
    assert list(history["step"]) == [1] and one.progress.best_epoch == 0
    for a, b in zip(start, one.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_budget_is_for_validation_too(pictures, tmp_path):
    one = trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"), budget_minutes=60)
    one.validate = lambda model: time.sleep(0.5) or (1.0, 0.5)
    history = one.run(0.0)
    assert one.progress.seconds > history["seconds"].sum() + 3 * 0.5 - 0.1


def test_the_part_of_an_epoch_that_the_budget_allows_counts(pictures, tmp_path):
    one = trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"), budget_minutes=1e-9)
    history = one.run(-1.0)
    assert one.progress.best_epoch == 1 and one.progress.best_accuracy == history["val_accuracy"][0]
    assert one.validate(one.model)[1] == history["val_accuracy"][0]


def test_a_picture_that_breaks_while_training_ends_it_with_its_name(pictures, tmp_path):
    one = trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"))
    one.source.examples.images.paths[7] = tmp_path / "gone.jpg"
    with pytest.raises(DataError, match=r"gone\.jpg was whole when it was validated"):
        one.run(0.0)


def test_early_stopping_leaves_the_best_weights(pictures, tmp_path):
    one = trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"), patience=1, epochs=50)
    history = one.run(0.0)
    best = int(history["val_accuracy"].argmax())
    assert len(history) == best + 2 < 50
    assert one.validate(one.model)[1] == history["val_accuracy"][best] == one.progress.best_accuracy


def test_patience_is_not_spent_before_the_last_phase(pictures, tmp_path):
    one = trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"), patience=1, epochs=6, num_phases=2)
    assert list(one.run(1.0)["epoch"]) == [1, 2, 3, 4]  # nothing can be better than the start


def test_validation_sees_the_average_of_the_weights_and_training_goes_on_with_its_own(pictures, tmp_path):
    one = trainer(pictures, Checkpoints(open_store(str(tmp_path)), "k"), ema_momentum=0.9)
    one.run(0.0)
    own = [np.array(variable) for variable in one.model.trainable_variables]
    with ema_weights(one.model):
        average = [np.array(variable) for variable in one.model.trainable_variables]
    assert not np.allclose(own[0], average[0])
    np.testing.assert_array_equal(own[0], np.array(one.model.trainable_variables[0]))


def test_blocks_join_from_the_top_phase_by_phase_with_falling_rates(pictures, tmp_path):
    one = trainer(pictures, KilledAt(open_store(str(tmp_path)), "k", 4), num_phases=3, layer_decay=0.5, epochs=3,
                  weight_decay=0.0)
    convolutions = [layer for layer in flatten_layers(one.model) if "conv" in layer.name]
    before = [np.array(layer.kernel) for layer in convolutions]
    with pytest.raises(Killed):  # after the four steps of the first phase
        one.run(0.0)
    moved = [not np.array_equal(a, np.array(layer.kernel)) for a, layer in zip(before, convolutions, strict=True)]
    assert moved == [False, False, False, True]


@pytest.mark.parametrize(
    ("first", "phases", "epochs", "sizes"),
    [
        (1.0, 1, 2, [(224, 320), (224, 320)]),
        (0.5, 3, 6, [(128, 160), (128, 160), (160, 256), (160, 256), (224, 320), (224, 320)]),
        (0.5, 2, 3, [(128, 160), (128, 160), (224, 320)]),
    ],
)
def test_pictures_grow_from_phase_to_phase_to_the_full_size(first, phases, epochs, sizes):
    found = epoch_sizes((224, 320), first, phases, epochs)
    assert list(found) == sizes
