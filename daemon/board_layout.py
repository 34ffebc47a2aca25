"""What TensorBoard's Custom Scalars page shows: the few charts that say how a run is. Written without TensorFlow.

A chart names its curves by regular expressions over all runs of a directory: `train` and `eval` write different tags.
It lays out nothing that the run cannot have: an empty box looks like a fault.
"""

from __future__ import annotations

import re

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from .. import tags

AMP = "AMP: " + ", ".join(f"{level} {name}" for level, name in enumerate(tags.AMP_LEVELS))


def layout(*, scaled: bool) -> layout_pb2.Layout:
    """Scores first, then what explains them. `scaled`: some attempt has trained in fp16, whose loss is scaled."""
    scaler = [_lines("AMP: loss scale", tags.AMP_SCALE), _lines("AMP: skipped steps", tags.AMP_SKIPPED_STEPS)]
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title="scores",
                chart=[
                    _lines(
                        "mIoU of val and test; a needle is an incident", tags.evaluation("miou"), tags.INCIDENT_MARK
                    ),
                    _bands("mIoU of val and test, with its 95 % interval over images"),
                    _lines("FWIoU of val and test", tags.evaluation("fwiou")),
                ],
            ),
            layout_pb2.Category(
                title="per-class IoU",
                chart=[_lines(f"IoU of each class, {split}", tags.class_iou(split)) for split in ("test", "val")],
            ),
            layout_pb2.Category(
                title="training",
                chart=[
                    _lines("loss", tags.TRAIN_LOSS),
                    _lines("gradient norm", tags.TRAIN_GRAD_NORM),
                    _lines("learning rate", tags.TRAIN_LR),
                    _lines(AMP, tags.TRAIN_AMP),
                    _lines("throughput, images a second", tags.TRAIN_IMAGES_PER_SECOND),
                    *(scaler if scaled else ()),
                ],
            ),
        ]
    )


def layout_summary(*, scaled: bool) -> Summary:
    words = TensorProto(dtype=DT_STRING, string_val=[layout(scaled=scaled).SerializeToString()])
    kind = SummaryMetadata.FromString(metadata.create_summary_metadata().SerializeToString())
    return Summary(value=[Summary.Value(tag=tags.LAYOUT, metadata=kind, tensor=words)])


def _lines(title: str, *names: str) -> layout_pb2.Chart:
    patterns = [f"^{re.escape(name)}$" for name in names]
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=patterns))


def _bands(title: str) -> layout_pb2.Chart:
    """Such a chart is never smoothed.

    It has one series, which each split fills: of two, TensorBoard would complain of tags that a directory lacks.
    """
    value, low, high = tags.INTERVAL
    band = layout_pb2.MarginChartContent.Series(value=value, lower=low, upper=high)
    return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[band]))
