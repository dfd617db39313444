"""The range test for the learning rate and the search for the batch size, on fake models."""

from types import SimpleNamespace

import pandas as pd
import pytest

from carclf.errors import QualityError
from carclf.training import auto_settings
from carclf.training.auto_settings import best_batch_size, best_learning_rate, plot_trials, range_test, try_batch_sizes


class Valley:
    """A model whose loss falls while the rate is below 0.01, and grows without bound above it."""

    def __init__(self, schedule):
        self.schedule = schedule
        self.step = 0
        self.loss = 2.0

    def reset_metrics(self):
        """This model has no metrics."""

    def train_on_batch(self, pixels, targets, return_dict):
        rate = float(self.schedule(self.step))
        self.step += 1
        self.loss *= 0.95 if rate < 1e-2 else 2.0
        return {"loss": self.loss}


def test_the_best_rate_is_a_tenth_of_the_rate_with_the_smallest_loss():
    trials = range_test(Valley, iter([(0, 0)] * 200), 200)
    assert 1e-2 / 10 / 2 < best_learning_rate(trials) < 1e-2 / 10 * 2
    assert len(trials) < 200 and list(trials.columns) == ["learning_rate", "loss", "smoothed_loss"]


def test_a_loss_that_never_falls_raises_quality_error():
    rising = pd.DataFrame({"learning_rate": [1e-6, 1e-5], "loss": [1.0, 2.0], "smoothed_loss": [1.0, 2.0]})
    with pytest.raises(QualityError, match=r"fine_tune\.learning_rate"):
        best_learning_rate(rising)


def test_the_smallest_of_the_fast_batch_sizes_is_best():
    trials = pd.DataFrame({"batch_size": [8, 16, 32, 64], "images_per_second": [50.0, 97.0, 100.0, 99.0]})
    assert best_batch_size(trials, 64) == 16 and best_batch_size(trials, 8) == 8


def test_an_empty_table_of_batch_sizes_raises_quality_error():
    with pytest.raises(QualityError, match=r"model\.image_height"):
        best_batch_size(pd.DataFrame([]), 8)


class Net:
    """A model of three classes that calls a function instead of training."""

    output_shape = (None, 3)

    def __init__(self, train):
        self.train = train

    def train_on_batch(self, pixels, targets):
        assert pixels.shape[1:] == (2, 4, 3) and targets.shape == (len(pixels), 3)
        self.train(len(pixels))


@pytest.mark.parametrize("message", ["RESOURCE_EXHAUSTED: Out of memory", "OOM when allocating"])
def test_batch_sizes_are_tried_until_the_device_runs_out_of_memory(message):
    def train(batch_size):
        if batch_size > 32:
            raise RuntimeError(message)

    assert list(try_batch_sizes(Net(train), (2, 4), 8, 1024)["batch_size"]) == [8, 16, 32]


def test_other_training_errors_are_raised():
    with pytest.raises(ZeroDivisionError):
        try_batch_sizes(Net(lambda batch_size: 1 / 0), (2, 4), 8, 1024)


def test_batch_sizes_that_would_exhaust_the_memory_are_not_tried(monkeypatch):
    kept, available = [], SimpleNamespace(available=130e6)
    monkeypatch.setattr(auto_settings.psutil, "virtual_memory", lambda: available)
    # three steps of each size: 24, 48 and 96 MB more
    trials = try_batch_sizes(Net(lambda batch_size: kept.append(b"x" * batch_size * 1_000_000)), (2, 4), 8, 1024)
    assert list(trials["batch_size"]) == [8, 16, 32]


def test_the_trials_are_plotted_as_png(tmp_path):
    plot_trials(pd.DataFrame({"learning_rate": [1e-6, 1e-3], "smoothed_loss": [2.0, 1.0]}), 1e-4, tmp_path / "lr.png")
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
