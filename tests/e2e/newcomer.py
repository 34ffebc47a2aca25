"""A newcomer's way on real aerial tiles, from a folder to a report: types nothing that the screen before did not print.

`python -m tests.e2e.newcomer --write` (`make tour`) walks it and keeps every screen in docs/tour.md. Of the tiles
themselves nothing is kept: they are not part of the repository.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..conftest import REPOSITORY
from ..watched import Watched

SEGWATCH = Path(sys.executable).with_name("segwatch")
PAGE = REPOSITORY / "docs" / "tour.md"
PICTURES = REPOSITORY / "docs" / "pictures"
HOME = "~/aerial"
"""What the folder is called on the page, wherever it was."""
TILES = ("images", "masks", "classes.true.json", "classes.upstream.json")
FIRST = "segwatch init ."
"""The one command that a newcomer knows from elsewhere: README.md."""
PRINTED = re.compile(r"^ *(?:next +)?(segwatch [a-z]+(?: .*)?)$", re.MULTILINE)
"""A command on a line of its own: what somebody copies."""
SMALLER = {
    r"^scale = \S+ +": "scale = 0.125",
    r"^epochs = \d+ +": "epochs = 3",
    r"^# \[model\]": "[model]",
    r"^# base_channels = 8 +": "base_channels = 8",
}
"""What the comments of run.toml propose to who wants to see it all once; each of them must be there."""


class NotPrintedError(AssertionError):
    """The screen before leaves a newcomer without the command that comes next."""


@dataclass(frozen=True)
class Step:
    """One command of the way, before it is known how it is written."""

    verb: str
    title: str
    why: str
    option: str = ""
    """Of several printed commands the one with this."""
    edits: bool = False
    """run.toml is made smaller before it."""


@dataclass(frozen=True)
class Screen:
    step: Step
    command: str
    code: int
    text: str
    edit: str = ""
    """What was changed in run.toml before, as a diff."""


STEPS = (
    Step(
        "init",
        "What is in this folder?",
        "It finds pairs, splits and mask format, reads every mask, and takes the class table that fits. The table that "
        "came with the tiles does not, and some masks are palette files whose order changes from file to file: both "
        "are found out here, not after a week of training on nonsense.",
    ),
    Step("doctor", "Is this machine fit for it?", "Memory, disk and speed before the first step, a line each."),
    Step(
        "audit",
        "Is the data what I think it is?",
        "The same reading as in `init`, kept: `audit.md` names every file, `audit.png` shows images beside their "
        "masks. After every edit of `[data]` it is worth its seconds.",
    ),
    Step(
        "run",
        "Train, and see it break and recover",
        "One fault is made on purpose, so that nobody has to wait for a real one.",
        option="--drill",
        edits=True,
    ),
    Step("status", "How does it stand?", "The same while it trains, from another terminal, and with the daemon dead."),
    Step("alerts", "What went wrong?", "What it was, what was done about it, and what a person can do."),
    Step("why", "Why, and did the answer help?", "The page that every incident gets without anyone asking."),
    Step("best", "Which epoch do I use?", "Chosen by test and by val, with the noise of both figures."),
    Step(
        "predict",
        "What does it see?",
        "Class ids, colours and overlays of any images. (A network of this size after three epochs sees little.)",
    ),
    Step("report", "One page to show", "Verdict, curves with the incident, ranking, classes and pictures in one file."),
)


class Newcomer(Watched):
    """Somebody in a folder of tiles, who copies commands from the screen."""

    deadline_seconds = 480.0
    columns = 100

    def __init__(self, home: Path, tiles: Path) -> None:
        """Raises FileNotFoundError where the tiles are not."""
        super().__init__((home / Path(HOME).name).resolve())
        self.place.mkdir()
        for name in TILES:
            copy = shutil.copytree if (tiles / name).is_dir() else shutil.copyfile
            copy(tiles / name, self.place / name)

    def walk(self) -> Iterator[Screen]:
        """Each screen of the way. Raises NotPrintedError where one does not say how to go on."""
        before: Screen | None = None
        for step in STEPS:
            command = FIRST if before is None else copied(before, step)
            edit = self._make_smaller() if step.edits else ""
            code, text = self._type(command)
            before = Screen(step, command, code, self._as_kept(text), edit)
            yield before

    def _type(self, command: str) -> tuple[int, str]:
        program, *arguments = shlex.split(command)
        assert program == SEGWATCH.name
        return self.finish(self.spawn([str(SEGWATCH), *arguments]))

    def _make_smaller(self) -> str:
        path = self.place / "run.toml"
        before = after = path.read_text()
        for pattern, small in SMALLER.items():
            found = re.search(pattern, after, flags=re.MULTILINE)
            assert found, f"run.toml has no {pattern}"
            room = len(found[0]) if found[0].endswith(" ") else 0  # remarks stay in their column
            after = after.replace(found[0], small.ljust(room), 1)
        path.write_text(after)
        changes = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
        return "\n".join(line for line in changes if not line.startswith(("---", "+++", "@@")))

    def _as_kept(self, text: str) -> str:
        """Without what is of this one machine and process, and without spaces at the ends of lines."""
        text = text.replace(str(self.place), HOME)
        text = re.sub(r"\bpid \d+", "pid …", text)
        return "\n".join(line.rstrip() for line in text.splitlines())


def copied(screen: Screen, step: Step) -> str:
    """The command that a screen proposes for a step, as it stands there."""
    proposed = [command for command in PRINTED.findall(screen.text) if command.split()[1] == step.verb]
    chosen = [command for command in proposed if step.option in command]
    if not chosen:
        wanted = f"{step.verb} {step.option}".strip()
        raise NotPrintedError(f"`{screen.command}` printed no `segwatch {wanted}`:\n{screen.text}")
    return chosen[-1]


# --- the page --------------------------------------------------------------------------------------------------------

WIDTH = 118
HEAD = """\
# A tour: from a folder of tiles to a report

Every screen below is one that segwatch printed, 100 columns wide, kept by `make tour`; a test walks the same way and
compares its screens with this page, figures and times aside. Only the first command comes from elsewhere: each of the
others was copied from the end of the screen before.

The folder, `{home}`, holds 72 aerial tiles and their masks as they were published ("Semantic segmentation of aerial
imagery", Humans in the Loop and the Mohammed Bin Rashid Space Centre), in `images/` and `masks/` with `train`, `val`
and `test` below each, and two class tables: the one that came with them, whose colours are wrong, and one with the
colours that the masks really have. The tiles are not part of this repository; `make tour` looks for them in
`SEGWATCH_SHARED` (default `../shared`), below `data/dubai_aerial`.
"""
SMALL = """\
A real run takes hours. To see everything once in a minute, `run.toml` is first made smaller, as its comments say:

```diff
{edit}
```
"""
KEPT = {
    "run": (
        "results.png",
        "tour-results.png",
        "Every epoch on val and test, with the incident: `runs/run/results.png`.",
    ),
    "why": (
        "incidents/001/steps.png",
        "tour-steps.png",
        "The steps before the fault: `runs/run/incidents/001/steps.png`.",
    ),
}
"""Of which step which picture of the run is kept, under which name, and what it shows. None of them shows a tile."""


def page(screens: Sequence[Screen]) -> str:
    """docs/tour.md. Its pictures are copied by `write`."""
    parts = [HEAD.format(home=HOME)]
    for number, screen in enumerate(screens, 1):
        step = screen.step
        parts.append(f"## {number}. {step.title}\n\n{textwrap.fill(step.why, WIDTH, break_on_hyphens=False)}\n")
        if screen.edit:
            parts.append(SMALL.format(edit=screen.edit))
        fence = "```" if "```" not in screen.text else "````"
        parts.append(f"{fence}console\n$ {screen.command}\n{screen.text}\n{fence}\n")
        if step.verb in KEPT:
            _, name, words = KEPT[step.verb]
            parts.append(f"![{words.partition(':')[0]}](pictures/{name})\n\n{words}\n")
    return "\n".join(parts)


def commands_of(text: str) -> list[str]:
    """The commands of a page, in their order."""
    return re.findall(r"^\$ (segwatch .*)$", text, flags=re.MULTILINE)


def screens_of(text: str) -> dict[str, str]:
    """The screens of a page by their commands."""
    found = re.findall(r"^(`{3,4})console\n\$ (segwatch [^\n]*)\n(.*?)\n\1$", text, flags=re.MULTILINE | re.DOTALL)
    return {command: screen for _, command, screen in found}


SHAPES = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:Z| UTC)", "TIME"),
    (r"[-+]?\d[\d.,]*(?:e-?\d+)?", "#"),
    (r"# (?:s|min|h|MB|GB)\b", "#"),
    (r"(?:# )+#", "#"),  # 1 min 20 s
    (r"[▁-█]+", "~"),
    (r"(?:better than|worse than|no sure difference from) epoch", "... epoch"),
    (r"best (?:test\+val|val|test)$", "best"),
    # What depends on the machine keeps its name, and what depends on how well it trained.
    (r"^(?:ok|warn|FAIL) +(gpu|memory|file system|file events|reading|clock)\b.*", r"\1"),
    (r"^(trend|compared|grade|gap:|read #) .*", r"\1"),
    (r"^ +-> (?:train where there is one|this would fit: .*|copy the data .*)$", ""),
    (r"^TIME ALERT \w+ (?!.*\bnan-loss\b).*", ""),  # a machine that is busy with others is slow
)
"""What of a line differs from one walk to the next, and what stands for it."""


def shapes(screen: str) -> set[str]:
    """Its lines without what differs from walk to walk; without their order, since two processes write at once."""
    return {_shape(line) for line in screen.splitlines()} - {""}


def _shape(line: str) -> str:
    for pattern, instead in SHAPES:
        line = re.sub(pattern, instead, line)
    return " ".join(line.split())


def write(tiles: Path) -> None:
    """Walk once, and keep the page and its pictures. Raises AssertionError where a command fails."""
    with tempfile.TemporaryDirectory(prefix="segwatch-tour-") as home:
        newcomer = Newcomer(Path(home), tiles)
        try:
            screens = []
            for screen in newcomer.walk():
                print(screen.command)
                assert screen.code == 0, screen.text
                screens.append(screen)
        finally:
            newcomer.clean()
        PICTURES.mkdir(exist_ok=True)
        for source, name, _ in KEPT.values():
            shutil.copyfile(newcomer.run_dir / source, PICTURES / name)
    PAGE.write_text(page(screens))
    print(f"written: {PAGE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True, help="walk, and keep docs/tour.md")
    parser.parse_args()
    shared = Path(os.environ.get("SEGWATCH_SHARED", REPOSITORY.parent / "shared"))
    write(shared / "data" / "dubai_aerial")


if __name__ == "__main__":
    main()
