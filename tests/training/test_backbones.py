"""Every backbone: built, trained for a step, saved, and the same again after loading."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import get_args

import keras
import numpy as np
import pytest

from carclf.config import Backbone, load_config
from carclf.training.backbones import backbone_layers, build_backbone, flatten_layers, group_layers_by_block
from carclf.training.compile import compile_classifier
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.optimizers import BlockRate, BlockwiseAdamW
from carclf.training.schedules import unfreeze

HEIGHT, WIDTH = 96, 128
PICTURES = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)
LABELS = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
QUICK = ("Tiny", "MobileNetV3Small")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.acceptance) for name in get_args(Backbone)]


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_trains_a_step_is_saved_and_predicts_the_same_after_loading(name, tmp_path):
    # A process for each: together they would need more memory than a small machine has.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(examine, name, tmp_path).result()


def examine(name, tmp_path):
    keras.utils.set_random_seed(0)
    backbone = build_backbone(name, "none", HEIGHT, WIDTH)
    model = join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 3, load_config("demo").model))
    groups = unfreeze(model, 0.2)
    optimizer = BlockwiseAdamW(1e-3, weight_decay=0.05, global_clipnorm=1.0, ema_momentum=0.9)
    trained = compile_classifier(model, optimizer, 0.1)
    optimizer.build_for(trained, [(group, BlockRate(0.5, 0)) for group in groups])
    before = [np.array(weight) for weight in trained.get_weights()]
    trained.fit(PICTURES, LABELS, batch_size=4, epochs=1, verbose=0)
    moved = sum(not np.array_equal(a, b) for a, b in zip(before, trained.get_weights(), strict=True))
    trainable = len(trained.trainable_variables)
    assert 2 <= moved <= trainable < len(before) or name == "Tiny"
    norms = [layer for layer in flatten_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    assert not any(layer.trainable for layer in norms)

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(model.predict(PICTURES, verbose=0), again.predict(PICTURES, verbose=0))
    num_blocks = len(group_layers_by_block(backbone_layers(model)))
    assert num_blocks == len(group_layers_by_block(backbone_layers(again))) >= 5
    if name != "Tiny":  # the same weights take pictures of another size
        assert np.isfinite(model.predict(PICTURES[:, :, :96], verbose=0)).all()
