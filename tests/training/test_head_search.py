"""The head's settings are chosen on training pictures that are held out, copies together."""

import keras
import numpy as np

from carclf.config import load
from carclf.training.head_search import choose, trials
from carclf.training.heads import build_head

SETTINGS = {"head.num_trials": 3, "head.epochs": 8, "head.learning_rate": 1e-4, "head.weight_decay": 1e-3}


def test_the_first_trial_is_as_given_and_the_others_are_drawn_around_it():
    head = load("gpu", SETTINGS | {"head.num_trials": 9}).head
    first, *others = trials(head, seed=4)
    assert first == head and len({other.learning_rate for other in others}) == 8
    assert all(1e-4 / 4 < other.learning_rate < 4e-4 and 1e-4 <= other.weight_decay <= 0.1 for other in others)
    assert trials(head, seed=4) == [first, *others] != trials(head, seed=5)


def test_the_trial_with_the_smallest_held_out_loss_is_taken_twice_the_same():
    config, random = load("gpu", SETTINGS), np.random.default_rng(0)
    labels = np.arange(120) % 3
    plain = (np.eye(3)[labels] @ random.normal(size=(3, 16)) + random.normal(size=(120, 16))).astype(np.float32)
    views, groups = [plain, plain + np.float32(0.1)], np.array([f"{position // 2}" for position in range(120)])

    def build():
        keras.utils.set_random_seed(0)
        return build_head(16, 3, config.model)

    chosen, table = choose(build, views, labels, groups, config.head, 1)
    best = table.loc[table["held_out_loss"].idxmin()]
    assert (chosen.learning_rate, chosen.weight_decay) == (best["learning_rate"], best["weight_decay"])
    assert len(table) == 3 and table["held_out_loss"].nunique() == 3
    again = choose(build, views, labels, groups, config.head, 1)
    assert again[0] == chosen and again[1].equals(table)
