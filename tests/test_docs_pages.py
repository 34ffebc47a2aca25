"""Every page for people holds together: links lead somewhere, commands exist with their options, settings are valid.

What a single page claims beyond that is tested beside its name, `test_docs_*.py`.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from PIL import Image
from segwatch.daemon import cli
from segwatch.daemon.codes import ALERT_CODES
from segwatch.daemon.config import RunConfig, parse_config

from .conftest import REPOSITORY
from .pictures import LIMIT_BYTES, WIDEST

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
TEXTS = {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in PAGES}
PICTURES = sorted((REPOSITORY / "docs" / "pictures").glob("*.png"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
TABLES = '[data]\nclasses = "c.json"\n' + "".join(
    f'[data.{split}]\nimages = "images"\nmasks = "masks"\n' for split in ("train", "val", "test")
)
SHELL = {"&&", "|", ">", ">>", ";", "||"}
STANDS_FOR = {"N": "1", "PORT": "7007", "KIND@STEP": "kill@1"}
INCOMPLETE = {"MissingParameter", "NoArgsIsHelpError", "Exit"}
"""What a sentence that only names a command leaves out, and what --help ends with."""
COMMAND = typer.main.get_command(cli.app)


# --- links


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = FENCE.sub("", path.read_text())
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page):
    source = REPOSITORY / page
    for link in LINK.findall(FENCE.sub("", TEXTS[page])):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (source.parent / name).resolve() if name else source
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link}"


def test_every_picture_is_shown_somewhere_and_small_enough_for_a_slow_line():
    shown = {Path(link).name for text in TEXTS.values() for link in LINK.findall(text) if link.endswith(".png")}
    assert len(PICTURES) >= 3
    assert {path.name for path in PICTURES} <= shown
    for path in PICTURES:
        assert path.stat().st_size < LIMIT_BYTES, path.name
        with Image.open(path) as picture:
            assert picture.width <= WIDEST, path.name


# --- commands


def commands(text: str) -> Iterator[str]:
    """Every `segwatch …` of a page: in sentences between backquotes, and in lines of what is to be typed."""
    for language, block in FENCE.findall(text):
        if language in {"", "console", "sh"}:
            for line in block.splitlines():
                typed = re.match(r"(?:\$ |tmux .* )?(segwatch [a-z].*)", line)
                if typed:
                    yield typed[1]
    yield from re.findall(r"`(segwatch [a-z][^`]*)`", FENCE.sub("", text))


def arguments(typed: str) -> list[str]:
    """Without the comment, and without what the shell does with it."""
    words = shlex.split(typed.replace("…", " "), comments=True)[1:]
    cut = next((index for index, word in enumerate(words) if word in SHELL), len(words))
    return words[:cut]


def refusal(words: list[str]) -> str | None:
    """Why the command line does not take these words; a sentence that only names a command may leave out arguments."""
    command, name = COMMAND, "segwatch"
    while hasattr(command, "commands") and words:
        if words[0] not in command.commands:
            return f"{name} has no command {words[0]!r}"
        command, name, words = command.commands[words[0]], f"{name} {words[0]}", words[1:]
    try:
        command.make_context(name, [STANDS_FOR.get(word, word) for word in words]).close()
    except Exception as error:  # noqa: BLE001 - click's own, or those of the copy that newer releases of typer carry
        return None if type(error).__name__ in INCOMPLETE else str(error)
    return None


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_of_a_page_exists_and_takes_these_options(page):
    told = {typed: refusal(arguments(typed)) for typed in commands(TEXTS[page])}
    assert {typed: why for typed, why in told.items() if why} == {}


def test_the_pages_name_every_command_there_is():
    typed = [arguments(command) for text in TEXTS.values() for command in commands(text)]
    assert {words[0] for words in typed if words} >= set(COMMAND.commands)


@pytest.mark.parametrize(
    "wrong", ["segwatch wach run", "segwatch status --wach", "segwatch run a.toml --tensorboard-port many"]
)
def test_a_command_that_does_not_exist_would_be_found(wrong):
    assert refusal(arguments(wrong)) is not None


def test_every_verb_of_make_exists():
    verbs = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    for page, text in TEXTS.items():
        typed = re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE)
        assert set(typed) <= verbs, page


# --- settings, codes


def snippets() -> list[tuple[str, str]]:
    """Each piece of a run.toml, with the page that it stands on; class tables are docs/data.md's own."""
    blocks = [
        (page, text) for page, whole in TEXTS.items() for language, text in FENCE.findall(whole) if language == "toml"
    ]
    return [(page, text) for page, text in blocks if "[classes]" not in text]


@pytest.mark.parametrize(("page", "text"), snippets())
def test_every_piece_of_a_run_toml_is_valid(page, text):
    whole = text if "data" in tomllib.loads(text) else f"{text}\n{TABLES}"
    assert isinstance(parse_config(whole.encode(), Path(page)), RunConfig)


def test_the_pages_for_a_newcomer_have_pieces_of_a_run_toml():
    pages = [page for page, _ in snippets()]
    assert pages.count("docs/faq.md") >= 6
    assert "docs/quickstart.md" in pages


def test_every_alert_code_has_its_row_and_no_other():
    rows = re.findall(r"^\| `([a-z-]+)` \|", TEXTS["docs/alerts.md"], flags=re.MULTILINE)
    assert sorted(rows) == sorted(ALERT_CODES)
