import keras
import numpy as np
import pytest

from carclf.config import load_config
from carclf.errors import ConfigError
from carclf.training.backbones import backbone_layers, build_backbone, flatten_layers, group_layers_by_block
from carclf.training.heads import build_head, fit_head, join_backbone_and_head
from carclf.training.schedules import unfreeze

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")


@pytest.fixture(scope="module")
def classifier() -> keras.Model:
    keras.utils.set_random_seed(0)
    backbone = build_backbone("EfficientNetV2B0", "none", 64, 64)
    return join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 3, load_config("demo").model))


def test_batch_normalization_stays_in_inference_mode_when_everything_else_trains(classifier: keras.Model) -> None:
    unfreeze(classifier, 1.0)
    frozen = [layer for layer in flatten_layers(classifier) if isinstance(layer, keras.layers.BatchNormalization)]
    before = [np.array(weight) for layer in frozen for weight in layer.weights]
    for layer in flatten_layers(classifier):
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    np.testing.assert_allclose(classifier(PICTURES, training=True), classifier(PICTURES, training=False), atol=1e-5)
    after = [np.array(weight) for layer in frozen for weight in layer.weights]
    assert frozen and all((a == b).all() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_only_the_upper_blocks_and_the_head_are_unfrozen(classifier: keras.Model, fraction: float) -> None:
    num_unfrozen = len(unfreeze(classifier, fraction))
    groups = group_layers_by_block(backbone_layers(classifier))
    trained = [any(layer.trainable_weights for layer in group) for group in groups]
    assert len(groups) > 20 and num_unfrozen == -(-len(groups) * fraction // 1)
    assert trained == [position >= len(groups) - num_unfrozen for position in range(len(groups))]
    assert classifier.get_layer("head").trainable_weights


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("Tiny", "imagenet", "Set model.weights to none"),
        ("EfficientNetB0", "/nowhere/x.weights.h5", "there is no file '/nowhere/x.weights.h5'"),
    ],
)
def test_a_backbone_that_cannot_be_had_is_a_clear_error(name: str, weights: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_backbone(name, weights, 64, 64)
    assert message in str(error.value)


def test_weights_that_are_no_numbers_are_refused(tmp_path) -> None:
    net = build_backbone("MobileNetV3Small", "none", 64, 64).layers[-1]
    net.set_weights([np.full_like(array, np.nan) for array in net.get_weights()])
    net.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ConfigError, match="hold values that are no numbers: the file is damaged"):
        build_backbone("MobileNetV3Small", str(tmp_path / "m.weights.h5"), 64, 64)


def test_weights_of_another_net_are_refused(tmp_path) -> None:
    build_backbone("MobileNetV3Small", "none", 64, 64).layers[-1].save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ConfigError, match=r"could not be loaded.*\. Set model.weights to a file"):
        build_backbone("EfficientNetB0", str(tmp_path / "m.weights.h5"), 64, 64)


def test_the_heads_accuracy_is_exactly_the_share_of_right_answers() -> None:
    """What a later epoch is compared with: in float32 an equal one would look better."""
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(103, 4)).astype(np.float32), random.integers(0, 3, 103)
    config = load_config("demo", {"head.epochs": 3})
    keras.utils.set_random_seed(0)
    head = build_head(4, 3, config.model)
    _, accuracy, _ = fit_head(head, (x, labels), (x, labels), config.head)
    assert accuracy == (head.predict(x, verbose=0).argmax(1) == labels).mean() != np.float32(accuracy)
