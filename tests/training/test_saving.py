"""Reference logits: some validation images of every class, in the precision of the saved model."""

from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from carclf.config import load_config
from carclf.training.backbones import build_backbone
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.precision import compute_precision
from carclf.training.saving import NUM_REFERENCE_IMAGES, select_reference_images, write_reference_logits
from carclf.training.weights import StartingWeights

SIZE = (48, 64)


def rows(*labels: int) -> pd.DataFrame:
    names = [f"{number}.png" for number in range(len(labels))]
    hashes = [f"{(number * 7919) % 1000:04}" for number in range(len(labels))]
    return pd.DataFrame({"id": names, "label": labels, "problem": "", "path": names, "sha256": hashes})


def test_reference_images_cover_every_class_and_ignore_the_row_order() -> None:
    val = rows(*[3] * 300, *[4] * 200, *[9] * 5)
    selected = select_reference_images(val)
    assert selected["label"].value_counts().to_dict() == {3: 30, 4: 29, 9: 5} and len(selected) == NUM_REFERENCE_IMAGES
    pd.testing.assert_frame_equal(select_reference_images(val.sample(frac=1, random_state=0)), selected)
    assert list(selected.columns) == list(val.columns) and len(select_reference_images(rows(1, 1, 2))) == 3


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    backbone = build_backbone("Tiny", StartingWeights("none"), *SIZE)
    return join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 3, load_config("demo").model))


def test_reference_logits_have_the_saved_models_precision(model: keras.Model, tmp_path: Path) -> None:
    """This also holds after the model computed in another precision."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(3)]
    for number, pixels in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels[:, :, ::-1])
    val = rows(0, 1, 2)
    with compute_precision("bfloat16", model):
        rough = model.predict_on_batch(np.stack(images))
    write_reference_logits(model, val, tmp_path, SIZE, tmp_path)
    model.save(tmp_path / "model.keras")
    table = pd.read_parquet(tmp_path / "reference_logits.parquet")
    assert list(table.columns) == ["id", "sha256", "logit0", "logit1", "logit2"]
    reference = table.set_index("id").loc[val["id"]].filter(like="logit").to_numpy()
    saved = keras.models.load_model(tmp_path / "model.keras", compile=False).predict_on_batch(np.stack(images))
    np.testing.assert_allclose(reference, saved, atol=1e-5)
    assert np.abs(reference - rough).max() > 1e-4
