"""Images in, class ids out: the same pixels as in a report, on a tiny set, in this process."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from segwatch.data.cache import open_cache
from segwatch.data.resolved import ResolvedClass
from segwatch.errors import CorruptCheckpointError, SegwatchError
from segwatch.evaluator import overlays, predict
from segwatch.evaluator.errand import answers
from segwatch.evaluator.evaluate import Evaluator
from segwatch.evaluator.metrics import confusion
from segwatch.evaluator.predict import Mirrored, windows_for
from segwatch.evaluator.report import Ready, Working
from segwatch.evaluator.statistics import read_per_image
from segwatch.evaluator.task import Cannot, Predicted, PredictTask, Source, Spoiled, Target

from .scored import MODES, MakeNetwork, full_labels, raising, reports

IDS = (0, 4, 7)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """As many as before: the process of a task sets its own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def task_of(run: Any, images: list[Path], output: Path, **settings: Any) -> PredictTask:
    request = settings.pop("request")
    return PredictTask(
        source=Source(run_dir=run.directory, checkpoint=request, device="cpu", threads=1),
        targets=tuple(Target(image=image, stem=output / image.stem) for image in images),
        **settings,
    )


def test_images(run: Any) -> list[Path]:
    return [run.data.root / pair.image for pair in run.data.splits["test"]]


test_images.__test__ = False  # type: ignore[attr-defined]


def ids_of(target: Target) -> np.ndarray:
    with Image.open(target.ids) as image:
        return np.asarray(image)


def done(task: PredictTask) -> dict[str, Predicted | Spoiled]:
    return {Path(a.image).name: a for a in predict.predict(task) if isinstance(a, Predicted | Spoiled)}


# --- the same as a score -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(MODES))
def test_the_predicted_ids_give_the_matrix_of_the_report_exactly(
    half_run: Any, make_network: MakeNetwork, tmp_path: Path, mode: str
) -> None:
    """At the masks' own size with a native report, at the scaled size with a scaled one; whole and in windows."""
    settings = MODES[mode]
    request = half_run.save(make_network())
    report = reports(half_run, list(Evaluator(half_run.spec(**settings)).evaluate(request)))["test"]
    native = settings.get("resolution") == "native"
    task = task_of(
        half_run,
        test_images(half_run),
        tmp_path / "out",
        request=request,
        scaled=not native,
        window=settings.get("window", 0),
        overlap=settings.get("overlap", 0.0),
    )
    assert all(isinstance(answer, Predicted) for answer in done(task).values())
    cache = open_cache(half_run.data, "test", half_run.cache_dir)
    counts = read_per_image(half_run.directory / "evaluations" / str(report.per_image))
    total = np.zeros((3, 3), dtype=np.int64)
    for index, target in enumerate(task.targets):
        truth = full_labels(half_run.data, cache.pair(index).mask) if native else cache.item(index)[..., 3]
        matrix = confusion(truth, np.searchsorted(IDS, ids_of(target)).astype(np.uint8), 3)
        assert matrix.diagonal().tolist() == counts.intersection[index].tolist()
        assert matrix.sum(axis=0).tolist() == counts.predicted[index].tolist()
        total += matrix
    assert np.count_nonzero(total) > 3, "the untrained network must predict more than one class"
    assert total.tolist() == report.confusion


def test_one_mirror_average_is_the_mean_of_the_four_logits_turned_back(make_network: MakeNetwork) -> None:
    net = make_network()
    images = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        expected = torch.zeros(1, 3, 32, 48)
        for axes in ((), (3,), (2,), (2, 3)):
            turned = images.flip(axes) if axes else images
            expected += (net(turned).flip(axes) if axes else net(turned)) / 4
        found = Mirrored(net)(images)
        alone = net(images)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, alone, atol=1e-3)


def test_flips_are_only_averaged_on_wish(tiny_run: Any, make_network: MakeNetwork, tmp_path: Path) -> None:
    request = tiny_run.save(make_network())
    found = {}
    for flips in (False, True):
        task = task_of(tiny_run, test_images(tiny_run)[:1], tmp_path / str(flips), request=request, flips=flips)
        done(task)
        found[flips] = ids_of(task.targets[0])
    assert (found[False] != found[True]).any()


# --- what is written -----------------------------------------------------------------------------------------------


def test_masks_hold_ids_of_the_table_in_8_bit_and_colours_of_the_table_at_the_image_s_own_size(
    half_run: Any, make_network: MakeNetwork, tmp_path: Path
) -> None:
    task = task_of(half_run, test_images(half_run)[1:2], tmp_path, request=half_run.save(make_network()))
    (answer,) = done(task).values()
    (target,) = task.targets
    ids = ids_of(target)
    assert (ids.dtype, ids.shape) == (np.uint8, (37, 33))
    assert {*np.unique(ids)} <= {*IDS}
    assert isinstance(answer, Predicted)
    assert answer.pixels == tuple(int((ids == id_).sum()) for id_ in IDS)
    colours = {id_: colour for id_, _, colour in ((c.id, c.name, c.colour) for c in half_run.data.classes)}
    with Image.open(target.colour) as image:
        pixels = np.asarray(image)
    for id_ in np.unique(ids):
        assert (pixels[ids == id_] == colours[int(id_)]).all()


def test_ids_above_255_are_written_in_16_bit(tiny_run: Any, make_network: MakeNetwork, tmp_path: Path) -> None:
    classes = tuple(
        ResolvedClass(id=id_, name=str(id_), colour=(id_ % 256, 0, 0), pixels={}) for id_ in (3, 300, 65535)
    )
    run = tiny_run.freeze(classes=classes)
    task = task_of(run, test_images(run)[:1], tmp_path, request=run.save(make_network()))
    done(task)
    ids = ids_of(task.targets[0])
    assert {*np.unique(ids)} <= {3, 300, 65535}
    assert ids.max() > 255


def test_the_overlay_shows_the_image_below_the_colours_and_a_legend_of_what_occurs(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path
) -> None:
    task = task_of(tiny_run, test_images(tiny_run)[:1], tmp_path, request=tiny_run.save(make_network()))
    done(task)
    (target,) = task.targets
    with Image.open(target.image) as image, Image.open(target.colour) as colour, Image.open(target.overlay) as sheet:
        enlarged = sheet.width // image.width
        assert sheet.width >= 480
        assert sheet.height > image.height * enlarged
        expected = (np.asarray(image).astype(int) + np.asarray(colour)) // 2
        shown = np.asarray(sheet).astype(int)[: image.height * enlarged : enlarged, : image.width * enlarged : enlarged]
        assert np.abs(shown - expected).max() <= 1
        legend = np.asarray(sheet)[image.height * enlarged :].reshape(-1, 3)
    present = np.unique(ids_of(target))
    for entry in tiny_run.data.classes:
        assert (legend == entry.colour).all(axis=1).any() == (entry.id in present)


def test_a_large_image_has_a_small_overlay_and_a_whole_mask(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path
) -> None:
    Image.new("RGB", (2500, 40), (90, 120, 60)).save(tmp_path / "wide.png")
    task = task_of(tiny_run, [tmp_path / "wide.png"], tmp_path, request=tiny_run.save(make_network()))
    done(task)
    assert ids_of(task.targets[0]).shape == (40, 2500)
    with Image.open(task.targets[0].overlay) as sheet:
        assert sheet.width == 2048


# --- what goes wrong -----------------------------------------------------------------------------------------------


def spoil(directory: Path) -> dict[str, str]:
    """Four images that cannot be predicted: name -> a word of the reason."""
    whole = Image.new("RGB", (64, 64), (9, 99, 9))
    whole.save(directory / "cut.png")
    (directory / "cut.png").write_bytes((directory / "cut.png").read_bytes()[:-20])
    exif = Image.Exif()
    exif[0x0112] = 6
    whole.save(directory / "turned.jpg", exif=exif)
    whole.resize((20, 15)).save(directory / "small.png")
    (directory / "text.png").write_text("no image")
    return {"cut.png": "cut short", "turned.jpg": "EXIF orientation", "small.png": "too small", "text.png": "decoded"}


def test_a_bad_image_is_named_with_its_reason_and_the_rest_goes_on(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path
) -> None:
    reasons = spoil(tmp_path)
    images = [*(tmp_path / name for name in reasons), *test_images(tiny_run)[:2]]
    task = task_of(tiny_run, images, tmp_path / "out", request=tiny_run.save(make_network()))
    found = done(task)
    for name, word in reasons.items():
        answer = found[name]
        assert isinstance(answer, Spoiled)
        assert word in answer.reason
        assert str(tmp_path) not in answer.reason
    assert len(list((tmp_path / "out").iterdir())) == 2 * 3


@pytest.mark.parametrize(
    ("size", "wanted", "sides"),
    [
        ((100, 200), None, [0]),
        ((2048, 2048), None, [0, 1024, 512, 256]),
        ((2049, 2048), None, [1024, 512, 256]),
        ((9000, 9000), 0, [0, 1024, 512, 256]),
        ((9000, 9000), 700, [700, 512, 256]),
        ((300, 300), 1024, [1024, 256]),
    ],
)
def test_an_image_is_taken_as_asked_and_in_smaller_windows_where_memory_ends(
    size: tuple[int, int], wanted: int | None, sides: list[int]
) -> None:
    assert [window.side for window in windows_for(size, wanted, 0.25)] == sides


def test_where_memory_ends_smaller_windows_do_and_the_answer_says_so(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (600, 300), (90, 120, 60)).save(tmp_path / "wide.png")
    network = make_network()
    build = predict.network_of

    def narrow(*arguments: Any) -> torch.nn.Module:
        net = build(*arguments)
        net.register_forward_pre_hook(
            lambda _, inputs: raising(torch.OutOfMemoryError("full"))() if inputs[0].shape[3] > 256 else None
        )
        return net

    monkeypatch.setattr(predict, "network_of", narrow)
    task = task_of(tiny_run, [tmp_path / "wide.png"], tmp_path, request=tiny_run.save(network))
    (answer,) = done(task).values()
    assert isinstance(answer, Predicted)
    assert answer.window == 256
    assert ids_of(task.targets[0]).shape == (300, 600)
    monkeypatch.setattr(predict, "WINDOWS", (512,))
    (answer,) = done(task).values()
    assert isinstance(answer, Spoiled)
    assert "memory of cpu" in answer.reason


def test_an_error_that_nobody_foresaw_is_no_end_of_memory(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(tiny_run, test_images(tiny_run)[:1], tmp_path, request=tiny_run.save(make_network()))
    monkeypatch.setattr(predict, "logits_of", raising(RuntimeError("a CUDA fault")))
    with pytest.raises(RuntimeError, match="a CUDA fault"):
        done(task)


def test_weights_that_are_not_finite_predict_nothing(tiny_run: Any, make_network: MakeNetwork, tmp_path: Path) -> None:
    net = make_network()
    with torch.no_grad():
        net.inc.double_conv[1].running_var[0] = float("nan")
    task = task_of(tiny_run, test_images(tiny_run)[:1], tmp_path / "out", request=tiny_run.save(net))
    with pytest.raises(SegwatchError, match=r"NaN or Inf in inc\.double_conv\.1\.running_var"):
        done(task)
    assert not (tmp_path / "out").exists()


def test_bytes_that_changed_after_the_commit_predict_nothing(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path
) -> None:
    request = tiny_run.save(make_network())
    weights = tiny_run.directory / "checkpoints" / "checkpoint_epoch1.pth"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    task = task_of(tiny_run, test_images(tiny_run)[:1], tmp_path / "out", request=request)
    with pytest.raises(CorruptCheckpointError, match="sha256 differs"):
        done(task)


def test_a_network_of_other_classes_predicts_nothing(tiny_run: Any, make_network: MakeNetwork, tmp_path: Path) -> None:
    request = tiny_run.save(make_network(), class_ids=(0, 4, 8))
    with pytest.raises(CorruptCheckpointError, match=r"\[0, 4, 8\]"):
        done(task_of(tiny_run, test_images(tiny_run)[:1], tmp_path / "out", request=request))


def test_a_bare_state_dict_is_read_without_being_executed(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path
) -> None:
    own = tiny_run.save(make_network())
    bare = tmp_path / "elsewhere.pth"
    bare.write_bytes((tiny_run.directory / "checkpoints" / "checkpoint_epoch1.pth").read_bytes())
    foreign = own.model_copy(update={"manifest": str(bare), "attempt": 0, "foreign": True})
    found = []
    for request, place in ((own, "own"), (foreign, "foreign")):
        task = task_of(tiny_run, test_images(tiny_run)[:1], tmp_path / place, request=request)
        done(task)
        found.append(ids_of(task.targets[0]))
    assert (found[0] == found[1]).all()


def test_a_full_disk_ends_it_with_74_and_the_directory(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlays, "write", raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    task = task_of(tiny_run, test_images(tiny_run)[:2], tmp_path / "out", request=tiny_run.save(make_network()))
    *_, last = answers(predict.predict(task))
    assert isinstance(last, Cannot)
    assert (last.exit_code, last.where) == (74, str(tmp_path / "out"))
    assert "No space left" in last.what


def test_progress_is_told_by_rows_to_the_end_of_every_image(
    tiny_run: Any, make_network: MakeNetwork, tmp_path: Path
) -> None:
    task = task_of(tiny_run, test_images(tiny_run)[:2], tmp_path, request=tiny_run.save(make_network()), window=16)
    told = list(predict.predict(task))
    assert isinstance(told[0], Ready)
    rows = [(answer.done, answer.total) for answer in told if isinstance(answer, Working)]
    assert [row for row in rows if row[0] == row[1]] == [(32, 32), (37, 37)]
    assert len(rows) > 2
