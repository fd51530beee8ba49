"""Every command line in README and docs is one that the programs understand: command, options, values, arguments."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from orchestrator.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docker").rglob("*.md")])
SCRIPTS = sorted(path for kind in ("sbatch", "yaml") for path in (ROOT / "docs/guides").rglob(f"*.{kind}"))
PROGRAMS = ("flatsweep", "ray")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(flatsweep [^`]+)`")
VARIABLE = re.compile(r"\$(\w+|@|\{[^}]*\})")
REFUSED = (click.UsageError, typer.BadParameter.__bases__[0])
"""Typer has a click of its own inside."""
ENDS = re.compile(r"^([|&;<>()]+|[12]>.*|do|then|fi|done)$")


def found(text: str) -> Iterator[list[str]]:
    """The words of each command of PROGRAMS in a shell's text, without what the shell itself takes."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.wordchars += "$@%{}[]^:,=!+"
        try:
            words = list(lexer)
        except ValueError:  # a quote that spans lines: no command of ours
            continue
        while words:
            length = next((at for at, word in enumerate(words) if ENDS.match(word)), len(words))
            command, words = words[:length], words[length + 1 :]
            start = next((at for at, word in enumerate(command) if "=" not in word), len(command))
            if len(command) > start + 1 and command[start] in PROGRAMS:
                yield command[start:]


def command_lines() -> list[tuple[str, list[str]]]:
    """Where each is, and its words."""
    lines = []
    for page in PAGES:
        for kind, text in FENCE.findall(page.read_text()):
            if kind in {"console", "sh", "bash", "yaml"}:
                lines += [(page, words) for words in found(_of_yaml(text) if kind == "yaml" else text)]
    for script in SCRIPTS:
        text = script.read_text()
        lines += [(script, words) for words in found(_of_yaml(text) if script.suffix == ".yaml" else text)]
    return [(str(place.relative_to(ROOT)), words) for place, words in lines]


def _of_yaml(text: str) -> str:
    """The commands in YAML's values: `entrypoint: flatsweep ...`, `- ulimit -n 65536; ray start ...`."""
    return re.sub(r"^\s*(?:#.*|-?\s*(?:[\w-]+:\s+)?(?:>-?|\|)?)", "", text, flags=re.MULTILINE)


def mentions() -> list[tuple[str, str]]:
    """Commands named in running text, where what is optional or left to the reader may stand for the rest."""
    pages = [(page, FENCE.sub("", page.read_text())) for page in PAGES]
    return [(str(page.relative_to(ROOT)), text) for page, prose in pages for text in INLINE.findall(prose)]


def command(program: str, words: list[str]) -> Any:
    """The command that words begin with; they are taken off.

    Raises:
        click's UsageError: there is none of that name.
    """
    found: Any
    if program == "ray":
        from ray.scripts.scripts import cli as found
    else:
        found = typer.main.get_command(app)
    while hasattr(found, "commands") and words and not words[0].startswith("-"):
        context = found.make_context(program, list(words))
        _, found, words[:] = found.resolve_command(context, words)
    return found


def understood(program: str, words: list[str]) -> None:
    """Parses a whole command line as the program would, and runs nothing."""
    rest = [VARIABLE.sub("1", word) for word in words if word != "$@"]
    parsed = command(program, rest)
    if {"--help", "--version"} & set(rest):
        return
    assert not hasattr(parsed, "commands"), f"{program}: which command?"
    parsed.make_context(program, rest)


def _id(case: tuple[str, object]) -> str:
    place, words = case
    return f"{place}: {words if isinstance(words, str) else ' '.join(map(str, words))}"


def cases() -> list[Any]:
    """Ray's command line takes some seconds to import."""
    marks = {"ray": [pytest.mark.slow, pytest.mark.filterwarnings("ignore")], "flatsweep": []}
    return [pytest.param(case, id=_id(case), marks=marks[case[1][0]]) for case in command_lines()]


@pytest.mark.parametrize("case", cases())
def test_a_command_line_is_understood(case: tuple[str, list[str]]) -> None:
    place, (program, *words) = case
    try:
        understood(program, words)
    except REFUSED as error:
        pytest.fail(f"{place}: {program} {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("case", mentions(), ids=_id)
def test_a_command_that_is_mentioned_exists(case: tuple[str, str]) -> None:
    place, text = case
    words = text.split()[1:]
    try:
        named = command("flatsweep", words)
    except REFUSED as error:
        pytest.fail(f"{place}: `{text}`: {error.format_message()}")
    known = {option for parameter in named.params for option in parameter.opts} | {"--help"}
    asked = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)", " ".join(words)))
    assert asked <= known, f"{place}: `{text}` has no {asked - known}"


def test_every_way_to_write_a_command_is_seen_and_judged() -> None:
    text = """
$ A=b flatsweep submit x.yaml --max-concurent 3 | tee log   # a comment
$ ray start --head \\
    --block && flatsweep plan "my sweep.yaml"; flatsweep nonsense
echo flatsweep
"""
    assert list(found(text)) == [
        ["flatsweep", "submit", "x.yaml", "--max-concurent", "3"],
        ["ray", "start", "--head", "--block"],
        ["flatsweep", "plan", "my sweep.yaml"],
        ["flatsweep", "nonsense"],
    ]
    manifest = "  entrypoint: flatsweep submit /a.yaml\n  - ulimit -n 65536; ray stop\n  # - ray nothing\n"
    assert list(found(_of_yaml(manifest))) == [["flatsweep", "submit", "/a.yaml"], ["ray", "stop"]]
    understood("flatsweep", ["submit", "x.yaml", "--detach"])
    for wrong in (
        ["nonsense"],
        ["submit", "--max-concurent", "3"],
        ["rerun", "--error-class", "bad luck"],
        ["compare"],
    ):
        with pytest.raises(REFUSED):
            understood("flatsweep", wrong)
    assert len(command_lines()) > 30
    assert len(mentions()) > 10
