"""Batches for Keras, and how long training waits for them."""

import itertools

import cv2
import keras
import numpy as np
import pandas as pd
import psutil
import pytest

from carclf.errors import DataError, ServiceError
from carclf.pipeline.batches import Examples, LetterboxedSource, batches
from carclf.training import feed as feeding
from carclf.training.feed import BatchSequence, BatchStream, DataWaitCallback, without_autotune


@pytest.fixture()
def clock(monkeypatch):
    """Seconds that pass only where a test says so."""
    now = [0.0]
    monkeypatch.setattr(feeding.time, "monotonic", lambda: now[0])
    return now


def compiled(width):
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_reading_ahead_is_no_waiting_and_a_batch_that_comes_late_is(clock):
    def slow(number):
        while True:
            clock[0] += 3  # each batch takes three seconds to read
            yield number
            number += 1

    stream = BatchStream(slow)
    for number in range(3):
        stream.get(number)
    stream.taken(0, since=1.0)  # came at 3
    stream.taken(1, since=6.5)  # came at 6
    stream.taken(2, since=8.0)  # came at 9
    assert stream.wait_seconds == 3.0


def test_every_step_of_fit_asks_whether_it_waited():
    stream = BatchStream(lambda number: iter([(np.zeros((2, 4)), np.zeros((2, 1)))] * (7 - number)))
    model = compiled(4)
    for begin, num in ((0, 3), (3, 4)):
        feed = BatchSequence(stream, begin, num)
        model.fit(feed, verbose=0, shuffle=False, callbacks=[DataWaitCallback(feed)])
        assert stream.ready == {} and stream.wait_seconds > 0


def test_batches_in_another_order_are_refused():
    stream = BatchStream(lambda number: iter([(np.zeros((2, 4)), np.zeros((2, 1)))] * (9 - number)))
    model = compiled(4)
    with pytest.raises(Exception, match="fit with shuffle=False"):
        model.fit(BatchSequence(stream, 0, 9), verbose=0)


def numbered(begin):
    """Batches that say which they are."""
    return ((np.full((2, 3), number, np.float32), np.full(2, number, np.int32)) for number in itertools.count(begin))


def test_tensorflow_reads_the_same_batches_without_the_tuner_that_holds_up_the_end():
    found = without_autotune(BatchSequence(BatchStream(numbered), 4, 3))
    assert found.options().autotune.enabled is False and int(found.cardinality()) == 3
    assert [(int(x[0, 0]), int(y[1])) for x, y in found] == [(4, 4), (5, 5), (6, 6)]


def test_what_ends_a_stream_is_told_in_its_own_words():
    def ends(begin):
        yield from itertools.islice(numbered(begin), 2)
        raise DataError("picture 7 is gone")

    stream = BatchStream(ends)
    model = compiled(3)
    with pytest.raises(DataError, match="picture 7 is gone"), stream.own_errors():
        model.fit(without_autotune(BatchSequence(stream, 0, 5)), verbose=0, shuffle=False)


@pytest.mark.acceptance  # processes start slowly
def test_a_reading_process_that_was_killed_is_told_in_words_and_may_be_tried_again(tmp_path):
    cv2.imwrite(str(tmp_path / "car.png"), np.zeros((40, 60, 3), np.uint8))
    rows = pd.DataFrame({"path": ["car.png"] * 4000, "label": 0, "problem": ""})
    source = LetterboxedSource(Examples.from_index(rows, tmp_path, (32, 48)), (32, 48))
    stream = BatchStream(lambda number: batches(source, 4, start_batch=number, num_workers=2))
    stream.get(0)
    readers = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    for reader in readers:
        reader.kill()
    with pytest.raises(ServiceError, match=r"was killed.*fine_tune\.num_workers"), stream.own_errors():
        for number in range(1, 1000):
            stream.get(number)
    stream.close()
    assert len(readers) == 2
