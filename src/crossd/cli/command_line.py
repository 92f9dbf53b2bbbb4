"""The command line: parses, calls, prints. Heavy modules are imported by the command chosen."""

import dataclasses
import difflib
import errno
import importlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from crossd.training.signals import INTERRUPTED, Stopped
from crossd.utils.processes import is_first

COMMANDS = {
    "transfer": "crossd transfer --images images.npz --volumes volumes.npz --limit 100 "
    "--out runs/mine",
    "pretrain": "crossd pretrain --data images.npz --model resnet18 --out runs/2d",
    "recalibrate": "crossd recalibrate --weights runs/2d/weights.safetensors --data volumes.npz "
    "--out ready.safetensors",
    "finetune": "crossd finetune --weights ready.safetensors --data volumes.npz --limit 100 "
    "--out runs/3d",
    "joint": "crossd joint --images images.npz --volumes volumes.npz --limit 100 --out runs/joint",
    "predict": "crossd predict --weights runs/3d/weights.safetensors --input scans/ --out masks",
    "evaluate": "crossd evaluate --weights runs/3d/weights.safetensors --data cases.csv "
    "--out runs/scores",
    "status": "crossd status runs/pretrain",
    "plan": "crossd plan --data cases.csv --out plan.yaml",
    "convert": "crossd convert --weights ready.safetensors --to 3d --out plain3d.safetensors",
    "export": "crossd export --weights ready.safetensors --to 3d --out net.onnx",
    "inspect": "crossd inspect --weights runs/3d/weights.safetensors --data volumes.npz "
    "--out runs/seen",
    "doctor": "crossd doctor --json",
}
"""Name to an example. The function that does it is `crossd.cli.NAME.NAME`, its options are the
dataclass `NameConfig` of `crossd.cli.options`."""

CONTINUED = ("predict",)
"""Commands that go on where they were interrupted."""

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
USAGE_ERROR = 2
LACKING = "the command line needs more libraries: pip install 'crossd[all]' (see crossd doctor)"
FULL = (errno.ENOSPC, errno.EDQUOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None takes those of the process.

    Returns:
        The exit code: 0, 2 for bad input, 130 when interrupted, 143 when stopped by SIGTERM or
        SIGUSR1 with what was finished kept.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if given[0] == "--version":
        from crossd import __version__

        print(f"crossd {__version__}")
        return 0
    if given[0] == "--print_completion":
        return _completion(given[1] if len(given) == 2 else "")
    if given[0] not in COMMANDS:
        known = ", ".join(COMMANDS)
        close = difflib.get_close_matches(given[0], COMMANDS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return _complain(
            f"no command {given[0]!r}: {hint}the commands are {known}; see crossd --help"
        )
    way = "give the same command to go on" if given[0] in CONTINUED else "see --resume"
    try:
        return _run(given[0], given[1:])
    except Stopped as stopped:
        return _stopped(stopped.code, way)
    except KeyboardInterrupt:
        return _stopped(INTERRUPTED, way)


def _stopped(code: int, way: str) -> int:
    if is_first():
        what = "interrupted" if code == INTERRUPTED else "stopped by a signal"
        print(f"crossd: {what}; what was finished is kept, {way}", file=sys.stderr)
    return code


def _run(command: str, given: list[str]) -> int:
    try:
        from jsonargparse import ArgumentError
    except ImportError:
        return _without_extras(command, given)
    from crossd.errors import InputError
    from crossd.utils.allocator import keep_freed_memory

    kind = options_of(command)
    try:
        options = _parse(command, kind, given)
        home = importlib.import_module(f"crossd.cli.{command}")
        keep_freed_memory()
        from crossd.utils.progress import Progress
        from crossd.utils.run_folder import is_finished

        if is_finished(options):
            if is_first():
                print(f"already finished: the result is in {options.out}")
            return 0
        outcome = getattr(home, command)(options, Progress(quiet=not is_first()))
    except InputError as error:
        return _complain(str(error))
    except ArgumentError as error:
        return _complain(_readable(str(error)))
    except OSError as error:
        return _complain(_fault(error, hasattr(kind, "resume")))
    if is_first():
        print(outcome)
    return 0


def _without_extras(command: str, given: Sequence[str]) -> int:
    """Let the doctor say what is missing where even the command line is."""
    if command != "doctor":
        return _complain(LACKING)
    from crossd.cli.doctor import doctor
    from crossd.cli.options import DoctorConfig
    from crossd.errors import InputError

    try:
        print(doctor(DoctorConfig(json="--json" in given)))
    except InputError as error:
        return _complain(str(error))
    return 0


def options_of(command: str) -> type:
    """Return the dataclass of the options of a command."""
    from crossd.cli import options

    return getattr(options, f"{command.capitalize()}Config")


def _parse(command: str, kind: type, given: list[str]) -> Any:
    """Read options of a command into its dataclass."""
    from jsonargparse import ArgumentError

    from crossd.cli.parser import build, meant

    parser = build(command, kind, COMMANDS[command])
    try:
        values = parser.parse_args(given).as_dict()
    except ArgumentError as error:
        error.message = meant(error.message, parser._option_string_actions)
        raise
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})


def _completion(shell: str) -> int:
    """Print the script that lets a shell complete commands and options."""
    from crossd.errors import InputError

    try:
        from crossd.cli.parser import completion

        print(completion(shell, {name: (options_of(name), COMMANDS[name]) for name in COMMANDS}))
    except ImportError:
        return _complain(LACKING)
    except InputError as error:
        return _complain(str(error))
    return 0


def _readable(message: str) -> str:
    """Name the option and the kind of value that it takes where jsonargparse names classes."""
    pattern = r"Parser key \"(\w+)\":.*?Expected a <class '(\w+)'>.*[Vv]alue: (.*)"
    found = re.search(pattern, message, re.DOTALL)
    if not found:
        return message
    option, kind, value = found.groups()
    return f"--{option.replace('_', '-')} (={value!r}) must be {KINDS.get(kind, kind)}"


def _fault(error: OSError, resumes: bool) -> str:
    """Say what the system refused, and what to do about it where that is known."""
    where = f" {error.filename}" if error.filename else ""
    if error.errno not in FULL:
        return f"{error.strerror or error}{where}"
    way = "go on with --resume" if resumes else "try again"
    return f"no room left on the disk for{where or ' a file'}: make room and {way}"


def _complain(message: str) -> int:
    marker = "crossd.errors.InputError: "  # a worker process hands on its whole traceback
    text = " ".join(message.rpartition(marker)[2].split())
    if is_first():
        print(f"crossd: error: {text}", file=sys.stderr)
    return USAGE_ERROR


def _overview() -> str:
    lines = ["crossd: train 3D kernels on images, use them on volumes", ""]
    for name, example in COMMANDS.items():
        what = " ".join((options_of(name).__doc__ or "").split(".")[0].split())
        lines += [f"  {name}: {what[:1].lower()}{what[1:]}", f"      {example}"]
    lines += [
        "",
        "crossd COMMAND --help lists the options; `crossd transfer` alone is a demo.",
        "crossd --print_completion bash (or zsh, fish) writes the script that completes them.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
