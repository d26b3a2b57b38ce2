"""Each command and queue file in the documentation is one that the command line takes."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from towline.cli import queue_files
from towline.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: str) -> set[str]:
    inline = re.findall(r"`(towline [^`]+)`", page)
    blocks = re.findall(r"```(?:console|)\n(.*?)```", page, re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return {
        re.sub(r"\s+#.*|\s+>.*|…|\.\.\.", "", line)
        for line in inline + lines
        if line.startswith("towline ") and not line.startswith("towline:")
    }


def problem(line: str) -> str:
    """Say what is wrong with a documented command; "" if nothing is."""
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            break
        if words[0] not in command.commands:
            return f"no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    if "--" in words:
        words = words[: words.index("--")]
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
    return f"no option {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_are_there(page: Path) -> None:
    wrong = {line: found for line in commands(page.read_text()) if (found := problem(line))}
    assert not wrong


def test_commands_are_found_and_wrong_ones_are_noticed() -> None:
    assert len(commands((ROOT / "docs/cli.md").read_text())) > 30
    assert problem("towline run stop RUN") == "no command 'stop'"
    assert problem("towline submit x --gpu 1") == "no option --gpu"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_queue_files_are_queues(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        assert queue_files.read(file).ByteSize()
