"""The probe: some validation pictures of every class, answered as the saved model will answer."""

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
from carclf.training.probe import NUM_REFERENCE_IMAGES, select_reference_images, write_reference_logits

SIZE = (48, 64)


def rows(*labels: int) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"{n}.png" for n in range(len(labels))], "label": labels, "problem": "",
                         "path": [f"{n}.png" for n in range(len(labels))],
                         "sha256": [f"{(n * 7919) % 1000:04}" for n in range(len(labels))]})


def test_the_probe_has_pictures_of_every_class_and_forgets_the_rows_order() -> None:
    val = rows(*[3] * 300, *[4] * 200, *[9] * 5)
    found = select_reference_images(val)
    assert found["label"].value_counts().to_dict() == {3: 30, 4: 29, 9: 5} and len(found) == NUM_REFERENCE_IMAGES
    pd.testing.assert_frame_equal(select_reference_images(val.sample(frac=1, random_state=0)), found)
    assert list(found.columns) == list(val.columns) and len(select_reference_images(rows(1, 1, 2))) == 3


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    backbone = build_backbone("Tiny", "none", *SIZE)
    return join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 3, load_config("demo").model))


def test_the_probe_is_in_the_saved_models_precision_also_after_a_training_in_another(
    model: keras.Model, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(3)]
    for number, one in enumerate(pixels):
        cv2.imwrite(str(tmp_path / f"{number}.png"), one[:, :, ::-1])
    val = rows(0, 1, 2)
    with compute_precision("bfloat16", model):
        rough = model.predict_on_batch(np.stack(pixels))
    write_reference_logits(model, val, tmp_path, SIZE, tmp_path)
    model.save(tmp_path / "model.keras")
    probe = pd.read_parquet(tmp_path / "reference_logits.parquet")
    assert list(probe.columns) == ["id", "sha256", "logit0", "logit1", "logit2"]
    told = probe.set_index("id").loc[val["id"]].filter(like="logit").to_numpy()
    saved = keras.models.load_model(tmp_path / "model.keras", compile=False).predict_on_batch(np.stack(pixels))
    np.testing.assert_allclose(told, saved, atol=1e-5)
    assert np.abs(told - rough).max() > 1e-4
