"""What is concluded from replays that are told: no network, no step, every row of the table in moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from segwatch.trainer import bad_values
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause
from segwatch.trainer.diagnosis import Diagnosis, Finding, Replay
from segwatch.trainer.inquiry import Inquiry, Left
from segwatch.trainer.replay import AT_THE_INCIDENT, Held, OutOfTimeError, Place, Shown
from segwatch.trainer.resume import Position

STEP = 100
PLACE = Place(STEP, 5, 4, (0, 1))
BESIDE = Place(STEP, 5, 3, (4, 5))
USUAL = tuple((step, 1.0 + 0.01 * (step % 7), 1.0 + 0.01 * (step % 5)) for step in range(1, STEP))
GROWN = tuple(row if row[0] < 60 else (row[0], 1.15 ** (row[0] - 60), 1.2 ** (row[0] - 60)) for row in USUAL)
"""From step 64 or so on, to 200 times the loss and 1000 times the norm."""
DOUBLED = tuple(row if row[0] < 60 else (row[0], row[1], 3 * row[2]) for row in USUAL)
NAN = ((STEP, None, None),)


def held(name: str, step: int, *, weight: float | None = None, losses: tuple[float, ...] = ()) -> Held:
    position = Position(step=step, epoch=step // 20, losses=list(losses))
    weights = {"w": torch.tensor([float(step) if weight is None else weight])}
    return Held(name, weights, {"position": dict(vars(position))})


INCIDENT = held(AT_THE_INCIDENT, STEP - 1)
BEFORE, BEHIND = held("epoch2", 40), held("epoch4", 80)

Steps = list[tuple[int, float, float]]
Told = Mapping[tuple[str, bool], float | Steps | None]
"""By state and whether it is the step of the incident: its loss, the figures of all steps, or `None`: not finite."""


@dataclass
class Replays:
    """Stands in for the Replayer: a table instead of a network."""

    told: Told
    amp: Amp = Amp.OFF
    late: frozenset[str] = frozenset()
    """States from which the way is too long for the time that is left."""
    asked: list[str] = field(default_factory=list)
    computes_bf16: bool = True
    is_compiled: bool = False
    plainly: float | None = None
    """The loss where it is not compiled; `None` is not finite."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.spec = SimpleNamespace(amp=self.amp, run_dir=Path("nowhere"), cache_dir=Path("cache"))
        self.data = None
        self.cache = SimpleNamespace(pair=lambda index: SimpleNamespace(image=f"{index}.png", mask=None))

    def usable(self, state: Held) -> bool:
        return True

    def alike(self, one: Held, other: Held) -> bool:
        return torch.equal(one.weights["w"], other.weights["w"])

    def beside(self, place: Place) -> Place:
        return BESIDE

    def forward(self, state: Held, *, through: int, amp: Amp, plain: bool = False) -> Shown:
        if state.name in self.late:
            raise OutOfTimeError("too long")
        if plain:
            self.told = {**self.told, (state.name, True): self.plainly}
        if self.amp is Amp.FP16 and amp is not Amp.FP16:
            self.told = {**self.told, (state.name, True): 1.0}
        return self.once(state, PLACE, amp)

    def once(self, state: Held, place: Place, amp: Amp) -> Shown:
        self.asked.append(state.name)
        told = self.told.get((state.name, 0 in place.indices), 1.0)
        finite = told is not None
        figures = tuple(told) if isinstance(told, list) else ((place.step, told, 1.0),) if finite else ()
        row = Replay(
            start=state.name,
            first_step=state.position.step + 1,
            steps=1,
            amp=amp,
            result="finite" if finite else "not-finite",
            loss=figures[-1][1] if figures else None,
            message="" if finite else "the loss of step 100 is nan",
            seconds=0.1,
        )
        return Shown(row, place, figures)


@pytest.fixture
def inquire(monkeypatch) -> Callable[..., Diagnosis]:
    monkeypatch.setattr(
        bad_values, "look", lambda *_, **_more: SimpleNamespace(what="nothing is to be seen", cached_only=False)
    )
    monkeypatch.setattr(bad_values, "draw", lambda *_: None)

    def inquire(
        told: Told,
        *,
        good: tuple[Held, ...] = (BEFORE,),
        recent: tuple = USUAL,
        at: Held = INCIDENT,
        cause: Cause = Cause.NAN_LOSS,
        **more: object,
    ) -> Diagnosis:
        left = Left(Path(), cause, PLACE, (*recent, *NAN))
        return Inquiry(Replays(told, **more), left, at, good).answer()

    return inquire


def test_a_step_that_is_finite_again_is_transient_at_once_where_nothing_had_grown(inquire):
    diagnosis = inquire({})
    assert (diagnosis.finding, diagnosis.onset_step) == (Finding.TRANSIENT, None)
    assert [row.start for row in diagnosis.replays] == [AT_THE_INCIDENT]


# --- finite again, but loss or norms had grown


def test_growth_that_comes_again_from_before_the_onset_is_the_learning_rate(inquire):
    again = list(GROWN[BEFORE.position.step :])
    diagnosis = inquire({(BEFORE.name, True): again}, recent=GROWN, good=(BEHIND, BEFORE))
    assert diagnosis.finding is Finding.LEARNING_RATE
    assert 60 <= diagnosis.onset_step <= 66
    assert [row.start for row in diagnosis.replays] == [AT_THE_INCIDENT, BEFORE.name], "what lies behind is not good"


def test_growth_that_does_not_come_again_is_transient_and_says_from_before_where_to_go_on(inquire):
    diagnosis = inquire({(BEFORE.name, True): list(USUAL[BEFORE.position.step :])}, recent=GROWN)
    assert diagnosis.finding is Finding.TRANSIENT
    assert 60 <= diagnosis.onset_step <= 66
    assert f"from {BEFORE.name}" in diagnosis.because


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"good": (BEHIND,)}, "no good state lies before it"),
        ({"late": frozenset({BEFORE.name})}, "could not be repeated: too long"),
    ],
)
def test_growth_whose_way_cannot_be_repeated_is_taken_at_its_word(inquire, more, words):
    diagnosis = inquire({}, recent=GROWN, **more)
    assert diagnosis.finding is Finding.LEARNING_RATE
    assert words in diagnosis.because
    assert "is finite, with a loss of 1," in diagnosis.because


def test_norms_that_trebled_as_those_of_a_network_that_learns_are_no_onset_of_a_transient(inquire):
    diagnosis = inquire({}, recent=DOUBLED)
    assert (diagnosis.finding, diagnosis.onset_step) == (Finding.TRANSIENT, None)


# --- what is finite and nothing more


def test_a_loss_of_3e32_is_not_fine_where_the_run_knows_losses_of_1(inquire):
    from_the_incident = inquire({(AT_THE_INCIDENT, True): 3e32})
    assert from_the_incident.finding is Finding.TRANSIENT, "the way from a good state is fine"
    assert [row.start for row in from_the_incident.replays] == [AT_THE_INCIDENT, BEFORE.name]
    again = inquire({(AT_THE_INCIDENT, True): 3e32, (BEFORE.name, True): 3e32})
    assert again.finding is Finding.LEARNING_RATE


def test_a_good_state_that_makes_3e32_of_the_images_does_not_speak_for_them(inquire):
    sick = {(AT_THE_INCIDENT, True): None, (BEFORE.name, True): 3e32}
    assert inquire(sick).finding is Finding.DATA
    assert inquire({**sick, (BEFORE.name, False): 3e32}).finding is Finding.UNKNOWN, "it is no good state"


def test_a_loss_is_measured_by_those_of_the_good_states_where_all_that_was_seen_had_blown_up(inquire):
    blown = tuple((step, 1e20, 1.0) for step, _, _ in USUAL)
    known = held("epoch2", 40, losses=(0.9, 1.0, 1.1))
    assert inquire({(AT_THE_INCIDENT, True): 1e20}, good=(known,), recent=blown).finding is Finding.TRANSIENT
    both = {(AT_THE_INCIDENT, True): 1e20, ("epoch2", True): 1e20}
    assert inquire(both, good=(known,), recent=blown).finding is Finding.LEARNING_RATE


# --- who may bear witness against a file

SICK = {(AT_THE_INCIDENT, True): None, (BEFORE.name, True): None, (BEHIND.name, True): None}


def test_files_that_fail_from_two_different_states_are_to_blame_and_good_ones_are_counted(inquire):
    diagnosis = inquire(SICK)
    assert diagnosis.finding is Finding.DATA
    assert diagnosis.files[0].witnesses == "1 good state and the state at the incident"
    assert inquire(SICK, good=(BEHIND, BEFORE)).files[0].witnesses == "2 good states and the state at the incident"


def test_the_same_weights_under_two_names_are_one_witness(inquire):
    same = held(AT_THE_INCIDENT, STEP - 1, weight=float(BEFORE.weights["w"]))
    diagnosis = inquire(SICK, at=same)
    assert diagnosis.finding is Finding.UNKNOWN
    assert "two good states" in diagnosis.because


def test_what_lies_behind_the_onset_is_no_witness(inquire):
    diagnosis = inquire(SICK, good=(BEHIND,), recent=GROWN)
    assert diagnosis.finding is Finding.LEARNING_RATE
    assert BEHIND.name not in [row.start for row in diagnosis.replays]


# --- as training ran it, on what the device has


def test_bf16_is_neither_tried_nor_offered_where_the_device_only_emulates_it(inquire):
    overflow = {(AT_THE_INCIDENT, True): None}
    tried = inquire(overflow, amp=Amp.FP16)
    assert (tried.finding, tried.bf16_is_finite) == (Finding.PRECISION, True)
    spared = inquire(overflow, amp=Amp.FP16, computes_bf16=False)
    assert (spared.finding, spared.bf16_is_finite) == (Finding.PRECISION, False)
    assert [row.amp for row in spared.replays] == [Amp.FP16, Amp.OFF]
    assert "only emulates" in spared.because


def test_what_is_finite_without_torch_compile_is_neither_the_data_nor_the_rate(inquire):
    compiled = inquire(SICK, is_compiled=True, plainly=1.0)
    assert compiled.finding is Finding.UNKNOWN
    assert "trainer.compile = false" in compiled.because
    assert inquire(SICK, is_compiled=True).finding is Finding.DATA, "it is not finite without either"
