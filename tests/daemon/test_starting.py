"""`segwatch init`: what it writes for the folders that people have, and that it never harms one."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from segwatch.daemon.config import load_config
from segwatch.daemon.starting import initialise
from segwatch.daemon.starting_config import fitting_scale
from segwatch.data.audit import audit
from segwatch.errors import ConfigError, UsageError

IDS = '{"classes": [{"id": 0, "name": "field"}, {"id": 1, "name": "road"}, {"id": 2, "name": "pool"}]}'
PALETTE = np.array([[226, 169, 41], [132, 41, 246], [110, 193, 228]], dtype=np.uint8)


def write(place: Path, pixels: np.ndarray) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place)


def ids(number: int) -> np.ndarray:
    """uint8 (64, 80): three classes in bands, another one each time."""
    return np.roll(np.repeat(np.arange(64) % 3, 80).reshape(64, 80), number, axis=0).astype(np.uint8)


def pairs(
    root: Path, images: str = "images", masks: str = "masks", *, count: int = 12, kind=ids, stem="{}_{:02}"
) -> Path:
    """`count` pairs of three flights; `kind` makes the mask."""
    rng = np.random.default_rng(0)
    for number in range(count):
        name = stem.format("abc"[number % 3], number)
        write(root / images / f"{name}.png", rng.integers(0, 256, (64, 80, 3), dtype=np.uint8))
        write(root / masks / f"{name}.png", kind(number))
    return root


def init(root: Path, output: Path | None = None) -> tuple[bool, str]:
    stream = io.StringIO()
    ready = initialise(root, output, Console(file=stream, width=160))
    return ready, stream.getvalue()


def data_of(root: Path) -> dict:
    return tomllib.loads((root / "run.toml").read_text())["data"]


def test_what_is_written_is_what_the_audit_accepts_with_careful_defaults(tmp_path):
    (pairs(tmp_path) / "classes.json").write_text(IDS)
    ready, said = init(tmp_path)
    assert ready
    config = load_config(tmp_path / "run.toml")
    assert audit(config.data, tmp_path).resolved is not None
    trainer = config.trainer
    assert (trainer.batch_size, trainer.lr, trainer.optimizer, trainer.amp) == (1, 5e-5, "adamw", "off")
    assert trainer.clip_grad_norm == 1.0
    assert config.data.split is not None
    assert config.data.split.by == "scene"
    assert config.data.scale == 1.0  # 80 pixels are not to be made smaller
    last = [line.strip() for line in said.splitlines() if line.strip()][-2:]
    assert last == [f"segwatch doctor {tmp_path}/run.toml", f"segwatch audit {tmp_path}/run.toml"]


def test_the_folder_s_own_splits_are_kept(tmp_path):
    for split in ("train", "val", "test"):
        pairs(tmp_path, f"{split}/img", f"{split}/gt", count=3)
    (tmp_path / "classes.json").write_text(IDS)
    assert init(tmp_path)[0]
    assert data_of(tmp_path)["val"] == {"images": "val/img", "masks": "val/gt"}
    assert "split" not in data_of(tmp_path)


def test_without_a_test_split_val_serves_as_both_and_that_is_said(tmp_path):
    for split in ("train", "val"):
        pairs(tmp_path, f"images/{split}", f"masks/{split}", count=3)
    (tmp_path / "classes.json").write_text(IDS)
    ready, said = init(tmp_path)
    assert ready
    assert data_of(tmp_path)["test"] == data_of(tmp_path)["val"]
    assert "there is no test" in said
    assert "There is no test of its own" in (tmp_path / "run.toml").read_text()


def test_images_that_stand_alone_are_drawn_one_by_one(tmp_path):
    (pairs(tmp_path, stem="one_{1:02}") / "classes.json").write_text(IDS)
    assert init(tmp_path)[0]
    assert data_of(tmp_path)["split"]["by"] == "image"


def test_of_two_tables_the_one_that_fits_is_taken_and_the_other_is_told(tmp_path, shared):
    for name in ("images", "masks", "classes.true.json", "classes.upstream.json"):
        (tmp_path / name).symlink_to(shared / "data/dubai_aerial" / name)
    ready, said = init(tmp_path)
    assert ready
    assert data_of(tmp_path)["classes"] == "classes.true.json"
    assert "classes.upstream.json does not fit: 99.49 % of the mask pixels" in said
    assert data_of(tmp_path)["train"] == {"images": "images/train", "masks": "masks/train"}


def test_without_a_table_one_is_written_from_ids(tmp_path):
    pairs(tmp_path)
    assert init(tmp_path)[0]
    classes = tomllib.loads((tmp_path / "classes.toml").read_text())["classes"]
    assert classes == {"0": "class_0", "1": "class_1", "2": "class_2"}


def test_without_a_table_one_is_written_from_colours(tmp_path):
    pairs(tmp_path, kind=lambda number: PALETTE[ids(number)])
    assert init(tmp_path)[0]
    classes = tomllib.loads((tmp_path / "classes.toml").read_text())["classes"]
    assert {entry["colour"] for entry in classes.values()} == {"#E2A929", "#8429F6", "#6EC1E4"}


def test_black_and_white_masks_are_two_classes(tmp_path):
    pairs(tmp_path, kind=lambda number: (ids(number) > 0).astype(np.uint8) * 255)
    assert init(tmp_path)[0]
    assert data_of(tmp_path)["mask_format"] == "binary"
    assert "foreground" in (tmp_path / "classes.toml").read_text()


def test_a_table_of_other_masks_is_not_taken_and_its_file_stays(tmp_path):
    pairs(tmp_path)
    (tmp_path / "classes.toml").write_text('[classes]\n7 = "moon"\n8 = "sun"\n')
    assert init(tmp_path)[0]
    assert (tmp_path / "classes.toml").read_text() == '[classes]\n7 = "moon"\n8 = "sun"\n'
    assert data_of(tmp_path)["classes"] == "classes-2.toml"


def test_an_image_without_a_mask_is_left_out_and_counted(tmp_path):
    (pairs(tmp_path) / "classes.json").write_text(IDS)
    (tmp_path / "masks/a_00.png").unlink()
    assert init(tmp_path)[0]
    assert data_of(tmp_path)["on_bad_file"] == "skip"
    assert "1 images cannot be used" in (tmp_path / "run.toml").read_text()


def test_a_mask_suffix_of_its_own_is_written_down(tmp_path):
    (pairs(tmp_path) / "classes.json").write_text(IDS)
    for mask in (tmp_path / "masks").iterdir():
        mask.rename(mask.with_stem(f"{mask.stem}_gtf"))
    assert init(tmp_path)[0]
    assert data_of(tmp_path)["mask_suffixes"][-1] == "_gtf"


def test_a_run_toml_that_is_there_stays_as_it_is(tmp_path):
    (pairs(tmp_path) / "run.toml").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="there already"):
        init(tmp_path)
    assert (tmp_path / "run.toml").read_text() == "mine"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_not_to_be_written_to_is_left_alone_and_another_place_serves(tmp_path):
    (pairs(tmp_path / "data") / "classes.json").write_text(IDS)
    (tmp_path / "data").chmod(0o555)
    try:
        with pytest.raises(UsageError) as refused:
            init(tmp_path / "data")
        assert "--output" in (refused.value.remedy or "")
        assert not (tmp_path / "data/run.toml").exists()
        assert init(tmp_path / "data", tmp_path / "run.toml")[0]
    finally:
        (tmp_path / "data").chmod(0o755)
    assert data_of(tmp_path)["root"] == "data"
    assert audit(load_config(tmp_path / "run.toml").data, tmp_path).resolved is not None


def photographs(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "make", [lambda root: None, lambda root: pairs(root, kind=photographs)], ids=["empty", "photos"]
)
def test_what_is_no_data_set_is_refused_and_nothing_is_written(tmp_path, make):
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError) as refused:
        init(tmp_path)
    assert refused.value.remedy
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_left_out_of_the_screen_is_had_by_a_command_that_there_is(tmp_path):
    for split, take in (("train", 0), ("val", 1), ("test", 2)):
        for scene in "abcde":
            write(tmp_path / split / "img" / f"{scene}_{take}.png", photographs(ord(scene) * 9 + take))
            write(tmp_path / split / "gt" / f"{scene}_{take}.png", ids(take))
    (tmp_path / "classes.json").write_text(IDS)
    said = init(tmp_path)[1]
    assert f"and 2 more, all with: segwatch audit {tmp_path}/run.toml --json" in " ".join(said.split())


def test_two_pairs_are_too_few_and_no_fault_of_the_files(tmp_path):
    with pytest.raises(ConfigError, match="2 images with masks cannot make 3 splits") as refused:
        init(pairs(tmp_path, count=2))
    assert refused.value.where == str(tmp_path)
    assert "at least one image each" in (refused.value.remedy or "")


def test_masks_as_jpeg_are_refused_with_a_few_of_their_names_and_the_way_out(tmp_path):
    for mask in (pairs(tmp_path) / "masks").iterdir():
        with Image.open(mask) as pixels:
            pixels.save(mask.with_suffix(".jpg"))
        mask.unlink()
    with pytest.raises(ConfigError) as refused:
        init(tmp_path)
    said = refused.value.what.splitlines()
    assert said[0] == "no mask could be read"
    assert sum("masks/" in line and ".jpg: a JPEG mask" in line for line in said) == 3
    assert said[-1].strip() == "and 9 more"
    assert "PNG" in (refused.value.remedy or "")


@pytest.mark.parametrize("name", ["four    spaces", 'a "quote"', "a\\slash", "a\ttab"])
def test_a_path_is_written_as_it_is_whatever_stands_in_it(tmp_path, name):
    (pairs(tmp_path, f"{name}/images", f"{name}/masks") / "classes.json").write_text(IDS)
    for mask in (tmp_path / name / "masks").iterdir():
        mask.rename(mask.with_stem(f"{mask.stem}_its    own"))
    assert init(tmp_path)[0]
    assert data_of(tmp_path)["images"] == f"{name}/images"
    assert data_of(tmp_path)["mask_suffixes"][-1] == "_its    own"


@pytest.mark.parametrize(
    ("sizes", "scale"),
    [
        ([(2048, 2448)], 0.25),
        ([(1200, 1600)], 0.25),
        ([(1000, 1000)], 0.5),
        ([(512, 512)], 1.0),
        ([(2048, 2448), (2048, 2448), (200, 240)], 0.5),  # the small one would be under 64 pixels
    ],
)
def test_large_frames_are_reduced_and_small_tiles_are_not(sizes, scale):
    assert fitting_scale(sizes) == scale
