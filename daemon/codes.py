"""The codes of all alerts: stable, documented in docs/alerts.md. Knows nothing about when one fires."""

from __future__ import annotations

ALERT_CODES = (
    "amp-unstable",
    "best-disagrees",
    "checkpoint-corrupt",
    "checkpoints-gone",
    "class-collapse",
    "class-definition",
    "data-changed",
    "device-suspect",
    "disk-low",
    "disk-refused",
    "evaluation-lag",
    "evaluator-failed",
    "gave-up",
    "inf-gradients",
    "loss-spike",
    "miou-collapse",
    "miou-stall",
    "nan-loss",
    "nan-weights",
    "needs-debugging",
    "out-of-memory",
    "risky-settings",
    "single-class",
    "slow-start",
    "splits-part",
    "worker-crashed",
    "worker-hung",
)
