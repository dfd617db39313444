"""Throughput of a network of timm in PyTorch, channels last. Prints JSON.

timm and torch are not among the pinned packages: install them into an environment of their own.
"""

import argparse
import json
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import repeat_step

NUM_CLASSES = 10


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the throughput of training and of prediction, and the operations of a forward pass of one image."""
    torch.manual_seed(0)
    device, batch_size = options.device, options.batch_size
    net = timm.create_model(options.name, num_classes=NUM_CLASSES).to(device, memory_format=torch.channels_last)
    shape = (batch_size, 3, options.size, options.size)
    pixels = torch.rand(*shape, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=device) % NUM_CLASSES
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(pixels[:1])
    if options.frozen_batch_norm:
        _freeze_batch_norm(net)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=device == "cuda")
    compiled = torch.compile(net) if options.compile else net

    def precision() -> Any:
        return torch.autocast(device, torch.bfloat16) if options.bfloat16 else nullcontext()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision():
            loss = torch.nn.functional.cross_entropy(compiled(pixels), labels)
        loss.backward()
        optimizer.step()

    def predict() -> None:
        with torch.no_grad(), precision():
            compiled(pixels)

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    train = repeat_step(step, batch_size, options.steps, wait)
    net.eval()
    prediction = repeat_step(predict, batch_size, options.steps, wait)
    return {"train": asdict(train), "predict": asdict(prediction), "flops": counter.get_total_flops()}


def _freeze_batch_norm(net: torch.nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(requires_grad=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    for number in ("size", "batch_size", "steps"):
        parser.add_argument(number, type=int)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    for flag in ("--compile", "--bfloat16", "--frozen-batch-norm"):
        parser.add_argument(flag, action="store_true")
    print(json.dumps(measure(parser.parse_args())))
