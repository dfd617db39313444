"""Write ``checkpoint_goldens/``: small timm checkpoints with random weights, and the logits that timm computes.

Run by hand in an environment with torch, timm and safetensors, none of which carclf depends on:

    python tests/training/make_checkpoint_goldens.py

Each folder contains ``model.safetensors`` and ``config.json`` as timm uploads them to the Hugging Face Hub, and
``outputs.npz`` with ``pixels`` (batch, height, width, 3), uint8, and ``logits`` (batch, classes), float32.
"""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from timm.models.efficientnet import _gen_efficientnet, _gen_efficientnetv2_s

FOLDER = Path(__file__).parent / "checkpoint_goldens"
CONVNEXT: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_classes": 5}


def randomize(model: torch.nn.Module) -> None:
    """Draw all weights and statistics so that activations keep their scale and no tensor is constant."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.dtype != torch.float32:  # num_batches_tracked
            continue
        if tensor.ndim > 1:
            tensor.normal_(std=1.4 * tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith(("weight", "gamma", "running_var")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(std=0.2, generator=generator)


def write(name: str, model: Any, dtype: torch.dtype) -> None:
    """Write the files of one checkpoint, whose weights are stored with this type."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    randomize(model)
    model.to(dtype).float().eval()  # the logits are those of the rounded weights
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    mean, std = (torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    images = (torch.from_numpy(pixels).float() / 255 - mean) / std
    with torch.no_grad():
        logits = model(images.permute(0, 3, 1, 2).contiguous()).numpy()
    save_file({key: tensor.to(dtype) if tensor.is_floating_point() else tensor
               for key, tensor in model.state_dict().items()}, folder / "model.safetensors")
    save_config_for_hf(model, str(folder / "config.json"))
    np.savez_compressed(folder / "outputs.npz", pixels=pixels, logits=logits)
    print(name, f"standard deviation of the logits: {logits.std():.3f}")


if __name__ == "__main__":
    write("convnext", timm.create_model("convnext_tiny.in12k_ft_in1k", **CONVNEXT), torch.float32)
    write("convnext_clip", timm.create_model("convnext_base.clip_laion2b", **CONVNEXT), torch.float16)
    small = {"channel_multiplier": 0.1, "depth_multiplier": 0.5, "num_classes": 5}
    write("efficientnet", _gen_efficientnet("tf_efficientnet_b0.ns_jft_in1k", **small, bn_eps=1e-3, pad_type="same"),
          torch.bfloat16)
    small = {"channel_multiplier": 0.125, "depth_multiplier": 0.2, "num_classes": 5}
    write("efficientnet_v2", _gen_efficientnetv2_s("tf_efficientnetv2_s.in21k", **small, bn_eps=1e-3, pad_type="same"),
          torch.float16)
