"""Many files on all cores: in order, evenly, with processes only where they pay, and no dearer than decoding them."""

from __future__ import annotations

import operator
import os
import signal
import statistics
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segwatch.data import readers as readers_module
from segwatch.data.effort import Effort
from segwatch.data.rasters import check_image
from segwatch.data.readers import AT_ONCE, Readers
from segwatch.data.scan import _read, _Task, scan_splits
from segwatch.errors import ConfigError

DEAREST = 1.6
"""Of decoding alone: hashing and counting come to 1.2 or 1.3. A second decoding would make it 2."""


def test_what_is_found_comes_in_the_order_of_the_tasks() -> None:
    last_first = threading.Event()

    def read(task: int) -> int:
        if task == 0:
            assert last_first.wait(30)
        if task == 99:
            last_first.set()
        return -task

    with Readers("json", list, cores=2) as readers:
        assert list(readers.map(read, range(100))) == [-task for task in range(100)]


def test_portions_shrink_so_that_no_core_waits_for_the_last_one() -> None:
    sizes = [len(portion) for portion in readers_module._portions(range(100), cores=2)]
    assert sum(sizes) == 100
    assert sizes[0] == AT_ONCE
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-8:] == [1] * 8


@pytest.mark.parametrize(
    ("tasks", "seconds_each", "cores", "started"),
    [(40, 1.0, 2, True), (40, 1.0, 1, False), (40, 0.01, 2, False), (3000, 0.01, 2, True)],
)
def test_processes_are_started_where_what_is_left_takes_long_whatever_the_number_of_files(
    tasks: int, seconds_each: float, cores: int, started: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []
    monkeypatch.setattr(Readers, "_start", lambda _: starts.append(1))
    monkeypatch.setattr(Readers, "_processes", lambda _: None)
    now = [0.0]
    readers = Readers("json", list, cores=cores, clock=lambda: now[0])
    for _ in range(tasks):
        now[0] += seconds_each
        readers._weigh(1, tasks)
    readers._starter.shutdown()
    assert starts == [1] * started


def test_a_reader_process_leaves_ctrl_c_to_its_parent_and_is_gone_afterwards() -> None:
    readers = Readers("segwatch.data.scan", list, cores=2)
    readers._starting = readers._starter.submit(readers._start)
    with readers:
        pool = readers._starting.result(timeout=120)
        assert readers.kind == "2 processes"
        assert list(readers.map(signal.getsignal, [signal.SIGINT] * 3)) == [signal.SIG_IGN] * 3
        assert os.getpid() not in readers.map(operator.call, [os.getpid] * 3)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(os.getpid)


# --- what it costs


def bare(image: Path, mask: Path) -> None:
    with Image.open(image) as opened:
        opened.draft("RGB", (opened.width // 8, opened.height // 8))
        opened.load()
    with Image.open(mask) as opened:
        opened.load()


def seconds(work: partial[object]) -> float:
    """Of this thread alone on its core: what others do on a busy machine does not count."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


@pytest.mark.alone
@pytest.mark.parametrize("coloured", [False, True])
def test_reading_a_pair_costs_little_more_than_decoding_it(tmp_path: Path, coloured: bool) -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).resize((1536, 1536))
    ids = np.kron(rng.integers(0, 6, (96, 96), dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))
    palette = rng.integers(0, 256, (6, 3), dtype=np.uint8)
    image, mask = tmp_path / "a.jpg", tmp_path / "a.png"
    photo.save(image, quality=92)
    Image.fromarray(palette[ids] if coloured else ids).save(mask)
    read = partial(_read, _Task("train", image, mask), root=tmp_path, scale=1.0, keep=frozenset())
    ratios = [seconds(read) / seconds(partial(bare, image, mask)) for _ in range(9)]
    assert statistics.median(ratios) <= DEAREST, ratios


def test_the_bytes_of_a_mask_are_read_once(dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.splits([0, 1])
    opened: list[str] = []
    real = Path.open

    def counted(self: Path, *args: object, **kwargs: object) -> object:
        opened.append(self.name)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", counted)
    scan_splits(dataset.config(), dataset.root)
    assert sorted(name for name in opened if name.startswith("a.")) == ["a.jpg"] * 3 + ["a.png"] * 3


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_ends_early_is_found_though_it_is_decoded_small_and_grey(tmp_path: Path, progressive: bool) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.jpg"
    Image.fromarray(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(path, progressive=progressive)
    content = path.read_bytes()
    assert check_image(path, content) == (200, 300)
    with pytest.raises(ConfigError, match="cut short"):
        check_image(path, content[:-200])


def test_what_reading_took_is_told_in_figures_and_words(dataset) -> None:
    dataset.splits([0, 1])
    dataset.image("test", "a", (44, 48))  # a bad pair is read all the same
    scan = scan_splits(dataset.config(), dataset.root)
    assert scan.effort is not None
    assert scan.effort.pairs == 3
    assert scan.effort.bytes == sum(path.stat().st_size for path in dataset.root.glob("*/*/a.*"))
    assert 0 < scan.effort.seconds < 60
    told = Effort(pairs=96, bytes=208_000_000, seconds=2.9, readers="2 processes").words()
    assert told == "read 208 MB in 2.9 s (33 pairs/s, 72 MB/s, 2 processes)"
    assert Effort(pairs=3, bytes=4_200, seconds=0.0, readers="1 thread").words() == "read 0.0042 MB in 0.0 s (1 thread)"
