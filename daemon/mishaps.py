"""What the command line says of an exception that nothing has put into words: in a person's words where it is of the
person's making, and else as a mistake of segwatch, with its traceback in a file. Imported only when there is one.
"""

from __future__ import annotations

import tempfile
import traceback

from ..errors import REMEDY_MARK, ConfigError, SegwatchError, UsageError
from ..plain import legible, one_line

SHOWN_LETTERS = 60
"""Before and after what cannot be encoded."""


def explained(error: Exception) -> SegwatchError | None:
    """What a person can do about it; `None` where the fault is ours."""
    match error:
        case SegwatchError():
            return error
        case PermissionError(filename=str() as path):
            return UsageError(
                f"cannot be read or written: {error.strerror}",
                where=legible(path),
                remedy="ask who owns it, or name a place that is yours",
            )
        case UnicodeEncodeError() if error.encoding.lower() in {"utf-8", "utf8"}:
            return ConfigError(
                f"a name holds bytes that are no UTF-8: {legible(_line_of(error))}",
                remedy="rename the file or directory; `convmv -f latin1 -t utf8 -r --notest DIR` does it for many",
            )
        case _:
            return None


def unforeseen(error: Exception, *, in_full: bool) -> str:
    """Names the exception and a file that holds its traceback; `in_full`, or where no file can be made, holds it."""
    whole = "".join(traceback.format_exception(error))
    what = f"segwatch: this is a mistake of segwatch itself: {type(error).__name__}: {one_line(str(error))}"
    here = f"{whole}{what}{REMEDY_MARK}the lines above belong into its report"
    if in_full:
        return here
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="segwatch-", suffix="-traceback.txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(whole)
    except OSError:
        return here
    return f"{what}{REMEDY_MARK}its traceback is in {file.name} and belongs into the report; `--debug` prints it"


def _line_of(error: UnicodeEncodeError) -> str:
    """What of its line stands near the first such byte."""
    before, after = error.object[: error.start], error.object[error.start :]
    return (before.rpartition("\n")[2][-SHOWN_LETTERS:] + after.partition("\n")[0][:SHOWN_LETTERS]).strip()
