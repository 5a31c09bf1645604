"""What a user allows convolutions to be besides direct sums."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphc.error import NetError, did_you_mean


@dataclass(frozen=True)
class Algorithms:
    """What a plan may choose from.

    winograd: the tiles m of F(m x m) that are allowed. forced: take one of them wherever it can
    be, to test it. threads: each that a call may use needs memory of its own to work in; of
    a larger team some find nothing to do. parted_sums: long sums may be made of parts.
    """

    winograd: tuple[int, ...] = ()
    forced: bool = False
    threads: int = 16
    parted_sums: bool = False


DIRECT = Algorithms()
PARTED = Algorithms(parted_sums=True)
ENVIRONMENT = "GRAPHC_WINOGRAD"  # the tile to be used wherever it can be, 0: none; for tests
FAST_MATH = ("winograd4", "tf32")


def allowed(
    exact: bool = False, fast_math: Sequence[str] = (), threads: int = Algorithms.threads
) -> Algorithms:
    """What a user allows: tiles of 2x2, no less exact than the direct sum, unless `exact`.

    fast_math: "winograd4" allows F(4x4, 3x3), too, which is some 20 times less exact; "tf32" is for
    a GPU's code alone. Raises NetError for another word there, or where the two contradict each
    other.
    """
    for word in fast_math:
        if word not in FAST_MATH:
            hint = did_you_mean(word, FAST_MATH) or f"there is {', '.join(FAST_MATH)}"
            raise NetError(f"fast math knows no '{word}'; {hint}")
    if exact and fast_math:
        raise NetError(f"exact results and fast math ({', '.join(fast_math)}) exclude each other")
    if exact:
        return replace(PARTED, threads=threads)
    chosen = os.environ.get(ENVIRONMENT, "")
    if chosen:
        from graphc.kernel.winograd_matrices import TILES

        tiles = {"0": (), **{str(tile): (tile,) for tile in TILES}}
        if chosen not in tiles:
            raise NetError(f"{ENVIRONMENT} is one of {', '.join(tiles)}, not '{chosen}'")
        return replace(PARTED, winograd=tiles[chosen], forced=True, threads=threads)
    return replace(PARTED, winograd=(2, 4) if "winograd4" in fast_math else (2,), threads=threads)
