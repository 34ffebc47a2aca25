"""`segwatch status` for a person: what `verdict.status` says, in lines; drawn again and again with `--watch`.

Knows no facts: whatever way the figures came, the same figures give the same words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..durable import dumps
from ..plain import one_line
from . import next_steps, verdict
from .looking import Looker
from .rundir import RunDir
from .spans import duration, stamp

WATCH_SECONDS = 2.0
CLASSES_SHOWN = 16
"""The worst ones; `--json` has all."""
ALERTS_SHOWN = 8
BARS = "▁▂▃▄▅▆▇█"
STYLES = {"healthy": "green", "degraded": "yellow", "unhealthy": "bold red"}
EARLY_EPOCHS = 10
"""Before that a low mIoU is no reason to worry: healthy runs begin at 26 %."""
HEALTHY_RUNS = "what healthy runs show at epoch {epoch} (about {low}, aerial images with 14 classes)"
MEANINGS = {
    "excellent": "excellent (above 70 %)",
    "good": "good (50-70 %)",
    "acceptable": "acceptable (30-50 %)",
    "needs-debugging": "needs debugging (below 30 %)",
}


def show(figures: dict[str, Any], console: Console) -> None:
    console.print(drawn(figures, time.time()), soft_wrap=True, highlight=False)


def show_next(figures: dict[str, Any], console: Console) -> None:
    """Below the page of somebody who looks once: the command that answers what the page leaves open."""
    run = Path(figures["run"])
    if figures["firing"] or (figures["attempt"] or 1) > 1:
        then = next_steps.command("alerts", run)
    elif figures["worker_pid"] is not None:
        then = next_steps.command("status", run, "--watch")
    elif figures["last"] is not None:
        then = next_steps.command("best", run)
    else:
        return
    console.print(Text.assemble((f"{'next':13} ", "bold"), then), soft_wrap=True, highlight=False)


def watch(run: RunDir, console: Console, *, json: bool, enough: Callable[[], bool] = lambda: False) -> None:
    """Look every two seconds until Ctrl-C, or until it is `enough`. With `json`, one object a line."""
    looker, pause = Looker(run), threading.Event()
    on_screen = console.is_terminal and not json
    with Live(console=console, auto_refresh=False, screen=False) if on_screen else nullcontext() as live:
        while True:
            figures = verdict.status(looker.look())
            if json:
                console.out(dumps(figures), highlight=False)
            elif live is not None:
                live.update(fitted(figures, time.time(), console), refresh=True)
            else:
                show(figures, console)
                console.print()
            if enough():
                return
            pause.wait(WATCH_SECONDS)


def fitted(figures: dict[str, Any], now: float, console: Console) -> Text:
    """The page with as many classes as leave room for all else: what a screen cuts off is what stands last."""
    pages = (drawn(figures, now, classes=number) for number in range(CLASSES_SHOWN, 0, -1))
    fitting = (page for page in pages if len(console.render_lines(page, pad=False)) <= console.height)
    return next(fitting, None) or drawn(figures, now, classes=0)


def drawn(figures: dict[str, Any], now: float, *, classes: int = CLASSES_SHOWN) -> Text:
    """The whole page, with so many of the classes; times are told as of `now`."""
    page = Text()
    for name, words in _lines(figures, now, classes):
        style = STYLES[figures["health"]] if name == "health" else "bold red" if name == "firing" else ""
        page.append(f"{name:13} ", style="bold")
        page.append(f"{words}\n", style=style if figures["firing"] or name != "firing" else "green")
    page.rstrip()
    return page


def _lines(figures: dict[str, Any], now: float, classes: int) -> Iterator[tuple[str, str]]:
    yield "run", one_line(figures["run"])
    yield "state", _state_words(figures, now)
    yield "health", f"{figures['health']}: {one_line(figures['reason'])}{_since(figures['health_since'], now)}"
    yield from _firing_lines(figures, now)
    if figures["attempt"] is not None:
        yield "attempt", _attempt_words(figures)
        yield "progress", _progress_words(figures, now)
        yield "time left", _left_words(figures)
    if figures["last"] is None:
        yield "last score", "none yet"
    else:
        yield from _score_lines(figures)
        yield from _class_lines(figures["classes"], classes)
    yield "evaluation", _evaluation_words(figures["evaluation"])
    if (device := _device_words(figures)) is not None:
        yield "device", device
    for place, remedy in enumerate(figures["on_probation"]):
        yield "" if place else "on probation", one_line(remedy)


# --- how it goes -----------------------------------------------------------------------------------------------------


def _since(moment: float | None, now: float) -> str:
    return "" if moment is None else f", since {stamp(moment)} ({duration(now - moment)})"


def _state_words(figures: dict[str, Any], now: float) -> str:
    processes = [
        "a daemon watches" if figures["daemon_alive"] else "no daemon",
        "no worker" if figures["worker_pid"] is None else f"worker pid {figures['worker_pid']}",
    ]
    return f"{figures['state']}{_since(figures['state_since'], now)}; {', '.join(processes)}"


def _attempt_words(figures: dict[str, Any]) -> str:
    now = figures["lr_now"]
    lr = f"{figures['lr']:g}" + (f" (now {now:g})" if now is not None and abs(now - figures["lr"]) > 1e-12 else "")
    batch = f"batch {figures['batch_size']} x {figures['accumulate']}"
    return f"{figures['attempt']}: lr {lr}, AMP {figures['amp']}, {batch}; {one_line(figures['because'])}"


def _progress_words(figures: dict[str, Any], now: float) -> str:
    share = figures["share_done"]
    words = f"epoch {_dash(figures['epoch'])} of {figures['epochs']}"
    words += f" ({100 * share:.0f} % done)" if share is not None else ""
    words += f", step {figures['step']}"
    if figures["last_word_at"] is None:
        return words
    loss = "not finite" if figures["loss"] is None else f"{figures['loss']:.4f}"
    words += f", loss {loss}, {figures['images_per_second']:.1f} images/s"
    words += f", {figures['skipped_steps']} skipped steps" if figures["skipped_steps"] else ""
    return f"{words}, last word {duration(now - figures['last_word_at'])} ago"


def _left_words(figures: dict[str, Any]) -> str:
    if figures["seconds_left"] is None:
        return "none" if figures["state"] == "finished" else "-"
    each = figures["epoch_seconds"]
    return f"about {duration(figures['seconds_left'])}" + (f" ({duration(each)} an epoch)" if each else "")


# --- scores ----------------------------------------------------------------------------------------------------------


def _score_lines(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    last, best = figures["last"], figures["best"]
    flag = "" if last["verdict"] == "ok" else f" [{last['verdict']}]"
    yield "last score", f"test mIoU {_figure(last)}, epoch {last['epoch']}{flag}{_gain_words(last['gain'])}"
    if best is not None:
        yield "best by test", f"mIoU {_figure(best)}, epoch {best['epoch']}: {one_line(best['path'])}"
    by_val = figures["best_val"]
    if by_val is not None and best is not None and by_val["path"] != best["path"]:
        told = f"val mIoU {_percent(by_val['miou'])} (test {_percent(by_val['test_miou'])})"
        yield "best by val", f"{told}, epoch {by_val['epoch']}: {one_line(by_val['path'])}"
    if figures["grade"] is not None:
        yield "grade", _grade_words(figures)
    if figures["trend"] is not None:
        yield "trend", _trend_words(figures["trend"])
    if figures["compared"] is not None:
        yield "compared", _compared_words(figures["compared"])


def _figure(scored: dict[str, Any]) -> str:
    """A mIoU with what it rests on."""
    beside = []
    if scored["miou_low"] is not None and scored["miou_high"] is not None:
        spread = f"{100 * scored['miou_low']:.1f}-{100 * scored['miou_high']:.1f}"
        beside.append(f"95 %: {spread} over {scored['images']} images")
    if scored["skipped_images"]:
        beside.append(f"{scored['skipped_images']} skipped")
    return _percent(scored["miou"]) + (f" ({', '.join(beside)})" if beside else "")


def _gain_words(gain: dict[str, Any] | None) -> str:
    if gain is None:
        return ""
    verdict = "better than" if gain["low"] > 0 else "worse than" if gain["high"] < 0 else "no sure difference from"
    return f"; {verdict} epoch {gain['against_epoch']}"


def _grade_words(figures: dict[str, Any]) -> str:
    words = MEANINGS[figures["grade"]]
    if figures["state"] in {"finished", "gave-up"}:
        return words
    if figures["grade"] == "needs-debugging" and figures["last"]["epoch"] < EARLY_EPOCHS:
        return f"below 30 %, which is early to judge at epoch {figures['last']['epoch']}"
    return f"{words} so far"


def _trend_words(trend: dict[str, Any]) -> str:
    points = f"{100 * trend['change']:+.1f} points"
    where = f"from the earlier to the later half of epochs {trend['from_epoch']}-{trend['to_epoch']}"
    return f"{_bars(trend['mious'])} {trend['direction']}: {points} {where}"


def _bars(mious: Sequence[float]) -> str:
    """Between the lowest and the highest of them."""
    low, spread = min(mious), max(mious) - min(mious)
    return "".join(BARS[round((miou - low) / spread * (len(BARS) - 1)) if spread > 0 else 0] for miou in mious)


def _compared_words(compared: dict[str, Any]) -> str:
    low, high = _percent(compared["low"], 0), _percent(compared["high"], 0)
    if compared["against"] == "healthy-aerial-14":
        return f"{compared['verdict']} " + HEALTHY_RUNS.format(epoch=compared["epoch"], low=low)
    spread = low if low == high else f"{low.removesuffix(' %')}-{high}"
    runs = compared["runs"]
    who = f"your earlier run {one_line(runs[0])}" if len(runs) == 1 else f"your {len(runs)} earlier runs"
    return f"{compared['verdict']} what {who} had at epoch {compared['epoch']} ({spread})"


def _class_lines(classes: Sequence[dict[str, Any]], most: int) -> Iterator[tuple[str, str]]:
    """Worst first: IoU, change since the score before, share of the test and train pixels."""
    shown = classes[:most]
    if classes and not shown:
        yield "classes", f"no room for {len(classes)} here: `segwatch status` shows them"
        return
    width = max([len(one_line(each["name"])) for each in shown] + [5])
    yield "classes", f"{'worst first':{width}}      IoU   change  of test  of train"
    for each in shown:
        change = "-" if each["change"] is None else f"{100 * each['change']:+.1f}"
        shares = f"{_percent(each['test_share']):>8}  {_percent(each['train_share']):>8}"
        yield "", f"{one_line(each['name']):{width}}  {_percent(each['iou']):>7}  {change:>7}  {shares}".rstrip()
    if len(classes) > len(shown):
        yield "", f"and {len(classes) - len(shown)} better ones: --json has them all"


# --- evaluation, device, alerts --------------------------------------------------------------------------------------


def _evaluation_words(evaluation: dict[str, Any]) -> str:
    waiting, each = evaluation["waiting"], evaluation["seconds_per_epoch"]
    words = "nothing waits" if not waiting else f"{waiting} to score, the oldest is epoch {evaluation['oldest_epoch']}"
    words += f"; {each:.1f} s an epoch" if each is not None else ""
    return words + (f"; {evaluation['failed']} could NOT be scored" if evaluation["failed"] else "")


def _device_words(figures: dict[str, Any]) -> str | None:
    if figures["gpus"]:
        return "; ".join(_gpu_words(gpu) for gpu in figures["gpus"])
    if figures["device"] is None:
        return None
    memory = figures["memory_mb"]
    return str(figures["device"]) + (f", {memory / 1000:.2f} GB used by the worker" if memory is not None else "")


def _gpu_words(gpu: dict[str, Any]) -> str:
    used, total, busy = gpu["memory_used_mb"], gpu["memory_total_mb"], gpu["utilisation_percent"]
    memory = f"{_dash(used and round(used / 1024, 1))} of {_dash(total and round(total / 1024, 1))} GiB"
    return f"GPU {gpu['index']} {one_line(gpu['name'])}: {memory}, {_dash(busy and round(busy))} % busy"


def _firing_lines(figures: dict[str, Any], now: float) -> Iterator[tuple[str, str]]:
    alerts = figures["alerts"]
    if not alerts:
        yield "firing", "nothing"
    for place, alert in enumerate(alerts[:ALERTS_SHOWN]):
        yield "firing" if place == 0 else "", alert_words(alert, now)
    if figures["firing_count"] > ALERTS_SHOWN:
        yield "", f"and {figures['firing_count'] - ALERTS_SHOWN} more: `segwatch alerts`"
    for code, until in sorted(figures["silenced"].items()):
        if until > now:
            yield "silenced", f"{one_line(code)} until {stamp(until)} (another {duration(until - now)})"


def alert_words(alert: dict[str, Any], now: float) -> str:
    """One alert in one line, with what people said of it."""
    words = f"{alert['code']} ({alert['severity']}), for {duration(now - alert['since'])}"
    words += f" [DRILL {one_line(alert['drill'])}]" if alert["drill"] else ""
    words += f"; acknowledged by {one_line(alert['acknowledged_by'])}" if alert["acknowledged_by"] else ""
    until = alert["silenced_until"]
    return words + ("; silenced" if until is not None and until > now else "")


def _percent(fraction: float | None, digits: int = 2) -> str:
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def _dash(value: object) -> object:
    return "-" if value is None else value
