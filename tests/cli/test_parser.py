"""Help ends with a line to copy; shells complete commands and options."""

import contextlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from crossd.cli import command_line as cli
from crossd.cli.command_line import main
from crossd.cli.parser import build


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_ends_with_an_example_that_parses(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        assert main([command, "--help"]) == 0
    heading, example = capsys.readouterr().out.rstrip("\n").splitlines()[-2:]
    assert heading == "Example:"
    program, name, *arguments = shlex.split(example)
    assert (program, name) == ("crossd", command)
    parser = build(command, cli.options_of(command), "")
    given = parser.parse_args(arguments)
    assert any(given.as_dict()[key] != parser.get_defaults().get(key) for key in given.as_dict())


def completed(script: Path, *words: str) -> set[str]:
    """Return what bash offers for the last of the words."""
    line = " ".join(map(shlex.quote, words))
    code = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
        f"_shtab_crossd crossd {shlex.quote(words[-1])}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    run = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_bash_completes_commands_options_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--print_completion", "bash"]) == 0
    script = tmp_path / "crossd.bash"
    script.write_text(capsys.readouterr().out)
    assert completed(script, "crossd", "ins") == {"inspect"}
    assert completed(script, "crossd", "pre") == {"pretrain", "predict"}
    assert completed(script, "crossd", "pretrain", "--ker") == {"--kernel-mode"}
    (tmp_path / "cases.csv").touch()
    start = str(tmp_path / "ca")
    found = completed(script, "crossd", "inspect", "--data", start)
    assert found == {str(tmp_path / "cases.csv")}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print_completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in cli.COMMANDS)


def test_completion_of_what_is_no_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (["--print_completion"], ["--print_completion", "cmd"]):
        assert main(given) == 2
        assert "give one of bash, zsh" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print_completion", "bash"]) == 2
    assert "needs shtab: pip install 'crossd[all]'" in capsys.readouterr().err
