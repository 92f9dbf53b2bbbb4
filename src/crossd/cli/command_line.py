"""The command line: parses, calls, prints. Heavy modules are imported by the command chosen."""

import dataclasses
import difflib
import errno
import importlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from crossd.errors import InputError
from crossd.training.signals import INTERRUPTED, Stopped
from crossd.utils.printable import printable
from crossd.utils.processes import is_first

COMMANDS = {
    "transfer": "crossd transfer --images images.npz --volumes volumes.npz --limit 100 "
    "--out runs/mine",
    "pretrain": "crossd pretrain --data images.npz --model resnet18 --out runs/2d",
    "recalibrate": "crossd recalibrate --weights runs/2d/weights.safetensors --data volumes.npz "
    "--out ready.safetensors",
    "teach": "crossd teach --weights ready.safetensors --data volumes.npz --out runs/taught",
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
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    way = "give the same command to go on" if command in CONTINUED else "see --resume"
    try:
        outcome = _outcome(command, rest)
    except InputError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(_fault(error, command))
    except RuntimeError as error:
        from crossd.conversion.folding.state import SIZES

        if SIZES not in getattr(error, "__notes__", ()):
            raise
        return _complain(f"the network cannot take these sizes ({error}). {SIZES}")
    except Stopped as stopped:
        return _stopped(stopped.code, way)
    except KeyboardInterrupt:
        return _stopped(INTERRUPTED, way)
    if is_first():
        print(printable(outcome))
    return 0


def _stopped(code: int, way: str) -> int:
    if is_first():
        what = "interrupted" if code == INTERRUPTED else "stopped by a signal"
        print(f"crossd: {what}; what was finished is kept, {way}", file=sys.stderr)
    return code


def _outcome(command: str, given: list[str]) -> str:
    """Do what the first word asks for; returns what to print."""
    if command in ("-h", "--help"):
        return _overview()
    if command == "--version":
        from crossd import __version__

        return f"crossd {__version__}"
    if command == "--print_completion":
        return _completion(given[0] if len(given) == 1 else "")
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(
            f"no command {command!r}: {hint}the commands are {', '.join(COMMANDS)}; "
            "see crossd --help"
        )
    try:
        options = _parse(command, given)
    except ImportError as error:
        if command != "doctor":
            raise InputError(LACKING) from error
        from crossd.cli.doctor import doctor
        from crossd.cli.options import DoctorConfig

        return doctor(DoctorConfig(json="--json" in given))  # it says what is missing
    home = importlib.import_module(f"crossd.cli.{command}")
    from crossd.utils.allocator import keep_freed_memory
    from crossd.utils.progress import Progress
    from crossd.utils.run_folder import is_finished

    keep_freed_memory()
    if is_finished(options):
        return f"already finished: the result is in {options.out}"
    progress = Progress(quiet=not is_first())
    if hasattr(options, "precision"):
        from crossd.utils.one_device import slowness

        if slow := slowness(options.precision):
            progress.say(slow)
    outcome: str = getattr(home, command)(options, progress)
    return outcome


def options_of(command: str) -> type:
    """Return the dataclass of the options of a command."""
    from crossd.cli import options

    return getattr(options, f"{command.capitalize()}Config")


def _parse(command: str, given: list[str]) -> Any:
    """Read options of a command into its dataclass."""
    from jsonargparse import ArgumentError

    from crossd.cli.parser import build, meant

    kind = options_of(command)
    parser = build(command, kind, COMMANDS[command])
    try:
        values = parser.parse_args(given).as_dict()
    except ArgumentError as error:
        error.message = meant(error.message, parser._option_string_actions)
        raise InputError(_readable(str(error))) from error
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})


def _completion(shell: str) -> str:
    """Write the script that lets a shell complete commands and options."""
    try:
        from crossd.cli.parser import completion
    except ImportError as error:
        raise InputError(LACKING) from error
    return completion(shell, {name: (options_of(name), COMMANDS[name]) for name in COMMANDS})


def _readable(message: str) -> str:
    """Name the option and the kind of value that it takes where jsonargparse names classes."""
    pattern = r"Parser key \"(\w+)\":.*?Expected a <class '(\w+)'>.*[Vv]alue: (.*)"
    found = re.search(pattern, message, re.DOTALL)
    if not found:
        return message
    option, kind, value = found.groups()
    return f"--{option.replace('_', '-')} (={value!r}) must be {KINDS.get(kind, kind)}"


def _fault(error: OSError, command: str) -> str:
    """Say what the system refused, and what to do about it where that is known."""
    where = f" {error.filename}" if error.filename else ""
    if error.errno not in FULL:
        return f"{error.strerror or error}{where}"
    way = "go on with --resume" if hasattr(options_of(command), "resume") else "try again"
    return f"no room left on the disk for{where or ' a file'}: make room and {way}"


def _complain(message: str) -> int:
    marker = "crossd.errors.InputError: "  # a worker process hands on its whole traceback
    text = " ".join(message.rpartition(marker)[2].split())
    if is_first():
        print(f"crossd: error: {printable(text)}", file=sys.stderr)
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
