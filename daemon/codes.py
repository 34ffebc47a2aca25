"""The codes of all alerts: stable, documented in docs/alerts.md. Knows nothing about when one fires."""

from __future__ import annotations

ALERT_CODES = (
    "amp-unstable",
    "best-disagrees",
    "checkpoint-corrupt",
    "class-definition",
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
    "single-class",
    "slow-start",
    "worker-crashed",
    "worker-hung",
)
