"""PURE: which trouble a fault made on purpose explains. Knows nothing about where and when it came."""

from __future__ import annotations

from ..trainer.contract import Cause, Drill

_CAUSED_BY: dict[str, frozenset[Cause]] = {
    "nan-loss": frozenset({Cause.NAN_LOSS, Cause.AMP_UNSTABLE}),
    "inf-gradients": frozenset({Cause.INF_GRADIENTS, Cause.AMP_UNSTABLE}),
    "poison-batchnorm": frozenset({Cause.NAN_WEIGHTS, Cause.NAN_LOSS}),
    "nan-weights": frozenset({Cause.NAN_WEIGHTS, Cause.NAN_LOSS}),
    "out-of-memory": frozenset({Cause.OUT_OF_MEMORY}),
    "kill": frozenset({Cause.WORKER_CRASHED}),
    "hang": frozenset({Cause.WORKER_HUNG}),
    "crash": frozenset({Cause.WORKER_CRASHED}),
    "overflow": frozenset({Cause.NAN_LOSS, Cause.AMP_UNSTABLE, Cause.NAN_WEIGHTS}),
    "bad-file": frozenset({Cause.WORKER_CRASHED}),
    "lr-spike": frozenset(
        {Cause.INF_GRADIENTS, Cause.NAN_LOSS, Cause.AMP_UNSTABLE, Cause.LOSS_SPIKE, Cause.MIOU_COLLAPSE}
    ),
    "loss-spike": frozenset({Cause.LOSS_SPIKE, Cause.MIOU_COLLAPSE}),
    "drift-batchnorm": frozenset({Cause.MIOU_COLLAPSE}),
}


def explains(drill: Drill, cause: Cause) -> bool:
    return cause in _CAUSED_BY[drill.kind]
