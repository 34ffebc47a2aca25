"""What TensorBoard's Custom Scalars page shows: the few charts that say how a run is. Written without TensorFlow.

A chart names its curves by regular expressions over all runs of a directory: `train` and `eval` write different tags.
"""

from __future__ import annotations

import re

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from .. import tags
from .members import SCORED_SPLITS

MIOU = tuple(tags.evaluation(split, "miou") for split in SCORED_SPLITS)


def layout() -> layout_pb2.Layout:
    """Scores first, then what explains them."""
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title="scores",
                chart=[
                    _lines("mIoU of val and test; a needle is an incident", *MIOU, tags.INCIDENT_MARK),
                    _bands("mIoU, 95 % over images; a needle is an incident"),
                    _lines("FWIoU", *(tags.evaluation(split, "fwiou") for split in SCORED_SPLITS)),
                ],
            ),
            layout_pb2.Category(
                title="per-class IoU",
                chart=[_group(f"IoU of each class, {split}", tags.class_iou(split, "")) for split in ("test", "val")],
            ),
            layout_pb2.Category(
                title="training",
                chart=[
                    _lines("loss", tags.TRAIN_LOSS),
                    _lines("gradient norm", tags.TRAIN_GRAD_NORM),
                    _lines("learning rate", tags.TRAIN_LR),
                    _lines("AMP: loss scale", tags.AMP_SCALE),
                    _lines("AMP: skipped steps", tags.AMP_SKIPPED_STEPS),
                    _lines("throughput, images a second", tags.TRAIN_IMAGES_PER_SECOND),
                ],
            ),
        ]
    )


def layout_summary() -> Summary:
    words = TensorProto(dtype=DT_STRING, string_val=[layout().SerializeToString()])
    kind = SummaryMetadata.FromString(metadata.create_summary_metadata().SerializeToString())
    return Summary(value=[Summary.Value(tag=tags.LAYOUT, metadata=kind, tensor=words)])


def _lines(title: str, *names: str) -> layout_pb2.Chart:
    return _chart(title, [f"^{re.escape(name)}$" for name in names])


def _group(title: str, prefix: str) -> layout_pb2.Chart:
    return _chart(title, [f"^{re.escape(prefix)}.+$"])


def _chart(title: str, patterns: list[str]) -> layout_pb2.Chart:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=patterns))


def _bands(title: str) -> layout_pb2.Chart:
    """Such a chart is never smoothed. A mark has no interval: all three of its curves are the same."""
    bands = [
        layout_pb2.MarginChartContent.Series(
            value=tags.evaluation(split, "miou"),
            lower=tags.evaluation(split, "miou_low"),
            upper=tags.evaluation(split, "miou_high"),
        )
        for split in SCORED_SPLITS
    ]
    mark = tags.INCIDENT_MARK
    bands.append(layout_pb2.MarginChartContent.Series(value=mark, lower=mark, upper=mark))
    return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=bands))
