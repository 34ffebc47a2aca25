"""incidents/NNN/postmortem.md: written without anyone asking, again when more is known, and printed by `why`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from segwatch.daemon import ledger, ledger_page, pictures, postmortem, why
from segwatch.daemon.events import AttemptEnded, AttemptSpawned, Diagnosed, Outcome, ProbationEnded
from segwatch.daemon.measuring import LINES_OF_PACE
from segwatch.daemon.postmortem import gather
from segwatch.daemon.postmortems import Postmortems
from segwatch.daemon.rundir import RunDir
from segwatch.trainer.contract import Cause
from segwatch.trainer.diagnosis import BadFile, Diagnosis, Finding, FirstNonFinite, Replay

from .test_measuring import progress

WHOLE = Diagnosis(
    finding=Finding.DATA,
    because="from two good states",
    replays=(
        Replay(
            start="checkpoints/checkpoint_epoch1.json",
            first_step=15,
            steps=1,
            amp="off",
            images=("images/train/one.jpg",),
            result="raised",
            message="Target 200 | is out of bounds",
            seconds=0.25,
        ),
    ),
    first_nonfinite=FirstNonFinite(step=15, layer="inc.double_conv.3", tensor="output", largest=7.5),
    files=(BadFile(image="images/train/one.jpg", reproduced=2, what="200 is no class", picture="bad-file-1.png"),),
    onset_step=None,
    device="cpu",
    seconds=4.0,
)


class Site:
    """A run whose facts go to the sink as a daemon hands them out."""

    def __init__(self, run, place: Path) -> None:
        self.run = run
        self.place = place
        self.sink = Postmortems(place, run.history)
        self.told = 0
        self.deliver()

    def deliver(self) -> None:
        for moment, event in self.run.told[self.told :]:
            self.sink.handle(moment, event)
        self.sink.refresh(0, 0)
        self.told = len(self.run.told)

    def fails(self, cause: Cause = Cause.NAN_LOSS, *, step: int = 15) -> Path:
        ended = AttemptEnded(
            attempt=self.run.attempt,
            outcome=Outcome.UNSTABLE,
            cause=cause,
            message="it broke",
            step=step,
            epoch=1,
            stepped=True,
        )
        self.run.tell(ended)
        directory = self.place / "incidents" / f"{len(self.run.history.incidents) + 1:03d}"
        directory.mkdir(parents=True)
        self.run.suffers(cause, step=step)
        self.deliver()
        return directory

    def finds(self, whole: Diagnosis | None = None, finding: Finding = Finding.TRANSIENT) -> None:
        number = self.run.history.incidents[-1].number
        found = Diagnosed(incident=number, finding=finding, because="nothing to be seen")
        if whole is not None:
            directory = self.place / "incidents" / f"{number:03d}"
            (directory / "diagnosis.json").write_text(whole.model_dump_json())
            found = Diagnosed(incident=number, finding=whole.finding, because=whole.because, seconds=whole.seconds)
        self.run.tell(found)
        self.deliver()

    def answers(self, remedy: str = "resume", **more) -> None:
        number = self.run.history.incidents[-1].number
        self.run.plans(incident=number, remedy=remedy, resume_epoch=1, resume_step=10, **more)
        self.run.tell(AttemptSpawned(attempt=self.run.attempt, pid=1, create_time=1.0))
        self.deliver()


@pytest.fixture
def drawn(monkeypatch) -> list[str]:
    """Nothing is drawn; what would have been is told."""
    asked: list[str] = []
    monkeypatch.setattr(pictures.Pictures, "draw", lambda _self, directory: asked.append(directory.name))
    return asked


@pytest.fixture
def site(a_run, tmp_path, drawn) -> Site:
    run = a_run()
    run.begins(epochs=20)
    run.trains(1, 0.5)
    return Site(run, tmp_path)


def printed(run: RunDir, number: int | None, *, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None)
    known = why.look(run, number)
    assert known is not None
    why.print_why(run, known, console)
    return console.file.getvalue()


def text_of(directory: Path) -> str:
    return (directory / "postmortem.md").read_text()


def test_a_page_grows_with_what_becomes_known(site):
    place = site.fails()
    assert "# Incident 001: nan-loss at step 15" in text_of(place)
    assert "Not decided yet." in text_of(place)
    assert "The replay has not come to its end yet." in text_of(place)
    site.finds()
    assert "**transient**: nothing to be seen." in text_of(place)
    site.answers(because="it does not come back: resume")
    assert "**resume**, in force from attempt 2 on. it does not come back: resume." in text_of(place)
    assert "On probation." in text_of(place)
    site.run.tell(
        ProbationEnded(attempt=2, incident=1, passed=True, because="2 epochs since", miou=0.52, miou_before=0.5)
    )
    site.deliver()
    assert "Recovered." in text_of(place)
    assert "The remedy for incident 001 (attempt 2) has proved itself: 2 epochs since." in text_of(place)
    assert "test mIoU: 50.00 % before, 52.00 % after" in text_of(place)
    site.run.plans(undoes="resume", because="to see")
    site.deliver()
    assert "Undo: resume taken back in attempt 3: on trial." in text_of(place)
    site.run.tell(ProbationEnded(attempt=3, incident=None, passed=False, because="NaN came"))
    site.deliver()
    assert "failed, put back for the rest of the run (NaN came)." in text_of(place)


def test_the_timeline_is_in_the_order_of_time(site):
    place = site.fails()
    site.finds()
    site.answers()
    told = [line.split("|")[3].strip() for line in text_of(place).splitlines() if line.startswith("| 1970-")]
    assert told == [
        "attempt 1 was over (unstable)",
        "replayed: transient",
        "answer: attempt 2, from checkpoints/initial.json (step 10) (lr 0.001, AMP off, batch 4 x 1)",
    ]


def test_the_replay_its_first_layer_and_the_bad_file_stand_on_the_page(site):
    place = site.fails()
    (place / "bad-file-1.png").write_bytes(b"a picture")
    site.finds(WHOLE)
    text = text_of(place)
    row = "| checkpoints/checkpoint_epoch1.json | 15 | off | raised: Target 200 \\| is out of bounds | - | - | 0.2 s | "
    assert row in text
    assert "First not finite, at step 15: the output of layer `inc.double_conv.3`" in text
    assert "largest finite magnitude that went in was 7.5" in text
    assert "Bad file: `images/train/one.jpg`: 200 is no class. Reproduced from 2 good states." in text
    assert "](bad-file-1.png)" in text
    assert f"To repeat the diagnosis: `segwatch replay {site.place} 1`." in text


def test_a_guess_is_called_one(site):
    place = site.fails()
    site.finds(finding=Finding.UNKNOWN)
    site.answers("lower-lr", guessed=True)
    assert "segwatch replay" not in text_of(place)
    assert "verdict: unknown (guessed); remedy: lower-lr; on probation." in text_of(place)
    assert "So what follows is a guess." in text_of(place)
    assert "This is a guess." in text_of(place)


def test_a_crash_of_which_nothing_was_found_out_is_called_a_guess_as_well(site):
    place = site.fails(Cause.WORKER_CRASHED)
    site.finds(finding=Finding.UNKNOWN)
    site.answers(guessed=True)
    assert "verdict: unknown (guessed); remedy: resume; " in text_of(place)
    assert ledger_page.verdict(ledger.rows(site.run.history, {})[0]) == "unknown (guessed)"


def test_only_the_remedy_is_called_a_guess_where_it_is_known_what_it_was(site):
    place = site.fails()
    site.finds()
    site.answers("amp-off", guessed=True)
    assert "verdict: transient; remedy: amp-off (guessed); on probation." in text_of(place)
    assert "**amp-off (guessed)**, in force from attempt 2 on." in text_of(place)


def test_memory_that_ran_out_is_a_verdict_without_a_replay(site):
    place = site.fails(Cause.OUT_OF_MEMORY)
    site.answers("micro-batch")
    assert "verdict: capacity; remedy: micro-batch; on probation." in text_of(place)
    assert "**capacity**: memory ran out" in text_of(place)
    assert ledger_page.cells(ledger.rows(site.run.history, {})[0])[2] == "capacity"


@pytest.mark.parametrize(
    ("finding", "guessed", "headline"),
    [
        (Finding.PRECISION, False, "verdict: precision; remedy: bf16, put back; on probation."),
        (Finding.UNKNOWN, True, "verdict: unknown (guessed); remedy: bf16, put back; on probation."),
    ],
)
def test_the_page_of_what_broke_an_undoing_says_one_thing_everywhere(site, finding, guessed, headline):
    site.fails()
    site.finds(finding=Finding.PRECISION)
    site.answers("bf16", amp="bf16")
    site.run.plans(undoes="bf16", amp="fp16")
    site.deliver()
    place = site.fails(step=25)
    site.finds(finding=finding)
    site.answers("bf16", amp="bf16", puts_back="bf16", guessed=guessed)
    text = text_of(place)
    assert headline in text
    assert ("guess" in text) == guessed
    assert "a plain `while true` loop: would not have met it" in text
    assert f"| {headline.partition('; ')[0].removeprefix('verdict: ')} |" in " | ".join(
        ["", *ledger_page.cells(ledger.rows(site.run.history, {})[1]), ""]
    )


def test_a_state_that_retention_has_removed_is_not_listed_any_more(site):
    place = site.fails()
    (place / "state.pt").write_bytes(b"weights")
    site.finds()
    site.answers()
    assert "- `state.pt`: weights" in text_of(place)
    (place / "state.pt").unlink()
    Postmortems(site.place, site.run.history).refresh(0, 0)  # also by a daemon that comes after it
    assert "state.pt" not in text_of(place)


def test_page_and_ledger_tell_the_same_pace_also_of_a_remedy_that_proved_itself_at_once(site):
    place = site.fails()
    site.answers("lower-lr")
    for number, pace in ((1, 8.0), (2, 4.0)):
        journal = site.place / "attempts" / f"{number:03d}" / "journal.jsonl"
        journal.parent.mkdir(parents=True)
        journal.write_text(f"{progress(15, 50.0, pace=pace)}\n")
    site.run.tell(ProbationEnded(attempt=2, incident=1, passed=True, because="well", miou=0.5, miou_before=0.5))
    site.deliver()
    assert "images/s: 8 before, 4 after" in text_of(place)
    with journal.open("a") as file:
        file.write(99 * f"{progress(16, 60.0, pace=6.0)}\n")
    site.run.trains(2, 0.5)
    site.deliver()
    assert "images/s: 8 before, 6 after" in text_of(place)
    assert "8 -> 6" in ledger_page.account(site.place, site.run.history).rows[0]


def test_what_taking_a_remedy_back_has_cost_stands_on_the_page_once_it_is_known(site):
    place = site.fails()
    site.finds()
    site.answers("bf16", amp="bf16")
    stopped = {"outcome": "stopped", "cause": None, "message": "m", "stepped": True}
    site.run.tell(AttemptEnded.model_validate({"attempt": 2, "step": 40, "epoch": 4, **stopped}))
    site.run.plans(undoes="bf16", amp="fp16", resume_epoch=4, resume_step=40)
    site.run.tell(AttemptEnded.model_validate({"attempt": 3, "step": 63, "epoch": 6, **stopped}))
    site.run.tell(ProbationEnded(attempt=3, incident=None, passed=False, because="too low"))
    site.run.plans(puts_back="bf16", remedy="bf16", amp="bf16", resume_epoch=4, resume_step=40)
    site.deliver()
    assert "- steps lost: 28\n" in text_of(place)
    assert "- of that by taking the remedy back: 23 steps\n" in text_of(place)


def test_a_picture_is_drawn_once_and_again_only_when_the_onset_is_known(site, drawn):
    site.fails()
    assert drawn == ["001"]
    site.finds()
    site.answers()
    assert drawn == ["001"]
    site.fails(step=18)
    site.run.tell(Diagnosed(incident=2, finding=Finding.LEARNING_RATE, because="it grew", onset_step=11))
    site.deliver()
    assert drawn == ["001", "002", "002"]


def test_a_skipped_step_has_a_short_page_and_no_picture(site, drawn):
    (site.place / "incidents" / "001").mkdir(parents=True)
    site.run.suffers(Cause.INF_GRADIENTS, fatal=False)
    site.deliver()
    text = text_of(site.place / "incidents" / "001")
    assert "None was needed: the step was skipped, and training went on." in text
    assert "Diagnosis" not in text
    assert drawn == []


def test_the_page_says_why_there_is_no_picture(site, monkeypatch):
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda _name: None)
    place = site.fails()
    assert "No picture: matplotlib is not installed here" in text_of(place)
    monkeypatch.undo()
    (place / "steps.log").write_text("Traceback\nno font on this machine\n")
    site.finds()
    assert "No picture: no font on this machine." in text_of(place)


def test_a_daemon_that_died_writes_what_it_missed(site, drawn):
    place = site.fails()
    (place / "postmortem.md").unlink()
    later = Postmortems(site.place, site.run.history)
    later.catch_up(site.run.told)
    assert "Not decided yet." in text_of(place)
    assert drawn == ["001", "001"]  # the process of the dead daemon may have died with it


def test_what_is_settled_is_not_looked_at_again(site, monkeypatch):
    """After the recovery an epoch costs nothing, however many incidents there were."""
    place = site.fails()
    site.answers("lower-lr")
    for number in (1, 2):
        journal = site.place / "attempts" / f"{number:03d}" / "journal.jsonl"
        journal.parent.mkdir(parents=True)
        journal.write_text(
            json.dumps(
                {"kind": "checkpoint", "time": 50.0 + number, "role": "recovery", "epoch": 1, "step": 15, "seconds": 0}
                | {"manifest": "m", "sha256": "s"}
            )
            + "\n"
            + LINES_OF_PACE * f"{progress(15, 50.0 + number)}\n"
        )
    site.run.tell(ProbationEnded(attempt=2, incident=1, passed=True, because="well", miou=0.5, miou_before=0.5))
    site.deliver()
    assert "time lost: 1 s" in text_of(place)
    looked = []
    monkeypatch.setattr("segwatch.daemon.postmortems.gather", lambda *_a, **_k: looked.append(1))
    site.run.trains(2, 0.5)
    site.deliver()
    assert looked == []


def test_hundreds_of_epochs_at_once_cost_each_page_one_look(site, monkeypatch):
    """As after days without a daemon; a page for each of them would hold up whoever wants to stop it."""
    for _ in range(2):
        site.fails(Cause.WORKER_CRASHED)
        site.answers()
    looked = []
    monkeypatch.setattr(site.sink, "_write", lambda numbers: looked.append(sorted(numbers)))
    for epoch in range(2, 302):
        site.run.commits(epoch)
    site.deliver()
    assert looked == [[1, 2]]


def test_of_many_open_incidents_the_newest_follow_every_epoch_and_all_tell_of_the_recovery(site, monkeypatch):
    """A run that breaks faster than its epochs are scored: each of its pages is true when training is past it."""
    places = []
    for _ in range(30):
        places.append(site.fails(Cause.WORKER_CRASHED))
        site.answers()
    looked = []

    def counted(run_dir, history, incident, **more):
        looked.append(incident.number)
        return gather(run_dir, history, incident, **more)

    monkeypatch.setattr("segwatch.daemon.postmortems.gather", counted)
    site.run.commits(2)
    site.deliver()
    assert looked == [29, 30]
    assert not any("Recovered." in text_of(place) for place in places)
    site.run.trains(3, 0.5)
    site.deliver()
    assert all("Recovered." in text_of(place) for place in places)
    looked.clear()
    site.run.trains(4, 0.5)
    site.deliver()
    assert len(looked) <= 2


def test_what_will_never_be_known_is_not_waited_for(site, monkeypatch):
    """Attempts that die one after the other, with no journal and no score between them, are all let go at the end."""
    for _ in range(5):
        site.fails(Cause.WORKER_CRASHED)
        site.answers()
    site.run.trains(2, 0.5)
    site.deliver()
    looked = []
    monkeypatch.setattr("segwatch.daemon.postmortems.page", lambda known: looked.append(known.incident.number) or "")
    site.run.trains(3, 0.5)
    site.deliver()
    assert set(looked) == {5}  # of the last one the time that it took may still be told


def test_a_directory_that_somebody_cleared_away_is_left_alone(site):
    place = site.fails()
    (place / "postmortem.md").unlink()
    place.rmdir()
    site.finds()
    assert not place.exists()


def test_names_on_a_page_are_no_markup(site):
    place = site.fails()
    evil = WHOLE.files[0].model_copy(update={"image": "a`](http://x)\n# head", "picture": "../../secret.png"})
    (site.place / "secret.png").write_bytes(b"not to be shown")
    site.finds(WHOLE.model_copy(update={"files": (evil,)}))
    assert "`a'](http://x) # head`" in text_of(place)
    assert "secret" not in text_of(place)
    assert postmortem.PAGE == "postmortem.md"


# --- a whole night -------------------------------------------------------------------------------------------------


def test_a_night_with_two_incidents_leaves_their_pages_and_the_ledger(daemon):
    """A real daemon around the fakes: a NaN at step 6 that cannot be repeated, and a kill in epoch 3."""
    daemon.scenario(faults={"1:6": "nan", "2:10": "kill"}, diagnosis={"1": {"finding": "transient"}})
    daemon.configure(epochs=4)
    code, output = daemon.run()
    assert code == 0, output
    run = RunDir(daemon.run_dir)
    first, second = ((run.path / "incidents" / number / "postmortem.md").read_text() for number in ("001", "002"))
    assert "verdict: transient; remedy: resume; recovered." in first
    assert "| +" in first  # the moments after the fault are counted from it
    assert "steps lost: 1\n" in first  # step 5 was done, epoch 1 ended with step 4
    assert "the run was as far as before the fault (step 5)" in first
    assert "worker-crashed at step 9" in second
    report = (run.path / "report.md").read_text()
    assert "| 001 | nan-loss, attempt 1, epoch 2, step 6 | transient | resume | 1 |" in report
    assert "| 002 | worker-crashed, attempt 2, epoch 3, step 9 | - | resume | 1 |" in report
    assert "A plain loop would have lost 2 steps and" in report
    assert first in printed(run, 1)
