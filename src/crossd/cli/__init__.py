"""The command line: one function a command."""

from crossd.cli.command_line import main

__all__ = ["main"]
