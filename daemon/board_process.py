"""A TensorBoard of its own process, which ends with whoever started it. Knows nothing about runs.

Its standard input is a pipe that nobody writes to: when the other end is gone, however it went, so is this process.
"""

from __future__ import annotations

import os
import sys
import threading

from tensorboard import default, program


def leave_with_parent() -> None:
    """End this process when its standard input ends, from a thread."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="leave-with-parent", daemon=True).start()


def main(arguments: list[str]) -> int:
    """`arguments` are TensorBoard's own."""
    leave_with_parent()
    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(argv=["tensorboard", *arguments])
    return int(board.main() or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
