"""Time both ways of a per-sample convolution over shapes: where does the cheaper one change?

The constant MAP_COST of `crossd.nn.per_sample` is read off this table: a layer of a kernel K^3 with
P places of output should map patches where (K - 1) P <= MAP_COST K^3. Run it alone on the machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from crossd.nn.functional import shift_map
from crossd.nn.per_sample import Settings, chosen, mapped_conv2d
from crossd.utils.allocator import keep_freed_memory

SHAPES = (
    *((64, 28), (64, 16), (64, 8), (128, 14), (128, 8), (128, 4)),
    *((256, 14), (256, 8), (256, 4), (512, 14), (512, 7), (512, 4), (512, 2)),
)


def step(function: Callable[..., torch.Tensor], leaves: list[torch.Tensor]) -> float:
    """Run forward and backward once; return the time it took [ms]."""
    wait(leaves[0].device)
    start = time.perf_counter()
    y = function(*leaves)
    torch.autograd.grad(y.sum(), leaves)
    wait(leaves[0].device)
    return 1000 * (time.perf_counter() - start)


def wait(device: torch.device) -> None:
    """Wait for what the device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=8, help="images a batch (8)")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (9)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    args = parser.parse_args()
    keep_freed_memory()
    dtype = getattr(torch, args.dtype)
    settings = Settings((1, 1), (1, 1))
    print(f"{'channels, plane':<18}{'conv2d':>9}{'kernels':>9}{'patches':>9}   [ms] chosen")
    for channels, size in SHAPES:
        torch.manual_seed(0)
        x = torch.randn(args.batch, channels, size, size, device=args.device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, channels, 3, 3, 3, device=args.device, dtype=dtype)
        weight = weight.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        maps = shift_map(torch.randn(args.batch, 3, device=args.device), (3, 3, 3), 1)
        maps.requires_grad_()

        def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return F.conv2d(x, weight[:, :, 1], padding=1)

        def kernels(x: torch.Tensor, weight: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
            return mapped_conv2d(x, weight, maps, settings=settings, way="kernels")

        def patches(x: torch.Tensor, weight: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
            return mapped_conv2d(x, weight, maps, settings=settings, way="patches")

        runs: list[tuple[Callable[..., torch.Tensor], list[torch.Tensor]]] = [
            (plain, [x, weight]),
            (kernels, [x, weight, maps]),
            (patches, [x, weight, maps]),
        ]
        for run in runs:
            step(*run)
        times = [[step(*run) for run in runs] for _ in range(args.rounds)]
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        numbers = "".join(f"{time:>9.2f}" for time in medians)
        name = f"{channels}, {size} x {size}"
        print(f"{name:<18}{numbers}   {chosen(x, weight, settings)}")


if __name__ == "__main__":
    main()
