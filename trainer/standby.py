"""`python -m segwatch.trainer.standby`: a worker before its spec: all that is slow to load is loaded, and it waits.

Its standard input is a socket to the daemon; `order` says what is spoken there. Until it has its order it dies with the
daemon, is the first to go when memory runs out, and has never touched a GPU. Knows nothing about training.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from .contract import WORKER_LOCK_FD
from .handover import MESSAGE_BYTES, MODULES, READY, STAND_UP, TAKEN, UP, Entry, Order

NICENESS = 10
"""Of loading: somebody trains meanwhile."""
FIRST_TO_GO = 1000
"""For the system's out-of-memory killer: rather this one than who trains."""
WAITS = "segwatch-waits"
"""The name that `ps` and `top` show while it has loaded everything and has no order."""
PR_SET_PDEATHSIG = 1
OOM_SCORE = Path("/proc/self/oom_score_adj")


def main() -> int:
    """Load, wait, and become what the order says. Leaves without a word when the daemon does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon
    end_with_daemon(wanted=True)
    own_oom_score = be_first_to_go()
    line = socket.socket(fileno=os.dup(0))
    importlib.import_module("numpy")  # not in the background: it starts threads that stay, and would stay niced
    in_background(load)
    rehearse()
    return run(await_order(line, own_oom_score))


def in_background(work: Callable[[], None]) -> None:
    """Carry it out niced, and exit where it fails.

    In a thread of its own: on Linux each has its own niceness, and a process that was niced could not go back.
    """
    done = threading.Event()

    def carry_out() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        work()
        done.set()

    thread = threading.Thread(target=carry_out, name="load")
    thread.start()
    thread.join()
    if not done.is_set():  # its traceback is printed
        sys.exit(1)


def load() -> None:
    """Import what a worker imports; the first optimizer brings torch._dynamo along, which is half of the whole time."""
    import torch

    importlib.import_module(".loop", __package__)
    torch.optim.AdamW([torch.zeros(1)], fused=True)


def rehearse() -> None:
    """Do once on the CPU what a step and a checkpoint do, for what is set up only when it is used.

    No backward pass and no optimizer step: both ask for GPUs, and autograd would open a context on each but the first
    (Engine::start_device_threads).
    """
    import torch

    from .config import LossConfig
    from .losses import SegmentationLoss
    from .unet import UNet

    model = UNet(classes=2, base_channels=2)
    logits = model(torch.zeros(1, 3, 32, 32))
    SegmentationLoss(LossConfig(), classes=2)(logits, torch.zeros(1, 32, 32, dtype=torch.int64))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)


def await_order(line: socket.socket, own_oom_score: str | None = None) -> Order:
    """Say that it is ready, and return with the order once the daemon has hung up; without an order, leave."""
    call_itself(WAITS)
    try:
        line.send(READY)
        if line.recv(MESSAGE_BYTES) != STAND_UP:
            leave()
        end_with_daemon(wanted=False)
        if own_oom_score is not None:
            OOM_SCORE.write_text(own_oom_score)
        line.send(UP)
        message, descriptors, *_ = socket.recv_fds(line, MESSAGE_BYTES, 1)
        if not message:
            leave()
        order = Order.model_validate_json(message)
        take_place(order, descriptors[0])
    except OSError:  # the daemon is gone, and no order came; a log that cannot be opened ends the line as well
        leave()
    with suppress(OSError), line:  # with its order it goes on, whatever becomes of the daemon
        line.send(TAKEN)
        line.recv(MESSAGE_BYTES)
    return order


def take_place(order: Order, lock: int) -> None:
    """Have the input, the output, the lock and the name that a worker is born with."""
    os.environ[WORKER_LOCK_FD] = str(lock)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    call_itself(f"segwatch-{order.entry}")
    os.close(log)
    os.close(nothing)


def run(order: Order, modules: Mapping[Entry, str] = MODULES) -> int:
    sys.argv = [modules[order.entry], str(order.spec)]
    return int(importlib.import_module(modules[order.entry]).main(sys.argv[1:]))


def end_with_daemon(*, wanted: bool) -> None:
    """Whether the death of the daemon kills this process, even where it is suspended and hears nothing. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL if wanted else 0, 0, 0, 0)


def be_first_to_go() -> str | None:
    """Offer itself to the out-of-memory killer; returns what stood there before, `None` where that cannot be set."""
    try:
        before = OOM_SCORE.read_text()
        OOM_SCORE.write_text(str(FIRST_TO_GO))
    except OSError:
        return None
    return before


def call_itself(name: str) -> None:
    """For whoever looks with `ps` or `top`; 15 letters are kept."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def leave() -> None:
    """There is nothing to clean up, and no time: the daemon is gone."""
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
