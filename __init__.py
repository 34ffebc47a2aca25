"""segwatch: the night watch for segmentation training.

The repository root is this package; its rooms are `daemon`, `trainer`, `evaluator`, `data` and `checkpoints`.
"""

__version__ = "0.1.0"
