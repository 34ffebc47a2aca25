"""The commands that use a trained network: predict, export. What they do is imported when one of them is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .cli_options import Json, RunArgument, RunOption, RunsDir

By = Annotated[
    Literal["val", "test"] | None,
    typer.Option("--by", help="The best epoch by val or by test; by test without it.", show_default=False),
]
EpochNumber = Annotated[
    int | None, typer.Option("--epoch", metavar="N", help="This epoch instead of the best one.", show_default=False)
]
File = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="A state dict of the run's architecture and classes, from anywhere; nothing in it is executed.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images, and directories of images.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the results go.")]
Flips = Annotated[
    bool, typer.Option("--flips", help="Average over the image and its three mirror images: four times the work.")
]
WindowSide = Annotated[
    int | None,
    typer.Option(
        "--window",
        metavar="PIXELS",
        min=0,
        help="Side of the sliding window, after scaling; 0 takes every image whole. Without it as in the run's "
        "evaluation, and windows of 1024 for images that are larger than 2048 x 2048 after scaling.",
        show_default=False,
    ),
]
Overlap = Annotated[
    float | None,
    typer.Option(
        "--overlap",
        min=0,
        max=0.9,
        help="Share of a window that the next one covers as well; as in the run's evaluation without it.",
        show_default=False,
    ),
]
Scaled = Annotated[
    bool, typer.Option("--scaled", help="Results at the size that the network sees, not at that of the image.")
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu, cuda or cuda:N; as the run's evaluator without it.", show_default=False),
]
FormatName = Annotated[
    Literal["safetensors", "onnx"] | None,
    typer.Option(
        "--format", help="safetensors or onnx; what --output ends in, or safetensors, without it.", show_default=False
    ),
]
OutputFile = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="RUN_epochN.FORMAT without it.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Make them commands of `app`."""
    app.command(short_help="Images through a run's best network: class ids, colours, overlays.")(predict)
    app.command(short_help="A run's best network for other programs: safetensors or ONNX.")(export)


def predict(
    images: Images,
    run: RunOption = None,
    output: Output = Path("predictions"),
    *,
    by: By = None,
    epoch: EpochNumber = None,
    checkpoint: File = None,
    flips: Flips = False,
    window: WindowSide = None,
    overlap: Overlap = None,
    scaled: Scaled = False,
    device: Device = None,
    overwrite: Overwrite = False,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Predict images that have no mask, with the best network of a run, at their own size.

    Of each image, DIR gets STEM_ids.png (the class ids of your table), STEM_colour.png (their colours) and
    STEM_overlay.png (the image below the colours, with a legend). Nothing is overwritten. Exit code 1: some image could
    not be predicted; it is named, and the others are.
    """
    from . import predicting
    from .choosing import Wish
    from .cli_options import console as console_of
    from .cli_options import print_json
    from .job import StoppedEarly
    from .rundir import find_run

    try:
        done = predicting.predict(
            find_run(run, runs_dir),
            images,
            output,
            console_of(stderr=json),
            wish=Wish(by, epoch, checkpoint),
            manner=predicting.Manner(window, overlap, flips, scaled, device),
            overwrite=overwrite,
        )
    except StoppedEarly as stopped:
        raise typer.Exit(stopped.exit_code) from stopped
    if json:
        print_json(predicting.as_json(done))
    else:
        predicting.say(done, console_of())
    raise typer.Exit(done.exit_code)


def export(
    run: RunArgument = None,
    form: FormatName = None,
    output: OutputFile = None,
    *,
    by: By = None,
    epoch: EpochNumber = None,
    checkpoint: File = None,
    overwrite: Overwrite = False,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Write the best network of a run for other programs, and prove that it says the same.

    safetensors: the state dict, read back and compared bit for bit. ONNX: a graph for images of any size, run by
    onnxruntime over test images and compared with torch. Classes, colours and scale are in the file's metadata. What
    it needs: pip install 'segwatch[export]'. A file that fails the comparison is not kept.
    """
    from . import exporting
    from .choosing import Wish
    from .cli_options import console as console_of
    from .cli_options import print_json
    from .job import StoppedEarly
    from .rundir import find_run

    console = console_of(stderr=json)
    try:
        done = exporting.export(
            find_run(run, runs_dir),
            console,
            wish=Wish(by, epoch, checkpoint),
            format=form,
            output=output,
            overwrite=overwrite,
        )
    except StoppedEarly as stopped:
        raise typer.Exit(stopped.exit_code) from stopped
    if json:
        print_json(exporting.as_json(done))
    else:
        exporting.say(done, console)
