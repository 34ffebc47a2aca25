"""Checkpoints in, reports out: on a tiny set, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segwatch.data.cache import open_cache
from segwatch.evaluator import evaluate, overlays
from segwatch.evaluator.evaluate import Evaluator
from segwatch.evaluator.metrics import score
from segwatch.evaluator.report import (
    Refused,
    Request,
    Scored,
    Verdict,
    Working,
    report_path,
)
from segwatch.evaluator.scoring import tally

from .scored import (
    CPU,
    Constant,
    MakeNetwork,
    exhausted,
    raising,
    reference,
    refusal,
    reports,
)


def test_the_report_holds_the_matrix_of_the_numpy_reference(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    net = make_network()
    found = reports(tiny_run, list(evaluator.evaluate(tiny_run.save(net))))
    assert set(found) == {"val", "test"}
    for split, report in found.items():
        expected = reference(tiny_run, split, net)
        assert np.count_nonzero(expected) > 3, "the untrained network must predict more than one class"
        assert report.confusion == expected.tolist()
        assert report.scores == score(expected)
        assert report.verdict is Verdict.OK
        assert report.counted_pixels == expected.sum()


def test_the_report_says_what_was_scored_on_what(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network(), epoch=3)
    report = reports(tiny_run, list(evaluator.evaluate(request)))["test"]
    assert (report.attempt, report.epoch, report.step, report.split) == (1, 3, 30, "test")
    assert report.checkpoint_sha256 == request.sha256
    assert report.data_fingerprint == tiny_run.data.fingerprint("test")
    assert report.class_ids == (0, 4, 7)
    assert (report.images, report.skipped_images, report.device) == (5, 1, "cpu")
    pixels = sum(32 * 40 if index % 2 == 0 else 37 * 33 for index in range(5))
    assert report.counted_pixels + report.ignored_pixels == pixels
    assert report.ignored_pixels > 0
    assert report.policy == (
        "mean over the 3 classes with truth or prediction, of the 3 in use; scaled to 1, masks too; images whole; "
        "id 255 and unused ids ignored; 1 unusable image skipped"
    )


def test_the_report_is_strict_json_and_lies_there_before_it_is_announced(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    announced = 0
    for answer in evaluator.evaluate(tiny_run.save(make_network())):
        if isinstance(answer, Scored):
            path = report_path(tiny_run.directory, answer.attempt, answer.epoch, answer.split)
            assert tiny_run.directory / answer.report == path
            json.loads(path.read_text(), parse_constant=pytest.fail)
            announced += 1
    assert announced == 2


def test_batch_size_does_not_change_a_score(tiny_run: Any, make_network: MakeNetwork) -> None:
    request = tiny_run.save(make_network())
    found = []
    for batch_size in (1, 2, 16, None):
        answers = list(Evaluator(tiny_run.spec(batch_size=batch_size)).evaluate(request))
        found.append(reports(tiny_run, answers)["test"].confusion)
    assert found[0] == found[1] == found[2] == found[3]


def test_progress_counts_to_the_number_of_images_of_each_split(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    working = [answer for answer in evaluator.evaluate(tiny_run.save(make_network())) if isinstance(answer, Working)]
    assert [(w.done, w.total) for w in working if w.what == "val"] == [(2, 3), (3, 3)]
    assert [(w.done, w.total) for w in working if w.what == "test"] == [(2, 5), (3, 5), (5, 5)]


def test_loading_tells_its_progress_over_both_splits(tiny_run: Any, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    spec = tiny_run.spec().model_copy(update={"cache_dir": tmp_path / "fresh"})
    Evaluator(spec, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 8) for done in range(1, 9)]


def test_weights_that_changed_after_the_commit_are_corrupt(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network())
    weights = tiny_run.directory / "checkpoints" / "checkpoint_epoch1.pth"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert refusal(list(evaluator.evaluate(request))).reason == "corrupt"
    assert not (tiny_run.directory / "evaluations").exists()


def test_other_bytes_than_the_daemon_knows_of_are_corrupt(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network()).model_copy(update={"sha256": "0" * 64})
    assert refusal(list(evaluator.evaluate(request))).reason == "corrupt"


def test_a_manifest_that_is_none_is_corrupt(tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork) -> None:
    request = tiny_run.save(make_network())
    (tiny_run.directory / request.manifest).write_text("{}")
    assert refusal(list(evaluator.evaluate(request))).reason == "corrupt"


@pytest.mark.parametrize("gone", ["checkpoint_epoch1.json", "checkpoint_epoch1.pth"])
def test_a_checkpoint_that_was_moved_aside_is_missing(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork, gone: str
) -> None:
    request = tiny_run.save(make_network())
    (tiny_run.directory / "checkpoints" / gone).unlink()
    answer = refusal(list(evaluator.evaluate(request)))
    assert answer.reason == "missing"
    assert gone in answer.message


def test_an_epoch_whose_name_another_attempt_has_taken_is_missing_and_not_corrupt(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network(), attempt=2).model_copy(update={"attempt": 1})
    answer = refusal(list(evaluator.evaluate(request)))
    assert answer.reason == "missing"
    assert "attempt 2" in answer.message


def test_another_number_of_classes_is_foreign(tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork) -> None:
    request = tiny_run.save(make_network(classes=4), classes=4)
    answer = refusal(list(evaluator.evaluate(request)))
    assert answer.reason == "foreign"
    assert "4 classes, this run has 3" in answer.message


def test_other_class_ids_are_foreign_even_if_they_are_as_many(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    answer = refusal(list(evaluator.evaluate(tiny_run.save(make_network(), class_ids=(0, 4, 8)))))
    assert answer.reason == "foreign"
    assert "[0, 4, 8]" in answer.message


def test_tensors_of_another_shape_are_foreign_and_the_first_are_named(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network(base_channels=3), base_channels=2)
    answer = refusal(list(evaluator.evaluate(request)))
    assert answer.reason == "foreign"
    assert "inc.double_conv.0.weight is (3, 3, 3, 3), not (2, 3, 3, 3)" in answer.message
    assert "more" in answer.message


def test_networks_of_another_width_are_scored_one_after_another(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    for epoch, base_channels in enumerate((2, 3, 2), start=1):
        net = make_network(base_channels=base_channels)
        answers = list(evaluator.evaluate(tiny_run.save(net, epoch=epoch, base_channels=base_channels)))
        assert reports(tiny_run, answers)["val"].confusion == reference(tiny_run, "val", net).tolist()


def test_what_nobody_foresaw_is_refused_with_its_message_and_the_next_request_is_served(
    tiny_run: Any,
    evaluator: Evaluator,
    make_network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = tiny_run.save(make_network())
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "score", raising(KeyError("nobody knows")))
        answer = refusal(list(evaluator.evaluate(request)))
    assert (answer.reason, answer.message) == ("error", "KeyError: 'nobody knows'")
    assert "Traceback" in caplog.text
    assert set(reports(tiny_run, list(evaluator.evaluate(request)))) == {"val", "test"}


def test_a_split_that_is_not_loaded_is_refused_by_name(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request = tiny_run.save(make_network()).model_copy(update={"splits": ("val", "holdout")})
    answers = list(evaluator.evaluate(request))
    assert set(reports(tiny_run, answers)) == {"val"}
    assert "no split 'holdout'" in refusal(answers).message


def test_test_gets_a_picture_and_val_does_not(tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork) -> None:
    list(evaluator.evaluate(tiny_run.save(make_network(), epoch=2)))
    pictures = {path.name for path in (tiny_run.directory / "evaluations" / "overlays").iterdir()}
    assert pictures == {f"attempt001_epoch2{kind}.png" for kind in ("", "_worst", "_confusion")}


@pytest.mark.parametrize("room", [1 << 20, 0])
def test_the_worst_images_are_drawn_those_of_the_score_before_where_not_all_predictions_fit(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    drawn: dict[str, list[str]] = {}
    monkeypatch.setattr(evaluate, "KEPT_BYTES", room)
    monkeypatch.setattr(overlays, "IMAGES", 1)
    monkeypatch.setattr(
        overlays, "draw", lambda shown, *_, title: drawn.update({title: [entry.name for entry in shown]})
    )
    monkeypatch.setattr(overlays, "write", lambda *_: None)
    for epoch in (1, 2):
        answers = list(evaluator.evaluate(tiny_run.save(make_network(), epoch=epoch)))
    worst = reports(tiny_run, answers)["test"].worst_images[0].name
    first = drawn["attempt 1, epoch 1, worst of test"]
    assert first == [worst] if room else len(first) <= 1
    assert drawn["attempt 1, epoch 2, worst of test"] == [worst]


def test_a_picture_that_fails_leaves_the_score_alone(
    tiny_run: Any,
    evaluator: Evaluator,
    make_network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(overlays, "draw", raising(OSError("no font")))
    answers = list(evaluator.evaluate(tiny_run.save(make_network())))
    assert [answer.split for answer in answers if isinstance(answer, Scored)] == ["val", "test"]
    assert not [answer for answer in answers if isinstance(answer, Refused)]
    assert "no font" in caplog.text


def test_an_empty_split_has_no_score(tiny_run: Any) -> None:
    empty = tiny_run.data.model_copy(update={"splits": {"test": ()}})
    cache = open_cache(empty, "test", tiny_run.cache_dir)
    with pytest.raises(ValueError, match="without images"):
        exhausted(tally(Constant(), cache, classes=3, device=CPU, batch_size=1))


def test_a_request_for_the_same_checkpoint_gives_the_same_report(
    tiny_run: Any, evaluator: Evaluator, make_network: MakeNetwork
) -> None:
    request: Request = tiny_run.save(make_network())
    first, second = (reports(tiny_run, list(evaluator.evaluate(request)))["val"] for _ in range(2))
    assert first.model_copy(update={"seconds": 0.0}) == second.model_copy(update={"seconds": 0.0})
