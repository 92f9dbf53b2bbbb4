"""Time CrossDConv on images against nn.Conv2d: forward and backward, layer by layer.

The layers take turns within each round, so that whatever else the machine does slows all of them;
the table shows medians over the rounds, and ratios to nn.Conv2d's median of the same run.
"""

import argparse
import statistics
import time

import torch
from torch import nn

import crossd

# Channels and output size of the 3x3 layers of a ResNet18 on images of 224 x 224 pixels.
SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))
MODES = ("projection", "slice", "fourier")


def step(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> float:
    """Run forward and backward once; return the time it took [ms]."""
    layer.zero_grad(set_to_none=True)
    x.grad = None
    wait(x.device)
    start = time.perf_counter()
    layer(x).backward(grad)
    wait(x.device)
    return 1000 * (time.perf_counter() - start)


def wait(device: torch.device) -> None:
    """Wait for what the device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(channels: int, size: int, batch: int, rounds: int, device: str) -> list[float]:
    """Return the median times of nn.Conv2d and of each mode [ms]."""
    layers: list[nn.Module] = [nn.Conv2d(channels, channels, 3, padding=1)]
    for mode in MODES:
        layers.append(crossd.CrossDConv(channels, channels, 3, padding=1, kernel_mode=mode))
    for layer in layers:
        layer.to(device).train()
    x = torch.randn(batch, channels, size, size, device=device, requires_grad=True)
    grad = torch.randn(batch, channels, size, size, device=device)
    for layer in layers:
        for _ in range(2):  # allocations and the choice of algorithms are not part of the time
            step(layer, x, grad)
    times = [[step(layer, x, grad) for layer in layers] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=8, help="images a batch (8)")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (15)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    print(f"{name}, threads {args.threads}, torch {torch.__version__}, batch {args.batch}, float32")
    print("Forward + backward of a 3x3 layer; times the nn.Conv2d of the same row.\n")
    print(f"{'layer':<18}{'Conv2d [ms]':>12}" + "".join(f"{mode:>12}" for mode in MODES))
    for channels, size in SHAPES:
        plain, *ours = measure(channels, size, args.batch, args.rounds, args.device)
        layer = f"{channels}, {size} x {size}"
        print(f"{layer:<18}{plain:>12.1f}" + "".join(f"{t / plain:>12.2f}" for t in ours))


if __name__ == "__main__":
    main()
