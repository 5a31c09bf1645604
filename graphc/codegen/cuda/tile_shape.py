"""The sizes of tiles, and which one suits a product.

A thread tile multiplies with the threads' own arithmetic, in float32 or float64. A tensor tile
multiplies with tensor cores, float32 numbers rounded to tf32 (10 bits after the point) and summed
in float32: several times faster, with an error of about 1e-3 of a product.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.cuda.matrices import Matrices, size

MULTIPROCESSORS = 132  # of an H200: fewer tiles than these leave some without work


@dataclass(frozen=True)
class ThreadTile:
    """rows x columns of a block's tile; every thread has `each` x `each` of them."""

    rows: int
    columns: int
    each: int
    step: int = 16  # of the sum that a slice holds
    stages: int = 2  # slices in shared memory: one is used, the others are on their way

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows * self.columns // self.each**2


@dataclass(frozen=True)
class TensorTile:
    """rows x columns of a block's tile, warp_rows x warp_columns of a warp's."""

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    step: int = 32
    stages: int = 3

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * (self.rows // self.warp_rows) * (self.columns // self.warp_columns)


TileShape = ThreadTile | TensorTile

THREAD_TILES = (
    ThreadTile(128, 128, 8),
    ThreadTile(64, 128, 8),
    ThreadTile(128, 64, 8),
    ThreadTile(64, 64, 4),
    ThreadTile(32, 64, 4),
    ThreadTile(64, 32, 4),
    ThreadTile(32, 32, 4),
    ThreadTile(16, 32, 4),
    ThreadTile(32, 16, 4),
)
TENSOR_TILES = (
    TensorTile(128, 128, 64, 32),
    TensorTile(128, 64, 64, 32),
    TensorTile(64, 128, 32, 64),
    TensorTile(64, 64, 32, 32),
    TensorTile(32, 64, 16, 32),
    TensorTile(64, 32, 32, 16),
    TensorTile(32, 32, 16, 16),
)


def best_shape(made: Matrices, shapes: tuple[TileShape, ...]) -> TileShape:
    """The tile with the least work: padding counts, and reading little for every product."""
    rows, columns, _ = made.sizes

    def cost(shape: TileShape) -> float:
        tiles = -(-rows // shape.rows) * -(-columns // shape.columns) * size(made.batch)
        waves = -(-tiles // MULTIPROCESSORS)
        loads = 8 * (shape.rows + shape.columns)
        return waves * (shape.rows * shape.columns + loads)

    return min(shapes, key=cost)
