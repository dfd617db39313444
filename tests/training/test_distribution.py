"""The same training on two devices, in bfloat16, and with the other backend: each in a new process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.integration

TRAIN = """
import json, sys, tempfile
import numpy as np, keras
from carclf.config import load_config
from carclf.pipeline.mixing import BatchMixer
from carclf.services.storage import open_store
from carclf.training.backbones import build_backbone
from carclf.training.checkpoints import Checkpoints
from carclf.training.compile import make_deterministic
from carclf.training.distribution import data_parallel
from carclf.training.weights import StartingWeights
from carclf.training.heads import build_head, join_backbone_and_head
from carclf.training.precision import compute_precision
from carclf.training.schedules import compile_for_fine_tuning
from carclf.training.trainer import Trainer, TrainerOptions
from carclf.training.validation import Objective, Validation

if keras.backend.backend() == "tensorflow" and NUM > 1:
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * NUM)

class Source:
    batch_size, epochs, steps_per_epoch, seed = 8, 2, 3, 0
    examples = range(24)
    def __len__(self): return 48
    def __getitem__(self, drawn):
        random = np.random.default_rng(drawn % 24)
        return random.integers(0, 256, (48, 64, 3), np.uint8), np.int32(drawn % 3)

def train(precision):
    config = load_config("demo", {"model.dropout": 0.0, "fine_tune.epochs": 2, "fine_tune.batch_size": 8,
                                  "fine_tune.num_phases": 2, "fine_tune.layer_decay": 0.5,
                                  "fine_tune.ema_fraction": 0.5})
    averages = []
    def validate(network):
        averages.append([float(np.abs(array).sum()) for array in network.get_weights()])
        return Validation(1.0, 0.5, 0.5)
    make_deterministic(0)
    with data_parallel(8, [f"cpu:{i}" for i in range(NUM)]) as num:
        backbone = build_backbone("Tiny", StartingWeights("none"), 48, 64)
        model = join_backbone_and_head(backbone, build_head(backbone.output_shape[-1], 3, config.model))
        with compute_precision(precision, model):
            trained, _ = compile_for_fine_tuning(config.fine_tune, model, Source())
            checkpoints = Checkpoints(open_store(tempfile.mkdtemp()), "k")
            options = TrainerOptions(config.fine_tune, BatchMixer(3, 0), Objective(), validate=validate)
            history = Trainer(trained, Source(), checkpoints, options).run()
    return {"num": num, "loss": list(history["loss"]), "averages": averages,
            "dtype": str(trained.get_weights()[0].dtype)}

results = {precision: train(precision) for precision in PRECISIONS}
with data_parallel(8) as num:
    print("RESULT" + json.dumps(results | {"num_devices": num}))
"""


def run_python(code: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def train(num_devices: int = 1, precisions: tuple[str, ...] = ("float32",), backend: str = "tensorflow"):
    """Return the result of a training per precision, and the number of devices that are used by default."""
    code = f"NUM, PRECISIONS = {num_devices}, {precisions!r}\n{TRAIN}"
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    return json.loads(run_python(code, KERAS_BACKEND=backend, XLA_FLAGS=flags).partition("RESULT")[2])


@pytest.fixture(scope="module")
def one_device() -> dict[str, dict[str, object]]:
    return train(precisions=("float32", "bfloat16"))


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.acceptance)])
def test_two_devices_give_the_loss_and_the_average_weights_of_one(one_device, backend) -> None:
    two_devices, single = train(2, backend=backend)["float32"], one_device["float32"]
    assert (two_devices["num"], single["num"]) == (2, 1)
    assert single["averages"][0] != single["averages"][1]
    reference = single if backend == "tensorflow" else train(backend="jax")["float32"]
    np.testing.assert_allclose(two_devices["loss"], reference["loss"], rtol=2e-3)
    np.testing.assert_allclose(two_devices["averages"], reference["averages"], rtol=1e-5)


@pytest.mark.acceptance
def test_a_batch_of_eight_uses_two_of_three_devices(one_device) -> None:
    result = train(3)["float32"]
    assert result["num"] == 2
    np.testing.assert_allclose(result["loss"], one_device["float32"]["loss"], rtol=2e-3)


def test_without_a_gpu_tensorflow_uses_one_device(one_device) -> None:
    assert one_device["num_devices"] == 1


def test_without_a_gpu_jax_uses_one_device() -> None:
    code = "from carclf.training.distribution import data_parallel\nwith data_parallel(8) as num: print(num)"
    assert run_python(code, KERAS_BACKEND="jax") == "1\n"


def test_bfloat16_keeps_float32_weights_and_nearly_the_same_loss(one_device) -> None:
    result, single = one_device["bfloat16"], one_device["float32"]
    assert result["dtype"] == "float32" and result["loss"] != single["loss"]
    np.testing.assert_allclose(result["loss"], single["loss"], rtol=0.05)
