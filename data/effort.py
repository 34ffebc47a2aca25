"""What it took to read all files, in figures and in words. Knows nothing about how they are read."""

from __future__ import annotations

from ..section import Record

MEGABYTE = 1_000_000


class Effort(Record):
    """How long the files of an audit took to read, decode, hash and count."""

    pairs: int
    """Image and mask, whether they can be used or not."""
    bytes: int
    """Of both files, as they lie on the disk."""
    seconds: float
    """By the clock on the wall."""
    readers: str
    """Such as `2 processes`."""

    def words(self) -> str:
        """Such as `read 208 MB in 2.9 s (33 pairs/s, 72 MB/s, 2 processes)`."""
        size = self.bytes / MEGABYTE
        rates = [f"{self.pairs / self.seconds:.0f} pairs/s", f"{size / self.seconds:.0f} MB/s"] if self.seconds else []
        told = f"{size:.0f} MB" if size >= 10 else f"{size:.2g} MB"
        return f"read {told} in {self.seconds:.1f} s ({', '.join([*rates, self.readers])})"
