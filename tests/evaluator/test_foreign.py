"""What anybody may have written: scored where it is a state dict of the widespread UNet, else refused, never run."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segwatch.data.resolved import Reading, ResolvedData
from segwatch.evaluator import inspection
from segwatch.evaluator.channels import UNCHECKED, refuse_other_classes
from segwatch.evaluator.evaluate import Evaluator
from segwatch.evaluator.foreign import read_foreign
from segwatch.evaluator.inspection import UnfitError
from segwatch.evaluator.reading import Checkpoint, RefusalError
from segwatch.evaluator.report import EvaluationReport, Refused, Request, Scored, Verdict
from segwatch.trainer.unet import UNet
from torch import Tensor

OURS = [0, 4, 7]
"""The ids of the tiny data."""


def request_for(path: Path, **changes: Any) -> Request:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    asked = Request(manifest=str(path), attempt=0, epoch=3, sha256=sha256, splits=("val", "test"), foreign=True)
    return asked.model_copy(update=changes)


def weights(*, classes: int = 3, bilinear: bool = False, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return UNet(classes=classes, base_channels=2, bilinear=bilinear).state_dict()


@pytest.fixture
def read(tmp_path: Path, tiny_data: ResolvedData) -> Callable[..., Checkpoint]:
    """`read(state)` saves it as a checkpoint and reads it; bytes are written as they are."""

    def save_and_read(state: object, **saving: Any) -> Checkpoint:
        path = tmp_path / "checkpoint_epoch3.pth"
        if isinstance(state, bytes):
            path.write_bytes(state)
        else:
            torch.save(state, path, **saving)
        return read_foreign(request_for(path), tiny_data)

    return save_and_read


@pytest.fixture
def refused(read: Callable[..., Checkpoint]) -> Callable[..., str]:
    """`refused(state)` is why it is not read."""

    def why(state: object, **saving: Any) -> str:
        with pytest.raises(RefusalError) as caught:
            read(state, **saving)
        assert caught.value.reason == "foreign"
        assert "checkpoint_epoch3.pth" in str(caught.value)
        return str(caught.value)

    return why


# --- what the tensors say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("bilinear", [False, True])
def test_classes_base_channels_and_the_way_up_come_from_the_tensors(read, bilinear, legacy):
    state = {**weights(bilinear=bilinear), "mask_values": OURS}
    checkpoint = read(state, _use_new_zipfile_serialization=not legacy)
    found = checkpoint.manifest.architecture
    assert (found.classes, found.base_channels, found.in_channels, found.bilinear) == (3, 2, 3, bilinear)
    assert "mask_values" not in checkpoint.weights
    assert checkpoint.caveats == ()
    assert (checkpoint.manifest.epoch, checkpoint.manifest.attempt) == (3, 0)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_prefix_of_a_wrapper_is_stripped_and_said(read, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in weights().items()}
    checkpoint = read({**state, "mask_values": OURS})
    assert checkpoint.weights.keys() == weights().keys()
    assert checkpoint.caveats == (f"the prefix {prefix} of its names was stripped",)


def test_half_precision_is_computed_in_single(read):
    state = {name: t.half() if t.is_floating_point() else t for name, t in weights().items()}
    assert {t.dtype for t in read(state).weights.values()} == {torch.float32, torch.int64}


def test_one_channel_counts_as_two_classes_with_the_logits_0_and_x(read, tiny_data, tmp_path):
    two = tiny_data.model_copy(update={"classes": tiny_data.classes[:2]})
    one = weights(classes=1)
    path = tmp_path / "one.pth"
    torch.save({**one, "mask_values": [0, 4]}, path)
    checkpoint = read_foreign(request_for(path), two)
    single, pair = UNet(classes=1, base_channels=2).eval(), UNet(classes=2, base_channels=2).eval()
    single.load_state_dict(one)
    pair.load_state_dict(checkpoint.weights)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        x, logits = single(images)[:, 0], pair(images)
    assert torch.equal(logits[:, 0], torch.zeros_like(x))
    torch.testing.assert_close(logits[:, 1], x)  # one channel or two: the convolution may add in another order
    assert checkpoint.manifest.architecture.classes == 2
    assert "one channel" in checkpoint.caveats[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("up3.up.weight"), "up3.up.weight is missing"),
        (lambda s: s.pop("inc.double_conv.0.weight"), "inc.double_conv.0.weight is missing"),
        (lambda s: s.update({"head.weight": torch.zeros(2)}), "head.weight is not part of the network"),
        (
            lambda s: s.update({"down1.maxpool_conv.1.double_conv.0.weight": torch.zeros(5, 2, 3, 3)}),
            "not (4, 2, 3, 3)",
        ),
        (lambda s: s.update({"inc.double_conv.0.weight": torch.zeros(2, 1, 3, 3)}), "images of 1 channels"),
        (lambda s: s.update({"outc.conv.weight": torch.zeros(3)}), "outc.conv.weight (3,)"),
        (lambda s: s.update({"outc.conv.bias": torch.zeros(3, dtype=torch.int32)}), "outc.conv.bias is int32"),
        (lambda s: s.update({"outc.conv.bias": torch.zeros(3, device="meta")}), "without values"),
    ],
)
def test_another_network_is_refused_with_the_first_difference(refused, change, words):
    state = dict(weights())
    change(state)
    assert words in refused(state)


def test_an_infinite_running_statistic_is_named_and_left_to_the_verdict(read):
    state = weights()
    state["inc.double_conv.1.running_var"].fill_(float("inf"))
    checkpoint = read(state)
    assert checkpoint.nonfinite == ("inc.double_conv.1.running_var",)
    assert not checkpoint.manifest.finite


# --- which class is which -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([0, 7, 4], ["[0, 7, 4]", "[0, 4, 7]", "same in another order"]),
        ([0, 4, 9], ["[0, 4, 9]", "[0, 4, 7]", "Set data.use = [0, 4, 9]"]),
        ([0, 4, 255], ["[0, 4, 255]", "255 means no label"]),
        ([[0, 0, 0], [1, 2, 3], [9, 8, 7]], ["#010203", "[0, 4, 7]", "read as ids"]),
        ([0, 4], ["3 classes, but 2 mask_values"]),
        ("047", ["no list of ids or colours, but str"]),
        ([0, 4, 10**30], ["no mask can hold"]),
    ],
)
def test_mask_values_that_are_not_the_classes_are_refused_with_both_lists(refused, given, words):
    message = refused({**weights(), "mask_values": given})
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("given", [torch.tensor(OURS), tuple(OURS), [0.0, 4.0, 7.0], [[v, v, v] for v in OURS]])
def test_mask_values_may_be_wrapped_in_other_ways(read, given):
    assert read({**weights(), "mask_values": given}).caveats == ()


def test_without_mask_values_it_is_read_and_the_doubt_is_said(read):
    assert read(weights()).caveats == ("it has no mask_values, so the order of its classes could not be checked",)


def test_without_mask_values_another_number_of_classes_is_refused(refused):
    message = refused(weights(classes=5))
    assert "has 5 channels, one per class, and no mask_values; this data has 3 classes: [0, 4, 7]" in message
    assert "a data.use of 5 ids" in message


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (5, "Set data.use = [0, 2, 4, 7, 9], the whole class table"),
        (4, "Set data.use = [0, 4, 7, 9], all that have a name"),
        (6, "a data.use of 6 ids, those of its channels in ascending order; the class table has 5: [0, 2, 4, 7, 9]"),
    ],
)
def test_without_mask_values_the_data_use_that_would_fit_is_named(tiny_data, tmp_path, classes, words):
    data = tiny_data.model_copy(update={"table_ids": (0, 2, 4, 7, 9), "named_ids": (0, 4, 7, 9)})
    path = tmp_path / "checkpoint_epoch3.pth"
    torch.save(weights(classes=classes), path)
    with pytest.raises(RefusalError) as caught:
        read_foreign(request_for(path), data)
    assert words in str(caught.value)


# --- black and white ------------------------------------------------------------------------------------------------


@pytest.fixture
def binary(tiny_data: ResolvedData) -> ResolvedData:
    two = [entry.model_copy(update={"id": index}) for index, entry in enumerate(tiny_data.classes[:2])]
    return tiny_data.model_copy(update={"classes": tuple(two), "reading": Reading.BINARY})


@pytest.mark.parametrize(
    ("given", "words"),
    [([255, 0], "the same two the other way round"), ([0, 5, 255], "black and white, two classes")],
)
def test_black_and_white_masks_are_not_told_that_255_is_no_class(binary, given, words):
    with pytest.raises(UnfitError) as caught:
        refuse_other_classes(given, len(given), binary)
    assert words in str(caught.value)
    assert "no label" not in str(caught.value)
    assert refuse_other_classes([0, 255], 2, binary) == []


def test_a_network_of_black_and_white_masks_on_ids_is_told_of_the_mask_format(tiny_data):
    two = tiny_data.model_copy(update={"classes": tiny_data.classes[:2]})
    with pytest.raises(UnfitError, match=r'set data\.mask_format = "binary"'):
        refuse_other_classes([0, 255], 2, two)


# --- what segwatch itself wrote beside it -----------------------------------------------------------------------------


@pytest.fixture
def own(tiny_run: Any, make_network: Callable[..., UNet]) -> Request:
    """A checkpoint of a run, asked for as if it were foreign."""
    asked = tiny_run.save(make_network(), epoch=3)
    return request_for(tiny_run.directory / asked.manifest.replace(".json", ".pth"))


def test_the_manifest_of_segwatch_beside_it_settles_the_order(own, tiny_data):
    assert read_foreign(own, tiny_data).caveats == ()


def test_own_weights_on_masks_that_were_numbered_anew_are_refused_with_both_lists(own, tiny_data):
    turned = tuple(tiny_data.classes[i].model_copy(update={"id": id_}) for i, id_ in ((1, 0), (0, 1), (2, 2)))
    with pytest.raises(RefusalError) as caught:
        read_foreign(own, tiny_data.model_copy(update={"classes": turned}))
    assert caught.value.reason == "foreign"
    assert "its manifest says [0 field, 4 road, 7 roof]" in str(caught.value)
    assert "the classes of this data are [0 road, 1 field, 2 roof]" in str(caught.value)


def test_own_weights_whose_ids_mean_something_else_here_are_refused(own, tiny_data):
    first, second, third = tiny_data.classes
    names = (first.model_copy(update={"name": "road"}), second.model_copy(update={"name": "field"}), third)
    with pytest.raises(RefusalError, match="the same names in the class table"):
        read_foreign(own, tiny_data.model_copy(update={"classes": names}))


@pytest.mark.timeout(20)
def test_a_manifest_of_other_bytes_or_something_else_of_its_name_says_nothing(own, tiny_data, tmp_path):
    path = Path(own.manifest)
    manifest = path.with_suffix(".json")
    other = manifest.read_text().replace(own.sha256, "0" * 64)
    manifest.write_text(other)
    assert read_foreign(own, tiny_data).caveats == (UNCHECKED,)
    manifest.write_text("{]")
    assert read_foreign(own, tiny_data).caveats == (UNCHECKED,)
    manifest.unlink()
    os.mkfifo(manifest)
    assert read_foreign(own, tiny_data).caveats == (UNCHECKED,)


def test_mask_values_of_numpy_are_refused_with_the_way_to_save_them(refused):
    message = refused({**weights(), "mask_values": list(np.array(OURS))})
    assert "save mask_values as a plain list" in message
    assert "Nothing was executed" in message


# --- files that are something else -----------------------------------------------------------------------------------


class Malice:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_named_and_never_executed(refused, tmp_path, legacy):
    state = {**weights(), "mask_values": Malice(tmp_path / "marker")}
    message = refused(state, _use_new_zipfile_serialization=not legacy)
    assert "posix.mkdir" in message
    assert "Nothing was executed" in message
    assert not (tmp_path / "marker").exists()


def test_a_bare_pickle_is_refused_unread(refused, tmp_path):
    assert "bare pickle" in refused(pickle.dumps(Malice(tmp_path / "marker")))
    assert not (tmp_path / "marker").exists()


def test_a_pickled_network_is_refused_by_the_name_of_its_class(refused):
    assert "segwatch.trainer.unet.UNet" in refused(UNet(classes=3, base_channels=1))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({}, "no tensor at all"),
        ({"epoch": 3, "model": {}, "optimizer": {}}, "holds epoch (int), model (dict), optimizer (dict)"),
    ],
)
def test_what_is_no_state_dict_is_refused_with_what_it_holds(refused, state, words):
    assert words in refused(state)


def saved(state: Mapping[str, object] | None = None, **saving: Any) -> bytes:
    file = io.BytesIO()
    torch.save(weights() if state is None else state, file, **saving)
    return file.getvalue()


def repacked(change: Callable[[str, bytes], tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as source, zipfile.ZipFile(out, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(*change(entry.filename, source.read(entry)))
    return out.getvalue()


def test_files_that_are_cut_short_damaged_or_something_else_are_refused(refused):
    whole = saved()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    legacy = saved(_use_new_zipfile_serialization=False)
    assert "empty" in refused(b"")
    assert "cut short" in refused(whole[: len(whole) // 2])
    assert "cannot be read as tensors" in refused(legacy[: len(legacy) // 2])
    assert "damaged" in refused(bytes(flipped))
    assert "'?[31m<html>'" in refused(b"\x1b[31m<html>")
    assert "Git LFS pointer" in refused(b"version https://git-lfs.github.com/spec/v1\n")
    assert "compressed" in refused(repacked(lambda name, data: (name, data), zipfile.ZIP_DEFLATED))
    assert "not one of torch.save: it holds" in refused(repacked(lambda name, data: (f"{name}.txt", data)))


def test_torchscript_is_refused_as_code(refused):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    assert "TorchScript" in refused(file.getvalue())


def test_tensors_that_claim_more_than_the_file_holds_get_no_memory(refused):
    state = {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in UNet(classes=3).state_dict().items()}
    assert "claim more values" in refused(state)


def test_archives_that_claim_more_than_they_are_and_giants_are_refused(refused, monkeypatch):
    """Entries of a zip bomb lie over each other: together they are larger than the file."""
    monkeypatch.setattr(inspection, "PICKLE_LIMIT_BYTES", 1000)
    assert "names and shapes" in refused(weights())
    monkeypatch.setattr(inspection, "LIMIT_BYTES", 1000)
    assert "too large" in refused(weights())
    entries = [zipfile.ZipInfo("a/data.pkl"), zipfile.ZipInfo("a/data/0")]
    for entry in entries:
        entry.file_size = 600
    with pytest.raises(inspection.UnfitError, match="claims to hold more"):
        inspection._judge_entries(entries, 1000)


@pytest.mark.timeout(20)
def test_directories_pipes_and_loops_are_refused_without_waiting(tmp_path, tiny_data):
    directory, pipe, loop = tmp_path / "d.pth", tmp_path / "p.pth", tmp_path / "l.pth"
    directory.mkdir()
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path, words in ((directory, "a directory"), (pipe, "a named pipe"), (loop, "cannot be opened")):
        with pytest.raises(RefusalError, match=words):
            read_foreign(request_for(path, sha256=""), tiny_data)
    with pytest.raises(RefusalError) as caught:
        read_foreign(request_for(tmp_path / "none.pth"), tiny_data)
    assert caught.value.reason == "missing"


def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path, tiny_data):
    path = tmp_path / "checkpoint_epoch3.pth"
    torch.save(weights(), path)
    with pytest.raises(RefusalError, match="changed since it was listed"):
        read_foreign(request_for(path, sha256="0" * 64), tiny_data)


# --- through the evaluator -------------------------------------------------------------------------------------------


def test_a_foreign_checkpoint_scores_exactly_as_the_same_weights_of_a_run(tiny_run, make_network, tmp_path):
    network = make_network()
    evaluator = Evaluator(tiny_run.spec())
    own = [a for a in evaluator.evaluate(tiny_run.save(network)) if isinstance(a, Scored)]
    path = tmp_path / "foreign" / "checkpoint_epoch3.pth"
    path.parent.mkdir()
    torch.save({**network.state_dict(), "mask_values": OURS}, path)
    foreign = [a for a in evaluator.evaluate(request_for(path)) if isinstance(a, Scored)]
    assert [a.report for a in foreign] == [f"evaluations/attempt000_epoch3_{split}.json" for split in ("val", "test")]
    for mine, theirs in zip(own, foreign, strict=True):
        first, second = (
            EvaluationReport.model_validate_json((tiny_run.directory / a.report).read_bytes()) for a in (mine, theirs)
        )
        assert first.confusion == second.confusion
        assert second.checkpoint_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert second.message == first.message


def test_what_could_not_be_checked_stands_in_the_report(tiny_run, make_network, tmp_path):
    path = tmp_path / "checkpoint_epoch3.pth"
    torch.save(make_network().state_dict(), path)
    answers = list(Evaluator(tiny_run.spec()).evaluate(request_for(path, splits=("val",))))
    (scored,) = [a for a in answers if isinstance(a, Scored)]
    report = EvaluationReport.model_validate_json((tiny_run.directory / scored.report).read_bytes())
    assert "no mask_values" in report.message


def test_poisoned_weights_of_another_get_the_verdict_and_no_score(tiny_run, make_network, tmp_path):
    state = make_network().state_dict()
    state["down2.maxpool_conv.1.double_conv.1.running_var"].fill_(float("inf"))
    path = tmp_path / "checkpoint_epoch3.pth"
    torch.save({**state, "mask_values": OURS}, path)
    answers = list(Evaluator(tiny_run.spec()).evaluate(request_for(path, splits=("test",))))
    (scored,) = [a for a in answers if isinstance(a, Scored)]
    report = EvaluationReport.model_validate_json((tiny_run.directory / scored.report).read_bytes())
    assert (report.verdict, report.scores) == (Verdict.NOT_FINITE, None)


def test_a_negative_variance_of_another_gets_the_verdict_and_no_score(tiny_run, make_network, tmp_path):
    state = make_network().state_dict()
    state["inc.double_conv.1.running_var"][0] = -5e-6
    path = tmp_path / "checkpoint_epoch3.pth"
    torch.save({**state, "mask_values": OURS}, path)
    answers = list(Evaluator(tiny_run.spec()).evaluate(request_for(path, splits=("test",))))
    (scored,) = [a for a in answers if isinstance(a, Scored)]
    report = EvaluationReport.model_validate_json((tiny_run.directory / scored.report).read_bytes())
    assert (report.verdict, report.scores) == (Verdict.NOT_FINITE, None)
    assert report.message == "the checkpoint holds a negative variance: inc.double_conv.1.running_var < 0"


def test_a_refused_file_leaves_the_evaluator_ready_for_the_next(tiny_run, make_network, tmp_path):
    bad, good = tmp_path / "checkpoint_epoch3.pth", tmp_path / "checkpoint_epoch4.pth"
    torch.save({"a": Malice(tmp_path / "marker")}, bad)
    torch.save(make_network().state_dict(), good)
    evaluator = Evaluator(tiny_run.spec())
    assert any(isinstance(a, Refused) and a.reason == "foreign" for a in evaluator.evaluate(request_for(bad)))
    assert any(isinstance(a, Scored) for a in evaluator.evaluate(request_for(good, epoch=4)))
    assert not (tmp_path / "marker").exists()
