"""Which images each step of an epoch trains: a pure function of the seed, the epoch and what is left out. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import ConfigError


def stood_in(order: Sequence[int], left_out: Collection[int]) -> list[int]:
    """`order` with the next image that is not left out in the place of each that is; behind the last comes the first.

    So an epoch keeps its number of steps, and every other image its step. Raises ValueError where none is left.
    """
    if all(index in left_out for index in order):
        raise ValueError("every image is left out")
    wanted: list[int] = []
    following = next(index for index in order if index not in left_out)
    for index in reversed(order):
        if index not in left_out:
            following = index
        wanted.append(following)
    return wanted[::-1]


def portions(order: Sequence[int], size: int) -> list[list[int]]:
    """The images of one step after the other; the last step may have fewer."""
    return [list(order[at : at + size]) for at in range(0, len(order), size)]


def positions_of(left_out: Collection[str], names: Sequence[str]) -> frozenset[int]:
    """Where the images `left_out` stand among `names`, those of the training split. Raises ConfigError."""
    position = {name: index for index, name in enumerate(names)}
    strangers = sorted(set(left_out) - set(position))
    if strangers:
        raise ConfigError(
            f"images are to be left out that the training split does not have: {', '.join(strangers)}",
            remedy="name them as run.lock.toml does",
        )
    if left_out and len(set(left_out)) == len(position):
        raise ConfigError("every image of the training split is left out", remedy="mend the files, start a new run")
    return frozenset(position[name] for name in left_out)
