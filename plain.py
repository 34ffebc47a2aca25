"""Text that can do nothing but be read. A name or a message comes from files that somebody else wrote: an escape
sequence in it could rewrite a terminal, a line break forge a line of a log. Knows nothing about where it is shown.
"""

from __future__ import annotations


def one_line(text: str) -> str:
    """Without line breaks, control characters and runs of spaces: a worker's message may hold a whole traceback."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def plain(text: str) -> str:
    """The same text with its line breaks, and a space in the place of every other control character."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def legible(name: str) -> str:
    r"""A file name whose bytes are no UTF-8, with these as `\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
