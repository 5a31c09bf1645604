"""The matrices of Winograd's convolutions, F(tile x tile, taps x taps).

Along one side, F(m, r) makes m neighbouring sums of r products from m + r - 1 numbers d and r
weights w, as A' [(G w) * (B' d)]; in two dimensions each matrix stands on both sides. Lavin and
Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), give those of F(2, 3)
and F(4, 3).

More taps need more points, and what rounds least is used up by three taps: 0, 1, -1 and infinity.
So five taps are done in two pieces, three and two of them, each with good points of its own:

    sum of 5 products = F(2, 3) of the first 4 numbers + F(2, 2) of the last 3,

4 + 3 multiplications where the direct sum has 10, and 49 in place of 100 in two dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Transform:
    """The matrices of F(tile x tile, taps x taps), as they stand in the formula above.

    Only the last pixel of a tile's side needs the last point: A' is 0 there but in its last row.
    """

    input: Matrix  # B'
    filter: Matrix  # G
    output: Matrix  # A'

    @property
    def tile(self) -> int:
        """Pixels of the result along one side."""
        return len(self.output)

    @property
    def taps(self) -> int:
        """Weights along one side."""
        return len(self.filter[0])

    @property
    def window(self) -> int:
        """Pixels of the data along one side: tile + taps - 1."""
        return len(self.input[0])

    @property
    def side(self) -> int:
        """Multiplications along one side."""
        return len(self.input)

    @property
    def points(self) -> int:
        """Multiplications for one tile and channel."""
        return self.side**2


def in_pieces(*pieces: Transform) -> Transform:
    """The taps of all pieces side by side, and the points of each beside the others'."""
    taps = sum(piece.taps for piece in pieces)
    window = pieces[0].tile + taps - 1
    inputs: Matrix = ()
    filters: Matrix = ()
    first = 0
    for piece in pieces:
        inputs += tuple(_within(row, first, window) for row in piece.input)
        filters += tuple(_within(row, first, taps) for row in piece.filter)
        first += piece.taps
    rows = zip(*(piece.output for piece in pieces), strict=True)
    return Transform(inputs, filters, tuple(sum(parts, ()) for parts in rows))


def _within(row: tuple[float, ...], first: int, size: int) -> tuple[float, ...]:
    return (0,) * first + row + (0,) * (size - first - len(row))


_TWO_OF_TWO = Transform(
    ((1, -1, 0), (0, 1, 0), (0, 1, -1)),
    ((1, 0), (1, 1), (0, 1)),
    ((1, 1, 0), (0, 1, -1)),
)
_TWO_OF_THREE = Transform(
    ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    ((1, 1, 1, 0), (0, 1, -1, -1)),
)
_FOUR_OF_THREE = Transform(
    (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
    (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
)

# by tile and taps
TRANSFORMS = {
    (t.tile, t.taps): t
    for t in (_TWO_OF_THREE, _FOUR_OF_THREE, in_pieces(_TWO_OF_THREE, _TWO_OF_TWO))
}
TILES = sorted({tile for tile, _ in TRANSFORMS})
TAPS = sorted({taps for _, taps in TRANSFORMS})
