"""`python -m tests.pictures [RUN]`: the pictures of the README, from a `segwatch demo` or from a finished run of it.

Needs Chromium for the two pages. Knows nothing about what the README says of them.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image
from segwatch.daemon.board_layout import layout
from segwatch.daemon.board_server import address, served
from segwatch.daemon.rundir import RunDir
from segwatch.daemon.views import look_at
from segwatch.evaluator.report import picture_path

from .browser import Browser, find_browser

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
LIMIT_BYTES = 300_000
"""Of each: who looks at the page over a slow line should not wait."""
WIDEST = 1200
OVERLAY_WIDTH = 800
COLOURS = (256, 128, 64, 32)
SEGWATCH = Path(sys.executable).with_name("segwatch")
LEFT = 352
"""Pixels of TensorBoard's settings, which name a directory of whoever took the picture."""


def main(arguments: list[str]) -> int:
    program = find_browser()
    if program is None:
        print("no chromium here: apt-get install chromium")
        return 1
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(arguments[0]).resolve() if arguments else demo(Path(scratch))
        browser = Browser(program, Path(scratch) / "profile")
        try:
            take(run, browser, Path(scratch))
        finally:
            browser.close()
    return 0


def demo(place: Path) -> Path:
    """A finished run of the demo, which trains for a minute or two."""
    subprocess.run([SEGWATCH, "demo"], cwd=place, check=True)
    return place / "segwatch-demo" / "runs" / "demo-1"


def take(run: Path, browser: Browser, scratch: Path) -> None:
    best = look_at(RunDir(run)).history.best["test"].epoch
    keep(run / "results.png", "curves")
    keep(picture_path(run, best.attempt, best.epoch), "overlay", widest=OVERLAY_WIDTH)
    shot = scratch / "shot.png"
    browser.open((run / "report.html").as_uri())
    browser.waits_for("best test mIoU")
    browser.screenshot(shot)
    keep(shot, "report")
    tensorboard(run, browser, shot)
    keep(shot, "tensorboard")


def tensorboard(run: Path, browser: Browser, shot: Path) -> None:
    """As it opens, once its curves are drawn."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with served(run, port, print):
        pause, deadline = threading.Event(), time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            pause.wait(0.2)
        browser.open(address(port))
        browser.waits_for(*(chart.title for category in layout(scaled=False).category for chart in category.chart))
        browser.curves(10)
        browser.screenshot(shot)
    with Image.open(shot) as whole:
        charts = whole.crop((LEFT, 0, *whole.size))
    charts.save(shot)


def keep(source: Path, name: str, *, widest: int = WIDEST) -> None:
    """As `docs/pictures/NAME.png`: reduced, and with as many colours as the limit allows.

    Those that cover most of the colour space: chosen by frequency, a rare class would get the colour of another one.
    """
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    if picture.width > widest:
        height = round(picture.height * widest / picture.width)
        picture = picture.resize((widest, height), Image.Resampling.LANCZOS)
    target = PICTURES / f"{name}.png"
    for colours in COLOURS:
        picture.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            target, optimize=True
        )
        if target.stat().st_size < LIMIT_BYTES:
            print(f"{target}: {picture.width}x{picture.height}, {target.stat().st_size // 1000} kB")
            return
    raise SystemExit(f"{target} is larger than {LIMIT_BYTES} bytes even with {COLOURS[-1]} colours")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
