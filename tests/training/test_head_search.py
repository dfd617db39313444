"""The head's settings are chosen on held-out training images."""

import keras
import numpy as np
import pytest

from carclf.config import load_config
from carclf.metrics import METRICS
from carclf.training.head_search import HeadData, is_held_out, sample_trials, search_settings
from carclf.training.heads import build_head
from carclf.training.validation import Objective

SETTINGS = {"head.num_trials": 3, "head.epochs": 8, "head.learning_rate": 1e-4, "head.weight_decay": 1e-3}


def test_the_first_trial_has_the_given_settings_and_the_others_vary_them():
    head = load_config("gpu", SETTINGS | {"head.num_trials": 9}).head
    first, *others = sample_trials(head, seed=4)
    assert first == head and len({other.learning_rate for other in others}) == 8
    assert all(1e-4 / 4 < other.learning_rate < 4e-4 and 1e-4 <= other.weight_decay <= 0.1 for other in others)
    assert sample_trials(head, seed=4) == [first, *others] != sample_trials(head, seed=5)


@pytest.mark.acceptance
def test_the_trial_with_the_smallest_held_out_loss_is_chosen_reproducibly():
    config, random = load_config("gpu", SETTINGS), np.random.default_rng(0)
    labels = np.arange(120) % 3
    plain = (np.eye(3)[labels] @ random.normal(size=(3, 16)) + random.normal(size=(120, 16))).astype(np.float32)
    views = np.stack([plain, plain + np.float32(0.1)])
    groups = np.array([f"{position // 2}" for position in range(120)])

    def build():
        keras.utils.set_random_seed(0)
        return build_head(16, 3, config.model)

    data = HeadData(views, labels, groups)
    chosen, table = search_settings(build, data, config.head, 1)
    best = table.loc[table["held_out_loss"].idxmin()]
    assert (chosen.learning_rate, chosen.weight_decay) == (best["learning_rate"], best["weight_decay"])
    assert len(table) == 3 and table["held_out_loss"].nunique() == 3
    repeated, repeated_table = search_settings(build, data, config.head, 1)
    assert repeated == chosen and repeated_table.equals(table)


def test_a_fifth_of_the_groups_is_held_out_and_groups_stay_together():
    groups = np.random.default_rng(3).integers(0, 400, 2000) * 7919
    held_out = is_held_out(groups)
    assert not set(groups[held_out]) & set(groups[~held_out]) and 0.15 < held_out.mean() < 0.25


def test_the_seed_determines_which_groups_are_held_out():
    groups = np.arange(200) // 2
    first, second = (is_held_out(groups, 10, seed) for seed in (3, 4))
    assert first.sum() == second.sum() == 20 and not (first & second).any()
    assert is_held_out(np.arange(4), 10, 7).sum() == 1  # at least one group, if there are fewer than ten


def test_a_trial_that_diverges_is_not_chosen():
    config, random = load_config("gpu", SETTINGS | {"head.num_trials": 2, "head.epochs": 2}), np.random.default_rng(0)
    features = random.normal(size=(60, 8)).astype(np.float32)
    poisoned = [float("nan"), 1.0]  # the first trial's weights, then the second's

    def build():
        keras.utils.set_random_seed(0)
        head = build_head(8, 3, config.model)
        logits = head.get_layer("logits")
        logits.bias.assign(logits.bias * 0 + poisoned.pop(0))
        return head

    data = HeadData(features[None], np.arange(60) % 3, np.arange(60))
    chosen, table = search_settings(build, data, config.head, 1)
    assert np.isnan(table["held_out_loss"][0]) and chosen.learning_rate == table["learning_rate"][1]


def test_undefined_metric_is_replaced_by_the_loss_and_one_group_has_no_trials():
    config, random = load_config("gpu", SETTINGS | {"head.num_trials": 2, "head.epochs": 1}), np.random.default_rng(0)
    features, groups = random.normal(size=(1, 60, 8)).astype(np.float32), np.arange(60)
    labels = np.where(groups % 5 == 0, 0, 1)  # all held-out images have the same class
    objective = Objective(METRICS["roc_auc"], ("a", "b"))

    def build():
        return build_head(8, 2, config.model)

    chosen, table = search_settings(build, HeadData(features, labels, groups), config.head, 1, objective)
    assert chosen.learning_rate == table["learning_rate"][table["held_out_loss"].idxmin()]
    one_group = HeadData(features, labels, np.zeros(60))
    chosen, table = search_settings(build, one_group, config.head, 1, objective)
    assert (chosen, len(table)) == (config.head, 0)
