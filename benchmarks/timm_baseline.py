"""A net of timm in PyTorch, compiled, channels last, bfloat16: NAME SIZE BATCH STEPS DEVICE. Prints JSON.

timm and torch are no part of the pins: install them beside.
"""

import json
import sys

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import images_per_second

CLASSES = 10


def measure(name: str, size: int, batch: int, steps: int, device: str) -> dict[str, float]:
    """Pictures a second of training and of prediction, and the operations of a forward pass of one picture."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=CLASSES).to(device, memory_format=torch.channels_last)
    pixels = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % CLASSES
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(pixels[:1])
    optimizer = torch.optim.AdamW(net.parameters(), fused=device == "cuda")
    compiled = torch.compile(net)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(compiled(pixels), labels)
        loss.backward()
        optimizer.step()

    def predict() -> None:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            compiled(pixels)

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    train = images_per_second(step, batch, steps, wait)
    net.eval()
    return {"train": train, "predict": images_per_second(predict, batch, steps, wait), "flops": counter.get_total_flops()}


if __name__ == "__main__":
    name, *numbers, device = sys.argv[1:]
    size, batch, steps = map(int, numbers)
    print(json.dumps(measure(name, size, batch, steps, device)))
