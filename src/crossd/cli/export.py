"""`crossd export`: a file that runs without crossd."""

from crossd.cli.options import ExportConfig
from crossd.nn.views import VIEWS
from crossd.utils.option_values import choice, sizes
from crossd.utils.progress import Progress
from crossd.utils.run_folder import free_file
from crossd.weights.export import export as export_network
from crossd.weights.graph_files import SUFFIXES
from crossd.weights.weights_file import load


def export(config: ExportConfig, progress: Progress) -> str:
    """Write a network to a file that runs without crossd; returns what to print."""
    choice(config.to, ("2d", "3d"), "--to")
    choice(config.view, VIEWS, "--view")
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
