"""A network of timm in PyTorch, compiled, channels last, bfloat16: NAME SIZE BATCH_SIZE STEPS DEVICE. Prints JSON.

timm and torch are not among the pinned packages; install them separately.
"""

import json
import sys

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import images_per_second

NUM_CLASSES = 10


def measure(name: str, size: int, batch_size: int, steps: int, device: str) -> dict[str, float]:
    """Return images per second of training and of prediction, and the operations of a forward pass of one image."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=NUM_CLASSES).to(device, memory_format=torch.channels_last)
    pixels = torch.rand(batch_size, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=device) % NUM_CLASSES
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
    train = images_per_second(step, batch_size, steps, wait)
    net.eval()
    predict_speed = images_per_second(predict, batch_size, steps, wait)
    return {"train": train, "predict": predict_speed, "flops": counter.get_total_flops()}


if __name__ == "__main__":
    name, *numbers, device = sys.argv[1:]
    size, batch_size, steps = map(int, numbers)
    print(json.dumps(measure(name, size, batch_size, steps, device)))
