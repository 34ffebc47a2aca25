"""Which remedy is taken back, when, how far, and that what failed is put back and stays."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segwatch.daemon.config import RecoveryConfig
from segwatch.daemon.events import AttemptSpawned, BudgetsForgiven, ConfigChanged, DrillsRequested, ProbationEnded
from segwatch.daemon.policy import Settings
from segwatch.daemon.probation import Probations
from segwatch.daemon.undoing import latched, settings_of, to_put_back, to_undo, tries
from segwatch.trainer.config import Amp
from segwatch.trainer.contract import Cause, Drill, DrillKind

CONFIG = RecoveryConfig()
WISHED = Settings(lr=1e-3, amp=Amp.FP16, batch_size=4, accumulate=1)


class Nights:
    """A run on which remedies come, prove themselves, and are taken back as `undoing` says."""

    def __init__(self, run, config: RecoveryConfig = CONFIG, epochs: int = 100) -> None:
        self.run, self.config, self.epoch = run, config, 0
        self.probations = Probations(config)
        run.begins(epochs=epochs)
        run.plans(amp="fp16")  # attempt 2: with what a person wished for
        self.start()

    @property
    def history(self):
        return self.run.history

    @property
    def now(self) -> Settings:
        return settings_of(self.history.current.plan)

    def start(self) -> None:
        self.run.tell(AttemptSpawned(attempt=self.run.attempt, pid=1, create_time=0.0))

    def trains(self, epochs: int = 1, miou: float = 0.5) -> None:
        for _ in range(epochs):
            self.epoch += 1
            self.run.trains(self.epoch, miou)
            self.settle()

    def settle(self) -> None:
        for end in list(self.probations.ended(self.history)):
            self.run.tell(end)

    def plans(self, now: Settings, **more) -> None:
        told = {"resume_epoch": self.epoch, "resume_step": 10 * self.epoch, **more}
        self.run.plans(lr=now.lr, amp=now.amp, batch_size=now.batch_size, accumulate=now.accumulate, **told)
        self.start()

    def remedied(self, remedy: str, cause: Cause = Cause.NAN_LOSS, **changed) -> None:
        incident = self.run.suffers(cause, step=10 * self.epoch + 5, epoch=self.epoch + 1)
        self.settle()
        self.plans(Settings(**{**vars(self.now), **changed}), incident=incident.number, remedy=remedy)

    def undo(self):
        return to_undo(self.history, WISHED, self.config)

    def carry_out(self, change, **more) -> None:
        if change.puts_back:
            self.epoch = min(self.epoch, self.history.tried.undone[-1].resume_epoch)
            for epoch in [epoch for epoch in self.history.lineage() if epoch.epoch > self.epoch]:
                self.run.moves(epoch.attempt, epoch.epoch)
        told = {"undoes": change.undoes, "puts_back": change.puts_back, "remedy": change.puts_back, **more}
        self.plans(change.settings, because=change.because, **told)


@pytest.fixture
def nights(a_run):
    return Nights(a_run())


def amp_off(nights, epochs: int = 2) -> None:
    nights.remedied("amp-off", amp=Amp.OFF)
    nights.trains(epochs)


def test_a_remedy_is_taken_back_once_it_has_proved_itself_and_not_before(nights):
    nights.trains(2)
    amp_off(nights, epochs=1)
    assert nights.undo() is None
    nights.trains(1)
    change = nights.undo()
    assert (change.undoes, change.settings, change.resume) == ("amp-off", WISHED, "latest")
    assert change.because.startswith("AMP off -> fp16 again: 2 epochs went well")


def test_nothing_is_taken_back_where_a_person_does_not_want_it_or_there_is_nothing(nights):
    nights.trains(6)
    assert nights.undo() is None
    amp_off(nights)
    assert to_undo(nights.history, WISHED, RecoveryConfig(undo=False)) is None


@pytest.mark.parametrize(("left", "tried"), [(3, True), (2, False)])
def test_nothing_is_taken_back_when_too_few_epochs_are_left_to_see_what_comes_of_it(a_run, left, tried):
    nights = Nights(a_run(), epochs=4 + left)
    nights.trains(2)
    amp_off(nights)
    assert (nights.undo() is not None) == tried


def test_nothing_is_taken_back_while_a_drill_is_ahead(nights):
    amp_off(nights)
    nights.run.tell(DrillsRequested(drills=(Drill(kind=DrillKind.KILL, step=900),)))
    assert nights.undo() is None


def test_nothing_is_taken_back_while_something_is_open(nights):
    amp_off(nights)
    nights.remedied("resume", cause=Cause.WORKER_CRASHED)
    assert nights.undo() is None
    nights.trains(1)
    assert nights.undo() is None  # too soon after a change to say what it did
    nights.trains(1)
    assert nights.undo() is not None


def test_precision_comes_back_first_then_the_rate_in_the_steps_in_which_it_went(nights):
    nights.remedied("lower-lr", lr=5e-4)
    nights.trains(2)
    nights.remedied("lower-lr", lr=2.5e-4)
    nights.trains(2)
    amp_off(nights)
    seen = []
    while (change := nights.undo()) is not None:
        seen.append((change.undoes, change.settings.amp, change.settings.lr, change.warm_up_steps))
        nights.carry_out(change)
        assert nights.undo() is None, "one at a time"
        nights.trains(2)
    assert seen == [
        ("amp-off", Amp.FP16, 2.5e-4, 0),
        ("lower-lr", Amp.FP16, 5e-4, 50),
        ("lower-lr", Amp.FP16, 1e-3, 50),
    ]


def test_the_rate_never_rises_above_what_a_person_wants(nights):
    nights.remedied("lower-lr", lr=8e-4)
    nights.trains(2)
    assert nights.undo().settings.lr == WISHED.lr


def test_bf16_is_taken_back_to_fp16_and_off_to_where_it_came_from(nights):
    nights.remedied("bf16", amp=Amp.BF16)
    nights.trains(2)
    assert (nights.undo().undoes, nights.undo().settings.amp) == ("bf16", Amp.FP16)
    amp_off(nights)
    change = nights.undo()
    assert (change.undoes, change.settings.amp) == ("amp-off", Amp.BF16)
    nights.carry_out(change)
    nights.trains(2)
    assert (nights.undo().undoes, nights.undo().settings.amp) == ("bf16", Amp.FP16)


def test_a_smaller_batch_and_images_left_out_are_never_taken_back(nights):
    nights.remedied("micro-batch", cause=Cause.OUT_OF_MEMORY, batch_size=2, accumulate=2)
    nights.trains(2)
    nights.remedied("leave-out")
    nights.trains(2)
    assert nights.undo() is None


def test_an_undoing_in_vain_is_put_back_from_before_it_and_latched(nights):
    amp_off(nights)
    nights.trains(1)
    nights.carry_out(nights.undo())
    before = nights.history.current.plan.resume_step
    nights.run.suffers(Cause.INF_GRADIENTS, epoch=nights.epoch + 1)
    nights.run.finds("precision")
    nights.settle()
    change = to_put_back(nights.history)
    assert (change.puts_back, change.settings.amp, change.resume) == ("amp-off", Amp.OFF, "verified-good")
    assert change.before_step == before + 1
    assert change.because == (
        f"the remedy is still needed, since without it inf-gradients came in epoch {nights.epoch + 1} (incident 002): "
        "AMP fp16 -> off, for the rest of the run"
    )
    nights.carry_out(change, incident=2)
    assert to_put_back(nights.history) is None, "once"
    nights.trains(5)
    assert latched(nights.history, "amp-off")
    assert nights.undo() is None


def test_what_may_have_broken_for_another_reason_is_put_back_as_a_guess_and_tried_once_more(nights):
    amp_off(nights)
    words = []
    for incident in (2, 3):
        nights.carry_out(nights.undo())
        nights.run.suffers(Cause.NAN_LOSS, epoch=nights.epoch + 1)
        nights.run.finds("unknown")
        nights.settle()
        change = to_put_back(nights.history)
        assert (change.puts_back, change.guessed) == ("amp-off", True)
        words.append(change.because)
        nights.carry_out(change, incident=incident)
        nights.trains(3)
    assert words[0].startswith("guessed: the remedy is still needed, since without it nan-loss came in epoch")
    assert words[0].endswith("AMP fp16 -> off, until it is tried once more")
    assert words[1].endswith("AMP fp16 -> off, for the rest of the run")
    assert nights.undo() is None, "two tries"


def test_what_cannot_be_repeated_costs_no_precision_that_has_just_come_back(nights):
    amp_off(nights)
    nights.carry_out(nights.undo())
    nights.run.suffers(Cause.NAN_LOSS, epoch=nights.epoch + 1)
    nights.run.finds("transient")
    nights.settle()
    assert to_put_back(nights.history) is None
    nights.plans(nights.now, incident=2, remedy="resume")
    nights.trains(2)
    assert [end.passed for end in nights.history.probations] == [True, True, True]
    assert nights.now.amp is Amp.FP16


def test_each_cut_of_the_rate_has_its_own_tries(nights):
    for lr in (5e-4, 2.5e-4, 1.25e-4):
        nights.remedied("lower-lr", lr=lr)
        nights.trains(2)
    while (change := nights.undo()) is not None:
        nights.carry_out(change)
        nights.trains(2)
    assert nights.now == WISHED


def test_a_cut_that_is_needed_keeps_those_before_it_and_not_the_one_that_comes_later(nights):
    nights.remedied("lower-lr", lr=5e-4)
    nights.trains(2)
    nights.carry_out(nights.undo())
    nights.trains(2, miou=0.45)
    nights.carry_out(to_put_back(nights.history))
    nights.trains(4)
    assert nights.undo() is None
    nights.remedied("lower-lr", lr=2.5e-4)
    nights.trains(2)
    assert nights.undo().settings.lr == 5e-4
    nights.carry_out(nights.undo())
    nights.trains(4)
    assert nights.undo() is None
    assert nights.now.lr == 5e-4


def test_scores_that_stay_too_low_put_the_rate_back_and_nothing_else(nights):
    nights.remedied("lower-lr", lr=5e-4)
    nights.trains(2)
    nights.carry_out(nights.undo())
    nights.remedied("micro-batch", cause=Cause.OUT_OF_MEMORY, batch_size=2, accumulate=2)
    nights.trains(2, miou=0.4)
    change = to_put_back(nights.history)
    assert change.settings == Settings(lr=5e-4, amp=Amp.FP16, batch_size=2, accumulate=2)


def test_what_a_person_sets_afterwards_is_not_put_back(nights):
    amp_off(nights)
    nights.carry_out(nights.undo())
    nights.run.suffers(Cause.NAN_LOSS)
    nights.run.finds("precision")
    nights.settle()
    assert to_put_back(nights.history) is not None
    nights.run.tell(ConfigChanged(changes={"trainer.amp": '"fp16" -> "bf16"'}, epochs=100))
    assert to_put_back(nights.history) is None
    nights.plans(Settings(**{**vars(nights.now), "amp": Amp.BF16}))
    assert to_put_back(nights.history) is None


def test_what_was_on_trial_when_a_person_stepped_in_is_neither_passed_nor_failed(nights):
    amp_off(nights)
    nights.carry_out(nights.undo())
    nights.run.tell(BudgetsForgiven())
    nights.trains(3, miou=0.1)
    assert to_put_back(nights.history) is None


WEATHER = st.lists(
    st.one_of(
        st.tuples(st.just("trains"), st.sampled_from([0.4, 0.49, 0.5, 0.5, 0.5, 0.6])),
        st.tuples(st.just("nan"), st.sampled_from(["amp-off", "bf16", "lower-lr", "resume", "leave-out"])),
        st.tuples(st.just("breaks"), st.sampled_from(["precision", "learning-rate", "transient", "unknown"])),
        st.tuples(st.just("dies"), st.none()),
        st.tuples(st.just("stops"), st.none()),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weather=WEATHER)
def test_in_any_weather_one_at_a_time_twice_at_most_and_never_again_what_failed(a_run, weather):
    nights = Nights(a_run())
    for what, how in weather:
        match what:
            case "trains":
                nights.trains(1, how)
            case "nan":
                amp = {"amp-off": Amp.OFF, "bf16": Amp.BF16}.get(how, nights.now.amp)
                lr = nights.now.lr * (0.5 if how == "lower-lr" else 1.0)
                undone = [plan.undoes for plan in nights.history.tried.open.values() if plan.undoes]
                if {"lower-lr", "amp-off", "bf16"} & {how, *undone}:  # what is undone is put back before it is renewed
                    breaks(nights, "unknown", Settings(lr, amp, 4, 1), how)
                else:
                    breaks(nights, "data", Settings(lr, amp, 4, 1), how, files=("a.png",))
            case "breaks":
                breaks(nights, how, nights.now, "resume")
            case "dies":
                nights.remedied("resume", cause=Cause.WORKER_CRASHED)
            case "stops":
                pass
        change = to_put_back(nights.history) or nights.undo()
        if change is not None:
            nights.carry_out(change)
        assert_words_are_kept(nights.history)


def breaks(nights, finding: str, now: Settings, remedy: str, **more) -> None:
    incident = nights.run.suffers(Cause.NAN_LOSS, epoch=nights.epoch + 1)
    nights.run.finds(finding, **more)
    nights.settle()
    back = to_put_back(nights.history)
    if back is not None:
        nights.carry_out(back, incident=incident.number)
    else:
        nights.plans(now, incident=incident.number, remedy=remedy)


def assert_words_are_kept(history) -> None:
    made, needed = [cut.plan.attempt for _, cut in tries(history).made], set()
    assert len(made) == len(history.tried.undone), "only a remedy is undone"
    assert sum(plan.undoes is not None for plan in history.tried.open.values()) <= 1
    assert all(made.count(cut) <= 2 for cut in made)
    failed = 0
    for plan, cut in tries(history).made:
        assert cut.plan.attempt not in needed
        end: ProbationEnded | None = history.tried.ends.get(plan.attempt)
        if end is not None and not end.passed:
            failed += 1
            needed |= set() if end.guessed else {cut.plan.attempt}
    assert len(history.tried.put_back) <= failed
    assert history.current.plan.lr <= WISHED.lr
