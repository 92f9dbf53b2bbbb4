"""Parsers of the commands, made of the dataclasses of their options, and completion for shells."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import get_type_hints

from docstring_parser import parse
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from crossd.errors import InputError

PATHS = (
    "data",
    "images",
    "volumes",
    "weights",
    "out",
    "plan",
    "plain",
    "pretrained",
    "predictions",
    "input",
    "folder",
    "config",
)
"""Options that shells complete with names of files."""


class HelpFormatter(DefaultHelpFormatter):
    """Leaves the example at the end of a help as it is, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("Example:"):
            return text
        return super()._fill_text(text, width, indent)


def build(command: str, kind: type, example: str) -> ArgumentParser:
    """Make the parser of a command.

    Args:
        command: Its name.
        kind: The dataclass of its options, whose docstring is the help.
        example: A line that works, for the end of the help.

    Returns:
        A parser that raises on what it does not know.

    Example:
        >>> from crossd.cli.options import StatusConfig
        >>> parser = build("status", StatusConfig, "crossd status runs/pretrain")
        >>> parser.parse_args(["runs/pretrain"]).folder
        'runs/pretrain'
    """
    texts = [parse(one.__doc__) for one in kind.__mro__[:-1]]
    parser = ArgumentParser(
        prog=f"crossd {command}",
        description=" ".join(
            part for part in (texts[0].short_description, texts[0].long_description) if part
        ),
        epilog=f"Example:\n  {example}",
        formatter_class=HelpFormatter,
        exit_on_error=False,
        default_env=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="Read options from a YAML file.")
    hints = get_type_hints(kind)
    helps: dict[str, str] = {}
    for entry in (entry for text in texts for entry in text.params):
        helps.setdefault(entry.arg_name, " ".join((entry.description or "").split()))
    for field in sorted(dataclasses.fields(kind), key=lambda field: list(helps).index(field.name)):
        name = f"--{field.name.replace('_', '-')}"
        if field.metadata.get("positional"):
            parser.add_argument(field.name, type=hints[field.name], help=helps[field.name])
        elif hints[field.name] == list[str]:
            parser.add_argument(name, nargs="+", required=True, help=helps[field.name])
        elif field.default is dataclasses.MISSING:
            parser.add_argument(name, type=hints[field.name], required=True, help=helps[field.name])
        elif hints[field.name] is bool:
            parser.add_argument(name, action="store_true", help=helps[field.name])
        elif "bare" in field.metadata:
            parser.add_argument(
                name,
                type=hints[field.name],
                default=field.default,
                nargs="?",
                const=field.metadata["bare"],
                help=helps[field.name],
            )
        else:
            parser.add_argument(
                name, type=hints[field.name], default=field.default, help=helps[field.name]
            )
    return parser


def meant(message: str, known: Iterable[str]) -> str:
    """Add to a message of argparse which options may have been meant by unknown ones.

    Example:
        >>> meant("unrecognized arguments: --epoch 3", ["--epochs", "--seed"])
        'unrecognized arguments: --epoch 3: did you mean --epochs?'
        >>> meant("unrecognized arguments: 3", ["--epochs"])
        'unrecognized arguments: 3'
    """
    start, _, rest = message.partition("unrecognized arguments: ")
    if start or not rest:
        return message
    words = [word.partition("=")[0] for word in rest.split() if word.startswith("-")]
    options = list(known)
    close = [one for word in words for one in difflib.get_close_matches(word, options, 1)]
    return f"{message}: did you mean {', '.join(close)}?" if close else message


def completion(shell: str, commands: Mapping[str, tuple[type, str]]) -> str:
    """Write the script that lets a shell complete the command line.

    Args:
        shell: bash, zsh, fish or another that shtab knows.
        commands: Name to the dataclass of its options and an example.

    Raises:
        InputError: When shtab does not know the shell, or is not there.
    """
    try:
        import shtab
    except ImportError as error:
        raise InputError("--print_completion needs shtab: pip install 'crossd[all]'") from error
    if shell not in shtab.SUPPORTED_SHELLS:
        known = ", ".join(shtab.SUPPORTED_SHELLS)
        raise InputError(f"--print_completion {shell or '(nothing)'}: give one of {known}")
    whole = ArgumentParser(prog="crossd", default_env=False)
    whole.add_argument("--version", action="store_true", help="Print the version.")
    inner = whole.add_subcommands()
    for name, (kind, example) in commands.items():
        parser = build(name, kind, example)
        for action in parser._actions:
            if action.dest in PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        inner.add_subcommand(name, parser, help=parse(kind.__doc__).short_description or name)
    script: str = shtab.complete(whole, shell)
    return script
