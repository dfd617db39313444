"""Suspected label errors: what a classifier that never saw a picture's label, nor its copies', thinks of it."""


from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dsyrk
from scipy.special import softmax

Array = npt.NDArray[np.float64]
# Tried on cars10 with planted errors (benchmarks/label_errors.py); neither is sensitive.
RIDGE, TEMPERATURES = 0.1, (1, 2, 4, 6, 8, 12, 16, 24, 32, 48)
MAX_CENTRES = 3000  # of the kernel: above as many pictures its exact form outgrows memory
BLOCK = 1000  # pictures whose kernel is held at once
JITTER = 1e-6


def rank_labels(
    features: npt.NDArray[np.float32], labels: npt.NDArray[Any], clusters: npt.NDArray[Any], *, seed: int
) -> pd.DataFrame:
    """Every picture's row, the least credible label first: ``position``, ``suggested``, ``score``, ``suspect``.

    ``features`` (pictures, features) are pooled, ``labels`` 0..classes-1. ``score`` is the probability of the given
    label; ``suspect`` are those that confident learning (Northcutt et al. 2021) counts as wrong.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    probabilities = out_of_fold(features, labels, clusters, seed=seed)
    table = pd.DataFrame({
        "position": np.arange(len(labels)), "suggested_label": probabilities.argmax(1),
        "label_quality": get_label_quality_scores(labels, probabilities, method="self_confidence"),
        "is_suspect": find_label_issues(labels, probabilities, filter_by="both", n_jobs=1),
    })
    return table.sort_values(["label_quality", "position"]).reset_index(drop=True)


def out_of_fold(
    features: npt.NDArray[np.float32], labels: npt.NDArray[Any], clusters: npt.NDArray[Any], *, seed: int
) -> Array:
    """Class probabilities (pictures, classes), each picture's from all pictures but those of its cluster."""
    scores, rows = leave_cluster_out_scores(features, labels, clusters, seed=seed), np.arange(len(labels))
    tried: list[Array] = [softmax(scores * temperature, 1) for temperature in TEMPERATURES]
    # the temperature under which the given labels are likeliest
    return min(tried, key=lambda found: -np.log(found[rows, labels] + 1e-12).mean())


def leave_cluster_out_scores(
    features: npt.NDArray[np.float32], labels: npt.NDArray[Any], clusters: npt.NDArray[Any], *, seed: int
) -> Array:
    """Scores (pictures, classes) of kernel ridge regression without the picture's own cluster.

    It has them in closed form, so each cluster is a fold of its own and nothing is fitted again.
    """
    vectors, targets = normalize_features(features), np.eye(int(labels.max()) + 1)[labels]
    targets -= 1 / targets.shape[1]
    centres = vectors[np.sort(np.random.default_rng(seed).permutation(len(vectors))[:MAX_CENTRES])]
    blocks = _blocks(clusters)
    normal, moments = _kernel(centres, centres).T, np.zeros((len(centres), targets.shape[1]))
    normal *= RIDGE
    for members in blocks:
        kernel = _kernel(vectors[members], centres)
        normal = dsyrk(1, kernel.T, beta=1, c=normal, overwrite_c=True)  # in place, and its upper half
        moments += kernel.T @ targets[members]
    normal[np.diag_indices_from(normal)] += JITTER * len(labels)
    factor = cho_factor(normal, overwrite_a=True)
    weights = cho_solve(factor, moments)
    scores: Array = np.empty_like(targets)
    for members in blocks:
        kernel = _kernel(vectors[members], centres)
        own = kernel @ cho_solve(factor, kernel.T)  # how much each target weighs in each score
        own[clusters[members][:, None] != clusters[members]] = 0
        wrong = targets[members] - kernel @ weights
        scores[members] = targets[members] - np.linalg.solve(np.eye(len(members)) - own, wrong)
    return scores


def _kernel(vectors: npt.NDArray[np.float32], centres: npt.NDArray[np.float32]) -> Array:
    """Gaussian kernel (vectors, centres)."""
    # unit vectors around zero: the squared distance is 2 - 2ab, and 2 between most of them
    found: Array = np.exp(vectors @ centres.T - 1).astype(float)
    return found


def normalize_features(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Pooled features as unit vectors around zero, of the features' signed roots: few large ones outvote no others."""
    rooted = np.sqrt(np.abs(features))
    np.copysign(rooted, features, out=rooted)
    rooted -= rooted.mean(0)
    rooted /= np.maximum(np.linalg.norm(rooted, axis=1, keepdims=True), 1e-12)
    return rooted


def _blocks(clusters: npt.NDArray[Any]) -> list[npt.NDArray[np.int64]]:
    """All positions in parts of about BLOCK, no cluster in two of them."""
    order = np.argsort(clusters, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(clusters[order])) + 1, len(order))  # of each cluster
    cuts = np.unique(ends[np.searchsorted(ends, np.arange(BLOCK, len(order), BLOCK))])
    return [members for members in np.split(order, cuts) if len(members)]

def rank_suspects(rows: pd.DataFrame, features: npt.NDArray[Any], seed: int) -> pd.DataFrame:
    """A row per picture, the least credible label first: id, path, label, suggested, score, suspect.

    ``rows`` are a split's (id, path, label, class_index, cluster). Where several pictures have one id, the id is the path,
    as label_fixes.csv wants it.
    """
    class_names = np.array(sorted(rows["label"].unique()))
    ranked = rank_labels(features, rows["class_index"].to_numpy(), rows["cluster"].to_numpy(), seed=seed)
    found = rows.iloc[ranked["position"]].reset_index(drop=True)
    several = rows["id"][rows["id"].duplicated()].unique()
    return pd.DataFrame({
        "id": found["id"].where(~found["id"].isin(several), found["path"]), "path": found["path"],
        "label": found["label"], "suggested_label": class_names[ranked["suggested_label"]],
        "label_quality": ranked["label_quality"].round(6), "is_suspect": ranked["is_suspect"],
    })
