"""A newcomer gets from a folder of real tiles to a report by copying what is on the screen, and docs/tour.md shows it.

The way is walked once for all tests; without the tiles those of the page alone remain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..conftest import REPOSITORY
from .newcomer import (
    FIRST,
    KEPT,
    PAGE,
    PICTURES,
    PRINTED,
    STEPS,
    Newcomer,
    NotPrintedError,
    Screen,
    commands_of,
    copied,
    screens_of,
    shapes,
)

pytestmark = pytest.mark.timeout(900)  # ten commands and a training, on a machine that may be busy with others
LARGEST_PICTURE_BYTES = 300_000


@dataclass(frozen=True)
class Walk:
    place: Path
    screens: dict[str, Screen]

    def says(self, verb: str) -> str:
        """A screen as words: where its lines break is no claim of these tests."""
        return " ".join(self.screens[verb].text.split())


@pytest.fixture(scope="module")
def walk(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    newcomer = Newcomer(tmp_path_factory.mktemp("home"), shared / "data" / "dubai_aerial")
    try:
        yield Walk(newcomer.place, {screen.step.verb: screen for screen in newcomer.walk()})
    finally:
        newcomer.clean()


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


@pytest.mark.e2e
def test_every_command_was_copied_from_the_screen_before_and_succeeds(walk: Walk) -> None:
    assert list(walk.screens) == [step.verb for step in STEPS]
    assert {verb: screen.code for verb, screen in walk.screens.items() if screen.code} == {}
    assert [verb for verb, screen in walk.screens.items() if "Traceback" in screen.text] == []


@pytest.mark.e2e
def test_the_traps_of_the_tiles_are_named_before_anything_trains(walk: Walk) -> None:
    for verb in ("init", "audit"):
        said = walk.says(verb)
        assert "48 train, 8 val, 16 test images with masks" in said
        assert "72 masks: 54 RGB, 18 palette; read by colour: the order of the palettes differs between files" in said
    said = walk.says("init")
    assert "classes classes.true.json: fits" in said
    assert "classes.upstream.json does not fit: 99.49 % of the mask pixels have a colour that the class table" in said
    assert 'classes = "classes.true.json"' in (walk.place / "run.toml").read_text()
    assert (walk.place / "audit.md").exists()
    assert (walk.place / "audit.png").exists()


@pytest.mark.e2e
def test_doctor_says_a_line_a_check_and_nothing_beside(walk: Walk) -> None:
    checks, _, _ = walk.screens["doctor"].text.partition("\n\n")
    assert [line for line in checks.splitlines() if not re.match(r"(ok|warn|FAIL) |  +-> ", line)] == []


@pytest.mark.e2e
def test_the_drill_is_told_as_one_and_what_became_of_it(walk: Walk) -> None:
    assert "DRILL nan-loss@30: this fault is made on purpose" in walk.says("run")
    assert "finished: 3 epochs trained, every one scored" in walk.says("run")
    assert "RESOLVED critical nan-loss [DRILL nan-loss@30]" in walk.says("alerts")
    assert "Incident 001: nan-loss [DRILL nan-loss@30] at step 30" in walk.says("why")
    assert "verdict: transient; remedy: resume; recovered." in walk.says("why")


@pytest.mark.e2e
def test_a_finished_run_stands_well_and_says_nothing_that_is_not_so(walk: Walk) -> None:
    said = walk.says("status")
    assert re.search(r"state finished, since \S+ \(.*\); no daemon, no worker", said)
    assert "health healthy" in said
    assert "epoch 3 of 3 (100 % done), step 144, loss " in said
    assert "loss not finite" not in said
    assert ", 0.0 images/s" not in said
    assert "firing nothing" in said
    assert len(re.findall(r"best by (?:test|val) ?: epoch \d", walk.says("best"))) == 2


@pytest.mark.e2e
def test_the_best_network_predicts_every_test_image(walk: Walk) -> None:
    assert "16 images predicted at the size of each image" in walk.says("predict")
    stems = {path.stem for path in (walk.place / "images" / "test").iterdir()}
    for what in ("ids", "colour", "overlay"):
        written = {path.stem.removesuffix(f"_{what}") for path in walk.place.glob(f"predictions/*_{what}.png")}
        assert written == stems


@pytest.mark.e2e
def test_the_way_ends_at_a_report_of_one_file_that_tells_of_the_incident(walk: Walk) -> None:
    report = walk.place / "runs" / "run" / "report.html"
    assert f"written: ~/aerial/{report.relative_to(walk.place)}" in walk.says("report")
    text = report.read_text()
    assert "nan-loss" in text
    assert "data:image/png;base64," in text
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", text) == [], "it would miss what lies elsewhere"


@pytest.mark.e2e
def test_the_tour_shows_these_commands_in_this_order(walk: Walk, page: str) -> None:
    assert commands_of(page) == [screen.command for screen in walk.screens.values()], "run `make tour`"


@pytest.mark.e2e
def test_the_tour_shows_what_is_printed_figures_and_times_aside(walk: Walk, page: str) -> None:
    kept = screens_of(page)
    differ = {}
    for screen in walk.screens.values():
        on_page, now = shapes(kept[screen.command]), shapes(screen.text)
        if on_page != now:
            differ[screen.step.verb] = {"page": sorted(on_page - now), "now": sorted(now - on_page)}
    assert differ == {}, "run `make tour`"


# --- the page, without the tiles ------------------------------------------------------------------------------------


def test_the_first_command_is_known_from_the_readme() -> None:
    assert FIRST.startswith("segwatch init ")
    assert "\nsegwatch init DIR " in (REPOSITORY / "README.md").read_text()


def test_each_step_of_the_tour_has_its_title_and_its_reason(page: str) -> None:
    titles = re.findall(r"^## \d+\. (.*)$", page, flags=re.MULTILINE)
    assert titles == [step.title for step in STEPS], "run `make tour`"
    assert [step.verb for step in STEPS if step.why not in " ".join(page.split())] == []


def test_each_screen_of_the_tour_holds_the_command_of_the_next(page: str) -> None:
    sections = re.split(r"^## \d+\. ", page, flags=re.MULTILINE)[1:]
    later = commands_of(page)[1:]
    assert len(later) == len(STEPS) - 1
    assert [
        command for screen, command in zip(sections, later, strict=False) if command not in PRINTED.findall(screen)
    ] == []


def test_the_tour_tells_nothing_of_the_machine_that_it_was_made_on(page: str) -> None:
    assert re.findall(r"/(?:tmp|home|root|work|Users|private)\b\S*|\bpid \d+", page) == []


def test_the_pictures_of_the_tour_are_there_and_small(page: str) -> None:
    shown = re.findall(r"\]\(pictures/([^)]+)\)", page)
    assert sorted(shown) == sorted(name for _, name, _ in KEPT.values())
    assert [name for name in shown if not 0 < (PICTURES / name).stat().st_size < LARGEST_PICTURE_BYTES] == []


@pytest.mark.parametrize(
    ("kept", "now", "same"),
    [
        ("2026-11-23T02:57:32Z epoch 1 val : mIoU 7.71 %", "2027-01-02T03:04:05Z epoch 1 val : mIoU 12.3 %", True),
        ("epoch 1 committed\nepoch 1 val", "epoch 1 val\nepoch 1 committed", True),
        ("read 34 MB in 4.9 s (15 pairs/s, 2 threads)", "read 34 MB in 2 s (40 pairs/s, 4 processes)", True),
        ("over after 36 s", "over after 1 min 06 s", True),
        ("ok    memory   6.4 GB free", "warn  memory   1.2 GB free\n               -> this would fit: less", True),
        ("trend         ▁▃█ rising: +7.0 points", "trend         ▃▃ flat", True),
        ("ok    tensorboard    port 6006 is free", "ok    tensorboard    port 6006 of 127.0.0.1 is free", False),
        (
            "state   finished, since 2026-11-23T02:59:01Z (6 s)",
            "state   ended, since 2026-11-23T02:59:01Z (6 s)",
            False,
        ),
        ("ok    gpu   x\nok    disk  y", "ok    disk  y", False),
        ("[data]\n  tile1", "run.toml, line 4, data\n  tile1", False),
    ],
)
def test_a_screen_is_told_from_another_by_its_words_not_by_its_figures(kept: str, now: str, *, same: bool) -> None:
    assert (shapes(kept) == shapes(now)) == same


def test_the_screens_of_a_page_are_found_by_their_commands(page: str) -> None:
    assert list(screens_of(page)) == commands_of(page)
    assert "    evidence  attempt 1" in screens_of(page)["segwatch alerts runs/run"]


def test_a_screen_that_does_not_say_how_to_go_on_breaks_the_way() -> None:
    audit, run = STEPS[2], STEPS[3]
    screen = Screen(audit, "segwatch audit run.toml", 0, "Next:\n  segwatch run run.toml\nsee segwatch run --drill\n")
    with pytest.raises(NotPrintedError, match="printed no `segwatch run --drill`"):
        copied(screen, run)
