"""Seeded mutations of bytes, for tests that feed damaged input."""

import random
from collections.abc import Callable, Sequence

import pytest

Mutation = Callable[[random.Random, bytes], bytes]

FULL_COUNT = 10_000


def mutation_counts(few: int) -> pytest.MarkDecorator:
    """Parametrize ``num``: a few mutations in ``make test``, 10,000 in ``make fuzz``."""
    return pytest.mark.parametrize("num", [few, pytest.param(FULL_COUNT, marks=pytest.mark.fuzz)])


def flip_bits(random: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(random: random.Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data))] + random.choice((b"", b"\xff\xd9", bytes(8)))


def repeat(random: random.Random, data: bytes) -> bytes:
    start, end = sorted(random.choices(range(len(data)), k=2))
    return data[:end] + data[start:end] * random.randrange(1, 20) + data[end:]


def splice(seeds: Sequence[bytes]) -> Mutation:
    """Replace a part of the data with a part of one of the seeds."""

    def mutate(random: random.Random, data: bytes) -> bytes:
        other = random.choice(seeds)
        start, end = sorted(random.choices(range(len(other)), k=2))
        at, until = sorted(random.choices(range(len(data)), k=2))
        return data[:at] + other[start:end] + data[until if random.random() < 0.5 else at :]

    return mutate
