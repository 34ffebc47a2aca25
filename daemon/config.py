"""run.toml: each room's own table, composed and validated. Knows the names of settings, not what they do."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ..checkpoints.config import CheckpointConfig
from ..data.config import LAST_ID, SPLITS, AugmentConfig, DataConfig, split_mistakes
from ..durable import dumps, read_text
from ..errors import ConfigError
from ..evaluator.config import EvaluatorConfig
from ..nearby import did_you_mean, nearest, nearest_path
from ..section import Section
from ..toml_lines import line_of, lines_of
from ..trainer.config import LossConfig, ModelConfig, TrainerConfig
from . import channels
from .channels import Channel
from .quiet import Hours, TimeOfDay
from .toml_mistakes import no_text, no_toml

FILE_LIMIT_BYTES = 1 << 20
LIKENESS = 0.5
"""From which on a key is worth proposing: what is known there is a short list."""
Seconds = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


IDS = f"from 0 to {LAST_ID}"
IN_WORDS = {
    "data.use": f'either "named-and-present" or a list of ids {IDS}',
    "data.merge": f"the ids that become one class, such as {{ 1 = [1, 17] }}; ids are {IDS}",
    "data.ignore": f'a list of ids {IDS} and of colours such as "#000000"',
    "loss.class_weights": '"none", "median-frequency", "inverse", or a list of one number per class, 0 or more',
    "trainer.device": '"auto", "cpu", "cuda" or one GPU of several, such as "cuda:1"',
    "evaluator.device": '"auto", "cpu" or a GPU by its number, such as "cuda:0"',
    "augment.scale": "two numbers from 0.1 to 10, such as [0.8, 1.25]",
}
"""What may stand where there are several possibilities; pydantic would complain about each of them."""
TOML_WORDS = {
    "a valid array": "a list",
    "a valid list": "a list",
    "a valid tuple": "a list",
    "an object": "a table",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a text in quotes",
}
"""A person's names for what JSON calls otherwise."""
SYNONYMS = {"learning_rate": "lr", "bs": "batch_size", "mixed_precision": "amp", "clip": "clip_grad_norm"}
"""What other programs call it."""
ELSEWHERE = dict.fromkeys(("pattern", "group", "group_pattern", "scene_pattern"), "data.scene_pattern")
"""What is looked for in `data.split` and stands beside it, since the search for leaks needs it as well."""


class WatchConfig(Section):
    scan_seconds: Seconds = 2.0
    """How often everything is looked at; file events only shorten the wait."""
    hang_floor_seconds: Seconds = 60.0
    """A worker in training is hung after max(this, 6 x its p99 step) without a step."""
    first_step_seconds: Seconds = 900.0
    """Limit for the first step, which may compile and tune."""
    loading_seconds: Seconds = 900.0
    """Limit for loading without one more file loaded."""
    saving_seconds: Seconds = 600.0
    """Limit for writing one checkpoint."""
    stop_grace_seconds: Seconds = 60.0
    """How long a worker may take to save and leave when it is asked to."""
    disk_free_gb: Annotated[float, Field(ge=0)] = 1.0
    """With less room than this where the run is written, there is an alert, and no attempt is started."""
    prometheus: str = "prometheus.prom"
    """Where the main gauges go, for node_exporter's textfile collector: a file below the run directory, or an absolute
    path; a directory takes one file for each run. `""`: nowhere."""


class AlertsConfig(Section):
    patience: Annotated[int, Field(ge=1)] = 10
    """Epochs without a really better one (by `min_delta` or more, and beyond the noise of the test images) that make a
    stall, unless the scores still rise."""
    min_delta: Fraction = 0.002
    """The least gain in test mIoU that counts as one."""
    class_definition_miou: Fraction = 0.10
    """Under this after three epochs, the class table is the first suspect."""
    slow_start_miou: Fraction = 0.20
    """Expected by epoch 10."""
    needs_debugging_miou: Fraction = 0.30
    """Expected by epoch 50."""
    collapse_drop: Fraction = 0.30
    """A fall by this share of the best test mIoU is a collapse."""
    evaluation_lag: Annotated[int, Field(ge=2)] = 5
    """Committed epochs that wait for their scores, from which on it is worth saying."""
    best_gap: Fraction = 0.02
    """Test mIoU lost by choosing the epoch on val, from which on it is worth saying; not told where the test images
    leave it in doubt."""
    notify: tuple[Channel, ...] = ()
    """Who is told besides: apprise URLs, each as `"env:NAME"` or `"file:/path"`, or as a table with a `severity` (the
    least that it is told of), `resolved`, `digest` and `quiet_hours`. See docs/alerts.md."""
    daily_digest: TimeOfDay = ""
    """When a day is told in one message, such as `"08:00"`: epochs, scores, alerts, what was done, time left."""
    quiet_hours: Hours = ""
    """Such as `"22:00-07:00"`: critical notifications still come, others are held and come as one when they end."""
    notify_retry_seconds: Seconds = 5.0
    """Wait before a notification that was not taken is tried again; doubles each time, up to 5 minutes."""
    notify_wait_seconds: Annotated[float, Field(ge=0)] = 60.0
    """How long the end of a run waits for notifications that are not delivered yet."""


class RecoveryConfig(Section):
    lr_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What the learning rate is multiplied by when the loss became NaN without mixed precision."""
    amp_first: Literal["off", "bf16"] = "off"
    """What mixed precision falls back to first when it becomes unstable."""
    same_cause: Annotated[int, Field(ge=0)] = 3
    """Restarts for one cause without a newer verified-good epoch."""
    whole_run: Annotated[int, Field(ge=0)] = 8
    """Restarts in the whole run."""
    backoff_seconds: Annotated[float, Field(ge=0)] = 5.0
    """Wait before a worker that was killed, crashed or hung again is started: the first time it is started at once, the
    second after this, and each time after twice as long."""
    backoff_limit_seconds: Annotated[float, Field(ge=0)] = 300.0
    """The longest such wait."""
    wait_for_scores_seconds: Annotated[float, Field(ge=0)] = 900.0
    """How long a roll-back waits for the evaluator, to know which epoch is verified good."""
    diagnose: bool = True
    """Whether a numeric incident is replayed before it is answered; without, the ladder of remedies decides."""
    diagnosis_seconds: Seconds = 120.0
    """How long such a replay may take, before the ladder decides."""
    warm_up_steps: Annotated[int, Field(ge=0)] = 50
    """Over how many steps the rate rises again after it was lowered."""
    probation_epochs: Annotated[int, Field(ge=1)] = 2
    """Epochs that a remedy has to last before its incident counts as resolved."""
    probation_share: Fraction = 0.98
    """Of the test mIoU before the incident: what has to be reached again for the same."""
    undo: bool = True
    """Whether a remedy that has proved itself is taken back, one at a time, to see whether it is still needed."""
    on_collapse: Literal["restart", "alert"] = "restart"
    """What follows when two scores in a row fall far below the best: roll back with a lower rate, or only alert."""
    standby: bool = True
    """Whether a process with everything imported waits to take the place of a worker that dies: some 340 MB, no GPU."""


class RunConfig(Section):
    # What stands in the file may be a secret in the wrong place: no traceback repeats it.
    model_config = ConfigDict(hide_input_in_errors=True)

    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    watch: WatchConfig = WatchConfig()
    alerts: AlertsConfig = AlertsConfig()
    recovery: RecoveryConfig = RecoveryConfig()


def load_config(path: Path, needed: Collection[str] = SPLITS) -> RunConfig:
    """Raises ConfigError that holds every mistake of the file at once, each with its key.

    `needed` are the splits that it must name.
    """
    try:
        text = read_text(path, limit=FILE_LIMIT_BYTES, encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=path, remedy=_another_file(path)) from error
    except UnicodeDecodeError as error:
        raise no_text(path, error) from error
    except ValueError as error:
        raise ConfigError(str(error), where=path, remedy="give the path of a run.toml") from error
    return parse_config(text.encode(), path, needed)


def parse_config(text: bytes, where: Path, needed: Collection[str] = SPLITS) -> RunConfig:
    try:
        table = tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise no_text(where, error) from error
    except tomllib.TOMLDecodeError as error:
        raise no_toml(where, text.decode(), error) from error
    try:
        # As JSON, where strict types are told apart and a path may still be written as a string.
        written = json.dumps(table, default=str)
        return RunConfig.model_validate_json(written, strict=True, context={"needed_splits": needed})
    except ValidationError as error:
        lines = lines_of(text.decode())
        placed = [(line_of(lines, place), words) for place, words in _explain(error, table, needed)]
        placed.sort(key=lambda mistake: mistake[0] or math.inf)
        plural = "1 mistake" if len(placed) == 1 else f"{len(placed)} mistakes"
        told = [f"  {words}" if line is None else f"  line {line}, {words}" for line, words in placed]
        raise ConfigError("\n".join([f"{plural}:", *told]), where=where, remedy=_remedy(table)) from error


def _another_file(path: Path) -> str:
    """What may have been meant by a path that cannot be read."""
    if path.is_dir():
        inside = path / "run.toml"
        writes = f"give the path of a run.toml; `segwatch init {shlex.quote(str(path))}` writes one there"
        return did_you_mean(inside) if inside.is_file() else writes
    otherwise = "give the path of a run.toml; `segwatch init DIR` writes one for a folder of images and masks"
    return did_you_mean(nearest_path(path)) or otherwise


def _remedy(table: Mapping[str, Any]) -> str:
    if "data" not in table:
        return "write [data], as docs/configuration.md has it; `segwatch init DIR` writes a whole run.toml for a folder"
    return "mend these lines; every setting is explained in docs/configuration.md"


def identity_hash(config: RunConfig, class_ids: Sequence[int]) -> str:
    """Of what makes a checkpoint belong to a run: the network, the classes and the scale."""
    identity = {"model": config.model.model_dump(mode="json"), "ids": list(class_ids), "scale": config.data.scale}
    return hashlib.sha256(dumps(identity).encode()).hexdigest()[:16]


def changed_keys(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """`section.key` -> (old, new) for every setting that differs."""
    old, new = dict(_flat(before.model_dump(mode="json"))), dict(_flat(after.model_dump(mode="json")))
    return {key: (old.get(key), new.get(key)) for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _explain(
    error: ValidationError, table: dict[str, Any], needed: Collection[str]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(where it stands, what is wrong with it) of each mistake, with the nearest known key for an unknown one."""
    told: set[str] = set()
    for mistake in error.errors(include_url=False):
        place = tuple(part for part in mistake["loc"] if not _is_union_branch(part))
        if place == ("data",) and mistake["type"] == "value_error":
            continue  # told below, each by itself
        words = _in_words(mistake, place, table)
        if words not in told:
            told.add(words)
            yield place, words
    data = table.get("data")
    if isinstance(data, dict):
        # Pydantic looks at the whole of a table only when each of its settings is right.
        for words in split_mistakes(data, needed):
            about = next((("data", name) for name in SPLITS if words.startswith(f"[data.{name}] has")), ("data",))
            yield about, f"data: {words}"


def _in_words(mistake: ErrorDetails, place: tuple[str | int, ...], table: dict[str, Any]) -> str:
    """The key, and what is wrong with it."""
    key = ".".join(map(str, place))
    setting = ".".join(key.split(".")[:2])
    if setting == "alerts.notify":
        entry = next((f", entry {part + 1}" for part in place if isinstance(part, int)), "")
        inner = "".join(f", {part}" for part in place[3:] if part != "url")
        key = f"{setting}{entry}{inner}"
    match mistake["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key{_nearest([part for part in place if isinstance(part, str)])}"
        case "value_error":
            return f"{key}: {mistake['ctx']['error']}"
        case _ if setting == "alerts.notify":
            return f"{key}: {channels.IN_WORDS}"
        case _ if setting in IN_WORDS:
            return f"{setting}: {IN_WORDS[setting]} (it is {_as_toml(_written(table, setting))})"
        case "missing":
            return f"{key}: missing"
        case "enum" | "literal_error":
            return (
                f"{key}: {_in_toml_words(mistake['msg'])} (it is {_as_toml(mistake['input'])}){_near_choice(mistake)}"
            )
        case _:
            hint = "; write it without quotes" if _is_quoted_number(mistake["input"]) else ""
            return f"{key}: {_in_toml_words(mistake['msg'])} (it is {_as_toml(mistake['input'])}{hint})"


def _near_choice(mistake: ErrorDetails) -> str:
    """`; did you mean 'adamw'?` for a word that is near to one of those that may stand there."""
    if not isinstance(mistake["input"], str):
        return ""
    choices = re.findall("'([^']*)'", mistake["ctx"]["expected"])
    return did_you_mean(nearest(mistake["input"], choices, likeness=LIKENESS), before="; ")


def _is_quoted_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _as_toml(value: Any) -> str:
    """As it stands in the file."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _written(table: Any, setting: str) -> Any:
    """What stands in the file for a setting that is there."""
    for key in setting.split("."):
        table = table[key]
    return table


def _in_toml_words(message: str) -> str:
    for theirs, ours in TOML_WORDS.items():
        message = message.replace(theirs, ours)
    return message[0].lower() + message[1:]


def _is_union_branch(part: str | int) -> bool:
    """Pydantic adds the branch of a union to the location; it is no key of the file."""
    return isinstance(part, str) and ("[" in part or part in {"int", "str"} or part.startswith("constrained-"))


def _nearest(location: list[str]) -> str:
    if location[:-1] == ["data", "split"] and (place := ELSEWHERE.get(location[-1])):
        return f"; it is {place}"
    known = _fields_at(RunConfig, location[:-1])
    name = SYNONYMS.get(location[-1], location[-1])
    if name in known:
        return did_you_mean(name, before="; ")
    if tables := _tables_with(name):
        return f"; it is {' or '.join(f'{table}.{name}' for table in tables)}"
    if near := nearest(location[-1], known, likeness=LIKENESS):
        return did_you_mean(near, before="; ")
    return f"; known here: {', '.join(known)}" if known else ""


def _tables_with(name: str) -> list[str]:
    """The tables of the file that have a setting of this name."""
    return [table for table in RunConfig.model_fields if name in _fields_at(RunConfig, [table])]


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for name in path:
        field = model.model_fields.get(name)
        if field is None:
            return []
        candidates = [field.annotation, *get_args(field.annotation)]
        models = [entry for entry in candidates if isinstance(entry, type) and issubclass(entry, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
