"""`segwatch audit` and the audit of `segwatch run`, as a person meets them: files, exit codes, no process left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

SEGWATCH = Path(sys.executable).with_name("segwatch")
TOML = """\
[data]
classes = "classes.toml"
split = { val = 0.1, test = 0.1, by = "image" }
images = "images"
masks = "masks"
scale = 0.5
"""


def write_pairs(place: Path, count: int, side: int) -> None:
    """So many pairs of two classes; the files of the first one under many names."""
    rng = np.random.default_rng(0)
    for kind, pixels in {
        "images": rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        "masks": (rng.random((side, side)) < 0.5).astype(np.uint8),
    }.items():
        (place / kind).mkdir()
        Image.fromarray(pixels).save(place / kind / "0000.png", compress_level=1)
        for number in range(1, count):
            os.link(place / kind / "0000.png", place / kind / f"{number:04}.png")
    (place / "classes.toml").write_text('[classes]\n0 = "field"\n1 = "road"\n')
    (place / "run.toml").write_text(TOML)


def segwatch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SEGWATCH, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def test_a_page_and_a_picture_are_left_beside_run_toml_and_that_is_said(tmp_path: Path) -> None:
    write_pairs(tmp_path, 70, 64)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = segwatch("audit", "../run.toml", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert "written: ../audit.md, ../audit.png" in done.stdout
    assert re.search(r"^read .* MB in .* s \(.* pairs/s, .* MB/s, .*\)$", done.stdout, flags=re.MULTILINE)
    assert "Ready. 2 classes" in done.stdout
    assert "split drawn: train 80.00 %" in done.stdout
    assert "## train: 56 images" in (tmp_path / "audit.md").read_text()
    with Image.open(tmp_path / "audit.png") as picture:
        picture.load()
    assert list(elsewhere.iterdir()) == []


def test_json_is_all_that_stands_on_standard_output_and_files_go_where_they_are_wanted(tmp_path: Path) -> None:
    write_pairs(tmp_path, 10, 64)
    done = segwatch("audit", "run.toml", "--json", "--output", "audits/first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reading"] == "ids"
    assert found["effort"]["pairs"] == 10
    assert "read " in done.stderr
    assert found["proposed_use"] == [0, 1]
    assert len(found["class_weights"]["median-frequency"]) == 2
    assert sorted(path.name for path in (tmp_path / "audits/first").iterdir()) == ["audit.md", "audit.png"]
    assert not (tmp_path / "audit.md").exists()


def test_data_that_cannot_be_used_ends_with_78_and_leaves_the_page(tmp_path: Path) -> None:
    write_pairs(tmp_path, 10, 64)
    (tmp_path / "masks/0003.png").unlink()
    done = segwatch("audit", "run.toml", cwd=tmp_path)
    assert done.returncode == 78
    assert "images/0003.png: no mask" in done.stdout  # `audit > file` is all there is to know
    assert done.stderr == "segwatch: not ready to train: 1 error, told by the audit\n"
    assert "images/0003.png: no mask" in (tmp_path / "audit.md").read_text()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: the audit starts no processes")
def test_a_run_that_is_killed_during_its_audit_leaves_no_process_behind(tmp_path: Path) -> None:
    write_pairs(tmp_path, 300, 1500)
    with subprocess.Popen([SEGWATCH, "run", "run.toml"], cwd=tmp_path, stdout=subprocess.DEVNULL) as run:
        children = readers_of(run.pid)
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=30)
    for process in alive:
        process.kill()
    assert not alive


def readers_of(pid: int) -> list[psutil.Process]:
    """All processes below, as soon as two of them read."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = psutil.Process(pid).children(recursive=True)
        if sum(child.ppid() != pid for child in found) >= 2:
            return found
        time.sleep(0.05)
    pytest.fail("the audit started no processes within a minute")


def test_a_run_keeps_the_audit_that_it_began_with(daemon) -> None:
    code, text = daemon.run()
    assert code == 0, text
    page = daemon.run_dir / "audit.md"
    assert "**Ready to train.**" in page.read_text()
    assert page.with_suffix(".png").exists()
    assert str(page.relative_to(daemon.place)) in text
