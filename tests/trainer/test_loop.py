"""Whole attempts on a tiny data set, in this process: `run` is all that a worker does but its signals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from segwatch.checkpoints.files import load_state, load_weights
from segwatch.checkpoints.manifest import Manifest, read_manifest
from segwatch.data.augment import Augmentation
from segwatch.data.batches import Batch, load_batch
from segwatch.data.cache import open_cache
from segwatch.data.config import AugmentConfig
from segwatch.data.resolved import ResolvedData
from segwatch.durable import next_number, read_lines
from segwatch.trainer import incident, loop
from segwatch.trainer.__main__ import run
from segwatch.trainer.contract import JOURNAL_LINE, AttemptSpec, Drill, ExitCode, ExitRecord, JournalLine, attempt_dir

STEPS_PER_EPOCH = 4
EVERY_CHANGE = {
    "flip": True,
    "turn": True,
    "scale": (0.5, 2.0),
    "crop": 32,
    **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.2),
}
EVERY_LOSS = {"focal": 1, "lovasz": 1, "tversky": 1, "class_weights": [0.5, 1.0, 2.0]}


def never() -> bool:
    return False


def run_spec(spec: AttemptSpec, stop: Callable[[], bool] = never) -> ExitCode:
    return run(spec.directory / "spec.json", stop)


def lines(spec: AttemptSpec, kind: str | None = None) -> list[JournalLine]:
    raw, _ = read_lines(spec.directory / "journal.jsonl")
    return [line for line in map(JOURNAL_LINE.validate_json, raw) if kind in {None, line.kind}]


def exit_record(spec: AttemptSpec) -> ExitRecord:
    return ExitRecord.model_validate_json((spec.directory / "exit.json").read_text())


def checkpoint(spec: AttemptSpec, stem: str) -> tuple[Path, Manifest]:
    directory = spec.run_dir / "checkpoints"
    return directory, read_manifest(directory / f"{stem}.json")


def weights(spec: AttemptSpec, stem: str) -> dict[str, torch.Tensor]:
    return load_weights(*checkpoint(spec, stem))


def assert_bit_identical(one: object, other: object) -> None:
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys()
        for key in one:
            assert_bit_identical(one[key], other[key])
    else:
        assert one == other


class StopAfter:
    """Says stop once so many optimizer steps were taken."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> StopAfter:
        take = loop.Stepper.take

        def counted(stepper, *args, **kwargs):
            self._left -= 1
            return take(stepper, *args, **kwargs)

        monkeypatch.setattr(loop.Stepper, "take", counted)
        return self

    def __call__(self) -> bool:
        return self._left <= 0


def test_a_whole_attempt_tells_what_is_in_force_and_commits_every_epoch(make_spec):
    spec = make_spec(epochs=2, schedule="poly", lr=0.02)
    assert run_spec(spec) == ExitCode.FINISHED

    (started,) = lines(spec, "started")
    assert (started.lr, started.amp, started.batch_size, started.steps_per_epoch) == (0.02, "off", 2, STEPS_PER_EPOCH)
    phases = [line.phase for line in lines(spec, "phase")]
    assert phases[:4] == ["loading", "saving", "first-step", "training"]
    saved = lines(spec, "checkpoint")
    assert [(line.role, line.epoch, line.step) for line in saved] == [
        ("initial", 0, 0),
        ("epoch", 1, STEPS_PER_EPOCH),
        ("epoch", 2, 2 * STEPS_PER_EPOCH),
    ]
    assert saved[0].train_loss is None
    assert 0 < saved[2].train_loss < saved[1].train_loss
    assert [line.sha256 for line in saved] == [
        checkpoint(spec, Path(line.manifest).stem)[1].weights.sha256 for line in saved
    ]
    progress = lines(spec, "progress")
    told = [line.step for line in progress]
    assert told == sorted(set(told)), "no step twice"
    assert {1, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH} <= set(told)  # a slow machine tells of others too
    assert progress[0].lr == 0.02
    assert progress[-1].lr < 0.02
    assert lines(spec)[-1].outcome == "finished"
    record = exit_record(spec)
    assert (record.code, record.epoch, record.step, record.stepped) == (ExitCode.FINISHED, 2, 8, True)
    assert list((spec.run_dir / "tensorboard" / "train").iterdir())


def test_every_epoch_visits_every_image_once_and_each_in_its_own_order(make_spec, monkeypatch):
    visited: list[str] = []
    load_batch = loop.load_batch

    def watched(cache, indices, *changes, **when):
        batch = load_batch(cache, indices, *changes, **when)
        visited.extend(batch.names)
        return batch

    monkeypatch.setattr(loop, "load_batch", watched)
    run_spec(make_spec(epochs=2, batch_size=1, accumulate=2))
    first, second = visited[: len(visited) // 2], visited[len(visited) // 2 :]
    assert sorted(first) == sorted(second) == [f"image{number}.png" for number in range(7)]
    assert first != second


def test_training_again_from_the_same_seed_gives_the_same_bytes(make_spec):
    one, other = make_spec(run="one", epochs=1), make_spec(run="other", epochs=1)
    run_spec(one)
    run_spec(other)
    assert checkpoint(one, "checkpoint_epoch1")[1].weights == checkpoint(other, "checkpoint_epoch1")[1].weights


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "sgd", "schedule": "cosine"},
        {"optimizer": "adamw", "batch_size": 1, "accumulate": 2},
        {"optimizer": "rmsprop"},
        {"optimizer": "adamw", "amp": "fp16"},
        {"optimizer": "adamw", "augment": EVERY_CHANGE, "loss": EVERY_LOSS},
    ],
    ids=["sgd-cosine", "accumulated", "rmsprop", "fp16", "augmented"],
)
def test_a_run_stopped_inside_an_epoch_and_continued_ends_bit_for_bit_as_one_that_was_not(
    make_spec, monkeypatch, values
):
    undisturbed = make_spec(run="undisturbed", **values)
    assert run_spec(undisturbed) == ExitCode.FINISHED

    stopped = make_spec(run="stopped", **values)
    with monkeypatch.context() as patched:
        assert run_spec(stopped, StopAfter(6).watch(patched)) == ExitCode.STOPPED
    assert checkpoint(stopped, "recovery_step6")[1].step_in_epoch == 2

    resumed = make_spec(run="stopped", attempt=2, resume_from="checkpoints/recovery_step6.json", **values)
    assert run_spec(resumed) == ExitCode.FINISHED
    assert lines(resumed, "started")[0].step == 6
    for stem in ("checkpoint_epoch1", "checkpoint_epoch2"):
        assert_bit_identical(weights(undisturbed, stem), weights(resumed, stem))
    one, other = (load_state(*checkpoint(spec, "checkpoint_epoch2")) for spec in (undisturbed, resumed))
    assert_bit_identical(one, other)
    assert lines(undisturbed, "checkpoint")[-1].train_loss == lines(resumed, "checkpoint")[-1].train_loss


def seen_batches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Every micro-batch that training loads from now on."""
    seen: list[Batch] = []
    load = loop.load_batch

    def watched(*args, **kwargs):
        seen.append(load(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(loop, "load_batch", watched)
    return seen


def test_augmentation_shows_each_image_otherwise_in_each_epoch_and_alike_in_each_micro_batch_size(
    make_spec, monkeypatch
):
    seen = seen_batches(monkeypatch)
    whole = make_spec(run="whole", augment=EVERY_CHANGE)
    halved = make_spec(run="halved", augment=EVERY_CHANGE, batch_size=1, accumulate=2)
    run_spec(whole)
    views = {}
    for number, batch in enumerate(seen):
        for name, image, mask in zip(batch.names, batch.images, batch.masks, strict=True):
            views[name, number // STEPS_PER_EPOCH] = (image, mask)
    names = {name for name, _ in views}
    assert len(names) == 7
    assert all(not torch.equal(views[name, 0][0], views[name, 1][0]) for name in names)

    seen.clear()
    run_spec(halved)
    for number, batch in enumerate(seen):
        image, mask = views[batch.names[0], number // 7]
        assert torch.equal(batch.images[0], image)
        assert torch.equal(batch.masks[0], mask)


def test_the_batch_of_an_incident_can_be_had_again_with_its_augmentation(make_spec, monkeypatch):
    seen = seen_batches(monkeypatch)
    spec = make_spec(drills=(Drill.parse("nan-loss@6"),), augment=EVERY_CHANGE)
    assert run_spec(spec) == ExitCode.UNSTABLE
    directory = spec.run_dir / lines(spec, "trouble")[0].incident
    record = torch.load(directory / "batch.pt", weights_only=True)
    assert json.loads((directory / "worker.json").read_text())["augmentation"].startswith("flips, quarter turns")

    cache = open_cache(ResolvedData.load(spec.run_dir / "run.lock.toml"), "train", spec.cache_dir)
    augmentation = Augmentation.of(AugmentConfig(**record["augment"]), seed=record["seed"])
    again = load_batch(cache, record["indices"].tolist(), augmentation, epoch=record["epoch"])
    culprit = seen[record["step"] - 1]
    assert list(culprit.names) == record["names"]
    assert torch.equal(again.images, culprit.images)
    assert torch.equal(again.masks, culprit.masks)
    assert torch.equal(again.colour, culprit.colour)


def test_an_incident_that_the_daemon_numbers_at_the_same_moment_keeps_its_directory(tmp_path, monkeypatch):
    def numbered_meanwhile(incidents: Path) -> Path:
        place = next_number(incidents)
        if place.name == "001":
            place.mkdir()
            (place / "incident.json").write_text("{}")
        return place

    monkeypatch.setattr(incident, "next_number", numbered_meanwhile)
    place = incident._numbered(tmp_path, lambda file: file.write(b"a batch"))
    assert place == tmp_path / "002"
    assert [path.name for path in place.iterdir()] == ["batch.pt"]
    assert [path.name for path in (tmp_path / "001").iterdir()] == ["incident.json"]


def test_loss_weights_and_augmentation_are_told_in_the_journal_and_in_one_line_each_of_the_log(make_spec, caplog):
    caplog.set_level("INFO")
    spec = make_spec(epochs=1, augment=EVERY_CHANGE, loss=EVERY_LOSS)
    run_spec(spec)
    (started,) = lines(spec, "started")
    assert started.loss.startswith("1 x cross-entropy + 1 x Dice + 1 x focal (gamma 2) + 1 x Lovász")
    assert started.class_weights == {"0 dark": 0.5, "1 grey": 1.0, "2 bright": 2.0}
    assert started.augment.startswith("flips, quarter turns, scale 0.5 to 2, crop 32 x 32")
    said = [record.getMessage() for record in caplog.records]
    assert f"loss: {started.loss}, over the counted pixels" in said
    assert "class weights: 0 dark 0.5, 1 grey 1, 2 bright 2" in said
    assert f"augmentation: {started.augment}" in said


def test_defaults_are_told_as_such(make_spec, caplog):
    caplog.set_level("INFO")
    spec = make_spec(epochs=1)
    run_spec(spec)
    (started,) = lines(spec, "started")
    assert (started.loss, started.class_weights, started.augment) == ("1 x cross-entropy + 1 x Dice", {}, "")
    said = [record.getMessage() for record in caplog.records]
    assert "class weights: none, every class counts alike" in said
    assert "augmentation: none" in said


def test_one_shape_for_training_is_known_with_turns_and_crops(make_spec):
    spec = make_spec()
    cache = open_cache(ResolvedData.load(spec.run_dir / "run.lock.toml"), "train", spec.cache_dir)
    assert loop.training_sizes(cache, None) == {(48, 40), (32, 48)}
    turning = Augmentation(AugmentConfig(turn=True), seed=0)
    assert loop.training_sizes(cache, turning) == {(48, 40), (40, 48), (32, 48), (48, 32)}
    cropping = Augmentation(AugmentConfig(turn=True, crop=32), seed=0)
    assert loop.training_sizes(cache, cropping) == {(32, 32)}


def test_half_the_micro_batch_and_twice_the_accumulation_keep_steps_order_and_nearly_the_result(make_spec):
    whole, halved = make_spec(run="whole", epochs=1), make_spec(run="halved", epochs=1, batch_size=1, accumulate=2)
    run_spec(whole)
    run_spec(halved)
    assert checkpoint(halved, "checkpoint_epoch1")[1].step == checkpoint(whole, "checkpoint_epoch1")[1].step
    # BatchNorm sees other batches, so nearly: the first convolution has moved along in the same direction.
    name = "outc.conv.weight"
    before = weights(whole, "initial")[name]
    moved = [(weights(spec, "checkpoint_epoch1")[name] - before).flatten() for spec in (whole, halved)]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.5


def test_a_lower_lr_and_another_amp_survive_the_loading_of_the_old_state(make_spec):
    first = make_spec(epochs=1, lr=0.02)
    run_spec(first)
    remedied = make_spec(attempt=2, epochs=2, lr=0.01, amp="bf16", resume_from="checkpoints/checkpoint_epoch1.json")
    assert run_spec(remedied) == ExitCode.FINISHED
    (started,) = lines(remedied, "started")
    assert (started.lr, started.amp, started.epoch) == (0.01, "bf16", 1)
    assert {line.lr for line in lines(remedied, "progress")} == {0.01}


def test_60_steps_of_fp16_on_the_cpu_count_their_skips_and_report_no_trouble(make_spec):
    spec = make_spec(amp="fp16", epochs=15)
    assert run_spec(spec) == ExitCode.FINISHED
    assert lines(spec, "trouble") == []
    last = lines(spec, "progress")[-1]
    assert last.step == 60
    assert last.amp_scale is not None
    assert last.amp_scale == 65536.0 / 2**last.skipped_steps


@pytest.mark.parametrize(
    ("kind", "amp", "cause", "words"),
    [
        ("nan-loss", "off", "nan-loss", "the loss of step 6 is nan"),
        ("nan-loss", "fp16", "nan-loss", "the loss of step 6 is nan"),
        ("nan-weights", "off", "nan-weights", "weight inc.double_conv.1.weight"),
        ("poison-batchnorm", "off", "nan-weights", "BatchNorm running statistic inc.double_conv.1.running_var"),
    ],
)
def test_poison_is_found_told_apart_and_never_committed(make_spec, kind, amp, cause, words):
    spec = make_spec(drills=(Drill.parse(f"{kind}@6"),), epochs=3, amp=amp, batch_size=1, accumulate=2)
    assert run_spec(spec) == ExitCode.UNSTABLE

    assert [str(line.drill) for line in lines(spec, "drill")] == [f"{kind}@6"]
    (trouble,) = lines(spec, "trouble")
    assert trouble.fatal
    assert trouble.cause == cause
    assert words in trouble.message
    assert exit_record(spec).cause == cause
    assert lines(spec)[-1].outcome == "unstable"
    assert not (spec.run_dir / "checkpoints" / "checkpoint_epoch2.json").exists()
    assert checkpoint(spec, "checkpoint_epoch1")[1].finite

    incident = spec.run_dir / trouble.incident
    assert incident == spec.run_dir / "incidents" / "001"
    batch = torch.load(incident / "batch.pt", weights_only=True)
    assert batch["step"] == trouble.step
    assert batch["names"] == [f"image{index}.png" for index in batch["indices"].tolist()]
    facts = json.loads((incident / "worker.json").read_text(), parse_constant=pytest.fail)
    assert facts["cause"] == cause
    assert facts["recent"][-1]["step"] == trouble.step


def test_a_poisoned_running_statistic_is_found_in_its_own_step_while_the_loss_stays_finite(make_spec):
    spec = make_spec(drills=(Drill.parse("poison-batchnorm@2"),), epochs=1)
    assert run_spec(spec) == ExitCode.UNSTABLE
    (trouble,) = lines(spec, "trouble")
    assert trouble.step == 2
    assert "routine check" in trouble.message
    facts = json.loads((spec.run_dir / trouble.incident / "worker.json").read_text())
    assert all(isinstance(step["loss"], float) for step in facts["recent"])


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_one_inf_gradient_is_skipped_and_told_and_training_goes_on(make_spec, amp):
    spec = make_spec(drills=(Drill.parse("inf-gradients@2"),), epochs=1, amp=amp)
    assert run_spec(spec) == ExitCode.FINISHED
    (trouble,) = lines(spec, "trouble")
    assert not trouble.fatal
    assert trouble.cause == "inf-gradients"
    assert lines(spec, "progress")[-1].skipped_steps == 1
    steps = load_state(*checkpoint(spec, "checkpoint_epoch1"))["optimizer"]["state"][0]["step"]
    assert steps == STEPS_PER_EPOCH - 1


def test_three_inf_gradients_within_50_steps_are_unstable(make_spec):
    drills = tuple(Drill.parse(f"inf-gradients@{step}") for step in (2, 3, 5))
    spec = make_spec(drills=drills, epochs=3)
    assert run_spec(spec) == ExitCode.UNSTABLE
    assert [line.fatal for line in lines(spec, "trouble")] == [False, False, True]


def test_under_fp16_an_inf_gradient_is_the_scalers_business(make_spec):
    spec = make_spec(drills=(Drill.parse("inf-gradients@2"),), epochs=1, amp="fp16")
    assert run_spec(spec) == ExitCode.FINISHED
    assert lines(spec, "trouble") == []
    assert lines(spec, "progress")[-1].skipped_steps >= 1


@pytest.mark.parametrize(
    ("kind", "code", "cause"),
    [
        ("out-of-memory", ExitCode.OUT_OF_MEMORY, "out-of-memory"),
        ("crash", ExitCode.CRASHED, "worker-crashed"),
    ],
)
def test_exceptions_leave_a_record_with_their_traceback(make_spec, kind, code, cause):
    spec = make_spec(drills=(Drill.parse(f"{kind}@6"),))
    assert run_spec(spec) == code
    (trouble,) = lines(spec, "trouble")
    assert (trouble.cause, trouble.step, trouble.fatal) == (cause, 6, True)
    record = exit_record(spec)
    assert (record.code, record.step, record.epoch, record.stepped) == (code, 5, 1, True)
    assert "before_step" in record.traceback
    assert lines(spec)[-1].outcome == code.name.lower().replace("_", "-")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"device": "cuda:97"}, "cuda:97 is not there"),
        ({"resume_from": "checkpoints/checkpoint_epoch9.json"}, "no such checkpoint"),
        ({"data_lock": "elsewhere.toml"}, "elsewhere.toml"),
    ],
)
def test_what_trying_again_cannot_help_is_permanent(make_spec, values, words):
    spec = make_spec(**values)
    assert run_spec(spec) == ExitCode.PERMANENT
    record = exit_record(spec)
    assert words in record.message
    assert not record.stepped
    assert lines(spec, "trouble") == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"config_hash": "other"}, "other data, classes or model"),
        ({"optimizer": "sgd"}, "state is that of adamw"),
        ({"batch_size": 3}, "images a step, not 3"),
    ],
)
def test_a_checkpoint_of_other_settings_is_not_resumed(make_spec, monkeypatch, values, words):
    first = make_spec()
    with monkeypatch.context() as patched:
        run_spec(first, StopAfter(2).watch(patched))
    foreign = make_spec(attempt=2, resume_from="checkpoints/recovery_step2.json", **values)
    assert run_spec(foreign) == ExitCode.PERMANENT
    assert words in exit_record(foreign).message


def test_a_spec_that_is_none_is_permanent(tmp_path):
    directory = attempt_dir(tmp_path, 1)
    directory.mkdir(parents=True)
    (directory / "spec.json").write_text("{}")
    assert run(directory / "spec.json", never) == ExitCode.PERMANENT
    assert (directory / "exit.json").exists()


def test_a_stop_before_the_first_step_leaves_at_once_and_saves_nothing(make_spec):
    spec = make_spec()
    assert run_spec(spec, lambda: True) == ExitCode.STOPPED
    assert list((spec.run_dir / "checkpoints").iterdir()) == []
    assert not exit_record(spec).stepped


def test_recovery_is_saved_by_the_clock_and_only_the_newest_two_are_kept(make_spec):
    spec = make_spec(epochs=1, recovery_seconds=1e-9)
    assert run_spec(spec) == ExitCode.FINISHED
    saved = [line.step for line in lines(spec, "checkpoint") if line.role == "recovery"]
    assert saved == [1, 2, 3, 4]
    kept = {path.name for path in (spec.run_dir / "checkpoints").glob("recovery_*")}
    assert kept == {f"recovery_step{step}{suffix}" for step in (3, 4) for suffix in (".json", ".pth", ".state.pth")}


def test_a_disk_that_is_full_is_a_crash_that_says_where_and_how_much_room_there_is(make_spec, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    spec = make_spec()
    monkeypatch.setattr("segwatch.checkpoints.files.commit", full)
    assert run_spec(spec) == ExitCode.CRASHED
    message = exit_record(spec).message
    assert "bytes free" in message
    assert "checkpoints" in message


def test_curves_that_cannot_be_written_do_not_stop_training(make_spec, caplog):
    spec = make_spec(epochs=1)
    (spec.run_dir / "tensorboard").write_text("a file where a directory should be")
    assert run_spec(spec) == ExitCode.FINISHED
    assert sum("TensorBoard" in record.message for record in caplog.records) == 1


def test_every_number_in_the_curves_is_finite_and_resuming_purges_what_comes_after(make_spec):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    first = make_spec(epochs=1)
    run_spec(first)
    second = make_spec(attempt=2, epochs=2, resume_from="checkpoints/checkpoint_epoch1.json")
    run_spec(second)
    newest = max((second.run_dir / "tensorboard" / "train").iterdir())
    events = list(EventFileLoader(str(newest)).Load())
    assert events[1].session_log.status == events[1].session_log.START
    assert events[1].step == STEPS_PER_EPOCH + 1
    values = {value.tag: value.tensor.float_val[0] for event in events for value in event.summary.value}
    assert values["train/lr"] == pytest.approx(0.01)
    assert all(math.isfinite(value) for value in values.values())
