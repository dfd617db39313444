"""The same training on two devices, in bfloat16, and by the other backend: each in a process of its own."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

TRAIN = """
import json, sys, tempfile
import numpy as np, keras
from carclf.config import load
from carclf.services.storage import open_store
from carclf.training import loop
from carclf.training.backbones import build_backbone
from carclf.training.checkpoints import Checkpoints
from carclf.training.compile import make_repeatable
from carclf.training.heads import build_head, join
from carclf.training.precision import computing_in
from carclf.training.distribution import spread
from carclf.training.schedules import compile_by
from carclf.pipeline.mixing import Mix

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

def train():
    config = load("demo", {"model.dropout": 0.0, "fine_tune.epochs": 2, "fine_tune.batch_size": 8,
                           "fine_tune.num_phases": 2, "fine_tune.layer_decay": 0.5, "fine_tune.ema_momentum": 0.9})
    averages = []
    def validate(network):
        averages.append([float(np.abs(array).sum()) for array in network.get_weights()])
        return 1.0, 0.5
    make_repeatable(0)
    with spread(8, [f"cpu:{i}" for i in range(NUM)]) as num:
        backbone = build_backbone("Tiny", "none", 48, 64)
        model = join(backbone, build_head(backbone.output_shape[-1], 3, config.model))
        with computing_in(PRECISION, model):
            trained, _ = compile_by(config.fine_tune, model, Source())
            checkpoints = Checkpoints(open_store(tempfile.mkdtemp()), "k")
            trainer = loop.Trainer(trained, Source(), Mix(3, 0), config.fine_tune, validate, checkpoints)
            history = trainer.run(-1.0)
    return {"num": num, "loss": list(history["loss"]), "averages": averages,
            "dtype": str(trained.get_weights()[0].dtype)}

print("RESULT" + json.dumps(train()))
"""


def train(num_devices: int = 1, precision: str = "float32", backend: str = "tensorflow") -> dict[str, object]:
    code = f"NUM, PRECISION = {num_devices}, {precision!r}\n" + textwrap.dedent(TRAIN)
    flags = {"KERAS_BACKEND": backend, "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.partition("RESULT")[2])


@pytest.fixture(scope="module")
def alone() -> dict[str, object]:
    return train()


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.acceptance)])
def test_two_devices_give_the_loss_and_the_averaged_weights_of_one(alone, backend) -> None:
    two = train(2, backend=backend)
    assert (two["num"], alone["num"]) == (2, 1)
    assert alone["averages"][0] != alone["averages"][1]
    reference = alone if backend == "tensorflow" else train(backend="jax")
    np.testing.assert_allclose(two["loss"], reference["loss"], rtol=2e-3)
    np.testing.assert_allclose(two["averages"], reference["averages"], rtol=1e-5)


@pytest.mark.acceptance
def test_of_three_devices_two_share_a_batch_of_eight(alone) -> None:
    found = train(3)
    assert found["num"] == 2
    np.testing.assert_allclose(found["loss"], alone["loss"], rtol=2e-3)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_without_a_gpu_one_device_is_used(backend) -> None:
    code = "from carclf.training.distribution import spread\nwith spread(8) as num: print(num)"
    flags = {"KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | flags, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr[-2000:]


def test_bfloat16_keeps_float32_weights_and_nearly_the_same_loss(alone) -> None:
    found = train(precision="bfloat16")
    assert found["dtype"] == "float32" and found["loss"] != alone["loss"]
    np.testing.assert_allclose(found["loss"], alone["loss"], rtol=0.05)
