"""`crossd export`: files that run without crossd, and bundles for MONAI."""

from crossd.cli.options import ExportConfig
from crossd.inference.monai_bundle import write_bundle
from crossd.nn.views import VIEWS
from crossd.utils.option_values import choice, sizes, unused
from crossd.utils.progress import Progress
from crossd.utils.run_folder import free_file
from crossd.weights.export import export as export_network
from crossd.weights.graph_files import SUFFIXES
from crossd.weights.weights_file import load


def export(config: ExportConfig, progress: Progress) -> str:
    """Write a network to a file that runs without crossd; returns what to print."""
    choice(config.to, ("2d", "3d", "bundle"), "--to")
    choice(config.view, VIEWS, "--view")
    if config.to == "bundle":
        return _bundle(config, progress)
    unused(config, ("licence",), "is for --to bundle")
    size = sizes(config.size)
    out = free_file(config.out, config.overwrite, SUFFIXES)
    net = load(config.weights)
    report = export_network(
        net,
        out,
        config.to,
        size=size,
        view=config.view,
        fixed_pose=config.fixed_pose,
        fixed_size=config.fixed_size,
        overwrite=config.overwrite,
        progress=progress,
    )
    return str(report)


def _bundle(config: ExportConfig, progress: Progress) -> str:
    """Write a MONAI bundle; returns what to print."""
    options = ("size", "fixed_size", "view", "fixed_pose")
    unused(config, options, "is for --to 2d and 3d: a bundle takes what the weights' plan says")
    net = load(config.weights)
    progress.say("tracing the network, and comparing what is written with it")
    return write_bundle(net, config.out, licence=config.licence, overwrite=config.overwrite)
