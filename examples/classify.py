"""A classifier of timm is trained on slices, and answers on volumes.

Run it by `python examples/classify.py`. Balls, shells and bars in noise are the data.
"""

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import crossd

CLASSES = ("ball", "shell", "bars")
VIEWS = ("axial", "coronal", "sagittal")


def draw(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw volumes ``(N, 1, D, H, W)`` and their labels ``(N,)``."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    centers = size * (0.4 + 0.2 * torch.rand(count, 3, 1, 1, 1, generator=generator))
    grid = torch.stack(torch.meshgrid(*[torch.arange(size)] * 3, indexing="ij"))
    away = (grid - centers).abs()  # (n, axis, z, y, x)
    far = away.square().sum(1).sqrt() / size
    bars = (away < 0.08 * size).sum(1) >= 2
    shapes = torch.stack([far < 0.3, (far - 0.27).abs() < 0.05, bars])  # (class, n, z, y, x)
    volumes = shapes[labels, torch.arange(count)].float()
    return (volumes + 0.4 * torch.randn(volumes.shape, generator=generator))[:, None], labels


def slices(volumes: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Cut one slice of each volume near its middle; returns images, labels and views."""
    axes = torch.randint(3, (len(volumes),), generator=generator)
    size = volumes.shape[-1]
    places = torch.randint(size * 2 // 5, size * 3 // 5, (len(volumes),), generator=generator)
    cut = [v.select(1 + int(a), int(p)) for v, a, p in zip(volumes, axes, places, strict=True)]
    return torch.stack(cut), labels, axes


def main(model: str = "resnet18", size: int = 32, count: int = 120, steps: int = 60) -> float:
    """Train, recalibrate and ask about volumes; returns the accuracy."""
    torch.manual_seed(0)
    volumes, labels = draw(count, size, seed=0)
    net = crossd.convert(timm.create_model(model, num_classes=len(CLASSES), in_chans=1))
    print(str(net.conversion).splitlines()[0])

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    net.train()
    for step in range(steps):
        chosen = torch.randperm(count, generator=generator)[:24]
        images, truth, axes = slices(volumes[chosen], labels[chosen], generator)
        with crossd.view([VIEWS[axis] for axis in axes.tolist()]):  # each slice in its own view
            loss = F.cross_entropy(net(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step}: loss {float(loss.detach()):.3f}")

    # BatchNorm measured slices until now. Volumes without labels are enough to measure it anew.
    crossd.recalibrate(net, volumes.split(12))
    net.eval()
    volumes, labels = draw(60, size, seed=2)
    with torch.no_grad():
        answers = torch.cat([net(batch) for batch in volumes.split(12)]).argmax(1)
    accuracy = float((answers == labels).float().mean())
    print(f"trained on slices, right on {accuracy:.0%} of {len(labels)} new volumes (chance: 33%)")
    return accuracy


if __name__ == "__main__":
    main()
