"""timm checkpoints: equal logits in Keras, and errors for files that do not fit.

``make_checkpoint_goldens.py`` writes the small checkpoints and the logits that timm computes.
"""

import json
import pickle
import random
import shutil
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.applications.convnext import ConvNeXt
from keras.src.applications.efficientnet import EfficientNet
from keras.src.applications.efficientnet_v2 import EfficientNetV2
from mutations import flip_bits, mutation_counts, repeat, truncate
from safetensors_bytes import pack_safetensors

from carclf.config import FAMILY_BY_BACKBONE
from carclf.errors import ConfigError
from carclf.training.backbones import build_backbone, flatten_layers
from carclf.training.safetensors_file import read_tensors
from carclf.training.timm_checkpoints import ARCHITECTURES, copy_weights
from carclf.training.weights import starting_weights

GOLDENS = Path(__file__).parent / "checkpoint_goldens"
CONVNEXT = {"depths": (1, 1, 2, 1), "projection_dims": (8, 16, 24, 32)}
NETWORKS = {  # by golden: the backbone, its small configuration in Keras, and the classifier in the checkpoint
    "convnext": ("ConvNeXtTiny", partial(ConvNeXt, **CONVNEXT, name="convnext_tiny"), "head.fc"),
    "convnext_clip": ("ConvNeXtBase", partial(ConvNeXt, **CONVNEXT, name="convnext_base"), "head.fc"),
    "efficientnet": ("EfficientNetB0", partial(EfficientNet, 0.1, 0.5, 224, name="efficientnetb0"), "classifier"),
    "efficientnet_v2": (
        "EfficientNetV2S", partial(EfficientNetV2, 0.125, 0.2, 384, name="efficientnetv2-s"), "classifier"),
}


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the convnext checkpoint, for tests that change it."""
    return Path(shutil.copytree(GOLDENS / "convnext", tmp_path / "checkpoint")) / "model.safetensors"


@pytest.fixture
def small(monkeypatch):
    """Make the backbones small, and return a function that builds the one of a golden from a checkpoint."""
    for backbone, make, _ in NETWORKS.values():
        monkeypatch.setattr(keras.applications, backbone, make)
    return lambda golden, path: build_backbone(NETWORKS[golden][0], starting_weights(str(path)), 64, 96)


@pytest.fixture(scope="module")
def convnext_layers():
    return flatten_layers(ConvNeXt(**CONVNEXT, name="convnext_tiny", include_top=False, pooling="avg"))


@pytest.mark.parametrize("golden", NETWORKS)
def test_a_converted_checkpoint_computes_the_logits_of_timm(golden, small):
    path = GOLDENS / golden / "model.safetensors"
    outputs, tensors = np.load(path.with_name("outputs.npz")), read_tensors(path)
    kernel, bias = (tensors[f"{NETWORKS[golden][2]}.{name}"].astype(np.float32) for name in ("weight", "bias"))
    features = keras.ops.convert_to_numpy(small(golden, path)(outputs["pixels"].astype(np.float32)))
    assert outputs["logits"].std() > 0.2
    assert np.abs(features @ kernel.T + bias - outputs["logits"]).max() < 1e-4


def test_the_image_network_of_an_openclip_file_is_used(checkpoint, convnext_layers):
    tensors = read_tensors(checkpoint)
    renamed = {f"visual.trunk.{name}": np.array(array) for name, array in tensors.items()}
    text = {"text_projection": np.zeros(3, np.float32), "visual.head.proj.weight": np.zeros((2, 2), np.float32)}
    other = checkpoint.with_name("open_clip.safetensors")
    other.write_bytes(pack_safetensors(text | renamed))
    copy_weights(convnext_layers, other)
    norm = next(layer for layer in convnext_layers if layer.name.startswith("layer_normalization"))
    np.testing.assert_array_equal(norm.get_weights()[0], tensors["head.norm.weight"])


@pytest.mark.parametrize(("change", "name"), [
    (lambda tensors: tensors.update({"stem.0.weight": np.zeros((8, 3, 4, 5), np.float32)}), r"stem\.0\.weight"),
    (lambda tensors: tensors.update({"stem.1.bias": np.zeros(8, np.int64)}), r"stem\.1\.bias.*int64"),
    (lambda tensors: [tensors.pop(name) for name in ("stages.1.blocks.0.gamma", "head.norm.weight")],
     r"stages\.1\.blocks\.0\.gamma is missing"),
    (lambda tensors: tensors.update({"stages.0.blocks.0.mlp.grn.weight": np.zeros(8, np.float32)}),
     r"no place for the tensor stages\.0\.blocks\.0\.mlp\.grn\.weight"),
])
def test_the_first_tensor_that_does_not_fit_is_named(change, name, checkpoint, convnext_layers):
    tensors = {key: np.array(array) for key, array in read_tensors(checkpoint).items()}
    change(tensors)
    checkpoint.write_bytes(pack_safetensors(tensors))
    with pytest.raises(ConfigError, match=name):
        copy_weights(convnext_layers, checkpoint)


def test_another_architecture_raises_config_error_with_its_backbone(checkpoint):
    with pytest.raises(ConfigError, match=r"'convnext_tiny'.*EfficientNetB0.*model\.backbone to ConvNeXtTiny"):
        build_backbone("EfficientNetB0", starting_weights(str(checkpoint)), 64, 64)
    config = checkpoint.with_name("config.json")
    config.write_text(config.read_text().replace("convnext_tiny", "efficientnet_b0"))  # with timm's other padding
    with pytest.raises(ConfigError, match="'efficientnet_b0'"):
        build_backbone("EfficientNetB0", starting_weights(str(checkpoint)), 64, 64)


def test_a_checkpoint_with_nan_raises_config_error(checkpoint, small):
    tensors = {key: np.array(array) for key, array in read_tensors(checkpoint).items()}
    tensors["stem.0.bias"][0] = np.nan
    checkpoint.write_bytes(pack_safetensors(tensors))
    with pytest.raises(ConfigError, match="not finite"):
        small("convnext", checkpoint)


@pytest.mark.parametrize("content", [
    None, "{}", "[" * 100_000, '{"architecture": "convnext_tiny", "pretrained_cfg": {"mean": [0, 0], "std": [1, 1]}}',
    '{"architecture": "convnext_tiny", "pretrained_cfg": {"mean": [0, 0, 0], "std": [1, 1, 0]}}',
    '{"architecture": "convnext_tiny", "pretrained_cfg": {"mean": [0, 0, NaN], "std": [1, 1, 1]}}',
    f'{{"architecture": "convnext_tiny", "pretrained_cfg": {{"mean": [0, 0, {"9" * 400}], "std": [1, 1, 1]}}}}',
    '{"architecture": "convnext_tiny", "pretrained_cfg": [1]}',
], ids=lambda content: str(content)[:90])
def test_a_checkpoint_without_valid_config_json_raises_config_error(content, checkpoint):
    config = checkpoint.with_name("config.json")
    config.unlink()
    if content is not None:
        config.write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        starting_weights(str(checkpoint))


class Exploit:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pth", "model.bin", "model.pt", "model.ckpt", "model.pkl", "model.safetensors",
                                  "model.weights.h5"])
def test_a_pickled_checkpoint_is_rejected_and_executes_nothing(name, checkpoint, small):
    path = checkpoint.with_name(name)
    path.write_bytes(pickle.dumps(Exploit(checkpoint.with_name("executed"))))
    with pytest.raises(ConfigError, match=name):
        small("convnext", path)
    assert not checkpoint.with_name("executed").exists()


@mutation_counts(60)
def test_a_damaged_checkpoint_is_read_or_raises_config_error(num, checkpoint):
    # The tensors of a file with few and small ones: most mutations hit the header.
    whole = pack_safetensors({"stem.0.bias": np.zeros(4, np.float32), "head.norm.bias": np.zeros((1, 2), np.float16)})
    for seed in range(num):
        generator = random.Random(seed)
        checkpoint.write_bytes(generator.choice((flip_bits, truncate, repeat))(generator, whole))
        try:
            tensors = read_tensors(checkpoint)
        except ConfigError as error:
            assert str(checkpoint) in str(error)
        else:
            assert sum(array.nbytes for array in tensors.values()) < len(whole)


def header(**entry):
    return json.dumps({"stem.0.bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}).encode()


@pytest.mark.parametrize("content", [
    b"", b"\x01", (9).to_bytes(8, "little") + b"{}", (2**63).to_bytes(8, "little") + b"{}",
    *((len(text)).to_bytes(8, "little") + text + bytes(8) for text in (
        b"[]", b"[" * 100_000, b'{"a": 1}', b'{"a": {}, "a": {}}', b'{"a": ' + b"9" * 5000 + b"}", b"\xff\xff",
        header(shape=[3]), header(shape=[-2]), header(shape=[2**70]), header(shape="2"), header(shape=[True, 2]),
        header(dtype="F8"), header(dtype=[]), header(data_offsets=[0, 16], shape=[4]), header(data_offsets=[8, 0]),
        header(data_offsets=[4, 12]), header(data_offsets=[0]), header(data_offsets=[0.0, 8.0]),
        header(shape=[1], data_offsets=[0, 4]), header(shape=[0, 2**70], data_offsets=[0, 0]), header(shape=[1] * 99),
    )),
], ids=lambda content: f"{len(content)}-bytes")
def test_a_file_that_breaks_the_format_raises_config_error(content, checkpoint):
    checkpoint.write_bytes(content)
    with pytest.raises(ConfigError, match=str(checkpoint)):
        read_tensors(checkpoint)


def test_half_precision_and_bfloat16_are_read_exactly(tmp_path):
    path = tmp_path / "w.safetensors"
    values = np.array([[1.5, -2.0, 0.0]], np.float32)
    path.write_bytes(pack_safetensors({"half": values.astype(np.float16), "bfloat16": values}, bfloat16={"bfloat16"}))
    tensors = read_tensors(path)
    assert tensors["half"].dtype == np.float16 and tensors["bfloat16"].dtype == np.float32
    np.testing.assert_array_equal(tensors["half"], values)
    np.testing.assert_array_equal(tensors["bfloat16"], values)


def test_every_convertible_backbone_can_be_set_and_has_its_own_architectures():
    assert ARCHITECTURES.keys() <= FAMILY_BY_BACKBONE.keys()
    architectures = [name for names in ARCHITECTURES.values() for name in names]
    assert len(set(architectures)) == len(architectures)


def test_a_local_checkpoint_is_used_where_it_is(checkpoint):
    assert starting_weights(str(checkpoint)).path == checkpoint
