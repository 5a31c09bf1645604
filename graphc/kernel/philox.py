"""Random bits from a counter: Philox-2x32-10, in numpy.

A pure function of (key, stream, counter) replaces a generator with hidden state: any lane of any
thread computes its own number, backward repeats forward's numbers instead of keeping them, and
every back end gives the same bits. The generator is that of Salmon, Moraes, Dror and Shaw,
"Parallel random numbers: as easy as 1, 2, 3" (SC 2011): ten rounds, each a 32 x 32 -> 64 bit
multiplication.

What is exactly computed by `random_bits`:

    block         = counter div DRAWS, as an unsigned number of 64 bits
    counter words = (low 32 bits, high 32 bits) of the block
    key word      = (low word of key + high word of key * HIGH_STEP + stream * STREAM_STEP)
                    mod 2**32
    result        = 16 bits of the two output words, seen as one number of 64 bits whose low half is
                    the first: its (counter mod DRAWS)-th digit to the base 2**16, the lowest first

One block serves four neighbouring counters, which is what lets dropout run at the speed of memory.
The steps differ from the generator's own KEY_STEP: were they equal, stream s + 1 would run through
the round keys of stream s shifted by one round.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIER = 0xD256D193  # of the paper, for two words of 32 bits
KEY_STEP = 0x9E3779B9  # of the paper: 2**32 over the golden ratio
STREAM_STEP = 0xBB67AE85  # the fraction of sqrt(3), the paper's step for a second key word
HIGH_STEP = 0x6A09E667  # the fraction of sqrt(2)
WORD = 0xFFFFFFFF
DRAWS = 4  # numbers that a block of the generator is cut into
DRAW_BITS = 16


def key_word(key: int, stream: int) -> int:
    """The 32-bit key of one stream. `key` is taken modulo 2**64, so negative ones are fine."""
    return (key + ((key >> 32) & WORD) * HIGH_STEP + stream * STREAM_STEP) & WORD


def philox(
    first: NDArray[np.uint64], second: NDArray[np.uint64], key: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Both output words of Philox-2x32-10 for counter words below 2**32 and a 32-bit key word."""
    for turn in range(ROUNDS):
        product = first * np.uint64(MULTIPLIER)
        round_key = np.uint64((key + turn * KEY_STEP) & WORD)
        first, second = (product >> np.uint64(32)) ^ round_key ^ second, product & np.uint64(WORD)
    return first, second


def random_bits(key: int, stream: int, counter: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """16 random bits for each counter, in the counter's shape.

    Counters may have any integer dtype; negative ones count as their 64-bit two's complement.
    """
    wide = np.asarray(counter).astype(np.uint64)
    block, place = wide // np.uint64(DRAWS), wide % np.uint64(DRAWS)
    low, high = block & np.uint64(WORD), block >> np.uint64(32)
    first, second = philox(low, high, key_word(key, stream))
    words = first | second << np.uint64(32)
    drawn: NDArray[np.uint16] = (words >> place * np.uint64(DRAW_BITS)).astype(np.uint16)
    return drawn
