"""Mistakes in the class table, the directories and the files: each names the file, and the key that leads to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .table import RUN_TOML, Make, Mistake, both, written, wrong

RUN = "run run.toml"
AUDIT = "audit run.toml"
A, B = {"id": 0, "name": "a", "colour": "#000000"}, {"id": 1, "name": "b", "colour": "#FF0000"}


def table(*entries: Any, key: str = "classes") -> Make:
    return beside("classes.json", json.dumps({key: list(entries)}, indent=1))


def beside(name: str, text: str) -> Make:
    """A file, and run.toml that names it as its class table."""

    def make(place: Path) -> None:
        (place / name).write_text(text)
        wrong('"classes.json"', f'"{name}"')(place)

    return make


def mask(pixels: Any, name: str = "masks/one.png") -> Make:
    return lambda place: Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(place / name)


def without_run_toml(place: Path) -> None:
    (place / "run.toml").unlink()


def file_of_bytes(name: bytes) -> Make:
    return lambda place: (place / os.fsdecode(name)).touch()


def directory_of_bytes(old: str, new: bytes) -> Make:
    def make(place: Path) -> None:
        (place / os.fsdecode(new)).parent.mkdir()
        (place / old).rename(place / os.fsdecode(new))

    return make


def renamed(old: str, new: str) -> Make:
    return lambda place: (place / old).rename(place / new) and None


def filled(name: str, content: bytes) -> Make:
    return lambda place: (place / name).write_bytes(content) and None


def cut_short(name: str) -> Make:
    return lambda place: (place / name).write_bytes((place / name).read_bytes()[:60]) and None


def setting(text: str) -> Make:
    return wrong("scale = 0.5", f"scale = 0.5\n{text}")


def photograph(size: int = 128) -> Any:
    return np.random.default_rng(1).integers(0, 255, (size, size, 3))


LISTED = RUN_TOML.replace(
    'images = "images"\nmasks = "masks"', 'list = "train.txt"\nimages = "images"\nmasks = "masks"'
)

MISTAKES = (
    # --- the class table
    Mistake(
        "no class table",
        RUN,
        ("classes.jsn", "No such file", "did you mean 'classes.json'?"),
        wrong("classes.json", "classes.jsn"),
        at=("classes.jsn", "data.classes"),
    ),
    Mistake(
        "a class table that is a directory",
        RUN,
        ("images", "data.classes"),
        wrong("classes.json", "images"),
        at=('classes = "images"', "data.classes"),
    ),
    Mistake(
        "a class table of another kind",
        RUN,
        (".toml, a .json or a .py",),
        beside("classes.csv", "0,a\n1,b\n"),
        at=("classes.csv", "data.classes"),
    ),
    Mistake(
        "a comma too few in the class table",
        RUN,
        ("classes.json", "line 4", "JSON"),
        beside("classes.json", '{"classes": [\n {"id": 0,\n  "name": "a"\n  "colour": "#000000"}\n]}'),
    ),
    Mistake(
        "an open bracket in the class table",
        RUN,
        ("classes.toml", "line 2", "TOML"),
        beside("classes.toml", '[classes]\n0 = { name = "a"\n1 = { name = "b" }\n'),
    ),
    Mistake(
        "code in the class table",
        RUN,
        ("classes.py", "no dictionary such as cmap = {"),
        beside("classes.py", "import os\nos.system('echo no')\n"),
    ),
    Mistake(
        "a call in the class dictionary", RUN, ("classes.py", "line 1"), beside("classes.py", "cmap = dict(a=1)\n")
    ),
    Mistake(
        "a key with a typo in the class table",
        RUN,
        ("classes.json", 'no "classes"', "did you mean"),
        table(A, B, key="clases"),
    ),
    Mistake("an empty class table", RUN, ("the class table is empty", '{"id": 0'), table()),
    Mistake(
        "an id twice",
        RUN,
        ("classes.json", "id '1' stands there 2 times", "entry 2 and entry 3"),
        table(A, B, {"id": 1, "name": "c"}),
    ),
    Mistake(
        "a name twice",
        RUN,
        ("name 'a' stands there 2 times", "entry 1 and entry 3"),
        table(A, B, {"id": 2, "name": "a"}),
    ),
    Mistake(
        "everything wrong with an entry",
        RUN,
        ("4 mistakes", "entry 1: id -1", "entry 1: has no name", "entry 2: id 'two'", "entry 2: colour 'red'"),
        table({"id": -1}, {"id": "two", "name": "b", "colour": "red"}),
    ),
    Mistake(
        "no ids", RUN, ("2 of 2 entries have no id", "entry 1 (a), entry 2 (b)"), table({"name": "a"}, {"name": "b"})
    ),
    Mistake(
        "the id 255",
        RUN,
        ("entry 2: id 255 says in masks that nothing is known there",),
        table(A, {"id": 255, "name": "void"}),
    ),
    # --- which classes
    Mistake(
        "a class that the table does not have",
        RUN,
        ("data.use lists id 7", "these would work: [0, 1]"),
        setting("use = [0, 1, 7]"),
        at=("use =", "data.use"),
    ),
    Mistake(
        "a class that no mask holds",
        RUN,
        ("data.use lists id 2 (c), which no training mask holds", "data.train.masks"),
        both(table(A, B, {"id": 2, "name": "c"}), setting("use = [0, 1, 2]")),
    ),
    Mistake(
        "a merge to an unknown id",
        RUN,
        ("data.merge joins ids into 9, which the class table does not have",),
        setting("merge = { 9 = [0, 1] }"),
        at=("merge =", "data.merge"),
    ),
    Mistake(
        "a merge of an unknown id",
        RUN,
        ("joins id 9 into class 1",),
        setting("merge = { 1 = [1, 9] }"),
        at=("merge =", "data.merge"),
    ),
    Mistake(
        "all classes ignored",
        RUN,
        ("no two classes to train",),
        setting("ignore = [0, 1]"),
        at=("ignore =", "data.ignore"),
    ),
    Mistake(
        "used and ignored",
        RUN,
        ("id 1 (b) is in data.ignore and in data.use",),
        setting("use = [0, 1]\nignore = [1]"),
        at=("ignore =", "data.ignore"),
    ),
    Mistake("one class alone", RUN, ("no two classes to train",), setting("use = [1]"), at=("use =", "data.use")),
    # --- directories
    Mistake(
        "no directory of images",
        RUN,
        ("No such file", "imges"),
        wrong('"images"', '"imges"'),
        at=("imges", "data.train.images"),
    ),
    Mistake(
        "two directories that are not there",
        RUN,
        ("nowhere", "data.val.masks", "data.test.images"),
        both(
            wrong('masks = "masks_val"', 'masks = "nowhere"'),
            lambda place: (
                (place / "run.toml").write_text((place / "run.toml").read_text().replace("images_test", "nowhere_else"))
                and None
            ),
        ),
    ),
    Mistake(
        "an empty directory",
        RUN,
        ("no images there", ".png"),
        both(wrong('"images_val"', '"hollow"'), lambda place: (place / "hollow").mkdir()),
        at=("hollow", "data.val.images"),
    ),
    Mistake(
        "paths relative to the shell",
        "run conf/run.toml",
        ("conf/images", "line 6, data.train.images", "paths are relative to run.toml", "root = '..'"),
        both(lambda place: (place / "conf").mkdir(), renamed("run.toml", "conf/run.toml")),
    ),
    Mistake(
        "a root with a typo",
        RUN,
        ("dta", "no such directory", "relative to run.toml"),
        setting('root = "dta"'),
        at=('root = "dta"', "data.root"),
    ),
    Mistake(
        "two stars",
        RUN,
        ("one * stands for one directory",),
        wrong('"images_val"', '"ima**"'),
        at=("ima**", "data.val.images"),
    ),
    Mistake(
        "a star that matches nothing",
        RUN,
        ("no directory of images matches",),
        wrong('"images_val"', '"run_*/cam"'),
        at=("run_*", "data.val.images"),
    ),
    Mistake(
        "no list", RUN, ("train.txt", "cannot read the list"), written(LISTED), at=("train.txt", "data.train.list")
    ),
    Mistake(
        "a list with a typo",
        RUN,
        ("train.txt", "line 2", "twoo"),
        both(written(LISTED), filled("train.txt", b"one\ntwoo\n")),
    ),
    # --- files
    Mistake(
        "a mask without its image",
        RUN,
        ("masks/orphan.png: no image of this stem", "remove the mask"),
        mask(np.eye(128), "masks/orphan.png"),
        at=("[data.train]", "data.train"),
    ),
    Mistake(
        "an image without its mask",
        RUN,
        ("images/one.png: no mask", "add the mask"),
        renamed("masks/one.png", "masks/two.png"),
    ),
    Mistake(
        "no pair at all",
        RUN,
        ("no mask of this stem", "no image of this stem"),
        renamed("masks_val/one_val.png", "masks_val/other.png"),
    ),
    Mistake("a mask of another size", RUN, ("images/one.png: 128x128, but its mask is 64x64",), mask(np.eye(64))),
    Mistake("a mask that is cut short", RUN, ("masks/one.png", "cut short", "restore"), cut_short("masks/one.png")),
    Mistake("an image that is cut short", RUN, ("images/one.png", "cut short", "restore"), cut_short("images/one.png")),
    Mistake("an image that is none", RUN, ("images/one.png", "restore"), filled("images/one.png", b"<html>404</html>")),
    Mistake("an empty image", RUN, ("images/one.png", "empty"), filled("images/one.png", b"")),
    Mistake("a photograph as a mask", RUN, ("masks/one.png",), mask(photograph())),
    Mistake(
        "colours that nobody knows",
        RUN,
        ("#",),
        both(*(mask(np.full((128, 128, 3), 77), f"masks{s}/one{s}.png") for s in ("", "_val", "_test"))),
    ),
    Mistake(
        "ids out of the table",
        RUN,
        ("ids [8, 9]",),
        both(
            *(
                mask(np.repeat([[8], [9]], [64, 64], axis=0).repeat(128, axis=1), f"masks{s}/one{s}.png")
                for s in ("", "_val", "_test")
            )
        ),
    ),
    Mistake(
        "nothing to score in val",
        RUN,
        ("no mask of val holds any of the used ids",),
        mask(np.full((128, 128), 7), "masks_val/one_val.png"),
        at=("[data.val]", "data.val"),
    ),
    Mistake(
        "several things at once",
        AUDIT,
        (
            "3 errors",
            "images_val/one_val.png: cannot be decoded: cut short",
            "masks_test/orphan.png: no image",
            "data.use lists id 7",
        ),
        both(
            cut_short("images_val/one_val.png"),
            mask(np.eye(128), "masks_test/orphan.png"),
            setting("use = [0, 1, 7]"),
        ),
    ),
    Mistake(
        "init where no image is",
        "init notes",
        ("no image here or below", "notes"),
        lambda place: (place / "notes").mkdir(),
    ),
    Mistake(
        "init of a name that is no text",
        "init .",
        ("a name holds bytes that are no UTF-8: images/caf\\xe9.png", "rename it"),
        both(without_run_toml, file_of_bytes(b"images/caf\xe9.png")),
    ),
    Mistake(
        "init of a directory whose name is no text",
        "init .",
        ("a name holds bytes that are no UTF-8: caf\\xe9/images/one.png", "rename it"),
        both(without_run_toml, directory_of_bytes("images", b"caf\xe9/images")),
    ),
    Mistake(
        "an image whose name is no text",
        AUDIT,
        ("line 5, data.train", "image without mask", "images/caf\\xe9.png"),
        file_of_bytes(b"images/caf\xe9.png"),
    ),
    Mistake("init of nothing", "init nowhere", ("no such folder", "nowhere", "name the folder"), code=2),
    Mistake("init over a run.toml", "init .", ("is there already", "run.toml", "--output"), code=2),
)
