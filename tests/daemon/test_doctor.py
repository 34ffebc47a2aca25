"""`segwatch doctor`: each reason why a machine is not ready has its own line, and each line its remedy."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segwatch.daemon import (
    board_server,
    cli,
    device_checks,
    doctor,
    memory_checks,
    place_checks,
    reporting,
    world_checks,
)
from segwatch.daemon.channels import Channel
from segwatch.daemon.config import RunConfig, load_config
from segwatch.daemon.device_checks import DeviceFacts, Gpu
from segwatch.daemon.survey import Survey, survey
from typer.testing import CliRunner

CPU_BUILD = {"python": "python3", "torch": "2.13.0+cpu"}
CUDA_BUILD = {"python": "python3", "torch": "2.13.0+cu128", "cuda_build": "12.8"}
CARD = {"hardware": True, "driver_cuda": 12080}
H100 = Gpu(name="NVIDIA H100", free=78_000_000_000, total=80_000_000_000, error=None)
NO_KERNEL = H100.model_copy(update={"error": "CUDA error: no kernel image is available"})
FULL = H100.model_copy(update={"error": "CUDA error: out of memory"})

DEVICES = {
    "seen": ({**CUDA_BUILD, **CARD, "gpus": (H100,)}, "auto", "ok", "NVIDIA H100, 80.0 GB"),
    "not wanted": (CPU_BUILD, "cpu", "ok", "trainer.device is cpu"),
    "no torch": ({"python": "python3"}, "auto", "fail", "not installed in python3"),
    "broken torch": ({"python": "p", "error": "libcudnn.so.9: not found"}, "auto", "fail", "libcudnn.so.9"),
    "CPU build, no card": (CPU_BUILD, "auto", "warn", "no NVIDIA GPU here"),
    "CPU build and a card": ({**CPU_BUILD, "hardware": True}, "auto", "fail", "built without CUDA"),
    "a GPU is wanted": (CPU_BUILD, "cuda", "fail", "no NVIDIA GPU here"),
    "no driver": ({**CUDA_BUILD, "hardware": True}, "auto", "fail", "no NVIDIA driver"),
    "no card at all": (CUDA_BUILD, "auto", "warn", "no NVIDIA GPU and no driver"),
    "old driver": ({**CUDA_BUILD, "hardware": True, "driver_cuda": 11040}, "auto", "fail", "serves CUDA 11.4 at most"),
    "hidden": ({**CUDA_BUILD, **CARD, "visible": ""}, "auto", "warn", "hidden: CUDA_VISIBLE_DEVICES=''"),
    "a number that is none": ({**CUDA_BUILD, **CARD, "visible": "7"}, "auto", "warn", "CUDA_VISIBLE_DEVICES='7'"),
    "hidden, and wanted": ({**CUDA_BUILD, **CARD, "visible": "-1"}, "cuda:0", "fail", "hidden"),
    "something else": ({**CUDA_BUILD, **CARD, "error": "Error 803"}, "auto", "fail", "Error 803"),
    "no kernels": ({**CUDA_BUILD, **CARD, "gpus": (NO_KERNEL,)}, "auto", "fail", "no kernels for NVIDIA H100"),
    "full": ({**CUDA_BUILD, **CARD, "gpus": (FULL,)}, "auto", "fail", "no memory left"),
    "the second of one": ({**CUDA_BUILD, **CARD, "gpus": (H100,)}, "cuda:1", "fail", "cuda:1 is not there"),
    "a minor release newer": (
        {**CUDA_BUILD, "hardware": True, "driver_cuda": 12020, "gpus": (H100,)},
        "auto",
        "ok",
        "NVIDIA H100",
    ),
}


@pytest.mark.parametrize(("facts", "wanted", "state", "said"), DEVICES.values(), ids=DEVICES)
def test_each_reason_for_no_gpu_is_told_apart(facts, wanted, state, said):
    check = device_checks.judge(DeviceFacts(**facts), wanted)
    assert (check.state, said in check.found) == (state, True), check
    assert (check.remedy is None) == (state == "ok")


@pytest.mark.parametrize(
    ("tables", "keys"),
    [
        ({"trainer": {"amp": "bf16"}}, "trainer.amp = bf16"),
        ({"trainer": {"amp": "fp16"}, "recovery": {"amp_first": "bf16"}}, "recovery.amp_first = bf16"),
        ({"trainer": {"amp": "fp16"}}, None),
    ],
)
def test_bf16_on_a_card_that_only_emulates_it_is_warned_of(tables, keys):
    t4 = Gpu(name="Tesla T4", free=None, total=None, bf16=False, error=None)
    config = config_of(**tables)
    check = device_checks.judge_precision(t4, config)
    assert (check and check.state) == (keys and "warn")
    assert check is None or check.found.startswith(f"{keys}, which Tesla T4 only emulates")
    for other in (True, None):
        assert device_checks.judge_precision(t4.model_copy(update={"bf16": other}), config) is None


def test_the_probe_says_what_this_machine_has_and_one_that_dies_is_told():
    facts = device_checks.ask()
    assert isinstance(facts, DeviceFacts)
    assert facts.torch is not None
    assert "ended with 3" in str(device_checks.ask((sys.executable, "-c", "import sys; sys.exit(3)")))


# --- memory and disk


def config_of(**tables: dict) -> RunConfig:
    data = {"classes": "classes.json", "images": "images", "masks": "masks", "split": {"val": 0.2, "test": 0.2}}
    return RunConfig.model_validate({"data": {**data, **tables.pop("data", {})}, **tables})


FRAMES = Survey(counts={"train": 1000, "val": 100, "test": 100}, sizes=((2048, 2448),), classes=14, sample=())


def test_what_does_not_fit_is_answered_with_what_does():
    large = config_of(trainer={"batch_size": 4}, data={"scale": 0.5})
    check = memory_checks.judge(large, FRAMES, int(24e9), gpu=True)
    assert check.state == "fail"
    assert "batch 4 of 1224x1024" in check.found
    assert "trainer.batch_size = 2, accumulate = 2" in (check.remedy or "")
    assert memory_checks.judge(large, FRAMES, int(78e9), gpu=True).state == "ok"


def test_the_evaluator_beside_the_training_is_counted_and_the_first_thing_to_make_smaller():
    careful = config_of(data={"scale": 0.25})
    need = memory_checks.need_of(careful, FRAMES, gpu=True)
    assert need.scoring > 2e9
    check = memory_checks.judge(careful, FRAMES, int(6e9), gpu=True)
    assert check.state == "warn"
    assert (check.remedy or "").startswith("this would fit: evaluator.batch_size = 1")
    aside = config_of(data={"scale": 0.25}, evaluator={"device": "cpu"})
    assert memory_checks.judge(aside, FRAMES, int(6e9), gpu=True).state == "ok"


def test_nothing_fits_into_nothing():
    assert "nothing smaller fits" in (memory_checks.judge(config_of(), FRAMES, 10, gpu=True).remedy or "")


def test_a_hundred_epochs_of_the_published_network_take_what_the_field_knows_they_take():
    """124.2 MB each, 12.4 GB for a hundred, and the training states of a few."""
    states = 6 * 2 * 4 * 31_038_478
    assert place_checks.checkpoint_bytes(config_of(), FRAMES) == pytest.approx(
        12.42e9 + 3 * 0.1242e9 + states, rel=0.01
    )


def test_a_disk_that_will_not_hold_all_epochs_is_told_with_how_many_it_would(tmp_path):
    check = place_checks.check_disk(config_of(), FRAMES, tmp_path, free=int(12e9))
    assert check.state == "fail"
    assert "keep_epochs = 50 would fit" in (check.remedy or "")
    assert place_checks.check_disk(config_of(), FRAMES, tmp_path, free=int(40e9)).state == "ok"
    few = config_of(checkpoints={"keep_epochs": 5})
    assert place_checks.check_disk(few, FRAMES, tmp_path, free=int(12e9)).state == "ok"


# --- the place and the world


def test_an_audit_that_failed_keeps_doctor_from_calling_it_ready(tmp_path):
    source = tmp_path / "run.toml"
    assert list(doctor.check_audit(source)) == []
    (tmp_path / "audit.md").write_text("# Audit\n\n**Not ready: errors: 2.**\n\n- **Ready to train.**\n")
    [check] = doctor.check_audit(source)
    assert (check.state, "Not ready: errors: 2." in check.found) == ("fail", True)
    assert "segwatch audit" in (check.remedy or "")
    (tmp_path / "audit.md").write_text("# Audit\n\n**Ready to train.**\n")
    [check] = doctor.check_audit(source)
    assert check.state == "ok"


@pytest.mark.parametrize("below", [".", "deeper/still"])
def test_a_file_where_runs_are_to_be_kept_is_told(tmp_path, below):
    (tmp_path / "runs").touch()
    check = place_checks.check_writing(tmp_path / "runs" / below)
    assert (check.state, check.found) == ("fail", f"{tmp_path / 'runs'} is no directory")


def test_a_directory_on_a_local_disk_hears_of_files_and_one_to_come_is_asked_above(tmp_path):
    assert place_checks.check_writing(tmp_path / "runs" / "later").state == "ok"
    check = place_checks.check_events(tmp_path / "runs", scan_seconds=2)
    assert check.state in {"ok", "warn"}
    assert list(tmp_path.iterdir()) == []


def test_no_inotify_left_names_the_limit_and_how_to_raise_it(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place_checks.Observer, "schedule", refuse)
    check = place_checks.check_events(tmp_path, scan_seconds=2)
    assert check.state == "warn"
    assert "fs.inotify.max_user_watches=" in (check.remedy or "")


def test_a_network_file_system_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(place_checks, "file_system_of", lambda place: "nfs4")
    assert place_checks.check_writing(tmp_path).state == "warn"


def test_a_port_that_is_taken_is_told_with_one_that_is_free():
    with socket.socket() as taken:
        taken.bind((board_server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        check = world_checks.check_port(port)
        assert (check.state, str(port) in check.found) == ("warn", True)
        other = int((check.remedy or "").rpartition(" --tensorboard-port ")[2])
        assert other > port
        assert board_server.why_not(other) is None
    assert world_checks.check_port(port).state == "ok"


def test_the_port_that_is_looked_at_is_the_one_that_a_run_will_take(monkeypatch):
    asked = []
    monkeypatch.setattr(world_checks, "why_not", asked.append)
    assert "`segwatch run --tensorboard`" in world_checks.check_port(reporting.board_port(None, wanted=True)).found
    assert "`segwatch run --tensorboard-port 7007`" in world_checks.check_port(7007).found
    assert asked == [6006, 7007]


def test_channels_are_looked_at_without_a_word_of_their_address(tmp_path, monkeypatch):
    monkeypatch.setenv("GOOD", "json://localhost:1/sesame")
    monkeypatch.setenv("BAD", "sesame-is-no-url")
    channels = [Channel(url=f"env:{name}") for name in ("GOOD", "BAD", "MISSING")]
    found = list(world_checks.check_channels(channels, tmp_path, send=False))
    assert [check.state for check in found] == ["ok", "fail", "fail"]
    assert not any("sesame" in f"{check}" for check in found)


class Endpoint(BaseHTTPRequestHandler):
    heard: list[str] = []

    def do_POST(self):
        self.heard.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_words):
        """Nothing: the test reads what was heard."""


def test_send_really_sends_and_says_who_does_not_answer(tmp_path, monkeypatch):
    with ThreadingHTTPServer((board_server.HOST, 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("SOMEBODY", f"json://127.0.0.1:{server.server_port}/sesame")
        monkeypatch.setenv("NOBODY", "json://127.0.0.1:1/sesame")  # where nobody listens
        channels = [Channel(url="env:SOMEBODY"), Channel(url="env:NOBODY")]
        taken, refused = world_checks.check_channels(channels, tmp_path, send=True)
        server.shutdown()
    assert taken.state == "ok"
    assert "alerts of a run will arrive here" in "".join(Endpoint.heard)
    assert (refused.state, "not taken" in refused.found) == ("fail", True)


def test_a_clock_that_runs_behind_its_own_files_is_wrong(tmp_path):
    file = tmp_path / "a.png"
    file.touch()
    now = file.stat().st_mtime
    assert world_checks.check_clock(tmp_path, [file], clock=lambda: now).state == "ok"
    assert world_checks.check_clock(tmp_path, [file], clock=lambda: now - 86400).state == "fail"
    assert world_checks.check_clock(tmp_path, [], clock=lambda: now + 60).state == "warn"
    assert world_checks.check_clock(tmp_path, [file], clock=lambda: now, synchronised=False).state == "warn"


# --- as a person meets it


@pytest.fixture
def data(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for kind, pixels in {"images": rng.integers(0, 256, (64, 80, 3)), "masks": rng.integers(0, 2, (64, 80))}.items():
        (tmp_path / kind).mkdir()
        for number in range(10):
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / kind / f"{number:03}x.png")
    (tmp_path / "classes.json").write_text('{"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]}')
    (tmp_path / "run.toml").write_text(
        '[data]\nclasses = "classes.json"\nimages = "images"\nmasks = "masks"\nscale = 1.0\n'
        'split = { val = 0.2, test = 0.2, by = "image" }\n[trainer]\ndevice = "cpu"\n[model]\nbase_channels = 4\n'
    )
    return tmp_path


@pytest.fixture
def _no_torch_needed(monkeypatch):
    monkeypatch.setattr(device_checks, "ask", lambda: DeviceFacts(**CPU_BUILD))


def run(*arguments: str, cwd: Path, monkeypatch):
    monkeypatch.chdir(cwd)
    return CliRunner().invoke(cli.app, [*arguments], prog_name="segwatch")


@pytest.mark.usefixtures("_no_torch_needed")
def test_a_machine_that_is_ready_says_the_next_command(data, monkeypatch):
    done = run("doctor", cwd=data, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert "6 train, 2 val, 2 test images with masks, 2 classes named" in done.output
    assert done.output.strip().splitlines()[-1].strip() == "segwatch run run.toml"
    for name in ("gpu", "memory", "disk", "file system", "file events", "reading", "tensorboard", "clock"):
        assert f"  {name} " in done.output


@pytest.mark.usefixtures("_no_torch_needed")
def test_json_says_the_same_and_a_failed_check_ends_with_1(data, monkeypatch):
    (data / "run.toml").write_text((data / "run.toml").read_text().replace('device = "cpu"', 'device = "cuda"'))
    done = run("doctor", "run.toml", "--json", "--tensorboard-port", "7007", cwd=data, monkeypatch=monkeypatch)
    found = json.loads(done.output)
    assert any("port 7007 " in check["found"] for check in found["checks"])
    assert (done.exit_code, found["ready"]) == (1, False)
    assert [check["name"] for check in found["checks"] if check["state"] == "fail"] == ["gpu"]


@pytest.mark.usefixtures("_no_torch_needed")
def test_after_an_audit_that_refused_the_classes_of_the_loss_it_is_not_ready(data, monkeypatch):
    (data / "run.toml").write_text((data / "run.toml").read_text() + "[loss]\nclass_weights = [1, 2, 3]\n")
    assert run("audit", cwd=data, monkeypatch=monkeypatch).exit_code != 0
    done = run("doctor", "--json", cwd=data, monkeypatch=monkeypatch)
    failed = [check for check in json.loads(done.output)["checks"] if check["state"] == "fail"]
    assert [check["name"] for check in failed] == ["audit"]
    assert "3 numbers, and 2 classes are used" in failed[0]["found"]


@pytest.mark.usefixtures("_no_torch_needed")
def test_a_wrong_run_toml_is_a_line_and_the_machine_is_looked_at_all_the_same(data, monkeypatch):
    (data / "run.toml").write_text("[data]\nclases = 3\n")
    done = run("doctor", "run.toml", cwd=data, monkeypatch=monkeypatch)
    assert done.exit_code == 1
    assert "did you mean 'classes'" in done.output
    assert "clock" in done.output


@pytest.mark.usefixtures("_no_torch_needed")
def test_without_a_run_toml_the_machine_alone_is_looked_at(tmp_path, monkeypatch):
    done = run("doctor", cwd=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert "segwatch init DIR" in done.output


def test_a_dry_run_prints_the_plan_and_leaves_nothing(data, monkeypatch):
    before = sorted(data.rglob("*"))
    done = run("run", "run.toml", "--dry-run", "--drill", "kill@3", cwd=data, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert "100 epochs of 6 steps (600 in all)" in done.output
    assert "kill@3" in done.output
    assert "the step is repeated, for 120 s at most, and what it shows decides" in done.output
    assert "resumed at once; if it comes back, after 5 s, doubling to 300 s" in done.output
    assert sorted(data.rglob("*")) == before


def test_before_a_run_only_what_is_wrong_is_told(data, monkeypatch):
    config = load_config(data / "run.toml")
    told = doctor.before_run(data / "run.toml", config, data / "runs")
    assert [check for check in told if check.state == "fail"] == []
    os.utime(data / "run.toml", (9e9, 9e9))
    assert "clock" in {check.name for check in doctor.before_run(data / "run.toml", config, data / "runs")}


def test_the_survey_counts_as_the_audit_does(data):
    found = survey(load_config(data / "run.toml"), data)
    assert found.counts == {"train": 6, "val": 2, "test": 2}
    assert found.sizes == ((64, 80),) * 10
    assert found.classes == 2
    assert found.cache_bytes(0.5, native_labels=True) == 10 * 64 * 80 * 2
