"""Asks one replay after the other until it is clear which of five things an incident was, and says so.

The cheapest question comes first. Knows nothing about processes, and decides nothing about what is done.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from . import bad_values
from .bisect import isolate
from .config import Amp
from .contract import Cause
from .diagnosis import BadFile, Diagnosis, Finding, FirstNonFinite, Replay
from .onset import Onset, find_onset
from .replay import Held, OutOfTimeError, Place, Replayer, Shown
from .spoilt import is_spoilt

log = logging.getLogger(__name__)

CONFIRMING_STEPS = 3
"""Behind the step that failed: finite once may be luck, and the next steps cost little."""
SCALER_STEPS = 12
"""An fp16 scaler needs some steps to lose."""
SANE_TIMES = 100.0
"""A loss so many times the usual is finite and nothing more: a single hard batch gives twenty times it at most."""
SANE_FROM = 1.0
"""The least that counts as usual: an untrained network may meet the batch too."""
ROBUST_GROWTH = 10.0
"""Figures that grew by less may have done so by learning: norms double and treble in the first epochs."""


@dataclass(frozen=True)
class Left:
    """What the worker left of the incident."""

    directory: Path
    cause: Cause
    place: Place
    recent: tuple[tuple[int, float | None, float | None], ...]
    """(step, loss, gradient norm); `None` is not finite."""
    high_since: int | None = None
    """From which step on the worker itself found the loss high."""


@dataclass(frozen=True)
class Answer:
    """The finding and what goes with it."""

    finding: Finding
    because: str
    files: tuple[BadFile, ...] = ()
    first: FirstNonFinite | None = None


@dataclass
class Inquiry:
    """One incident under inquiry."""

    replayer: Replayer
    left: Left
    held: Held | None
    """The state at the incident."""
    good: Sequence[Held]
    """From before it, newest first."""
    rows: list[Replay] = field(default_factory=list)
    bf16_is_finite: bool | None = None

    def __post_init__(self) -> None:
        self.onset: Onset | None = find_onset(self.left.recent)
        self._first: FirstNonFinite | None = None

    @property
    def onset_step(self) -> int | None:
        """What the worker saw counts first: it had more than the last steps to compare with."""
        if self.left.high_since is not None or self.onset is None:
            return self.left.high_since
        return self.onset.step

    @property
    def _wrong_since(self) -> int | None:
        """The onset, where the growth is more than learning may bring about."""
        grew = self.onset is not None and self.onset.highest >= ROBUST_GROWTH * self.onset.before
        return self.onset_step if grew else self.left.high_since

    def answer(self, *, seconds: float = 0.0) -> Diagnosis:
        """`seconds` is what was spent before."""
        try:
            answer = self._find()
        except OutOfTimeError as error:
            answer = Answer(Finding.UNKNOWN, f"the time was not enough: {error}")
        except torch.OutOfMemoryError as error:
            answer = Answer(Finding.CAPACITY, f"memory ran out in the replay too: {error}")
        return Diagnosis(
            finding=answer.finding,
            because=answer.because,
            replays=tuple(self.rows),
            first_nonfinite=None if answer.finding is Finding.TRANSIENT else self._first,
            files=answer.files,
            bf16_is_finite=self.bf16_is_finite,
            onset_step=self._wrong_since if answer.finding is Finding.TRANSIENT else self.onset_step,
            device=str(self.replayer.device),
            seconds=seconds + sum(row.seconds for row in self.rows),
        )

    # --- the questions, in their order

    def _find(self) -> Answer:
        if self.left.cause is Cause.LOSS_SPIKE:
            return self._spike()
        start, same = self._same_settings()
        if start is None or same is None:
            return Answer(
                Finding.UNKNOWN, "the state at the incident is not usable, and there is no good one to begin from"
            )
        if same.finite:
            return self._finite_again(start, same)
        amp = self.replayer.spec.amp
        if self.replayer.is_compiled:
            plain = self._noted(self.replayer.forward(start, through=same.last.step, amp=amp, plain=True))
            if self._sane(plain):
                return Answer(
                    Finding.UNKNOWN,
                    f"{same.row.message} where the network is compiled, and it is finite where it is not: "
                    "trainer.compile = false would do without it",
                )
        full = same if amp is Amp.OFF else self._other_precisions(start, same)
        if self._sane(full):
            return self._precision(same, full)
        return self._data_or_state(start, full)

    def _same_settings(self) -> tuple[Held | None, Shown | None]:
        """Where the replay began, and what it showed; `None` where there is nothing to begin from."""
        spec, step = self.replayer.spec, self.left.place.step
        usable = self.held is not None and self.replayer.usable(self.held)
        good = self._before(self._wrong_since)
        if usable and self.left.cause is not Cause.NAN_WEIGHTS:
            assert self.held is not None
            start = self.held.at(self.left.place)
            shown = self._forward(start, self._through, spec.amp)
            if not shown.finite or self.left.cause is not Cause.AMP_UNSTABLE or not good:
                return start, shown
        if not good:
            return None, None
        return good[0], self._forward(good[0], max(step, good[0].position.step) + CONFIRMING_STEPS, spec.amp)

    def _before(self, step: int | None) -> list[Held]:
        """The good states from before `step`, newest first; `None` is the incident, before which all of them lie."""
        return [good for good in self.good if step is None or good.position.step < step]

    def _sane(self, shown: Shown) -> bool:
        """Finite, with losses of the size that this run knows: 3e32 is a finite number too."""
        return shown.finite and all(loss <= self._sane_loss for _, loss, _ in shown.figures)

    @property
    def _sane_loss(self) -> float:
        levels = [statistics.median(good.position.losses) for good in self.good if good.position.losses]
        seen = [loss for _, loss, _ in self.left.recent if loss is not None and math.isfinite(loss)]
        usual = max(levels, default=min(seen, default=math.inf))
        return SANE_TIMES * max(usual, SANE_FROM)

    @property
    def _through(self) -> int:
        more = SCALER_STEPS if self.left.cause is Cause.AMP_UNSTABLE else CONFIRMING_STEPS
        return self.left.place.step + more

    def _finite_again(self, start: Held, same: Shown) -> Answer:
        """Finite with nothing changed. Was the step all that was wrong, or were the weights on their way already?"""
        shown, since = same, self._wrong_since
        if self._at_the_incident(start) and not (since is None and self._sane(same)):
            before = next(iter(self._before(since)), None)
            how = f"is finite, with a loss of {_said(same.row.loss)},"
            if before is None:
                return self._state("no good state lies before it to repeat the way from", how=how)
            try:
                shown = self._forward(before, self.left.place.step, self.replayer.spec.amp)
            except OutOfTimeError as error:
                return self._state(f"the way there could not be repeated: {error}", how=how)
        if not self._sane(shown) or self._grows_again(shown):
            return self._state_again(shown)
        return self._transient(shown)

    def _at_the_incident(self, start: Held) -> bool:
        return self.held is not None and start.name == self.held.name

    def _grows_again(self, shown: Shown) -> bool:
        """Whether what grew comes nearer to what the worker saw than to what was usual, as a ratio."""
        onset, since = self.onset, self._wrong_since
        if onset is None or since is None:
            return False
        column = 1 if onset.figure == "loss" else 2
        seen = {row[0]: row[column] for row in self.left.recent}
        pairs = [
            (figures[column], then)
            for figures in shown.figures
            if figures[0] >= since and (then := seen.get(figures[0])) is not None and math.isfinite(then)
        ]
        if not pairs:
            return False
        now, then = (statistics.median(side) for side in zip(*pairs, strict=True))
        return bool(now > math.sqrt(onset.before * then))

    def _transient(self, same: Shown) -> Answer:
        row = same.row
        steps = "the step" if row.steps == 1 else f"{row.steps} steps, from {row.first_step} on,"
        return Answer(
            Finding.TRANSIENT,
            f"{steps} repeated from {row.start} with nothing changed are finite, with a loss of {_said(row.loss)} and "
            f"a gradient norm of {_said(row.grad_norm)} at the last: what happened at step "
            f"{self.left.place.step} cannot be repeated",
        )

    def _other_precisions(self, start: Held, same: Shown) -> Shown:
        """In fp32, after bf16 where that is another; the rest of the table."""
        amp = self.replayer.spec.amp
        through = max(self._through, same.last.step) if self.left.cause is Cause.AMP_UNSTABLE else same.last.step
        if amp is Amp.FP16 and not self.replayer.computes_bf16:
            self.bf16_is_finite = False
        elif amp is Amp.FP16:
            self.bf16_is_finite = self._forward(start, through, Amp.BF16).finite
        return self._forward(start, through, Amp.OFF)

    def _precision(self, same: Shown, full: Shown) -> Answer:
        amp = self.replayer.spec.amp
        good = next(iter(self._before(self.onset.step)), None) if self.onset is not None else None
        if good is not None and self._sane(self._once(good, same.last, amp)):
            return self._state(
                f"the same step is finite without AMP, but it is finite under it as well from {good.name}"
            )
        also = {True: " and in bf16", False: ", and not in bf16", None: ""}[self.bf16_is_finite]
        if amp is Amp.FP16 and not self.replayer.computes_bf16:
            also = " (bf16 this device only emulates)"
        return Answer(
            Finding.PRECISION,
            f"from {same.row.start}, {same.row.message} under AMP {amp}; the same in fp32{also} is finite, with a loss "
            f"of {_said(full.row.loss)}",
        )

    def _data_or_state(self, start: Held, full: Shown) -> Answer:
        """Not finite in fp32, or raised: is it these files, whatever the weights are?"""
        place, what = full.last, full.row.message or f"the loss is {_said(full.row.loss)}"
        good = self._before(self._wrong_since)
        tried = [(state, self._once(state, place, Amp.OFF)) for state in good]
        if not tried and self._wrong_since is not None:
            return self._state("no good state is left from before that to compare with")
        if not tried:
            return Answer(Finding.UNKNOWN, f"{what}, in fp32 too, and there is no good state to compare with")
        fine = next((state for state, shown in tried if self._sane(shown)), None)
        if fine is not None:
            return self._state(f"the same images are fine from {fine.name}")
        control = self.replayer.beside(place)
        if control is None:
            return Answer(Finding.UNKNOWN, f"{what}, and the epoch has no other step to compare with")
        sick = self._distinct([*good, start])
        witnesses = [state for state in sick if self._sane(self._once(state, control, Amp.OFF))]
        if len(witnesses) < 2:
            return Answer(
                Finding.UNKNOWN,
                f"{what}, from {_states(sick)}; but other images are fine from {len(witnesses)} of "
                "them only, and two good states are needed to blame a file",
            )
        return self._data(full, place, witnesses)

    def _distinct(self, states: Sequence[Held]) -> list[Held]:
        """Without what has the same weights as one before it: one witness heard twice is one witness."""
        found: list[Held] = []
        for state in states:
            if not any(self.replayer.alike(state, other) for other in found):
                found.append(state)
        return found

    def _state(self, but: str, *, how: str = "fails") -> Answer:
        """The state at the incident was not good any more."""
        grew = "no growth of loss or gradient norm is to be seen before it"
        if self.onset is not None:
            grew = (
                f"the {self.onset.figure} grew from step {self.onset.step} on, from {self.onset.before:.3g} to "
                f"{self.onset.highest:.3g}"
            )
        return Answer(
            Finding.LEARNING_RATE,
            f"step {self.left.place.step} {how} from the state at the incident; {but}: {grew}",
        )

    def _data(self, full: Shown, place: Place, witnesses: Sequence[Held]) -> Answer:
        def is_bad(indices: Sequence[int]) -> bool:
            return self._fails(witnesses[0], place, indices)

        found = isolate(place.indices, is_bad)
        files = tuple(self._bad_file(index, place, witnesses) for index in found)
        which = f"{len(place.indices)} images, of which none is bad alone"
        if files:
            which = ", ".join(f"{file.image} ({file.what})" for file in files)
        what = full.row.message or f"the loss is {_said(full.row.loss)}"
        return Answer(
            Finding.DATA,
            f"{what}, from {_states(witnesses)}, where other images are fine: {which}",
            files=files,
        )

    def _fails(self, state: Held, place: Place, indices: Sequence[int]) -> bool:
        return not self._sane(self._once(state, replace(place, indices=tuple(indices)), Amp.OFF))

    def _bad_file(self, index: int, place: Place, witnesses: Sequence[Held]) -> BadFile:
        replayer = self.replayer
        failing = [state for state in witnesses if self._fails(state, place, [index])]
        looked = bad_values.look(replayer.cache, replayer.data, index, drilled=is_spoilt(replayer.spec))
        pair = replayer.cache.pair(index)
        picture = f"bad-file-{index}.png"
        bad = BadFile(
            image=pair.image,
            mask=pair.mask,
            reproduced=len(failing),
            at_incident=any(self._at_the_incident(state) for state in failing),
            what=looked.what,
            picture=picture,
            cached_only=looked.cached_only,
        )
        try:
            bad_values.draw(replayer.cache, replayer.data, index, looked, self.left.directory / picture)
        except OSError as error:
            log.warning("no picture of %s: %s", pair.image, error)
            return bad.model_copy(update={"picture": None})
        return bad

    # --- a loss that stayed high

    def _spike(self) -> Answer:
        """Does it go up again, from a state that lies before it rose?"""
        step = self.left.place.step
        begins = self.onset_step or step
        before = next((good for good in self.good if good.position.step < begins), None)
        if before is None:
            return Answer(Finding.UNKNOWN, f"no good state lies before step {begins}, where the loss rose")
        shown = self._forward(before, step, self.replayer.spec.amp)
        if not shown.finite:
            return self._state_again(shown)
        recorded = {at: loss for at, loss, _ in self.left.recent}
        pairs = [
            (math.log(loss), math.log(high))
            for at, loss, _ in shown.figures
            if at >= begins and (high := recorded.get(at)) is not None and loss > 0 and high > 0
        ]
        usual = [math.log(loss) for at, loss, _ in self.left.recent if at < begins and loss is not None and loss > 0]
        if not pairs or not usual:
            return Answer(
                Finding.UNKNOWN, "too few losses stand on both sides of the rise to compare a replay with them"
            )
        now, then = (statistics.median(side) for side in zip(*pairs, strict=True))
        if now > (statistics.median(usual) + then) / 2:
            return self._state_again(shown)
        return Answer(
            Finding.TRANSIENT,
            f"repeated from {before.name} with nothing changed, the loss stays at {math.exp(now):.4g} from step "
            f"{begins} on, where the worker saw {math.exp(then):.4g}: what raised it cannot be repeated",
        )

    def _state_again(self, shown: Shown) -> Answer:
        what = shown.row.message or f"the loss goes up again, to {_said(shown.row.loss)}"
        return Answer(Finding.LEARNING_RATE, f"repeated from {shown.row.start} with nothing changed, {what}")

    # --- one replay each, into the table

    def _forward(self, held: Held, through: int, amp: Amp) -> Shown:
        return self._noted(self.replayer.forward(held, through=through, amp=amp))

    def _once(self, held: Held, place: Place, amp: Amp) -> Shown:
        return self._noted(self.replayer.once(held, place, amp))

    def _noted(self, shown: Shown) -> Shown:
        self.rows.append(shown.row)
        self._first = self._first or shown.first
        return shown


def _said(value: float | None) -> str:
    return "nothing finite" if value is None else f"{value:.4g}"


def _states(states: Sequence[Held]) -> str:
    return " and ".join(state.name for state in states)
