"""Does one thing to many files, on every core, and hands back what it found in order. Knows nothing about files.

Threads begin at once. They are as fast as processes while the decoders work, which let go of the interpreter, but they
wait for each other where it counts colours, and the more so the more cores there are. So where much is left, a process
per core is started beside the threads, which read on meanwhile and hand over once the processes answer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self, TypeVar

AT_ONCE = 8
"""Tasks that are handed over at once: few enough to stop soon, enough that handing over costs nothing."""
PORTIONS_LEFT = 4
"""For each core, of what is left: portions shrink towards the end, so that no core waits long for the last one."""
WORTH_SECONDS = 3.0
"""Processes are started for no less. To import numpy and pydantic anew takes half a second of one core, and what they
save of the time that threads need is nothing for grey masks on two cores, and a fifth for masks of colours."""
JUDGED_AFTER_SECONDS = 0.5
"""How long is left cannot be told from the first file: it pays for a cold disk."""

Task = TypeVar("Task")
Found = TypeVar("Found")


class Readers:
    """A thread for each core, or a process, as it pays; none is left behind, however the context ends."""

    def __init__(
        self,
        preload: str,
        prepare: Callable[[], None],
        *,
        cores: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`preload` is the module that the processes import once for all, and `prepare` what each of them calls."""
        self.cores = len(os.sched_getaffinity(0)) if cores is None else cores
        self._preload, self._prepare, self._clock = preload, prepare, clock
        self._begun = clock()
        self._read = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(self.cores, thread_name_prefix="audit")
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="audit-start")
        self._starting: Future[Executor] | None = None

    @property
    def kind(self) -> str:
        """Such as `2 threads`: what read, to the end."""
        noun = "threads" if self._processes() is None else "processes"
        return f"{self.cores} {noun}" if self.cores > 1 else f"1 {noun.removesuffix('s')}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._starter.shutdown(wait=True)
        if self._starting is not None and self._starting.exception() is None:
            self._starting.result().shutdown(wait=True, cancel_futures=True)

    def map(self, read: Callable[[Task], Found], tasks: Sequence[Task]) -> Iterator[Found]:
        """What `read` makes of each task, in their order. Raises BrokenProcessPool when a process is killed."""
        portions = tuple(_portions(tasks, self.cores))
        for found in self._threads.map(partial(self._portion, read, len(tasks)), portions):
            yield from found

    def _portion(self, read: Callable[[Task], Found], total: int, tasks: Sequence[Task]) -> list[Found]:
        if (processes := self._processes()) is not None:
            return processes.submit(_each, read, tasks).result()
        found = _each(read, tasks)
        self._weigh(len(tasks), total)
        return found

    def _processes(self) -> Executor | None:
        """Once they answer. Raises what kept them from starting."""
        return self._starting.result() if self._starting is not None and self._starting.done() else None

    def _weigh(self, read: int, total: int) -> None:
        """Start the processes where what is left takes so long that they pay."""
        with self._lock:
            self._read += read
            spent = self._clock() - self._begun
            left = spent / self._read * (total - self._read)
            if self._starting is None and self.cores > 1 and spent >= JUDGED_AFTER_SECONDS and left >= WORTH_SECONDS:
                self._starting = self._starter.submit(self._start)

    def _start(self) -> Executor:
        # Not fork: this process has threads, and a forked lock stays locked for ever.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([self._preload])  # numpy and Pillow are imported once, not once for each core
        pool = ProcessPoolExecutor(self.cores, mp_context=context, initializer=_begin, initargs=(self._prepare,))
        for answer in [pool.submit(os.getpid) for _ in range(self.cores)]:
            answer.result()
        return pool


def _portions(tasks: Sequence[Task], cores: int) -> Iterator[Sequence[Task]]:
    at = 0
    while at < len(tasks):
        size = max(1, min(AT_ONCE, (len(tasks) - at) // (PORTIONS_LEFT * cores)))
        yield tasks[at : at + size]
        at += size


def _each(read: Callable[[Task], Found], tasks: Sequence[Task]) -> list[Found]:
    return [read(task) for task in tasks]


# --- in a process


def _begin(prepare: Callable[[], None]) -> None:
    """Ctrl-C is the parent's to answer, and a parent that was killed takes its readers along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_leave_with, args=(parent.sentinel,), name="parent", daemon=True).start()


def _leave_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
