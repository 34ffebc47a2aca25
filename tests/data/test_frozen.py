"""What the files of a run held: unchanged is seen by size and time, touched by content, changed and gone by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from segwatch.data import frozen
from segwatch.data.audit import audit
from segwatch.data.frozen import (
    FrozenFile,
    differences,
    fingerprint,
    freeze,
    read_frozen,
    require_unchanged,
    write_frozen,
)
from segwatch.data.resolved import Pair, ResolvedClass, ResolvedData
from segwatch.errors import ConfigError

PAST_NS = 1_600_000_000_000_000_000
FILES = {"train": ("t/a.png", "t/b.png"), "val": ("v/a.png",), "test": ("e/a.png", "e/b.png")}


def put(path: Path, content: bytes, mtime_ns: int = PAST_NS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


@pytest.fixture
def files(tmp_path: Path) -> tuple[FrozenFile, ...]:
    """Written long ago, as far as their time stamps say."""
    for names in FILES.values():
        for name in names:
            put(tmp_path / name, name.encode())
    return tuple(freeze(tmp_path / name, split=split, name=name)[0] for split, names in FILES.items() for name in names)


@pytest.fixture
def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def fail(*_: object) -> None:
            pytest.fail("a file was read")

        monkeypatch.setattr(frozen._Doubtful, "read", fail)

    return forbid


def refusal(root: Path, files: tuple[FrozenFile, ...], **how: object) -> str:
    with pytest.raises(ConfigError) as raised:
        require_unchanged(root, files, **how)
    assert raised.value.exit_code == 78
    return str(raised.value)


def test_the_refusal_names_the_whole_command_that_goes_on(tmp_path, files):
    (tmp_path / files[0].path).unlink()
    said = refusal(tmp_path, files, again="segwatch run night.toml --name two")
    assert "`segwatch run night.toml --name two` goes on" in said
    assert "`segwatch run night.toml --name two --accept-data`" in said


def test_files_that_are_as_they_were_are_not_read(tmp_path, files, forbid_reading) -> None:
    forbid_reading()
    assert require_unchanged(tmp_path, files) == files


def test_a_touched_or_copied_file_is_accepted_and_its_new_time_is_kept(tmp_path, files, forbid_reading) -> None:
    later = PAST_NS + 10_000_000_000
    os.utime(tmp_path / "v/a.png", ns=(later, later))
    (tmp_path / "e/a.png").unlink()
    put(tmp_path / "e/a.png", b"e/a.png", later)
    told: list[int] = []
    now = require_unchanged(tmp_path, files, told=told.append)
    assert told == [2]
    assert [file.path for file in now if file.mtime_ns == later] == ["v/a.png", "e/a.png"]
    assert [file.model_copy(update={"mtime_ns": PAST_NS}) for file in now] == list(files)
    forbid_reading()
    assert require_unchanged(tmp_path, now) == now


def test_all_that_changed_or_is_gone_is_named_at_once_by_split(tmp_path, files) -> None:
    put(tmp_path / "e/a.png", b"E/a.png", PAST_NS + 1)  # of the same size
    (tmp_path / "e/b.png").unlink()
    put(tmp_path / "v/a.png", b"longer than before")
    words = refusal(tmp_path, files, where=tmp_path / "runs/one")
    assert words.startswith(f"{tmp_path}/runs/one: the data is not what it was when this run began: ")
    assert "1 file of val changed, 1 file of test changed, 1 gone" in words
    assert "    val: v/a.png: changed\n    test: e/a.png: changed\n    test: e/b.png: gone\n" in words
    assert "t/a.png" not in words
    assert "Scores from before and after would be of different data" in words
    assert "learned" not in words
    assert "restore the files" in words
    assert "--name: it trains from its first epoch" in words


def test_changed_training_files_are_refused_in_words_of_their_own(tmp_path, files) -> None:
    put(tmp_path / "t/b.png", b"T/b.png", PAST_NS + 1)
    words = refusal(tmp_path, files)
    assert "1 file of train changed\n    train: t/b.png: changed\n" in words
    assert "would have learned from different data" in words
    assert "Scores from before" not in words


def test_who_only_scores_does_not_mind_the_training_files(tmp_path, files) -> None:
    (tmp_path / "t/a.png").unlink()
    assert require_unchanged(tmp_path, files, splits=("val", "test")) == files
    put(tmp_path / "e/a.png", b"E/a.png", PAST_NS + 1)
    assert "train" not in refusal(tmp_path, files, splits=("val", "test")).partition("  -> ")[0]


def test_of_many_files_the_first_are_named_and_the_others_counted(tmp_path) -> None:
    many = tuple(
        FrozenFile(split="test", path=f"{number:02}.png", size=1, mtime_ns=1, sha256="0") for number in range(60)
    )
    words = refusal(tmp_path, many)
    assert "60 files of test gone" in words
    assert "49.png" in words
    assert "50.png" not in words
    assert "and 10 more" in words


def test_a_file_that_cannot_be_read_is_told_as_that(tmp_path, files, monkeypatch) -> None:
    os.utime(tmp_path / "e/a.png", ns=(1, 1))
    (tmp_path / "e/a.png").rename(tmp_path / "e/c.png")
    (tmp_path / "e/a.png").symlink_to("a.png")  # to itself
    words = refusal(tmp_path, files)
    assert "1 file of test unreadable" in words
    assert "test: e/a.png: cannot be read: Too many levels of symbolic links" in words


def test_a_file_written_just_before_it_was_read_is_known_by_its_content(tmp_path) -> None:
    now = time.time_ns()
    put(tmp_path / "a.png", b"first", now)
    files = (freeze(tmp_path / "a.png", split="test", name="a.png")[0],)
    assert files[0].mtime_ns is None
    put(tmp_path / "a.png", b"other", now)  # the clock of a file system may be as coarse as that
    assert "a.png: changed" in refusal(tmp_path, files)
    put(tmp_path / "a.png", b"first", now)
    assert require_unchanged(tmp_path, files) == files


def test_what_is_frozen_survives_the_journey_and_a_damaged_file_is_explained(tmp_path, files) -> None:
    path = tmp_path / "files.jsonl"
    write_frozen(path, files)
    assert read_frozen(path) == files
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ConfigError, match="remove it") as raised:
        read_frozen(path)
    assert raised.value.where == str(path)


def test_the_audit_freezes_images_and_masks_of_every_split(dataset) -> None:
    report = audit(dataset.splits([0, 1]).config(), dataset.root)
    assert report.resolved is not None
    named = {(file.split, file.path) for file in report.files}
    pairs = {
        (split, path) for split, pairs in report.resolved.splits.items() for p in pairs for path in (p.image, p.mask)
    }
    assert named == pairs
    assert {split for split, _ in named} == {"train", "val", "test"}
    assert require_unchanged(report.root, report.files) == report.files
    _, mask = sorted(path for split, path in named if split == "test")[:2]
    (dataset.root / mask).write_bytes(b"x")
    assert f"test: {mask}: changed" in refusal(report.root, report.files)


@pytest.mark.alone
def test_1400_pairs_that_did_not_change_are_checked_in_well_under_a_second(tmp_path) -> None:
    files = []
    for number in range(2800):
        put(tmp_path / f"{number}.png", b"x")
        files.append(freeze(tmp_path / f"{number}.png", split="test", name=f"{number}.png")[0])
    write_frozen(tmp_path / "files.jsonl", files)
    began = time.perf_counter()
    require_unchanged(tmp_path, read_frozen(tmp_path / "files.jsonl"))
    assert time.perf_counter() - began < 0.5


def test_the_fingerprint_of_frozen_files_follows_their_content_and_the_classes_not_their_time(tmp_path) -> None:
    (tmp_path / "image.png").write_bytes(b"image")
    (tmp_path / "mask.png").write_bytes(b"mask")
    classes = (ResolvedClass(id=0, name="a", colour=(0, 0, 0), pixels={"test": 1}),)
    pair = Pair(image="image.png", mask="mask.png")
    data = ResolvedData(root=tmp_path, scale=1.0, classes=classes, splits={"test": (pair,)})

    def told(data: ResolvedData = data) -> str:
        names = ("image.png", "mask.png")
        return fingerprint(data, "test", [freeze(tmp_path / name, split="test", name=name)[0] for name in names])

    before = told()
    os.utime(tmp_path / "mask.png", (1.0, 1.0))
    assert told() == before
    assert told(data.model_copy(update={"scale": 0.5})) != before
    (tmp_path / "mask.png").write_bytes(b"MASK")
    assert told() != before
    with pytest.raises(KeyError):
        fingerprint(data, "test", [])


def test_differences_name_what_changed_what_is_gone_and_what_was_added(tmp_path) -> None:
    def frozen(**contents: bytes) -> list[FrozenFile]:
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        return [freeze(tmp_path / name, split="test", name=name)[0] for name in contents]

    found = differences(frozen(a=b"1", b=b"1", c=b"1"), frozen(a=b"1", b=b"2", d=b"1"))
    assert [(change.file.path, change.what) for change in found] == [("b", "changed"), ("c", "gone"), ("d", "added")]
