"""How a checkpoint is named, written, verified, ranked and kept: the one place that knows."""
