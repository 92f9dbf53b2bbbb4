"""`crossd plan`: how volumes would be prepared, written down to be edited."""

from crossd.cli.opening import known
from crossd.cli.options import PlanConfig
from crossd.cli.runs import write_plan
from crossd.data.opening import open_source
from crossd.errors import InputError
from crossd.utils.option_values import sizes
from crossd.utils.progress import Progress
from crossd.utils.run_folder import free_file


def plan(config: PlanConfig, progress: Progress) -> str:
    """Scan volumes and write down how they would be prepared; returns what to print."""
    out = free_file(config.out, config.overwrite, (".yaml", ".yml"))
    source = open_source(
        config.data,
        size=sizes(config.size),
        seed=config.seed,
        given=known(config),
        progress=progress,
    )
    if source.plan is None:
        raise InputError(f"{config.data}: a plan is for volumes that come as files")
    write_plan(source, out)
    return f"{out.read_text(encoding='utf-8')}written: {out}"
