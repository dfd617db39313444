"""Batches: seeded order, whole batches, and independence of start and number of processes."""

from dataclasses import replace

import numpy as np
import psutil
import pytest

from carclf.config import Augment
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, LetterboxedSource, TrainingSource, batches, num_batches
from carclf.pipeline.mixing import BatchMixer

NUM_IMAGES = 23  # of the fixture's examples

NumpyBatch = tuple[np.ndarray, np.ndarray]


def training_source(examples: Examples, batch_size: int = 5) -> TrainingSource:
    return TrainingSource(examples, Augmenter(Augment()), [(48, 64)] * 2 + [(64, 96)], batch_size, 3, seed=1)


def collect(*arguments: object, **options: object) -> list[NumpyBatch]:
    return [(np.array(pixels), np.array(labels)) for pixels, labels in batches(*arguments, **options)]


def assert_equal(actual: list[NumpyBatch], expected: list[NumpyBatch]) -> None:
    assert len(actual) == len(expected)
    for batch, expected_batch in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(batch[0], expected_batch[0])
        np.testing.assert_array_equal(batch[1], expected_batch[1])


def test_letterboxed_images_keep_their_order_and_the_last_batch_is_shorter(examples: Examples) -> None:
    source = LetterboxedSource(examples, (48, 64))
    labels = [labels for _, labels in collect(source, 5)]
    assert [len(batch) for batch in labels] == [5, 5, 5, 5, 3]
    assert num_batches(source, 5) == 5
    assert np.concatenate(labels).tolist() == list(range(NUM_IMAGES))


def test_each_epoch_has_whole_batches_in_another_order(examples: Examples) -> None:
    source = training_source(examples)
    result = collect(source, 5)
    assert source.steps_per_epoch == 4
    assert len(result) == 12
    assert {pixels.shape for pixels, _ in result[:8]} == {(5, 48, 64, 3)}
    assert result[8][0].shape == (5, 64, 96, 3)
    epochs = [np.concatenate([labels for _, labels in result[start : start + 4]]).tolist() for start in (0, 4, 8)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("start", "num_workers"), [(0, 2), (7, 0), (7, 3)])
def test_batches_do_not_depend_on_processes_or_start(examples: Examples, start: int, num_workers: int) -> None:
    mix = BatchMixer(NUM_IMAGES, 0, mixup=0.5, cutmix=0.5)
    whole = collect(training_source(examples), 5, mix=mix)
    part = collect(training_source(examples), 5, start_batch=start, num_workers=num_workers, mix=mix)
    assert_equal(part, whole[start:])


def test_fewer_examples_than_a_batch_make_a_smaller_batch(examples: Examples) -> None:
    source = training_source(examples, batch_size=64)
    assert (source.batch_size, source.steps_per_epoch) == (NUM_IMAGES, 1)


def test_an_epoch_of_limited_steps_is_a_random_part_of_the_images(examples: Examples) -> None:
    source = replace(training_source(examples, batch_size=5), max_steps=2)
    assert (source.steps_per_epoch, len(source)) == (2, 30)
    epochs = [{int(source[epoch * 10 + position][1]) for position in range(10)} for epoch in range(3)]
    assert [len(labels) for labels in epochs] == [10, 10, 10]
    assert len(set.union(*epochs)) > 10


def test_memory_does_not_grow_with_the_epochs(examples: Examples) -> None:
    """All images of fifteen epochs take 69 MB."""
    process, used = psutil.Process(), []
    source = TrainingSource(examples, Augmenter(Augment()), [(240, 320)] * 20, 5, 20, seed=1)
    for number, _ in enumerate(batches(source, 5)):
        if number % source.steps_per_epoch == 0:
            used.append(process.memory_info().rss)
    assert len(used) == 20
    assert used[-1] - used[4] < 20e6
