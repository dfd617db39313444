"""A champion that predicts the color of an image, so that its predictions are known."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from gate_candidates import build_artifact, build_evaluation
from PIL import Image

from carclf.artifacts import Archive, Dataset, Evaluation, Metrics, Model, Provenance, Split, build
from carclf.champion import ensure_state, record_promotion
from carclf.config import load_config
from carclf.services.storage import Store

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
CLASS_NAMES = list(COLORS)
SIZE = 16
MAX_MEGAPIXELS = 1


def color_image(name: str, brightness: float = 1.0) -> bytes:
    """Return a small PNG of a color; the darker it is, the less certain is the prediction."""
    return _png(np.full((SIZE, SIZE, 3), COLORS[name]) * brightness)


def noisy_image(name: str, seed: int) -> bytes:
    """Return a PNG of a color whose brightness is random, so that it differs from those of other seeds."""
    return _png(np.random.default_rng(seed).uniform(0.3, 1, (40, 40, 1)) * COLORS[name])


def _png(pixels: "np.ndarray") -> bytes:
    Image.fromarray(pixels.astype(np.uint8)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def promote_color_champion(store: Store, name: str = "colors", train_rows: pd.DataFrame | None = None) -> Model:
    """Build and promote a model; ``train_rows`` are images that it was trained on, as rows of an index."""
    dataset = build_artifact(store, Dataset, Provenance(1, {}, {"max_megapixels": MAX_MEGAPIXELS}))
    split = _build_split(store, dataset, name, train_rows)
    archive = build_artifact(store, Archive, Provenance(1, {}, {}))
    model, _ = build(Model, _write_network, Provenance(
        1, {"archive": archive.key, "split": split.key}, {"name": name}), store)
    evaluation = _build_evaluation(store, split, model)
    state = ensure_state(store, 0.0)
    event = {"model": model.key, "decision": "0" * 16, "evaluation": evaluation.key, "run": "", "val_accuracy": 1.0}
    assert record_promotion(store, event, state)
    return model


def _build_split(store: Store, dataset: Dataset, name: str, train_rows: pd.DataFrame | None) -> Split:
    rows = pd.DataFrame({
        "id": [f"{position}.png" for position in range(60)], "label": CLASS_NAMES * 20, "subset": "val",
        "sha256": [f"{position:064x}" for position in range(60)], "source": "train", "color_signature": b"",
        "phash": 0})
    rows["pixels_sha256"] = rows["sha256"]
    if train_rows is not None:
        rows = pd.concat([rows, train_rows[list(rows.columns.drop("subset"))].assign(subset="train")])
    provenance = Provenance(1, {"dataset": dataset.key}, {"name": name})
    metrics: Metrics = {"class_names": CLASS_NAMES, "metric": "accuracy"}
    return build_artifact(store, Split, provenance, metrics, {"split.parquet": rows, "split_history.parquet": rows})


def _build_evaluation(store: Store, split: Split, model: Model) -> Evaluation:
    from unittest.mock import patch

    with patch("gate_candidates.CLASS_NAMES", CLASS_NAMES):
        return build_evaluation(store, split, model, [0], load_config("demo"))


def _write_network(folder: Path) -> Metrics:
    import keras

    inputs = keras.Input((SIZE, SIZE, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    network = keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(features))
    network.layers[-1].set_weights([4 * np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], np.float32)])
    network.save(folder / "model.keras")
    return {"class_names": CLASS_NAMES, "image_height": SIZE, "image_width": SIZE}
