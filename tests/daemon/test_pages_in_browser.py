"""What a person sees in a browser: TensorBoard as it opens, and report.html from the disk. Skipped without Chromium.

`SEGWATCH_SCREENSHOTS=DIR` keeps what was seen, to be looked at.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from segwatch import tags
from segwatch.daemon.board import Board
from segwatch.daemon.board_attempts import AttemptsBoard
from segwatch.daemon.board_layout import layout
from segwatch.daemon.board_server import address, served
from segwatch.daemon.document import Card, Cards, Document, Picture, Table, Verdict, as_html
from segwatch.trainer.contract import Cause
from segwatch.trainer.curves import Curves

from ..browser import Browser, find_browser

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no chromium here: apt-get install chromium")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def seen(browser, tmp_path, request) -> Path:
    """Where a screenshot goes."""
    place = Path(os.environ.get("SEGWATCH_SCREENSHOTS", tmp_path))
    return place / f"{request.node.originalname}.png"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def a_shown_run(run_dir: Path, run) -> None:
    """Twelve epochs with an incident and its roll-back, as worker and daemon show them."""
    boards = [Board(run_dir, run.history), AttemptsBoard(run_dir, run.history)]
    told = 0

    def show() -> None:
        nonlocal told
        for moment, event in run.told[told:]:
            for board in boards:
                board.handle(moment, event)
        told = len(run.told)

    run.begins(names=("field", "road"))
    for epoch in range(1, 6):
        run.trains(epoch, 0.1 * epoch, 0.09 * epoch, interval=(0.1 * epoch - 0.05, 0.1 * epoch + 0.05))
        show()
    run.suffers(Cause.NAN_LOSS, step=55, epoch=6)
    run.plans(resume_step=50, incident=1, lr=5e-4, remedy="lower-lr")
    for epoch in range(6, 13):
        run.trains(epoch, 0.4 + 0.02 * epoch, 0.36 + 0.02 * epoch, interval=(0.35 + 0.02 * epoch, 0.45 + 0.02 * epoch))
        show()
    for board in boards:
        board.close()
    curves = Curves(run_dir / "tensorboard" / "train", from_step=0)
    for step in range(1, 121):
        values = {tags.TRAIN_LOSS: 2 / step, tags.TRAIN_LR: 1e-3, tags.TRAIN_IMAGES_PER_SECOND: 9.0}
        curves.write(step, {**values, tags.TRAIN_GRAD_NORM: 1.0, tags.TRAIN_AMP: 0.0})
    curves.close()


def wait_until(port: int, *, serves: bool) -> None:
    pause, deadline = threading.Event(), time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if (probe.connect_ex(("127.0.0.1", port)) == 0) == serves:
                return
        assert time.monotonic() < deadline, "it never came" if serves else "it outlived who started it"
        pause.wait(0.1)


def test_tensorboard_opens_on_our_charts_with_curves_in_them_and_ends_with_its_daemon(browser, seen, tmp_path, a_run):
    a_shown_run(tmp_path, a_run())
    said: list[str] = []
    port = free_port()
    with served(tmp_path, port, said.append):
        assert address(port) in said[0]
        wait_until(port, serves=True)
        browser.open(address(port))
        titles = [chart.title for category in layout(scaled=False).category for chart in category.chart]
        text = browser.waits_for(*titles, "Matches (3)")  # val, test and the needle of the incident in the first chart
        assert "Missing Tags" not in text
        assert browser.curves(12) >= 12
        # The needle, val and test in the first; and no chart is empty.
        browser.coloured(lambda colours: [len(of_chart) for of_chart in colours[:2]] == [3, 2] and all(colours))
        browser.screenshot(seen)
        browser.open(f"http://127.0.0.1:{port}/#hparams")
        browser.waits_for("attempt/best_test_miou", "lower-lr")
        browser.screenshot(seen.with_stem("hparams"))
    wait_until(port, serves=False)


def test_report_html_opens_from_the_disk_asks_the_network_for_nothing_and_follows_the_night(browser, seen, tmp_path):
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "a.png")
    parts = [
        Verdict("Finished", " after a week.", "good"),
        Cards([Card("best test mIoU", "64.00 %", "epoch 2")]),
        Picture("a.png", "a picture"),
        Table(("class", "IoU"), [("road", "1 %")] * 30, open_rows=10, colours=[(1, 2, 3)] * 30),
    ]
    (tmp_path / "report.html").write_text(as_html(Document("a run", parts), tmp_path))
    browser.events.clear()
    page = (tmp_path / "report.html").as_uri()
    browser.open(page)
    browser.waits_for("Finished after a week.", "64.00 %", "the other 20")
    assert browser.evaluate("document.images[0].complete && document.images[0].naturalWidth") == 64
    requests = [event["params"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    asked = [
        request["request"]["url"] for request in requests if request["documentURL"] == page
    ]  # not of the page before
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    background = "getComputedStyle(document.body).backgroundColor"
    found = set()
    for scheme in ("light", "dark"):
        browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        found.add(browser.evaluate(background))
    assert found == {"rgb(255, 255, 255)", "rgb(20, 23, 28)"}
    browser.screenshot(seen)
    browser.send("Emulation.setDeviceMetricsOverride", width=380, height=800, deviceScaleFactor=1, mobile=False)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 380, (
        "a narrow screen has to be scrolled sideways"
    )
