"""Find suspected label errors: a classifier predicts each image without the labels of the image and its copies."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dsyrk
from scipy.special import softmax

from carclf.dataset.splits import units_of

FloatArray = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Labels = npt.NDArray[Any]

# Tried on cars10 with planted errors (benchmarks/label_error_quality.py); the result depends little on either.
RIDGE = 0.1
TEMPERATURES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48)
MAX_UNIT_SIZE = 5000  # images whose influence on each other is in memory at once: 200 MB
MAX_CENTERS = 3000  # of the kernel: with all images as centers, memory would limit the dataset's size
BLOCK_SIZE = 1000  # images whose kernel is in memory at once
JITTER = 1e-6
MIN_NORM = 1e-12
MIN_PROBABILITY = 1e-12


def rank_suspects(rows: pd.DataFrame, features: Features, seed: int) -> pd.DataFrame:
    """Return id, path, subset, label, suggested_label, label_quality and is_suspect, the lowest label quality first.

    No label is predicted from copies and images of the same group; if more than ``MAX_UNIT_SIZE`` images depend on each
    other, from copies only. Images with the same id are identified by their path, as in ``label_fixes.csv``. ``rows``
    are the rows of a split; the other arguments are those of ``rank_labels``.
    """
    units = units_of(rows)
    if units.value_counts().max() > MAX_UNIT_SIZE:
        units = rows["cluster"]
    class_names = rows.drop_duplicates("class_index").sort_values("class_index")["label"].to_numpy()
    ranked = rank_labels(features, rows["class_index"].to_numpy(), units.to_numpy(), seed=seed)
    rows_by_rank = rows.iloc[ranked["position"]].reset_index(drop=True)
    ambiguous = rows_by_rank["id"].isin(rows["id"][rows["id"].duplicated()])
    return pd.DataFrame({
        "id": rows_by_rank["id"].where(~ambiguous, rows_by_rank["path"]), "path": rows_by_rank["path"],
        "subset": rows_by_rank["subset"], "label": rows_by_rank["label"],
        "suggested_label": class_names[ranked["suggested_label"]], "label_quality": ranked["label_quality"].round(6),
        "is_suspect": ranked["is_suspect"],
    })


def rank_labels(features: Features, labels: Labels, clusters: Labels, *, seed: int) -> pd.DataFrame:
    """Return position, suggested_label, label_quality and is_suspect, the lowest label quality first.

    The label quality is the out-of-fold probability of the given label. Suspects are the images that confident
    learning (Northcutt et al. 2021) counts as mislabeled. ``features`` are pooled, shape (images, features); ``labels``
    are numbers from 0; copies of an image have the same number in ``clusters``.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    probabilities = out_of_fold_probabilities(features, labels, clusters, seed=seed)
    table = pd.DataFrame({
        "position": np.arange(len(labels)), "suggested_label": probabilities.argmax(1),
        "label_quality": get_label_quality_scores(labels, probabilities, method="self_confidence"),
        "is_suspect": find_label_issues(labels, probabilities, filter_by="both", n_jobs=1),
    })
    return table.sort_values(["label_quality", "position"]).reset_index(drop=True)


def out_of_fold_probabilities(features: Features, labels: Labels, clusters: Labels, *, seed: int) -> FloatArray:
    """Return class probabilities, shape (images, classes), each from all images outside the image's cluster."""
    scores = leave_cluster_out_scores(features, labels, clusters, seed=seed)
    rows = np.arange(len(labels))
    candidates: list[FloatArray] = [softmax(scores * temperature, 1) for temperature in TEMPERATURES]
    # The temperature that makes the given labels most likely.
    return max(candidates, key=lambda probabilities: np.log(probabilities[rows, labels] + MIN_PROBABILITY).mean())


def leave_cluster_out_scores(features: Features, labels: Labels, clusters: Labels, *, seed: int) -> FloatArray:
    """Return the scores, shape (images, classes), of kernel ridge regression without the image's cluster.

    Each cluster is a fold. The scores have a closed form, so the regression is fitted only once.
    """
    vectors = normalize_features(features)
    targets = np.eye(int(labels.max()) + 1)[labels]
    targets -= 1 / targets.shape[1]
    centers = vectors[np.sort(np.random.default_rng(seed).permutation(len(vectors))[:MAX_CENTERS])]
    blocks = _blocks(clusters)
    factor, moments = _normal_equations(vectors, targets, centers, blocks)
    weights = cho_solve(factor, moments)
    scores: FloatArray = np.empty_like(targets)
    for block in blocks:
        kernel = _kernel(vectors[block], centers)
        leverage = kernel @ cho_solve(factor, kernel.T)  # the influence of each target on each score
        leverage[clusters[block][:, None] != clusters[block]] = 0
        residuals = targets[block] - kernel @ weights
        scores[block] = targets[block] - np.linalg.solve(np.eye(len(block)) - leverage, residuals)
    return scores


def normalize_features(features: Features) -> Features:
    """Return centered unit vectors of the features' signed square roots, so that a few large ones do not dominate."""
    roots = np.sqrt(np.abs(features))
    np.copysign(roots, features, out=roots)
    roots -= roots.mean(0)
    roots /= np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), MIN_NORM)
    return roots


def _normal_equations(
    vectors: Features, targets: FloatArray, centers: Features, blocks: list[npt.NDArray[np.int64]]
) -> tuple[Any, FloatArray]:
    """Return the Cholesky factor and the right-hand side of the normal equations."""
    gram = _kernel(centers, centers).T
    gram *= RIDGE
    moments = np.zeros((len(centers), targets.shape[1]))
    for block in blocks:
        kernel = _kernel(vectors[block], centers)
        gram = dsyrk(1, kernel.T, beta=1, c=gram, overwrite_c=True)  # updates the upper triangle in place
        moments += kernel.T @ targets[block]
    gram[np.diag_indices_from(gram)] += JITTER * len(vectors)
    return cho_factor(gram, overwrite_a=True), moments


def _kernel(vectors: Features, centers: Features) -> FloatArray:
    """Return the Gaussian kernel, shape (vectors, centers)."""
    # The squared distance of unit vectors is 2 - 2ab, and about 2 for most pairs of centered ones.
    return np.asarray(np.exp(vectors @ centers.T - 1).astype(float))


def _blocks(clusters: Labels) -> list[npt.NDArray[np.int64]]:
    """Return all positions in blocks of about ``BLOCK_SIZE``, without splitting a cluster."""
    order = np.argsort(clusters, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(clusters[order])) + 1, len(order))  # of each cluster
    cuts = np.unique(ends[np.searchsorted(ends, np.arange(BLOCK_SIZE, len(order), BLOCK_SIZE))])
    return [block for block in np.split(order, cuts) if len(block)]
