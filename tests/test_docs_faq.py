"""docs/faq.md is true: its figures are those of our own formulas, and what it says happens by default does."""

from __future__ import annotations

import re

import pytest
from segwatch.daemon.memory_checks import need_of
from segwatch.daemon.rules import RISKY_MOMENTUM
from segwatch.daemon.verdict import HEALTHY_COURSE
from segwatch.trainer.config import Amp
from segwatch.trainer.footprint import ALLOCATOR_SHARE, ON_A_GPU_BYTES, Network, Training

from .conftest import REPOSITORY
from .daemon.test_doctor import FRAMES, config_of
from .trainer.test_footprint import CLOSE

PAGE = (REPOSITORY / "docs" / "faq.md").read_text()
TEXT = " ".join(PAGE.split())
FORUM_GIGABYTES = (8, 10)
ROWS = [
    (scale, batch)
    for scale in (0.25, 0.5, 1.0)
    for batch in (1, 2, 4, 8)
    if scale**2 * batch <= 2  # what a card of 80 GB may hold
]


def gigabytes(scale: float, batch: int, *, amp: str = "off", scored: int = 4, part: str = "training") -> float:
    config = config_of(
        data={"scale": scale}, trainer={"batch_size": batch, "amp": amp}, evaluator={"batch_size": scored}
    )
    return getattr(need_of(config, FRAMES, gpu=True), part) / 1e9


def memory_table() -> str:
    lines = [
        "| scale | batch | AMP off | bf16 or fp16 | to score beside it, 4 images or 1 at a time |",
        "|---|---|---|---|---|",
    ]
    for scale, batch in ROWS:
        half = {gigabytes(scale, batch, amp=amp) for amp in ("bf16", "fp16")}
        assert len(half) == 1
        four, one = (gigabytes(scale, batch, scored=scored, part="scoring") for scored in (4, 1))
        cells = (f"{scale:g}", f"{batch}", f"{gigabytes(scale, batch):.1f} GB", f"{half.pop():.1f} GB")
        lines.append(f"| {' | '.join(cells)} | {four:.1f} or {one:.1f} GB |")
    return "\n".join(lines)


def test_the_memory_table_is_what_the_doctor_reckons():
    found = PAGE.split("<!-- memory: begin -->\n")[1].split("\n<!-- memory: end -->")[0]
    assert found == memory_table()


def test_the_page_on_the_arithmetic_has_the_figures_of_the_formula():
    table = (REPOSITORY / "docs" / "decisions" / "0017-memory-by-arithmetic.md").read_text()
    settings = [(channels, amp) for channels in (64, 32) for amp in (Amp.OFF, Amp.BF16)]
    trainings = [Training(Network(channels, 14), 4, 1024, 1224, amp=amp) for channels, amp in settings]
    tensors = " | ".join(f"{training.peak_bytes / 1e9:.1f} GB" for training in trainings)
    on_a_gpu = " | ".join(f"{training.on_a_gpu_bytes / 1e9:.1f} GB" for training in trainings)
    loss = " | ".join(f"{training._loss_bytes / 1e9:.1f} GB" for training in trainings)
    for row in (f"| tensors | {tensors} |", f"0.6 GB and 8 % | {on_a_gpu} |", f"target | {loss} |"):
        assert row in table


def test_what_it_says_of_the_rule_that_goes_round_is_what_the_table_says():
    least, most = FORUM_GIGABYTES
    assert f"needs {least} to {most} GB" in TEXT
    assert 2 <= gigabytes(0.25, 1, amp="bf16") < gigabytes(0.25, 1) <= 3.05
    for scale, batch in ((0.25, 4), (0.5, 1)):
        assert least <= gigabytes(scale, batch) <= most
    assert gigabytes(0.5, 4, amp="bf16") > 1.2 * most, "not even in half precision"
    assert f"within {CLOSE:.0%}".replace("%", " %") in TEXT
    assert f"({ON_A_GPU_BYTES / 1e9} GB and {100 * ALLOCATOR_SHARE:.0f} %)" in TEXT


def test_a_training_step_takes_the_operations_that_it_says():
    network, height, width = Network(base_channels=64, classes=14), 512, 612
    products = height * width * 64 * network.classes
    for block in network.blocks:
        pixels = (height >> block.level) * (width >> block.level)
        products += pixels * 9 * (block.into * block.mid + block.mid * block.out)
        products += pixels * block.up_from * (block.up_from // 2)
    operations = 2 * 3 * products  # a product and a sum; once forward, twice backward
    assert f"is {operations / 1e12:.1f} million million operations" in TEXT
    a_second = 10e12 / operations
    assert f"trains {a_second:.0f} such images a second" in TEXT
    assert f"A hundred epochs of 1240 images are then about {100 * 1240 / a_second / 3600:.0f} hours" in TEXT


@pytest.mark.parametrize(("epoch", "miou"), HEALTHY_COURSE)
def test_the_healthy_course_is_the_one_that_status_compares_with(epoch, miou):
    assert re.search(rf"{100 * miou:.0f} % (?:test mIoU )?after (?:epoch )?{epoch}\b", TEXT)


def test_the_momentum_that_it_warns_of_is_one_that_segwatch_warns_of():
    assert "momentum 0.999" in TEXT
    assert RISKY_MOMENTUM <= 0.999


def test_three_tries_are_three():
    assert config_of().recovery.same_cause == 3
    assert "three restarts for one cause brought no progress" in TEXT


def test_every_question_is_linked_from_the_top():
    questions = re.findall(r"^## (.*)$", PAGE, flags=re.MULTILINE)
    top = PAGE.split("## ")[0]
    assert len(questions) >= 15
    assert len(re.findall(r"\]\(#", top)) == len(questions)
