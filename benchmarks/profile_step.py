"""Show where the time of a training step goes: operations by their own time, with shapes."""

import argparse

import torch
from costs.arms import IMAGES, built, fitting
from costs.cases import NETWORKS, Case
from costs.timing import training_step
from torch.profiler import ProfilerActivity, profile

from crossd.utils.allocator import keep_freed_memory


def main() -> None:
    """Profile five steps after five for warming up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18", choices=NETWORKS)
    parser.add_argument("--arm", default="fourier", choices=IMAGES)
    parser.add_argument("--size", type=int, default=224, help="side of the images (224)")
    parser.add_argument("--batch", type=int, default=8, help="images a batch (8)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--precision", default="32-true", help="32-true, bf16-mixed or 16-mixed")
    parser.add_argument("--rows", type=int, default=25, help="operations shown (25)")
    args = parser.parse_args()
    keep_freed_memory()
    case = Case(args.network, (args.size, args.size), args.batch)
    net = built(args.arm, case).to(args.device)
    images = fitting(args.arm, case.batch_on(args.device))
    run = training_step(net, images, args.precision)
    for _ in range(5):
        run()
    activities = [ProfilerActivity.CPU]
    if args.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities, record_shapes=True) as found:
        for _ in range(5):
            run()
    order = f"self_{args.device}_time_total"
    shown = found.key_averages(group_by_input_shape=True)
    print(shown.table(sort_by=order, row_limit=args.rows, max_shapes_column_width=70))


if __name__ == "__main__":
    main()
