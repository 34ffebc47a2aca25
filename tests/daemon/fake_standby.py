"""A standby that has nothing to load and becomes the fake worker. Started as `python fake_standby.py SCENARIO`.

The hand-over is the real one. SCENARIO's `standby` says how it behaves: `ready`, or `deaf`, which never answers.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

import fake_worker
from segwatch.trainer.handover import READY
from segwatch.trainer.standby import await_order, end_with_daemon


def main() -> int:
    end_with_daemon(wanted=True)
    line = socket.socket(fileno=os.dup(0))
    if json.loads(Path(sys.argv[1]).read_text())["standby"] == "deaf":
        line.send(READY)
        os.kill(os.getpid(), signal.SIGSTOP)
    order = await_order(line)
    sys.argv = [fake_worker.__file__, sys.argv[1], str(order.spec)]
    return fake_worker.main()


if __name__ == "__main__":
    sys.exit(main())
