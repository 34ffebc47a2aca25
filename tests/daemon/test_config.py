"""run.toml: the careful defaults, every mistake at once with its key, and what may change between two calls."""

from __future__ import annotations

from pathlib import Path

import pytest
from segwatch.daemon.config import RunConfig, changed_keys, identity_hash, load_config, parse_config
from segwatch.data.config import SPLITS
from segwatch.errors import ConfigError
from segwatch.trainer.config import Amp, Optimizer

FULL = """\
[data]
root = "."
classes = "classes.true.json"          # .toml or .json: id, name, colour
use = "named-and-present"              # or a list of ids: [0, 1, 2, 3, 4]
scale = 0.125                          # images area/bicubic, masks nearest; default 0.25
[data.train]
images = "images/train"
masks = "masks_id/train"
[data.val]
images = "images/val"
masks = "masks_id/val"
[data.test]
images = "images/test"
masks = "masks_id/test"

[model]
name = "unet"
base_channels = 16                     # 64 is the published UNet

[trainer]
epochs = 6
batch_size = 4
lr = 1e-3                              # default 5e-5
optimizer = "adamw"                    # adamw | rmsprop | sgd
weight_decay = 1e-8
amp = "off"                            # off | bf16 | fp16
clip_grad_norm = 1.0
seed = 0
"""
DATA = """\
[data]
classes = "classes.toml"
[data.train]
images = "i"
masks = "m"
[data.val]
images = "i"
masks = "m"
[data.test]
images = "i"
masks = "m"
"""
WHERE = Path("somewhere/run.toml")


def parse(text: str) -> RunConfig:
    return parse_config(text.encode(), WHERE)


def complaint(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as raised:
        parse_config(text if isinstance(text, bytes) else text.encode(), WHERE)
    assert raised.value.exit_code == 78
    assert raised.value.where is not None
    assert raised.value.where.startswith(str(WHERE))
    assert raised.value.remedy
    return str(raised.value)


# --- what is read --------------------------------------------------------------------------------------------------


def test_the_documented_file_means_what_it_says():
    config = parse(FULL)
    assert config.data.classes == Path("classes.true.json")
    assert (config.data.use, config.data.scale) == ("named-and-present", 0.125)
    assert config.data.table("val").masks == Path("masks_id/val")
    assert config.model.base_channels == 16
    trainer = config.trainer
    assert (trainer.epochs, trainer.batch_size, trainer.lr, trainer.seed) == (6, 4, 1e-3, 0)
    assert (trainer.optimizer, trainer.amp) == (Optimizer.ADAMW, Amp.OFF)


def test_the_defaults_are_the_careful_ones():
    config = parse(DATA)
    trainer = config.trainer
    assert (trainer.batch_size, trainer.epochs, trainer.lr) == (1, 100, 5e-5)
    assert (trainer.optimizer, trainer.amp, trainer.clip_grad_norm) == (Optimizer.ADAMW, Amp.OFF, 1.0)
    assert (config.data.scale, config.data.use) == (0.25, "named-and-present")
    assert (config.loss.cross_entropy, config.loss.dice) == (1.0, 1.0)
    assert config.model.base_channels == 64
    assert config.evaluator.device == "auto"
    assert config.watch.hang_floor_seconds == 60
    assert config.checkpoints.keep_epochs is None


def test_the_defaults_of_alerts_and_recovery_are_those_of_the_field():
    config = parse(DATA)
    alerts, recovery = config.alerts, config.recovery
    assert (alerts.class_definition_miou, alerts.slow_start_miou, alerts.needs_debugging_miou) == (0.1, 0.2, 0.3)
    assert (recovery.lr_factor, recovery.amp_first, recovery.same_cause, recovery.whole_run) == (0.5, "off", 3, 8)
    assert (recovery.backoff_seconds, recovery.backoff_limit_seconds) == (5, 300)


def test_classes_may_be_a_list_of_ids():
    assert parse(DATA.replace("[data]", "[data]\nuse = [0, 3, 254]")).data.use == [0, 3, 254]


def test_a_file_is_read_from_disk_and_one_that_is_not_there_is_explained(tmp_path):
    (tmp_path / "run.toml").write_text(FULL)
    assert load_config(tmp_path / "run.toml") == parse(FULL)
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)


# --- mistakes ------------------------------------------------------------------------------------------------------


def test_all_mistakes_of_a_file_are_told_at_once_each_with_its_key():
    text = complaint(
        DATA.replace('classes = "classes.toml"', 'scale = 2\nuse = [70000]\n"on_bad_file" = "ignore"')
        + '[trainer]\nlr = -1\nepochs = 0\namp = "fp8"\nbatchsize = 3\n'
        + "[recovery]\nlr_factor = 1\n[watch]\nscan_seconds = nan"
    )
    assert "mistakes" in text
    for key in (
        "data.classes: missing",
        "data.scale:",
        "data.use",
        "data.on_bad_file:",
        "trainer.lr:",
        "trainer.epochs:",
        "trainer.amp:",
        "trainer.batchsize: unknown key",
        "recovery.lr_factor:",
        "watch.scan_seconds:",
    ):
        assert key in text, key


def test_a_mistake_says_what_the_value_is():
    assert "(it is -1)" in complaint(DATA + "[trainer]\nlr = -1")
    assert "(it is 'fp8')" in complaint(DATA + '[trainer]\namp = "fp8"')


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        (DATA + "[trainr]\nlr = 1", "trainr", "trainer"),
        (DATA + "[trainer]\nbatchsize = 1", "trainer.batchsize", "batch_size"),
        (DATA + "[trainer]\nlearning_rate = 1\nepoch = 3", "trainer.epoch", "epochs"),
        (DATA + "[model]\nbase_chanels = 1", "model.base_chanels", "base_channels"),
        (DATA + "[watch]\nhang_floor = 1", "watch.hang_floor", "hang_floor_seconds"),
        (DATA + "[checkpoints]\nkeep_epoch = 1", "checkpoints.keep_epoch", "keep_epochs"),
        (DATA.replace("[data]", "[data]\nscal = 1"), "data.scal", "scale"),
        (DATA.replace("[data.train]", "[data.train]\nimage = 'x'"), "data.train.image", "images"),
        (DATA.replace("[data.test]", "[data.tests]"), "data.tests", "test"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_key_of_its_table(text, key, meant):
    assert f"{key}: unknown key; did you mean {meant!r}?" in complaint(text)


def test_a_key_that_is_near_to_none_is_answered_with_those_that_there_are():
    assert "model.zzz: unknown key; known here: name, base_channels" in complaint(DATA + "[model]\nzzz = 1")


def test_a_group_pattern_looked_for_in_the_split_is_found_beside_it():
    drawn = '[data]\nclasses = "c.toml"\nimages = "i"\nmasks = "m"\nsplit = { val = 0.1, test = 0.1, pattern = "x" }\n'
    assert "data.split.pattern: unknown key; it is data.scene_pattern" in complaint(drawn)


def test_one_mistake_is_told_once_although_pydantic_tries_every_branch():
    text = complaint(DATA.replace("[data]", "[data]\nuse = 'all'"))
    assert "  line 2, data.use: " in text
    assert "function-" not in text
    assert "[" not in "".join(line.split(":")[0] for line in text.splitlines() if line.startswith("  line"))


@pytest.mark.parametrize(
    ("table", "setting", "said"),
    [
        (
            "data",
            "use = [70000]",
            'data.use: either "named-and-present" or a list of ids from 0 to 65535 (it is [70000])',
        ),
        ("data", "use = [1, 'a']", "(it is [1, 'a'])"),
        ("data", "merge = { a = [1] }", "data.merge: the ids that become one class, such as { 1 = [1, 17] }"),
        ("data", "merge = { 1 = 17 }", "(it is {'1': 17})"),
        (
            "data",
            "ignore = ['black', -1]",
            'data.ignore: a list of ids from 0 to 65535 and of colours such as "#000000"',
        ),
        ("data", "mask_format = 'rgb'", "data.mask_format: input should be 'auto', 'ids', 'colours' or 'binary'"),
        ("data", "mask_suffixes = '_gt'", "data.mask_suffixes: input should be a list (it is '_gt')"),
        ("data", "scene_pattern = '('", "data.scene_pattern: no regular expression: missing )"),
        ("loss", "class_weights = 'median'", 'loss.class_weights: "none", "median-frequency", "inverse", or a list'),
        ("loss", "class_weights = [1, -1]", "(it is [1, -1])"),
        ("augment", "scale = [1]", "augment.scale: two numbers from 0.1 to 10, such as [0.8, 1.25] (it is [1])"),
    ],
)
def test_a_setting_with_several_forms_is_explained_in_one_line(table, setting, said):
    text = DATA.replace("[data]", f"[data]\n{setting}") if table == "data" else f"{DATA}[{table}]\n{setting}"
    lines = [line for line in complaint(text).splitlines() if line.startswith("  ")]
    assert len(lines) == 2, lines  # the mistake, and the remedy
    assert said in lines[0]


def test_a_table_is_called_a_table():
    assert "  line 1, data: input should be a table (it is 3)" in complaint("data = 3")


def test_missing_splits_are_told_although_other_settings_are_wrong_too():
    text = complaint("[data]\nscale = 2\n[data.train]\nimages = 'i'\n")
    assert "data.scale:" in text
    assert "data.classes: missing" in text
    assert "data: [data.val], [data.test] missing" in text
    assert "data: [data.train] has no masks" in text


def test_splits_may_be_drawn_or_listed_and_classes_merged():
    drawn = parse(
        "[data]\nclasses = 'c.py'\nimages = 'i/*/cam'\nmasks = 'm'\nmerge = { 1 = [1, 17] }\nignore = [25, '#000000']\n"
        "split = { val = 0.1, test = 0.2, by = 'image', seed = 3 }"
    ).data
    assert drawn.split is not None
    assert (drawn.split.val, drawn.split.test, drawn.split.by, drawn.split.seed) == (0.1, 0.2, "image", 3)
    assert drawn.merge == {1: [1, 17]}
    assert drawn.ignore == [25, "#000000"]
    listed = parse("[data]\nclasses = 'c.toml'\n" + "".join(f"[data.{n}]\nlist = '{n}.txt'\n" for n in SPLITS)).data
    assert listed.table("val") is not None
    assert listed.split is None


@pytest.mark.parametrize(
    "text",
    [b"[data", b"\xff\xfe", b"x = 1\nx = 2", b"[data]\nclasses = 3979-99-99"],
    ids=["open", "no-utf8", "twice", "no-date"],
)
def test_what_is_no_toml_is_explained(text):
    assert "not TOML" in complaint(text)


@pytest.mark.parametrize("text", ["", "trainer = 3", "data = []", "[[data]]", "data.train = 1979-05-27"])
def test_what_is_toml_but_no_configuration_is_explained(text):
    assert "mistake" in complaint(text)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("key", ["trainer.lr", "watch.scan_seconds", "data.scale", "alerts.min_delta"])
def test_no_setting_may_be_a_number_that_is_not_finite(key, number):
    table, name = key.split(".")
    text = (
        DATA.replace("[data]", f"[data]\n{name} = {number}")
        if table == "data"
        else f"{DATA}[{table}]\n{name} = {number}"
    )
    assert f"{key}:" in complaint(text)


# --- two files of one run ------------------------------------------------------------------------------------------


def test_the_same_settings_have_no_changed_keys_however_they_are_written():
    assert changed_keys(parse(DATA), parse(DATA + "[trainer]\nlr = 0.00005\n[model]\nbase_channels = 64")) == {}


def test_changed_keys_name_section_and_key_with_both_values():
    after = parse(
        DATA.replace('images = "i"', 'images = "j"', 1) + "[trainer]\nepochs = 7\n[checkpoints]\nkeep_epochs = 2"
    )
    assert changed_keys(parse(DATA), after) == {
        "data.train.images": ("i", "j"),
        "trainer.epochs": (100, 7),
        "checkpoints.keep_epochs": (None, 2),
    }


def test_a_checkpoint_belongs_to_network_classes_and_scale_and_to_nothing_else():
    base = parse(DATA)
    same = identity_hash(base, (0, 1))
    assert len(same) == 16
    assert identity_hash(parse(DATA + "[trainer]\nlr = 1\nepochs = 3"), (0, 1)) == same
    assert identity_hash(base, (0, 2)) != same
    assert identity_hash(parse(DATA + "[model]\nbase_channels = 8"), (0, 1)) != same
    assert identity_hash(parse(DATA.replace("[data]", "[data]\nscale = 0.5")), (0, 1)) != same
