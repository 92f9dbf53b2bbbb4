"""Training loops of others, on the same data and networks: of timm on images, of MONAI on volumes.

    python benchmarks/loops.py timm OPTIONS
    python benchmarks/loops.py monai OPTIONS

Each prints a line of JSON: how many samples were trained on, and in how many seconds, from the
first request for a batch to the last step. What timm's own script, ``train.py``, does in a step is
written here with timm's parts, as the script is in none of timm's packages; AdamW and the clipping
of gradients are those of crossd's training. ``benchmarks/throughput.py`` runs both.
"""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd.conversion import registry
from crossd.data.patches import transforms
from crossd.training.loss import loss_of

CLIP = 1.0


def train(net: nn.Module, epochs: Iterable[Iterable[Any]], criterion: Any) -> dict[str, float]:
    """Take a step for every batch of (images or volumes, what is true of them)."""
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    seen, begin = 0, time.perf_counter()
    for batches in epochs:
        for image, truth in batches:
            loss = criterion(net(image), truth)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizer.step()
            loss.item()  # both scripts watch the loss
            seen += len(image)
    return {"samples": seen, "seconds": time.perf_counter() - begin}


def of_timm(args: argparse.Namespace) -> dict[str, float]:
    """Train on class folders, read by timm."""
    from timm.data.dataset_factory import create_dataset
    from timm.data.loader import create_loader

    dataset = create_dataset("", str(args.data / "train"))
    loader = create_loader(
        dataset,
        (3, args.size, args.size),
        args.batch,
        is_training=True,
        no_aug=True,
        num_workers=args.workers,
        device=torch.device("cpu"),
        persistent_workers=args.workers > 0,
    )
    net = registry.build(args.model, "classification", 3, len(dataset.reader.class_to_idx))
    return train(net, (loader for _ in range(args.epochs)), F.cross_entropy)


def of_monai(args: argparse.Namespace) -> dict[str, float]:
    """Train on volumes with masks, which MONAI's CacheDataset holds in memory."""
    from monai import transforms as monai
    from monai.data.dataset import CacheDataset
    from monai.data.utils import list_data_collate
    from torch.utils.data import DataLoader

    keys = ["image", "mask"]
    cases = [
        {"image": str(path), "mask": str(args.data / "labels" / path.name)}
        for path in sorted((args.data / "images").iterdir())[: args.count]
    ]
    prepared: Any = [
        monai.LoadImaged(keys, ensure_channel_first=True),
        monai.NormalizeIntensityd("image"),
        monai.RandCropByPosNegLabeld(keys, "mask", (args.patch,) * 3, pos=2, neg=1, num_samples=1),
        monai.ToTensord(keys, track_meta=False),
        transforms(3, True, (1.0, 1.0, 1.0)),
    ]
    dataset = CacheDataset(cases, prepared, progress=False)
    loader: Any = DataLoader(
        dataset, args.batch, shuffle=True, num_workers=args.workers, collate_fn=list_data_collate
    )
    net = registry.build(args.model, "segmentation", 1, args.classes)
    pairs = ((of_both(batch) for batch in loader) for _ in range(args.epochs))
    return train(net, pairs, loss_of("segmentation"))


def of_both(batch: Any) -> tuple[Tensor, Tensor]:
    """Take the volumes and the masks out of a batch."""
    image, mask = (torch.as_tensor(batch[key]) for key in ("image", "mask"))
    return image, mask[:, 0].long()


def main() -> None:
    """Read the command line, train, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("whose", choices=("timm", "monai"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    for name in ("size", "patch", "batch", "epochs", "workers", "count", "classes", "threads"):
        parser.add_argument(f"--{name}", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(json.dumps((of_timm if args.whose == "timm" else of_monai)(args)))


if __name__ == "__main__":
    main()
