"""Mistakes in run.toml: each names the file, the key and the line."""

from __future__ import annotations

from .table import RUN_TOML, Mistake, added, written, wrong

RUN = "run run.toml"
DRAWN = """\
[data]
classes = "classes.json"
images = "images"
masks = "masks"
split = {{ {split} }}
"""


def value(name: str, old: str, new: str, key: str, *says: str) -> Mistake:
    """Another value of a setting that stands in RUN_TOML."""
    return Mistake(name, RUN, says, wrong(old, new), at=(new, key))


def setting(name: str, table: str, text: str, key: str, *says: str) -> Mistake:
    """One more setting."""
    return Mistake(name, RUN, says, added(f"\n[{table}]\n{text}\n"), at=(text, key))


MISTAKES = (
    # --- the file
    Mistake("no such file", "run elsewhere/nothing.toml", ("elsewhere/nothing.toml", "segwatch init")),
    Mistake("no such file, another name", "run rum.toml", ("rum.toml", "did you mean 'run.toml'?")),
    Mistake("a directory", "run images", ("images", "Is a directory", "segwatch init images")),
    Mistake(
        "a picture",
        "audit images/one.png",
        ("one.png", "UTF-8"),
    ),
    Mistake("an empty file", RUN, ("data: missing", "segwatch init"), written("")),
    Mistake("only comments", "audit run.toml", ("data: missing", "segwatch init"), written("# later\n")),
    Mistake(
        "not UTF-8",
        RUN,
        ("line 3", "UTF-8"),
        written(RUN_TOML.replace("classes.json", "Stra\xdfe.json").encode("latin-1")),
    ),
    Mistake("UTF-16, as an editor saves it", RUN, ("UTF-8", "save"), written(RUN_TOML.encode("utf-16"))),
    Mistake("no value", RUN, ("not TOML", "line 4, column 8", "invalid value"), wrong("scale = 0.5", "scale =")),
    Mistake(
        "no quotes",
        RUN,
        ("not TOML", "line 3, column 11", "texts stand in quotes"),
        wrong('"classes.json"', "classes.json"),
    ),
    Mistake("an open bracket", RUN, ("not TOML", "line 5", "[trainer]"), wrong("[data.train]", "[data.train")),
    Mistake("an open list", RUN, ("not TOML", "line 18", "never closed"), added("[data.x]\nuse = [1, 2\n")),
    Mistake("a key twice", RUN, ("not TOML", "line 5", "'scale'"), wrong("scale = 0.5", "scale = 0.5\nscale = 0.25")),
    Mistake("a table twice", RUN, ("not TOML", "line 17", "trainer"), added("[trainer]\nseed = 1\n")),
    Mistake("a colon", RUN, ("not TOML", "line 16", "key = value"), wrong("lr = 1e-3", "lr: 1e-3")),
    # --- keys
    value("a key with a typo", "epochs = 3", "epoch = 3", "trainer.epoch", "unknown key; did you mean 'epochs'?"),
    value(
        "a key of other programs", "lr = 1e-3", "learning_rate = 1e-3", "trainer.learning_rate", "did you mean 'lr'?"
    ),
    value("a table with a typo", "[trainer]", "[trainr]", "trainr", "did you mean 'trainer'?"),
    value(
        "a split with a typo", "[data.test]", "[data.tset]", "data.tset", "did you mean 'test'?", "[data.test] missing"
    ),
    value(
        "a key of a split with a typo",
        'masks = "masks_val"',
        'mask = "masks_val"',
        "data.val.mask",
        "did you mean 'masks'?",
    ),
    setting("a key in the wrong table", "model", "lr = 5e-5", "model.lr", "unknown key; it is trainer.lr"),
    setting("a key near to none", "watch", "zzz = 1", "watch.zzz", "known here: scan_seconds"),
    Mistake(
        "a key above every table",
        RUN,
        ("lr: unknown key; it is trainer.lr",),
        written("lr = 5e-5\n" + RUN_TOML),
        at=("lr = 5e-5", "lr"),
    ),
    Mistake(
        "an unknown split key",
        RUN,
        ("unknown key; did you mean 'val'?",),
        written(DRAWN.format(split="vall = 0.1")),
        at=("vall", "data.split.vall"),
    ),
    # --- values
    value("a learning rate in quotes", "lr = 1e-3", 'lr = "1e-3"', "trainer.lr", "number", "without quotes"),
    value("a negative learning rate", "lr = 1e-3", "lr = -1e-3", "trainer.lr", "greater than 0"),
    value("a learning rate that is not finite", "lr = 1e-3", "lr = nan", "trainer.lr", "finite"),
    value("no epochs", "epochs = 3", "epochs = 0", "trainer.epochs", "greater than or equal to 1"),
    value("half an epoch", "epochs = 3", "epochs = 1.5", "trainer.epochs", "whole number"),
    value("scale 0", "scale = 0.5", "scale = 0", "data.scale", "greater than 0"),
    value("scale above 1", "scale = 0.5", "scale = 2", "data.scale", "less than or equal to 1"),
    value("an empty path", 'images = "images_val"', 'images = ""', "data.val.images", "empty"),
    setting("batch 0", "loss", "dice = -1", "loss.dice", "greater than or equal to 0"),
    value(
        "batch size 0", "epochs = 3", "epochs = 3\nbatch_size = 0", "trainer.batch_size", "greater than or equal to 1"
    ),
    value(
        "an optimizer with a typo",
        "epochs = 3",
        'epochs = 3\noptimizer = "adam"',
        "trainer.optimizer",
        "did you mean 'adamw'?",
    ),
    value(
        "an optimizer in capitals",
        "epochs = 3",
        'epochs = 3\noptimizer = "AdamW"',
        "trainer.optimizer",
        "did you mean 'adamw'?",
    ),
    value("AMP as a truth", "epochs = 3", "epochs = 3\namp = true", "trainer.amp", "'off', 'bf16' or 'fp16'"),
    value("a device of another maker", "epochs = 3", 'epochs = 3\ndevice = "gpu"', "trainer.device", "cuda"),
    value("one word for yes", "epochs = 3", "epochs = 3\n[augment]\nflip = 'yes'", "augment.flip", "true or false"),
    setting("a model that there is none of", "model", 'name = "resnet"', "model.name", "'unet'"),
    setting(
        "a loss that there is none of", "loss", "cross_entrpy = 1", "loss.cross_entrpy", "did you mean 'cross_entropy'?"
    ),
    Mistake(
        "no loss at all",
        RUN,
        ("nothing to minimise",),
        added("\n[loss]\ncross_entropy = 0\ndice = 0\n"),
        at=("[loss]", "loss"),
    ),
    setting("class weights by a typo", "loss", 'class_weights = "median"', "loss.class_weights", "median-frequency"),
    setting(
        "class weights of the wrong length",
        "loss",
        "class_weights = [1, 2, 3]",
        "loss.class_weights",
        "3 numbers",
        "2 classes",
        "0 a, 1 b",
    ),
    setting("a crop that is too small", "augment", "crop = 8", "augment.crop", "32 is the least"),
    setting(
        "a zoom the wrong way round", "augment", "scale = [1.5, 0.5]", "augment.scale", "the smaller one comes first"
    ),
    setting("recovery that lowers nothing", "recovery", "lr_factor = 1.5", "recovery.lr_factor", "less than 1"),
    setting("a text for seconds", "watch", 'scan_seconds = "2s"', "watch.scan_seconds", "number"),
    # --- whom to tell
    setting("a secret in the open", "alerts", 'notify = ["slack://token/in/clear"]', "alerts.notify", "env:NAME"),
    setting("one channel, no list", "alerts", 'notify = "env:SLACK_URL"', "alerts.notify", "a list"),
    setting(
        "a variable that is not set",
        "alerts",
        'notify = ["env:SEGWATCH_NOBODY"]',
        "alerts.notify",
        "env:SEGWATCH_NOBODY is empty or not set",
        "export SEGWATCH_NOBODY=",
    ),
    setting(
        "an address file that is not there",
        "alerts",
        'notify = ["file:secret.txt"]',
        "alerts.notify",
        "secret.txt",
        "No such file",
    ),
    setting(
        "two channels that are both wrong",
        "alerts",
        'notify = ["env:SEGWATCH_NOBODY", "file:secret.txt"]',
        "alerts.notify",
        "SEGWATCH_NOBODY",
        "secret.txt",
    ),
    setting("quiet hours in words", "alerts", 'quiet_hours = "10pm to 7am"', "alerts.quiet_hours", "22:00-07:00"),
    setting("a digest at no time", "alerts", 'daily_digest = "8"', "alerts.daily_digest", "08:00"),
    Mistake("nobody to notify", "notify test run.toml", ("alerts.notify is empty", "run.toml", "env:SLACK_URL")),
    # --- how the data is split
    Mistake(
        "fractions above 1",
        RUN,
        ("leave nothing to train on",),
        written(DRAWN.format(split="val = 0.6, test = 0.6")),
        at=("split", "data.split"),
    ),
    Mistake(
        "a fraction of 20",
        RUN,
        ("less than 1",),
        written(DRAWN.format(split="val = 20, test = 0.1")),
        at=("split", "data.split.val"),
    ),
    Mistake(
        "drawn and named",
        RUN,
        ("keep one of the two",),
        wrong("scale = 0.5", "split = { val = 0.1 }"),
        at=("[data]", "data"),
    ),
    Mistake(
        "a split without a directory",
        RUN,
        ("[data.val] has no masks",),
        wrong('masks = "masks_val"\n', ""),
        at=("[data.val]", "data"),
    ),
    Mistake(
        "no test split",
        RUN,
        ("[data.test] missing", "split ="),
        wrong('[data.test]\nimages = "images_test"\nmasks = "masks_test"\n', ""),
        at=("[data]", "data"),
    ),
    Mistake(
        "a scene pattern that is none",
        RUN,
        ("no regular expression",),
        wrong("scale = 0.5", 'scene_pattern = "("'),
        at=("scene_pattern", "data.scene_pattern"),
    ),
    Mistake(
        "splits of one scene",
        RUN,
        ("cannot make 3 splits", "scene_pattern"),
        written(DRAWN.format(split="val = 0.1, test = 0.1")),
        at=("split", "data.split"),
    ),
    # --- everything at once
    Mistake(
        "five mistakes",
        "audit run.toml",
        (
            "5 mistakes",
            "line 4, data.scale",
            "line 8, data.vall",
            "line 15, trainer.epoch:",
            "line 16, trainer.lr",
            "missing",
        ),
        written(
            RUN_TOML.replace("0.5", "2")
            .replace("data.val]", "data.vall]")
            .replace("epochs", "epoch")
            .replace("1e-3", "'x'")
        ),
    ),
    Mistake(
        "mistakes of the data tables as well",
        "systemd run.toml",
        ("data.scale",),
        wrong("0.5", "9"),
        at=("scale", "data.scale"),
    ),
    Mistake(
        "a plan of a wrong file", "run run.toml --dry-run", ("trainer.lr",), wrong("1e-3", "0"), at=("lr", "trainer.lr")
    ),
)
