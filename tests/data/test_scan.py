"""Reading every file: each fault of its own kind and by name, by one process per core, and none of them left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import zlib
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from segwatch.data import readers as readers_module
from segwatch.data.audit import audit
from segwatch.data.config import SPLITS, DataConfig
from segwatch.data.rasters import LIMIT_PIXELS
from segwatch.data.scan import Fault, Scan, scan_splits
from segwatch.errors import SegwatchError

PROCESSES = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: no processes are worth it")
READ_FOR_EVER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind "&" ignores it

from pathlib import Path
from segwatch.data import readers, scan
from segwatch.data.config import DataConfig

def at_once(self):
    with self._lock:
        self._starting = self._starting or self._starter.submit(self._start)
    return self._starting.result()

readers.Readers._processes = at_once

def wait(done, total):
    print("reading", flush=True)
    time.sleep(600)

scan.scan_splits(DataConfig.model_validate_json(sys.argv[2]), Path(sys.argv[1]), progress=wait)
"""


@pytest.fixture
def by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are waited for, and read everything: elsewhere threads read until it is worth it."""

    def at_once(readers: readers_module.Readers) -> Executor:
        with readers._lock:
            readers._starting = readers._starting or readers._starter.submit(readers._start)
        return readers._starting.result()

    monkeypatch.setattr(readers_module.Readers, "_processes", at_once)


def faults(scan: Scan, split: str = "train") -> dict[Fault, list[str]]:
    found: dict[Fault, list[str]] = {}
    for file in scan.splits[split].bad:
        found.setdefault(file.fault, []).append(file.path)
    return found


def enlarged(path: Path) -> None:
    """A JPEG header that promises 65535 x 65535 pixels."""
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)


def latin_1(path: Path) -> None:
    """Rename a file so that its stem ends in a byte that is no UTF-8."""
    path.rename(path.with_name(os.fsdecode(os.fsencode(path.stem) + b"\xe9" + os.fsencode(path.suffix))))


def test_every_fault_is_found_at_once_and_named(dataset) -> None:
    dataset.splits([0, 1])
    images, masks = dataset.root / "images/train", dataset.root / "masks/train"
    for name in ("cut", "cut_mask", "empty", "turned", "huge", "sizes", "small", "jpeg", "both"):
        dataset.pair("train", name, [0, 1])
    for path in (images / "cut.jpg", masks / "cut_mask.png", images / "both.jpg", masks / "both.png"):
        path.write_bytes(path.read_bytes()[:-30])
    (images / "empty.jpg").write_bytes(b"")
    exif = Image.Exif()
    exif[0x0112] = 8
    with Image.open(images / "turned.jpg") as image:
        image.load()
        image.save(images / "turned.jpg", exif=exif)
    enlarged(images / "huge.jpg")
    dataset.image("train", "sizes", (41, 48))
    dataset.pair("train", "small", [0], (20, 48))
    Image.fromarray(np.zeros((40, 48), dtype=np.uint8)).save(masks / "jpeg.png", "JPEG")
    dataset.image("train", "alone")
    dataset.mask("train", "lonely", np.zeros((4, 4), dtype=np.uint8))
    dataset.image("train", "twice", suffix=".png")
    dataset.pair("train", "twice", [0])
    scan = scan_splits(dataset.config(), dataset.root)
    assert faults(scan) == {
        Fault.IMAGE_ALONE: ["images/train/alone.jpg"],
        Fault.MASK_ALONE: ["masks/train/lonely.png"],
        Fault.AMBIGUOUS: ["images/train/twice.jpg", "images/train/twice.png"],
        Fault.UNREADABLE: [
            "images/train/both.jpg",
            "masks/train/both.png",
            "images/train/cut.jpg",
            "masks/train/cut_mask.png",
        ],
        Fault.EMPTY: ["images/train/empty.jpg"],
        Fault.TOO_LARGE: ["images/train/huge.jpg"],
        Fault.NOT_A_MASK: ["masks/train/jpeg.png"],
        Fault.SIZES_DIFFER: ["images/train/sizes.jpg"],
        Fault.TOO_SMALL: ["images/train/small.jpg"],
        Fault.TURNED: ["images/train/turned.jpg"],
    }
    assert all(file.reason and file.remedy for file in scan.splits["train"].bad)
    assert [pair.image for pair in scan.splits["train"].pairs] == ["images/train/a.jpg"]
    assert LIMIT_PIXELS < 65535**2


def test_images_that_are_lost_are_counted_and_not_their_files(dataset) -> None:
    dataset.splits([0, 1])
    for name in ("both", "twice"):
        dataset.pair("train", name, [0, 1])
    dataset.image("train", "twice", suffix=".png")
    dataset.image("train", "alone")
    dataset.mask("train", "lonely", np.zeros((4, 4), dtype=np.uint8))
    for path in (dataset.root / "images/train/both.jpg", dataset.root / "masks/train/both.png"):
        path.write_bytes(b"")
    found = scan_splits(dataset.config(), dataset.root).splits["train"]
    assert len(found.bad) == 6
    assert found.lost == 3


def test_a_sound_image_of_more_than_8_bits_is_no_broken_file(dataset) -> None:
    dataset.splits([0, 1])
    (dataset.root / "images/train/a.jpg").unlink()
    deep = Image.fromarray(np.zeros((40, 48), dtype=np.uint16))
    deep.save(dataset.root / "images/train/a.png")
    assert faults(scan_splits(dataset.config(), dataset.root)) == {Fault.TOO_DEEP: ["images/train/a.png"]}


def test_links_that_lead_nowhere_and_pipes_are_bad_files_like_others(dataset) -> None:
    dataset.splits([0, 1])
    images, masks = dataset.root / "images/train", dataset.root / "masks/train"
    for place, name in ((images, "both.png"), (masks, "both.png"), (images, "alone.png")):
        (place / name).symlink_to(dataset.root / "gone.png")
    dataset.pair("train", "pipe", [0, 1])
    (images / "pipe.jpg").unlink()
    os.mkfifo(images / "pipe.jpg")
    scan = scan_splits(dataset.config(), dataset.root)
    assert faults(scan) == {
        Fault.IMAGE_ALONE: ["images/train/alone.png"],
        Fault.UNREADABLE: ["images/train/both.png", "masks/train/both.png", "images/train/pipe.jpg"],
    }
    assert [file.reason for file in scan.splits["train"].bad if file.fault is Fault.UNREADABLE] == [
        *["a link that leads to no file"] * 2,
        "no file but a pipe, a socket or a device",
    ]
    assert scan.splits["train"].lost == 3


def test_a_name_that_is_not_utf8_is_told_in_letters_that_can_be_written(dataset) -> None:
    dataset.splits([0, 1])
    for name in ("caf", "alone"):
        dataset.pair("train", name, [0, 1])
        latin_1(dataset.root / f"images/train/{name}.jpg")
    latin_1(dataset.root / "masks/train/caf.png")
    (dataset.root / "masks/train/alone.png").unlink()
    scan = scan_splits(dataset.config(), dataset.root)
    assert faults(scan) == {
        Fault.IMAGE_ALONE: [r"images/train/alone\xe9.jpg"],
        Fault.NAME: [r"images/train/caf\xe9.jpg", r"masks/train/caf\xe9.png"],
    }
    assert scan.splits["train"].lost == 2
    (problem,) = (error for error in audit(dataset.config(), dataset.root).errors if "UTF-8" in error.what)
    assert problem.files == tuple(rf"{name}: its name is not UTF-8" for name in faults(scan)[Fault.NAME])
    assert problem.remedy.startswith("rename it")
    report = audit(dataset.config(on_bad_file="skip"), dataset.root)
    assert report.skipped["train"] == 2
    assert rb"caf\\xe9.jpg" in report.model_dump_json().encode()
    assert report.resolved is not None
    assert [pair.image for pair in report.resolved.splits["train"]] == ["images/train/a.jpg"]


def test_a_name_that_is_not_utf8_can_be_written_wherever_the_listing_tells_it(dataset) -> None:
    dataset.pair("train", "a", [0, 1])
    for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
        latin_1(dataset.root / kind / f"train/a{suffix}")
    settings = {"images": "images", "masks": "masks", "split": {"val": 0.3, "test": 0.3}, "scene_pattern": "x([0-9]+)"}
    report = audit(DataConfig.model_validate({"classes": "classes.toml", **settings}), dataset.root)
    assert r"a\\xe9" in report.model_dump_json()


def test_what_pillow_warns_of_is_told_in_the_audit_alone(dataset) -> None:
    dataset.splits([0, 1])
    mask = dataset.root / "masks/train/a.png"
    mask.unlink()
    Image.fromarray(np.zeros((40, 48), dtype=np.uint8)).save(mask.with_suffix(".tif"))
    mask.with_suffix(".tif").write_bytes(mask.with_suffix(".tif").read_bytes()[:70])  # in the middle of its directory
    with Image.open(dataset.root / "images/val/a.jpg") as image:
        image.load()
        image.save(dataset.root / "images/val/a.png")
    (dataset.root / "images/val/a.jpg").unlink()
    png = dataset.root / "images/val/a.png"
    content = bytearray(png.read_bytes())
    content[16:24] = struct.pack(">II", 20000, 20000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    png.write_bytes(content)
    scan = scan_splits(dataset.config(), dataset.root)  # a warning would be an error here
    assert faults(scan) == {Fault.UNREADABLE: ["masks/train/a.tif"]}
    assert faults(scan, "val") == {Fault.TOO_LARGE: ["images/val/a.png"]}


def test_what_a_good_pair_holds_comes_with_the_hash_of_its_image(dataset) -> None:
    dataset.splits([0, 1])
    dataset.pair("val", "b", [1, 255], (44, 48))
    (dataset.root / "images/val/b.jpg").write_bytes((dataset.root / "images/train/a.jpg").read_bytes())
    dataset.image("val", "b", (44, 48))
    scan = scan_splits(dataset.config(), dataset.root)
    first, second = scan.splits["val"].read
    assert first.image_hash == scan.splits["train"].read[0].image_hash
    assert first.image_hash != second.image_hash
    assert second.facts.values == {1: 1056, 255: 1056}
    assert second.facts.size == (44, 48)


@PROCESSES
def test_processes_find_what_threads_find_in_the_same_order(dataset, request: pytest.FixtureRequest) -> None:
    for number in range(20):
        dataset.pair("train", f"{number:02}", [number, 255])
    dataset.pair("val", "a", [0])
    (dataset.root / "images/train/07.jpg").write_bytes(b"")
    dataset.pair("test", "a", [0])
    told: list[tuple[int, int]] = []
    by_threads = scan_splits(dataset.config(), dataset.root)
    request.getfixturevalue("by_processes")
    by_processes = scan_splits(dataset.config(), dataset.root, progress=lambda done, total: told.append((done, total)))
    assert by_processes == by_threads
    assert [entry.facts.values for entry in by_processes.splits["train"].read][7] == {8: 960, 255: 960}
    assert told == [(done, 22) for done in range(1, 23)]


@PROCESSES
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_audit_that_is_ended_leaves_no_process_behind(dataset, number: signal.Signals) -> None:
    for index in range(40):
        dataset.pair("train", f"{index:02}", [0, 1])
    dataset.splits([0, 1])
    arguments = [sys.executable, "-c", READ_FOR_EVER, str(dataset.root), dataset.config().model_dump_json()]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline() == b"reading\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 3  # the fork server and two readers, at least
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)  # as Ctrl-C in a terminal: it reaches all of them
        else:
            parent.send_signal(number)
        parent.wait(timeout=60)
        told = parent.stderr.read()
    assert b"ForkServerProcess" not in told  # a reader has nothing to say about a Ctrl-C
    _, alive = psutil.wait_procs(children, timeout=30)
    for process in alive:
        process.kill()
    assert not alive


@PROCESSES
@pytest.mark.usefixtures("by_processes")
def test_a_reader_that_is_killed_is_explained(dataset) -> None:
    for index in range(60):  # the last ones are so large that they are still to be read when the first is told of
        dataset.pair("train", f"{index:02}", [0, 1], size=(40, 48) if index < 52 else (1500, 1500))
    dataset.splits([0, 1])

    def kill(done: int, total: int) -> None:
        readers = [child for child in psutil.Process().children(recursive=True) if child.ppid() != os.getpid()]
        for reader in readers:
            with contextlib.suppress(psutil.NoSuchProcess):  # those that broke with the first one
                reader.kill()
        psutil.wait_procs(readers, timeout=10)

    with pytest.raises(SegwatchError, match="a process that reads the data was killed"):
        scan_splits(dataset.config(), dataset.root, progress=kill)


def test_a_set_of_splits_that_cannot_be_listed_is_told_by_split(dataset) -> None:
    dataset.splits([0, 1])
    scan = scan_splits(dataset.config(val={"images": "nowhere", "masks": "masks/val"}), dataset.root)
    assert scan.splits["val"].unlisted is not None
    assert "nowhere" in str(scan.splits["val"].unlisted)
    assert [len(scan.splits[name].read) for name in SPLITS] == [1, 0, 1]
