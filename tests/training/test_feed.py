"""Batches for Keras, and the time that training waits for them."""

import itertools
import multiprocessing
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from carclf.errors import DataError, ServiceError
from carclf.pipeline.batches import Examples, LetterboxedSource, batches
from carclf.training.feed import BatchSequence, BatchStream, DataWaitCallback, without_autotune


@pytest.fixture()
def clock(monkeypatch):
    """Seconds that pass only when a test advances them."""
    now = [0.0]
    monkeypatch.setattr("carclf.training.feed.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def compiled(width):
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_only_batches_that_arrive_late_count_as_waiting(clock):
    def slow(number):
        while True:
            clock[0] += 3  # each batch takes three seconds to read
            yield number
            number += 1

    stream = BatchStream(slow)
    for number in range(3):
        stream.get(number)
    stream.record_wait(0, since=1.0)  # arrived at 3
    stream.record_wait(1, since=6.5)  # arrived at 6
    stream.record_wait(2, since=8.0)  # arrived at 9
    assert stream.wait_seconds == 3.0


def test_every_step_of_fit_records_its_wait(clock):
    def read(number):
        for position in range(number, 7):
            if position in (0, 3):  # the first batch of each fit takes two seconds to read
                clock[0] += 2
            yield np.zeros((2, 4)), np.zeros((2, 1))

    stream = BatchStream(read)
    model = compiled(4)
    for start, num_batches in ((0, 3), (3, 4)):
        sequence = BatchSequence(stream, start, num_batches)
        model.fit(sequence, verbose=0, shuffle=False, callbacks=[DataWaitCallback(sequence)])
        assert stream.arrivals == {}
    assert stream.wait_seconds == 4.0


def test_reading_batches_out_of_order_raises_an_error():
    stream = BatchStream(lambda number: iter([(np.zeros((2, 4)), np.zeros((2, 1)))] * (9 - number)))
    model = compiled(4)
    with pytest.raises(Exception, match="shuffle=False"):
        model.fit(BatchSequence(stream, 0, 9), verbose=0)


def numbered(start):
    """Yield batches that contain their number."""
    return ((np.full((2, 3), number, np.float32), np.full(2, number, np.int32)) for number in itertools.count(start))


def test_the_tensorflow_pipeline_has_the_same_batches_and_no_tuner():
    dataset = without_autotune(BatchSequence(BatchStream(numbered), 4, 3))
    assert dataset.options().autotune.enabled is False and int(dataset.cardinality()) == 3
    assert [(int(x[0, 0]), int(y[1])) for x, y in dataset] == [(4, 4), (5, 5), (6, 6)]


def test_the_error_of_the_source_is_raised_instead_of_keras_error():
    def fail(start):
        yield from itertools.islice(numbered(start), 2)
        raise DataError("image 7 is missing")

    stream = BatchStream(fail)
    model = compiled(3)
    with pytest.raises(DataError, match="image 7 is missing"), stream.reraise_source_error():
        model.fit(without_autotune(BatchSequence(stream, 0, 5)), verbose=0, shuffle=False)


@pytest.mark.acceptance  # processes start slowly
def test_a_killed_reading_process_raises_service_error(tmp_path):
    cv2.imwrite(str(tmp_path / "car.png"), np.zeros((40, 60, 3), np.uint8))
    rows = pd.DataFrame({"path": ["car.png"] * 4000, "class_index": 0, "problem": ""})
    source = LetterboxedSource(Examples.from_index(rows, tmp_path, (32, 48)), (32, 48))
    stream = BatchStream(lambda number: batches(source, 4, start_batch=number, num_workers=2))
    stream.get(0)
    readers = multiprocessing.active_children()
    for reader in readers:
        reader.kill()
    with pytest.raises(ServiceError, match=r"fine_tune\.num_workers"), stream.reraise_source_error():
        for number in range(1, 1000):
            stream.get(number)
    stream.close()
    assert len(readers) == 2
