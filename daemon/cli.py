"""The command line: parse, call, print, exit code. Everything else is imported when a command needs it."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import cli_alerts, cli_living, cli_setup, reporting, using
from .cli_options import Json, RunArgument, RunMeant, RunsDir
from .cli_options import console as _console
from .cli_options import found as _run
from .cli_options import print_json as _print_json
from .quick import status_asked

if TYPE_CHECKING:
    from .rundir import RunDir

app = typer.Typer(
    name="segwatch",
    help="The night watch for segmentation training: trains, scores every epoch, alerts, and recovers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 finished, 1 gave up, 2 usage, 74 the disk refuses, 75 run held by another daemon, "
    "78 configuration or data wrong, 130 / 143 stopped by Ctrl-C / SIGTERM.",
)

EX_SOFTWARE = 70

Drills = Annotated[
    list[str] | None,
    typer.Option(
        "--drill",
        metavar="KIND@STEP",
        help="Make a fault on purpose, once, at a global step, to see the recovery. Kinds: nan-loss, "
        "inf-gradients, poison-batchnorm, nan-weights, out-of-memory, kill, hang, crash, overflow, bad-file, "
        "lr-spike, loss-spike, drift-batchnorm. Repeatable.",
    ),
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ["SEGWATCH_DEBUG"] = "1"


@app.command(short_help="Audit, train, score every epoch, recover; stay until the end.")
def run(
    config: Annotated[Path, typer.Argument(metavar="run.toml", help="What to train on which data.")] = Path("run.toml"),
    name: Annotated[str | None, typer.Option("--name", help="Name of the run; the file's stem without it.")] = None,
    *,
    runs_dir: RunsDir = Path("runs"),
    drill: Drills = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="After a run gave up: forget its spent restarts and go on.")
    ] = False,
    accept_data: Annotated[
        bool,
        typer.Option(
            "--accept-data",
            help="Go on with images and masks that changed since the run began: they are audited and frozen anew, and "
            "a new series of scores begins, compared with no earlier one.",
        ),
    ] = False,
    tensorboard: reporting.Board = False,
    tensorboard_port: reporting.BoardPort = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Audit, print the plan, and begin nothing.")] = False,
    log_format: cli_living.LogFormat = "text",
) -> None:
    """Audit the data, train, score every epoch, recover from faults; stay until the end.

    A run that exists goes on: a worker that still trains is adopted, what was missed is scored. Ctrl-C stops at the
    next step boundary with the state saved; the same command continues.
    """
    from ..trainer.contract import Drill
    from .job import StoppedEarly, run_job

    try:
        drills = [Drill.parse(text) for text in drill or []]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--drill") from error
    if name is not None and (not name or name.startswith(".") or "/" in name):
        raise typer.BadParameter(f"{name!r} is no plain directory name; --runs-dir says where", param_hint="--name")
    if dry_run:
        from .plan import show_plan

        show_plan(config, name=name, runs_dir=runs_dir, drills=drills, console=_console())
        raise typer.Exit(0)
    console = cli_living.console_for(log_format, config, _console, name=name, runs_dir=runs_dir)
    try:
        code = run_job(
            config,
            name=name,
            runs_dir=runs_dir,
            drills=drills,
            retry=retry,
            accept_data=accept_data,
            board_port=reporting.board_port(tensorboard_port, wanted=tensorboard),
            console=console,
        )
    except StoppedEarly as stopped:
        code = stopped.exit_code
    raise typer.Exit(code)


@app.command(short_help="See it work on synthetic scenes, with a NaN on purpose.")
def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put scenes and runs.")] = Path(
        "segwatch-demo"
    ),
) -> None:
    """See it work: synthetic aerial scenes, a NaN on purpose, the recovery, the report. About two minutes."""
    from .demo import run_demo
    from .job import StoppedEarly

    try:
        code = run_demo(directory, _console())
    except StoppedEarly as stopped:
        code = stopped.exit_code
    raise typer.Exit(code)


@app.command(short_help="Read every mask and image before anything trains.")
def audit(
    config: Annotated[Path, typer.Argument(metavar="run.toml", help="The configuration whose data is read.")] = Path(
        "run.toml"
    ),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Where audit.md and audit.png go; beside run.toml without it.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Read every mask before anything trains: which classes there are, what is missing, what does not fit.

    The same, with every file and a picture of images beside their masks, is written into audit.md and audit.png.
    """
    from ..data.audit import require
    from ..data.audit_view import render
    from . import next_steps
    from .auditing import audit_data, keep_audit, loss_refusal, require_told, tell_effort, tell_next
    from .config import load_config

    settings = load_config(config)
    report = audit_data(config, settings, _console(stderr=json))
    if json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        render(report, _console(), again=next_steps.command("audit", config))
    tell_effort(report, _console(stderr=json))
    refused = loss_refusal(report, settings, config)
    place = config.parent if output is None else output
    keep_audit(
        report, place, _console(stderr=json), refused="" if refused is None else f"{refused.where}: {refused.what}"
    )
    if not json:
        require_told(report)
    require(report, again=next_steps.command("audit", config))
    if refused is not None:
        raise refused
    if not json:
        tell_next(config, _console())


@app.command(short_help="Score any checkpoint, any time: a run's gaps, or a foreign directory.")
def evaluate(
    run: RunArgument = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="run.toml", help="With --checkpoints: the data to score on.", show_default=False
        ),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            "--checkpoints",
            metavar="DIR",
            help="Score the checkpoint_epochN.pth of a directory that segwatch did not train: plain UNet state dicts.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Where results.csv, .json and .png go; DIR/segwatch-evaluation without it.",
            show_default=False,
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Score on val and test what has no score yet, and rank all epochs. Trains nothing, and goes on where it stopped.

    Without options it fills the gaps of a run. With --config and --checkpoints it scores a directory of checkpoints
    that segwatch did not train; they are only read, and nothing in them is executed. Exit code 1: a run still has
    gaps, or not one checkpoint of the directory could be scored.
    """
    if config is None and checkpoints is None:
        if output is not None:
            raise typer.BadParameter("a run keeps its scores in its own directory", param_hint="--output")
        raise typer.Exit(_fill(_run(run, runs_dir), json=json))
    if config is None or checkpoints is None:
        missing = "--config" if config is None else "--checkpoints"
        raise typer.BadParameter("--config and --checkpoints go together", param_hint=missing)
    if run is not None:
        raise typer.BadParameter("a run has its own data and checkpoints: leave the options out", param_hint="RUN")
    raise typer.Exit(_evaluate_directory(config, checkpoints, output, json=json))


def _fill(run: RunDir, *, json: bool) -> int:
    from . import filling
    from .job import StoppedEarly

    try:
        filled, history = filling.fill(run, _console(stderr=json))
    except StoppedEarly as stopped:
        return stopped.exit_code
    if json:
        _print_json(filling.as_json(run, filled))
    else:
        filling.say(run, filled, history, _console())
    return filled.exit_code


def _evaluate_directory(config: Path, checkpoints: Path, output: Path | None, *, json: bool) -> int:
    from . import evaluating, ranking
    from .job import StoppedEarly

    try:
        found, code = evaluating.evaluate_directory(config, checkpoints, output=output, console=_console(stderr=json))
    except StoppedEarly as stopped:
        return stopped.exit_code
    if json:
        _print_json(ranking.as_json(found))
    return code


cli_alerts.register(app)


@app.command(short_help="The postmortem of an incident: what, why, what was done, whether it helped.")
def why(
    run: RunArgument = None,
    number: Annotated[
        int | None,
        typer.Argument(metavar="N", help="Which incident; the newest without it.", min=1, show_default=False),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """The postmortem of one incident: timeline, diagnosis, remedy, whether it held, and what it cost.

    `segwatch why 2` is incident 2 of the newest run, unless a run is called 2.
    """
    from . import why as postmortems

    run, number = postmortems.meant(run, number, runs_dir)
    found = _run(run, runs_dir)
    known = postmortems.look(found, number)
    if json:
        _print_json(postmortems.why_json(known))
    elif known is None:
        typer.echo("nothing went wrong: this run has no incident")
    else:
        postmortems.print_why(found, known, _console())


@app.command(short_help="Repeat the diagnosis of an incident, and look on.")
def replay(
    run: RunMeant,
    number: Annotated[int, typer.Argument(metavar="N", help="Which incident.", min=1)],
    *,
    runs_dir: RunsDir = Path("runs"),
    cpu: Annotated[
        bool,
        typer.Option("--cpu", help="On the CPU, beside a worker that trains; without it, the device must be free."),
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            min=1,
            help="No new step of the diagnosis begins after this long; recovery.diagnosis_seconds without it.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Repeat the diagnosis of an incident from what its worker left, and look on.

    The run stays as it is: the answer goes into incidents/NNN/replays/. Exit code 1: there was no answer.
    """
    from . import replaying

    found = _run(run, runs_dir)
    replayed = replaying.replay(found, number, cpu=cpu, seconds=seconds, console=_console(stderr=json))
    if json:
        _print_json(replaying.as_json(replayed))
    else:
        replaying.say(replayed, _console())
    raise typer.Exit(0 if replayed.diagnosis else 1)


@app.command(short_help="The best epoch by test and by val, and the gap.")
def best(run: RunArgument = None, runs_dir: RunsDir = Path("runs"), json: Json = False) -> None:
    """The best epoch by test and by val, and what choosing by val gives away."""
    from . import views

    look = views.look_at(_run(run, runs_dir))
    if json:
        _print_json(views.best(look))
    else:
        views.print_best(look, _console())


@app.command(short_help="Stop a run; returns when nothing of it runs.")
def stop(run: RunArgument = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Stop a run: the worker saves and leaves, then the daemon. Returns when nothing of it runs any more."""
    from .stopping import stop_run

    stop_run(_run(run, runs_dir), typer.echo)


using.register(app)
cli_setup.register(app, _console, _print_json)
cli_living.register(app, _console, _print_json)
reporting.register(app, _run, _console)


def main() -> None:
    """The console script. A person's mistake is explained; a traceback is for --debug, and for a file."""
    _print_whatever_comes()
    try:
        if (asked := status_asked(sys.argv[1:])) is not None:
            cli_alerts.status(**asked)
        else:
            app()
    except BrokenPipeError:  # who reads has seen enough, as in `segwatch status --json | head -3`
        from .terminal import look_away

        look_away()
        sys.exit(1)
    except Exception as error:  # the outermost boundary: 1 means "gave up", which a fault of ours must not
        from .mishaps import explained, unforeseen

        known, in_full = explained(error), bool(os.environ.get("SEGWATCH_DEBUG"))
        if known is not None and in_full:
            raise
        typer.echo(unforeseen(error, in_full=in_full) if known is None else f"segwatch: {known}", err=True)
        sys.exit(EX_SOFTWARE if known is None else known.exit_code)


def _print_whatever_comes() -> None:
    """A terminal may lack a letter of ours, and a file name be in no encoding at all: neither ends a command."""
    for stream, instead in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=instead)
