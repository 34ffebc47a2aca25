"""Text that can do nothing but be read. A name or a message comes from files that somebody else wrote: an escape
sequence in it could rewrite a terminal, a line break forge a line of a log. Knows nothing about where it is shown.
"""

from __future__ import annotations

NO_UTF8 = frozenset(map(chr, range(0xDC80, 0xDD00)))
"""What Python reads a byte as that is no UTF-8 (PEP 383)."""


def one_line(text: str) -> str:
    """Without line breaks, control characters and runs of spaces: a worker's message may hold a whole traceback."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def speakable(name: str) -> str:
    r"""A file's name as text that can be written anywhere: bytes of it that are no UTF-8 stand there as \xe9."""
    bytes_told = "".join(rf"\x{ord(letter) - 0xDC00:x}" if letter in NO_UTF8 else letter for letter in name)
    return bytes_told.encode("utf-8", "backslashreplace").decode()


def plain(text: str) -> str:
    """The same text with its line breaks, and a space in the place of every other control character."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def legible(name: str) -> str:
    r"""A file name whose bytes are no UTF-8, with these as `\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
