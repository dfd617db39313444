import numpy as np
import pandas as pd
import pytest

from carclf.audit.label_errors import leave_cluster_out_scores, rank_labels, rank_suspects

NUM, CLASSES = 600, 6


def pooled(labels: np.ndarray, width: int = 96, *, seed: int = 0) -> np.ndarray:
    """Return features like pooled activations: positive, with a different mean for each class."""
    random = np.random.default_rng(seed)
    means = random.exponential(size=(labels.max() + 1, width))
    return random.gamma(2, means[labels] / 2).astype(np.float32)


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true labels, the same with 5% of them flipped, and the positions of the flipped ones."""
    random = np.random.default_rng(seed)
    true = np.arange(NUM) % CLASSES
    flipped = random.choice(NUM, NUM // 20, replace=False)
    given = true.copy()
    given[flipped] = (true[flipped] + random.integers(1, CLASSES, len(flipped))) % CLASSES
    return true, given, flipped


@pytest.mark.parametrize("seed", range(3))
def test_planted_errors_are_ranked_first_with_the_correct_label(seed: int) -> None:
    true, given, flipped = planted(seed)
    ranked = rank_labels(pooled(true, seed=seed), given, np.arange(NUM), seed=0)
    first = ranked.head(NUM // 10)
    errors = first[first["position"].isin(flipped)]
    assert len(errors) >= 0.95 * len(flipped)
    assert (errors["suggested_label"] == true[errors["position"]]).mean() >= 0.95
    suspects = ranked[ranked["is_suspect"]]
    assert np.isin(suspects["position"], flipped).mean() > 0.8
    assert np.isin(flipped, suspects["position"]).mean() > 0.8
    assert ranked["label_quality"].is_monotonic_increasing
    assert sorted(ranked["position"]) == list(range(NUM))


def test_scores_do_not_depend_on_the_labels_of_the_same_cluster() -> None:
    labels = np.arange(60) % 3
    features, clusters = pooled(labels), np.arange(60) // 2
    scores = leave_cluster_out_scores(features, labels, clusters, seed=0)
    changed = labels.copy()
    changed[[10, 11]] = (labels[[10, 11]] + 1) % 3
    again = leave_cluster_out_scores(features, changed, clusters, seed=0)
    np.testing.assert_allclose(scores[[10, 11]], again[[10, 11]], atol=1e-8)
    assert np.abs(scores - again)[12:].max() > 1e-3


def test_copies_with_the_same_wrong_label_do_not_confirm_each_other() -> None:
    true = np.arange(NUM) % CLASSES
    features = pooled(true)
    features[1:5] = features[0]
    given = true.copy()
    given[:5] = 3
    apart = rank_labels(features, given, np.arange(NUM), seed=0).set_index("position")["label_quality"]
    together = rank_labels(features, given, np.r_[[0] * 5, 5:NUM], seed=0).set_index("position")["label_quality"]
    assert together[0] < 0.1
    assert apart[0] > 0.3


def test_more_images_than_kernel_centers_are_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carclf.audit.label_errors.MAX_CENTERS", 150)
    true, given, flipped = planted(0)
    ranked = rank_labels(pooled(true), given, np.arange(NUM), seed=0)
    assert np.isin(flipped, ranked.head(NUM // 10)["position"]).mean() >= 0.9


@pytest.mark.parametrize("block", [1, 7, 59, 60, 1000])
def test_scores_do_not_depend_on_the_block_size(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(60) % 3
    features, clusters = pooled(labels), np.random.default_rng(1).integers(0, 25, 60)
    monkeypatch.setattr("carclf.audit.label_errors.BLOCK_SIZE", 30)
    scores = leave_cluster_out_scores(features, labels, clusters, seed=0)
    monkeypatch.setattr("carclf.audit.label_errors.BLOCK_SIZE", block)
    again = leave_cluster_out_scores(features, labels, clusters, seed=0)
    np.testing.assert_allclose(again, scores, atol=1e-5)  # the kernel is float32


@pytest.mark.acceptance
def test_a_dataset_of_the_competitions_size_is_ranked() -> None:
    labels = np.arange(15_561) % 10
    ranked = rank_labels(pooled(labels, 2048), labels, np.arange(len(labels)) // 2, seed=0)
    assert len(ranked) == len(labels)


def test_suspects_with_an_ambiguous_id_are_identified_by_their_path() -> None:
    true, given, _ = planted(0)
    rows = pd.DataFrame({"id": [f"{n}.jpg" for n in range(NUM)], "label": (given * 10).astype(str),
                         "class_index": given, "subset": np.where(np.arange(NUM) % 5, "train", "val"),
                         "cluster": np.arange(NUM)})
    rows = rows.assign(path="train/" + rows["label"] + "/" + rows["id"])
    rows.loc[1, "id"] = "0.jpg"
    suspects = rank_suspects(rows, pooled(true), 0)
    assert list(suspects.columns) == ["id", "path", "subset", "label", "suggested_label", "label_quality", "is_suspect"]
    assert set(suspects["suggested_label"]) <= set(rows["label"])
    assert len(suspects) == NUM
    assert suspects.set_index("path")["subset"].to_dict() == rows.set_index("path")["subset"].to_dict()
    ids = suspects.set_index("path")["id"]
    assert all(ids[path] == path for path in rows["path"][:2])
    assert ids[rows["path"][2]] == "2.jpg"


def test_images_of_a_group_do_not_confirm_each_others_labels() -> None:
    true = np.arange(NUM) % CLASSES
    features, given = pooled(true), true.copy()
    features[1:5] = features[0]
    given[:5] = 3
    rows = pd.DataFrame({"id": np.arange(NUM).astype(str), "path": "x", "label": given.astype(str),
                         "class_index": given, "cluster": np.arange(NUM), "group": "", "subset": "train"})
    apart = rank_suspects(rows, features, 0).set_index("id")["label_quality"]
    rows.loc[:4, "group"] = "driver"
    together = rank_suspects(rows, features, 0).set_index("id")["label_quality"]
    assert together["0"] < 0.1
    assert apart["0"] > 0.3
