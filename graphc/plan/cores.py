"""What a plan asks about that which will run it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """What shares a kernel's iterations: a processor's cores.

    near_bytes: what a core has read and finds again in its caches, its part of the last one among
    them; 0: nothing. far_bytes: arrays that leave no cache to what is read after them. shares:
    iterations that are enough for all. run_bytes: pieces of memory that are long. turned_bytes: an
    array so large is brought into another layout by a step that does nothing else, which moves
    whole lines on both sides; 0: none is.
    """

    near_bytes: int
    far_bytes: int = 16 << 20
    shares: int = 32
    run_bytes: int = 1024
    turned_bytes: int = 0


PROCESSOR = Cores(near_bytes=4 << 20, turned_bytes=1 << 20)
# A block that goes over a row alone asks for too little at a time.
GPU = Cores(near_bytes=0)
