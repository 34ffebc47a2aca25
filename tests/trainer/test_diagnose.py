"""Every verdict on a tiny UNet: a worker meets a fault, and a diagnosis in this process says what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from segwatch.data.cache import overwrite_entry
from segwatch.data.resolved import ResolvedData
from segwatch.durable import read_lines
from segwatch.trainer.__main__ import run as train
from segwatch.trainer.config import ModelConfig
from segwatch.trainer.contract import JOURNAL_LINE, AttemptSpec, Drill, ExitCode, JournalLine, Trouble
from segwatch.trainer.diagnose import main, run
from segwatch.trainer.diagnosis import Diagnosis, DiagnosisSpec, Finding

STEPS_PER_EPOCH = 4


def lines(spec: AttemptSpec) -> list[JournalLine]:
    raw, _ = read_lines(spec.directory / "journal.jsonl")
    return [JOURNAL_LINE.validate_json(line) for line in raw]


def the_trouble(spec: AttemptSpec) -> Trouble:
    (trouble,) = (line for line in lines(spec) if isinstance(line, Trouble) and line.fatal)
    return trouble


def good_before(spec: AttemptSpec) -> tuple[str, ...]:
    """The two newest that stand, as the daemon would name them."""
    manifests = [json.loads(path.read_text()) for path in (spec.run_dir / "checkpoints").glob("*.json")]
    newest = sorted(manifests, key=lambda each: -each["step"])[:2]
    return tuple(f"checkpoints/{each['weights']['name'].removesuffix('.pth')}.json" for each in newest)


def asked(spec: AttemptSpec, **values: object) -> Path:
    trouble = the_trouble(spec)
    directory = trouble.incident
    question = DiagnosisSpec.model_validate(
        {
            "run_dir": spec.run_dir,
            "incident": int(Path(directory).name),
            "attempt": spec.attempt,
            "directory": directory,
            "good": good_before(spec),
            "seconds": 60,
            **values,
        }
    )
    path = spec.run_dir / directory / "diagnosis_spec.json"
    path.write_text(question.model_dump_json())
    return path


@pytest.fixture
def broken(make_spec) -> Callable[..., AttemptSpec]:
    """broken("nan-loss@6", amp=...): an attempt that a drill has ended."""

    def make(drill: str, *, code: ExitCode = ExitCode.UNSTABLE, **values: object) -> AttemptSpec:
        spec = make_spec(**{"drills": (Drill.parse(drill),), "epochs": 20, **values})
        assert train(spec.directory / "spec.json", lambda: False) == code
        return spec

    return make


def diagnosed(spec: AttemptSpec, **values: object) -> Diagnosis:
    before = {path: path.read_bytes() for path in spec.run_dir.rglob("*") if path.is_file()}
    path = asked(spec, **values)
    before[path] = path.read_bytes()
    diagnosis = run(path)
    for known, content in before.items():
        assert known.read_bytes() == content, f"{known} was touched"
    new = {path for path in spec.run_dir.rglob("*") if path.is_file()} - set(before)
    assert {path.parent for path in new} == {path.parent for path in [asked(spec)]}
    assert Diagnosis.model_validate_json((path.parent / "diagnosis.json").read_text()) == diagnosis
    return diagnosis


@pytest.mark.parametrize(
    ("drill", "begins"),
    [
        ("nan-loss@6", "the state at the incident"),
        ("nan-weights@6", "checkpoints/checkpoint_epoch1.json"),
        ("poison-batchnorm@6", "checkpoints/checkpoint_epoch1.json"),
    ],
)
def test_what_a_replay_cannot_repeat_was_transient(broken, drill, begins):
    diagnosis = diagnosed(broken(drill))
    assert diagnosis.finding is Finding.TRANSIENT
    assert diagnosis.first_nonfinite is None
    assert [row.start for row in diagnosis.replays] == [begins]


def test_a_crash_leaves_its_batch_and_state_once_and_is_transient_where_it_does_not_come_again(broken):
    spec = broken("crash@6", code=ExitCode.CRASHED)
    trouble = the_trouble(spec)
    assert (trouble.cause, trouble.step, trouble.epoch) == ("worker-crashed", 6, 2)
    assert diagnosed(spec).finding is Finding.TRANSIENT


def test_gradients_that_were_infinite_three_times_and_are_not_again_were_transient(broken):
    drills = tuple(Drill.parse(f"inf-gradients@{step}") for step in (2, 3, 5))
    diagnosis = diagnosed(broken("inf-gradients@5", drills=drills))
    assert diagnosis.finding is Finding.TRANSIENT
    assert diagnosis.replays[0].first_step == 5


def test_a_scaler_that_lost_without_a_reason_that_comes_again_is_transient(broken):
    drills = tuple(Drill.parse(f"inf-gradients@{step}") for step in range(55, 63))
    spec = broken("inf-gradients@1", drills=drills, amp="fp16")
    assert the_trouble(spec).cause == "amp-unstable"
    assert diagnosed(spec).finding is Finding.TRANSIENT


def test_without_the_state_at_the_incident_the_newest_good_one_is_repeated_up_to_it(broken):
    spec = broken("nan-loss@6")
    (spec.run_dir / the_trouble(spec).incident / "state.pt").unlink()
    diagnosis = diagnosed(spec)
    assert diagnosis.finding is Finding.TRANSIENT
    (row,) = diagnosis.replays
    assert (row.start, row.first_step, row.steps) == ("checkpoints/checkpoint_epoch1.json", 5, 5)


@pytest.mark.parametrize(
    ("gone", "values", "words"),
    [
        ("batch.pt", {}, "nothing to repeat"),
        ("state.pt", {"good": ()}, "no good one to begin from"),
        ("state.pt", {"seconds": 1e-9}, "time was not enough"),
    ],
)
def test_where_nothing_can_be_found_out_it_says_why(broken, gone, values, words):
    spec = broken("nan-loss@6")
    (spec.run_dir / the_trouble(spec).incident / gone).unlink()
    diagnosis = diagnosed(spec, **values)
    assert diagnosis.finding is Finding.UNKNOWN
    assert words in diagnosis.because


def test_a_rate_that_diverges_again_from_a_good_state_is_to_blame(make_spec):
    """No drill: gradients are clipped to 1, and an update of 1e38 leaves fp32 by itself."""
    spec = make_spec(optimizer="sgd", momentum=0.0, lr=1e38, epochs=20)
    assert train(spec.directory / "spec.json", lambda: False) == ExitCode.UNSTABLE
    diagnosis = diagnosed(spec)
    assert diagnosis.finding is Finding.LEARNING_RATE
    assert diagnosis.first_nonfinite is not None


def spiked(spec: AttemptSpec, losses: dict[int, float], *, since: int) -> None:
    """Make of an incident one in which the loss had stayed high since a step, with `losses` as the worker saw them."""
    path = spec.run_dir / the_trouble(spec).incident / "worker.json"
    facts = json.loads(path.read_text())
    facts["cause"], facts["evidence"] = "loss-spike", {"onset_step": since}
    facts["recent"] = [{"step": step, "loss": loss, "grad_norm": 1.0} for step, loss in losses.items()]
    path.write_text(json.dumps(facts))


def test_a_loss_that_stayed_high_and_does_not_in_the_replay_was_transient(broken):
    spec = broken("nan-loss@15")
    spiked(spec, {step: 1.2 if step < 9 else 40.0 for step in range(1, 16)}, since=9)
    diagnosis = diagnosed(spec, good=("checkpoints/initial.json",))
    assert diagnosis.finding is Finding.TRANSIENT
    assert diagnosis.onset_step == 9


def test_a_loss_that_goes_up_again_the_same_way_is_the_rates(broken):
    spec = broken("nan-loss@15")
    spiked(spec, {step: 0.01 if step < 9 else 1.2 for step in range(1, 16)}, since=9)
    diagnosis = diagnosed(spec, good=("checkpoints/initial.json",))
    assert diagnosis.finding is Finding.LEARNING_RATE
    assert diagnosis.onset_step == 9


def test_a_rise_that_began_before_every_good_state_cannot_be_repeated(broken):
    spec = broken("nan-loss@15")
    spiked(spec, {step: 1.2 if step < 3 else 40.0 for step in range(1, 16)}, since=3)
    diagnosis = diagnosed(spec)
    assert diagnosis.finding is Finding.UNKNOWN
    assert "before step 3" in diagnosis.because


def test_leaving_is_told_as_saving_so_that_a_slow_disk_is_no_hang(broken):
    spec = broken("nan-loss@6")
    last = [(line.kind, getattr(line, "phase", None)) for line in lines(spec)][-3:]
    assert last == [("phase", "saving"), ("trouble", None), ("finished", None)]


def test_statistics_that_drifted_are_no_trouble_of_training(make_spec):
    spec = make_spec(drills=(Drill.parse("drift-batchnorm@8"),))
    assert train(spec.directory / "spec.json", lambda: False) == ExitCode.FINISHED
    assert not [line for line in lines(spec) if isinstance(line, Trouble)]
    weights = torch.load(spec.run_dir / "checkpoints" / "checkpoint_epoch2.pth", weights_only=True)
    assert min(tensor.max() for name, tensor in weights.items() if name.endswith("running_var")) > 1e6


def test_no_file_is_blamed_from_one_good_state(broken):
    spec = broken("bad-file@2", code=ExitCode.CRASHED)
    (spec.run_dir / the_trouble(spec).incident / "state.pt").unlink()
    diagnosis = diagnosed(spec)
    assert diagnosis.finding is Finding.UNKNOWN
    assert "two good states" in diagnosis.because


def test_the_spoilt_mask_is_this_runs_alone_and_stays_for_its_next_attempt(broken, make_spec):
    spec = broken("bad-file@3", code=ExitCode.CRASHED)
    resumed = make_spec(attempt=2, epochs=1, resume_from="checkpoints/initial.json")
    assert train(resumed.directory / "spec.json", lambda: False) == ExitCode.CRASHED
    (file,) = diagnosed(spec, seconds=60).files
    left = make_spec(attempt=3, epochs=1, resume_from="checkpoints/initial.json", left_out=(file.image,))
    assert train(left.directory / "spec.json", lambda: False) == ExitCode.FINISHED
    other = make_spec(run="other", epochs=1)
    assert train(other.directory / "spec.json", lambda: False) == ExitCode.FINISHED


def test_an_activation_that_leaves_fp16_is_a_matter_of_precision_and_its_layer_is_named(broken):
    diagnosis = diagnosed(broken("overflow@6", amp="fp16"))
    assert diagnosis.finding is Finding.PRECISION
    assert diagnosis.bf16_is_finite is True
    assert diagnosis.first_nonfinite.layer == "inc.double_conv.3"
    assert diagnosis.first_nonfinite.tensor == "output"
    assert [row.amp for row in diagnosis.replays] == ["fp16", "bf16", "off"]


def test_a_mask_with_a_value_that_is_no_class_is_found_shown_and_was_bad_from_two_states(broken):
    spec = broken("bad-file@6", code=ExitCode.CRASHED)
    diagnosis = diagnosed(spec)
    assert diagnosis.finding is Finding.DATA
    (file,) = diagnosis.files
    batch = torch.load(spec.run_dir / the_trouble(spec).incident / "batch.pt", weights_only=True)
    assert file.image == batch["names"][0]
    assert file.reproduced >= 2
    assert "200" in file.what
    assert not file.cached_only, "a drill stands for a file that is wrong"
    assert (spec.run_dir / the_trouble(spec).incident / file.picture).stat().st_size > 1000


def test_an_entry_that_only_the_cache_has_wrong_is_told_from_a_bad_file_and_made_anew(make_spec):
    values = {"epochs": 2, "run": "cached"}
    first = make_spec(**{**values, "epochs": 1})
    assert train(first.directory / "spec.json", lambda: False) == ExitCode.FINISHED
    data = ResolvedData.load(first.run_dir / "run.lock.toml")

    def spoil(item):
        changed = item.copy()
        changed[4:8, :, 3] = 200
        return changed

    overwrite_entry(data, "train", first.cache_dir, 2, spoil)
    again = {"resume_from": "checkpoints/checkpoint_epoch1.json", **values}
    broken = make_spec(attempt=2, **again)
    assert train(broken.directory / "spec.json", lambda: False) == ExitCode.CRASHED
    diagnosis = diagnosed(broken)
    (file,) = diagnosis.files
    assert (diagnosis.finding, file.image, file.cached_only) == (Finding.DATA, "image2.png", True)
    assert "The file itself reads otherwise" in file.what
    mended = make_spec(attempt=3, decode_again=(file.image,), **again)
    assert train(mended.directory / "spec.json", lambda: False) == ExitCode.FINISHED


def test_norms_that_grew_blame_the_learning_rate_and_say_since_when(broken):
    diagnosis = diagnosed(broken("lr-spike@41", epochs=40))
    assert diagnosis.finding is Finding.LEARNING_RATE
    assert 40 <= diagnosis.onset_step <= 43


def test_a_spec_that_cannot_be_read_is_told_and_leaves_78(tmp_path, caplog):
    assert main([str(tmp_path / "none.json")]) == ExitCode.PERMANENT
    assert "none.json" in caplog.text


def test_an_incident_can_be_repeated_on_another_device_than_that_of_its_attempt(broken, monkeypatch):
    spec, wanted = broken("nan-loss@6"), []
    found = torch.device("cpu")
    monkeypatch.setattr("segwatch.trainer.loop.find_device", lambda name: wanted.append(name) or found)
    run(asked(spec, device="elsewhere"))
    run(asked(spec))
    assert wanted == ["elsewhere", spec.device]


# --- scores that fell though no step went wrong


LEARNT = "checkpoints/checkpoint_epoch12.json"
WITH_A_NETWORK_OF_8 = {"model": ModelConfig(base_channels=8)}


@pytest.fixture
def fell(make_spec) -> Callable[..., Diagnosis]:
    """fell({"lr": ...}): what is made of epoch 13, trained so behind 12 good ones; more goes to the question."""

    def make(how: dict[str, object], **question: object) -> Diagnosis:
        first = make_spec(epochs=12, **WITH_A_NETWORK_OF_8)
        assert train(first.directory / "spec.json", lambda: False) == ExitCode.FINISHED
        spec = make_spec(**{"attempt": 2, "epochs": 13, "resume_from": LEARNT, **WITH_A_NETWORK_OF_8, **how})
        assert train(spec.directory / "spec.json", lambda: False) == ExitCode.FINISHED
        (spec.run_dir / "checkpoints" / "checkpoint_epoch13.state.pth").unlink()  # retention leaves it to good epochs
        directory = spec.run_dir / "incidents" / "001"
        directory.mkdir(parents=True)
        asked = DiagnosisSpec.model_validate(
            {
                "run_dir": spec.run_dir,
                "incident": 1,
                "attempt": 2,
                "directory": "incidents/001",
                "good": (LEARNT, "checkpoints/checkpoint_epoch11.json"),
                "fallen": "checkpoints/checkpoint_epoch13.json",
                "seconds": 60,
                **question,
            }
        )
        path = directory / "diagnosis_spec.json"
        path.write_text(asked.model_dump_json())
        return run(path)

    return make


def test_a_fall_that_does_not_come_again_was_transient_and_the_statistics_are_named(fell):
    diagnosis = fell({"drills": (Drill.parse("drift-batchnorm@51"),)})
    assert diagnosis.finding is Finding.TRANSIENT, diagnosis.because
    assert "running_var is" in diagnosis.because
    assert diagnosis.onset_step == 13 * STEPS_PER_EPOCH
    (row,) = diagnosis.replays
    assert (row.start, row.first_step, row.steps) == (LEARNT, 49, 4)


def test_a_fall_that_comes_again_with_the_same_settings_is_the_learning_rate(fell):
    diagnosis = fell({"lr": 1.0})
    assert diagnosis.finding is Finding.LEARNING_RATE, diagnosis.because
    assert "falls again" in diagnosis.because
    assert diagnosis.onset_step == 13 * STEPS_PER_EPOCH


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({}, "do not show why the scores fell"),
        ({"good": ()}, "no good state lies before step 52"),
        ({"seconds": 1e-6}, "the time was not enough"),
    ],
)
def test_a_fall_that_training_images_do_not_show_or_that_cannot_be_repeated_is_unknown(fell, question, words):
    diagnosis = fell({}, **question)
    assert diagnosis.finding is Finding.UNKNOWN
    assert words in diagnosis.because
