"""A directory of checkpoints that segwatch did not train, with a fake evaluator: what is asked, kept and said."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console
from segwatch.daemon.auditing import audit_data
from segwatch.daemon.config import load_config
from segwatch.daemon.evaluating import evaluate_directory, find
from segwatch.daemon.ranking import Ranking
from segwatch.data.audit import require
from segwatch.data.resolved import ResolvedData
from segwatch.errors import ConfigError, RunHeldError, SegwatchError, UsageError
from segwatch.evaluator.report import EvaluationReport

from .conftest import CONFIG, write_data

FAKE = Path(__file__).with_name("fake_evaluator.py")


class Interrupting(Console):
    """Presses Ctrl-C when a line begins with these words."""

    def __init__(self, words: str) -> None:
        super().__init__(width=200, quiet=True)
        self._words = words

    def print(self, *words, **style) -> None:
        if words and str(words[0]).startswith(self._words):
            os.kill(os.getpid(), signal.SIGINT)


class Site:
    """A run.toml with data, and a directory of checkpoints whose bytes only the fake looks at."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.directory = place / "foreign"
        self.directory.mkdir()
        write_data(place)
        self.configure()
        self.scenario()

    def configure(self, extra: str = "") -> None:
        (self.place / "run.toml").write_text(CONFIG.format(epochs=1, amp="off", extra=extra))

    def scenario(self, **what: object) -> None:
        (self.place / "scenario.json").write_text(json.dumps(what))

    def put(self, *epochs: int) -> None:
        for epoch in epochs:
            (self.directory / f"checkpoint_epoch{epoch}.pth").write_bytes(f"weights of {epoch}".encode())

    @property
    def output(self) -> Path:
        return self.directory / "segwatch-evaluation"

    @property
    def asked(self) -> list[str]:
        """Every request so far, as attempt:epoch."""
        path = self.output / "asked.txt"
        return path.read_text().split() if path.exists() else []

    def evaluate(self, output: Path | None = None, console: Console | None = None) -> tuple[Ranking, int]:
        return evaluate_directory(
            self.place / "run.toml",
            self.directory,
            output=output,
            console=console or Console(quiet=True),
            evaluator_command=(sys.executable, str(FAKE), str(self.place / "scenario.json")),
        )


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path)


def test_epochs_are_scored_in_numeric_order_on_val_and_test(site):
    site.scenario(miou=[0.3, 0.6, 0.4])
    site.put(10, 2, 1)
    ranking, code = site.evaluate()
    assert code == 0
    assert site.asked == ["0:1", "0:2", "0:10"]
    assert [candidate.epoch for candidate in ranking.candidates] == [1, 2, 10]
    assert [candidate.epoch for candidate in ranking.in_order("test")] == [2, 10, 1]
    with (site.output / "results.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "1", "2", "2", "10", "10"]
    assert (site.output / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_call_asks_only_for_what_is_new_or_changed(site):
    site.put(1, 2)
    site.evaluate()
    site.put(3)
    (site.directory / "checkpoint_epoch2.pth").write_bytes(b"trained anew")
    ranking, _ = site.evaluate()
    assert site.asked == ["0:1", "0:2", "0:2", "0:3"]
    assert len(ranking.reports) == 6
    site.evaluate()
    assert len(site.asked) == 4


def test_another_resolution_or_other_data_is_another_score(site):
    site.put(1)
    site.evaluate()
    site.configure('[evaluator]\nresolution = "native"')
    site.evaluate()
    assert len(site.asked) == 2
    mask = site.place / "masks_test" / "one_test.png"
    os.utime(mask, ns=(1, 1))
    site.evaluate()
    assert len(site.asked) == 3


def test_a_score_whose_terms_changed_is_made_anew_though_its_files_did_not(site):
    """What is said beside the score would not be true any more."""
    site.put(1)
    edit(site, ("[data]\n", '[data]\non_bad_file = "skip"\n'))

    def scored() -> EvaluationReport:
        return site.evaluate()[0].candidates[0].reports["test"]

    first = scored()
    table = site.place / "classes.json"
    table.write_text(table.read_text().replace(first.class_names[1], "other"))
    renamed = scored()
    (site.place / "images_test" / "alone.png").write_bytes(b"")
    skipped = scored()
    (site.place / "images" / "one.png").write_bytes((site.place / "images_test" / "one_test.png").read_bytes())
    leaked = scored()
    assert len(site.asked) == 4
    assert renamed.class_names == (first.class_names[0], "other")
    assert (renamed.skipped_images, skipped.skipped_images) == (0, 1)
    assert "also in train" in leaked.policy
    assert "also in train" not in skipped.policy
    assert len({report.data_fingerprint for report in (first, renamed, skipped, leaked)}) == 1
    assert scored() == leaked
    assert len(site.asked) == 4


def test_only_the_split_that_is_missing_is_asked_for_again(site):
    site.put(1)
    site.evaluate()
    test = site.output / "evaluations" / "attempt000_epoch1_test.json"
    before = (site.output / "evaluations" / "attempt000_epoch1_val.json").stat().st_mtime_ns
    test.unlink()
    site.evaluate()
    assert test.exists()
    assert (site.output / "evaluations" / "attempt000_epoch1_val.json").stat().st_mtime_ns == before


def test_refused_files_are_named_with_their_reason_and_the_others_are_scored(site):
    site.scenario(refuse={"0:2": "checkpoint_epoch2.pth is a riddle"})
    site.put(1, 2, 3)
    (site.directory / "checkpoint_epoch4.pth").write_bytes(b"")
    (site.directory / "checkpoint_epoch5.pth").mkdir()
    (site.directory / "checkpoint_epoch03.pth").write_bytes(b"again")
    ranking, code = site.evaluate()
    assert code == 0
    reasons = {candidate.file: candidate.why_not for candidate in ranking.left_out}
    assert reasons["checkpoint_epoch2.pth"] == "checkpoint_epoch2.pth is a riddle"
    assert "empty" in reasons["checkpoint_epoch4.pth"]
    assert "directory" in reasons["checkpoint_epoch5.pth"]
    assert "another epoch 3: checkpoint_epoch3.pth" in reasons["checkpoint_epoch03.pth"]
    assert ranking.scored == 2


def test_a_checkpoint_that_kills_the_evaluator_is_tried_twice_and_the_next_is_scored(site):
    site.scenario(die=["0:1"])
    site.put(1, 2)
    ranking, code = site.evaluate()
    assert code == 0
    assert site.asked == ["0:1", "0:1", "0:2"]
    assert "died over it" in ranking.candidates[0].why_not
    assert ranking.candidates[0].verdict == "failed"


def test_not_one_score_is_exit_code_1(site):
    site.scenario(refuse={"0:1": "checkpoint_epoch1.pth is a riddle"})
    site.put(1)
    ranking, code = site.evaluate()
    assert (code, ranking.scored) == (1, 0)
    assert "riddle" in (site.output / "results.csv").read_text()


def test_ctrl_c_keeps_what_is_done_and_the_next_call_does_the_rest(site):
    site.put(1, 2, 3)
    before_it = signal.getsignal(signal.SIGINT)
    ranking, code = site.evaluate(console=Interrupting("epoch 1:"))
    assert code == 130
    assert ranking.waiting == ("checkpoint_epoch2.pth", "checkpoint_epoch3.pth")
    assert (site.output / "results.csv").read_text().count("checkpoint_epoch1.pth") == 2
    before = site.asked
    ranking, code = site.evaluate()
    assert (code, ranking.waiting, len(ranking.reports)) == (0, (), 6)
    assert site.asked[len(before) :] in (["0:2", "0:3"], ["0:3"])
    assert signal.getsignal(signal.SIGINT) is before_it


def test_nothing_is_written_outside_the_output_directory(site):
    site.put(1, 2)
    (site.directory / "notes.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in site.directory.iterdir()}
    site.evaluate(output=site.place / "elsewhere")
    assert {path: path.stat().st_mtime_ns for path in site.directory.iterdir()} == before
    assert (site.place / "elsewhere" / "results.json").exists()


def test_the_output_is_no_run_that_other_commands_would_find(site):
    site.put(1)
    site.evaluate(output=site.place / "runs" / "out")
    assert not (site.place / "runs" / "out" / "run.lock.toml").exists()


def test_an_output_that_cannot_be_written_asks_for_another(site):
    site.put(1)
    (site.place / "file").write_text("")
    with pytest.raises(UsageError, match="--output"):
        site.evaluate(output=site.place / "file" / "out")


def test_two_calls_on_one_output_do_not_mix(site):
    from filelock import FileLock

    site.put(1)
    site.output.mkdir()
    with FileLock(site.output / ".lock"), pytest.raises(RunHeldError):
        site.evaluate()


def test_wrong_data_is_refused_before_anything_is_asked(site):
    site.put(1)
    (site.place / "images_test" / "alone.png").write_bytes((site.place / "images" / "one.png").read_bytes())
    with pytest.raises(ConfigError, match="alone"):
        site.evaluate()
    assert site.asked == []


def test_an_evaluator_that_can_never_score_ends_it_with_its_reason(site):
    site.put(1)
    site.scenario(unable="there is no device 'cuda:7'")
    with pytest.raises(ConfigError, match="cuda:7"):
        site.evaluate()


def test_only_names_of_epochs_right_in_the_directory_are_looked_at(site):
    site.put(1)
    for name in ("best.pth", "checkpoint_epoch1.state.pth", "checkpoint_epochX.pth", "my_checkpoint_epoch4.pth"):
        (site.directory / name).write_bytes(b"x")
    (site.directory / "sub").mkdir()
    (site.directory / "sub" / "checkpoint_epoch7.pth").write_bytes(b"x")
    found = find(site.directory)
    assert [epoch for epoch, _ in found.files] == [1]
    assert found.others == (
        "best.pth",
        "checkpoint_epoch1.state.pth",
        "checkpoint_epochX.pth",
        "my_checkpoint_epoch4.pth",
    )


def test_a_directory_without_checkpoints_or_that_is_none_is_explained(site):
    (site.directory / "model.pth").write_bytes(b"x")
    with pytest.raises(SegwatchError, match=r"no checkpoint_epochN\.pth in it; 1 other"):
        find(site.directory)
    with pytest.raises(UsageError, match="cannot be read"):
        find(site.place / "nowhere")


def edit(site: Site, *pairs: tuple[str, str]) -> None:
    path = site.place / "run.toml"
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


TRAIN = '[data.train]\nimages = "images"\nmasks = "masks"\n'
VAL = '[data.val]\nimages = "images_val"\nmasks = "masks_val"\n'


def told(site: Site) -> tuple[Ranking, str]:
    console = Console(width=300, file=io.StringIO(), record=True)
    ranking, code = site.evaluate(console=console)
    assert code == 0
    return ranking, console.export_text()


def test_faults_of_train_alone_stop_no_scoring_and_train_need_not_be_there(site):
    site.put(1)
    (site.place / "images" / "alone.png").write_bytes(b"no picture")
    (site.place / "masks" / "one.png").write_bytes(b"no mask")
    assert len(told(site)[0].reports) == 2
    edit(site, (TRAIN, ""))
    site.put(2)
    ranking, text = told(site)
    assert len(ranking.reports) == 4
    assert "note: run.toml names no train" in text


def test_without_val_only_test_is_scored_and_without_test_nothing(site):
    site.put(1)
    edit(site, (VAL, ""))
    ranking, text = told(site)
    assert [report.split for report in ranking.reports] == ["test"]
    assert "run.toml names no val" in text
    edit(site, ("[data.test]", "[data.val]"), ("images_test", "images_val"), ("masks_test", "masks_val"))
    with pytest.raises(ConfigError, match=r"\[data.test\] missing"):
        site.evaluate()


def test_an_image_of_test_that_is_in_train_is_told_though_train_is_not_read(site):
    site.put(1)
    (site.place / "masks" / "one.png").unlink()
    assert "in train as well" not in told(site)[1]
    (site.place / "masks" / "one.png").write_bytes(b"no mask")
    (site.place / "images" / "one.png").write_bytes((site.place / "images_test" / "one_test.png").read_bytes())
    assert "note: 1 of 1 images of test is, byte for byte, in train as well" in told(site)[1]
    assert ResolvedData.load(site.output / "data.lock.toml").leaked["test"] == 1


def test_a_class_of_data_use_that_no_mask_holds_is_a_note_and_one_of_no_table_a_mistake(site):
    site.put(1)
    table = json.loads((site.place / "classes.json").read_text())
    table["classes"].append({"id": 7, "name": "rare", "colour": [0, 9, 0]})
    table["classes"].append({"id": 9, "name": "", "colour": [0, 9, 9]})
    (site.place / "classes.json").write_text(json.dumps(table))
    edit(site, ("[data]\n", "[data]\nuse = [0, 1, 7]\n"))
    with pytest.raises(ConfigError, match="no training mask holds"):
        require(audit_data(site.place / "run.toml", load_config(site.place / "run.toml"), Console(quiet=True)))
    console = Console(width=300, file=io.StringIO(), record=True)
    site.evaluate(console=console)
    data = ResolvedData.load(site.output / "data.lock.toml")
    assert (data.class_ids, data.table_ids, data.named_ids) == ((0, 1, 7), (0, 1, 7, 9), (0, 1, 7))
    assert "note: test has no pixel of 7 rare: no IoU for it there" in console.export_text()
    edit(site, ("[0, 1, 7]", "[0, 1, 8]"))
    with pytest.raises(ConfigError, match="which the class table does not have"):
        site.evaluate()


def test_a_report_that_was_lifted_by_hand_or_lost_its_images_is_made_anew(site):
    site.put(1)
    site.evaluate()
    report = site.output / "evaluations" / "attempt000_epoch1_test.json"
    stored = json.loads(report.read_text())
    stored["scores"]["miou"] += 0.01
    stored["scores"]["mean_dice"] += 0.01
    report.write_text(json.dumps(stored))
    assert site.evaluate()[0].candidates[0].miou("test") == pytest.approx(0.5)
    report.with_suffix(".npz").unlink()
    site.evaluate()
    assert report.with_suffix(".npz").is_file()
    assert len(site.asked) == 3


def test_a_long_reason_stands_in_full_once(site):
    reason = "checkpoint_epoch1.pth is a riddle " + "of many words " * 20
    site.scenario(refuse={"0:1": reason.strip()})
    site.put(1, 2)
    text = told(site)[1]
    assert text.count(reason.strip()) == 1
    assert "epoch 1: refused: checkpoint_epoch1.pth is a riddle" in text
