"""The sizes of tiles, and which one suits a product; into how many parts a long sum goes.

A thread tile multiplies with the threads' own arithmetic, in float32 or float64. A tensor tile
multiplies with tensor cores, float32 numbers rounded to tf32 (10 bits after the point) and summed
in float32: several times faster, with an error of about 1e-3 of a product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphc.codegen.cuda.matrices import Matrices, size

LEAST_TURNS = 8  # slices of a part of a sum: to fill the pipeline costs two of them
MOST_PARTS = 64
MOST_SCRATCH = 64 << 20  # bytes for the sums of all parts


@dataclass(frozen=True)
class DeviceClass:
    """What matters of a family of GPUs for the choice of tiles.

    Attributes:
        name: for people.
        multiprocessors: fewer tiles than these leave some without work.
        thread_products, tensor_products: multiplications with addition that one of them does in a
            clock, in float32 and in tf32.
        scratch_bytes: that one of them reads or writes in a clock, of memory that is in the cache.
        launch_clocks: from one kernel to the next of a graph.
    """

    name: str
    multiprocessors: int
    thread_products: int
    tensor_products: int
    scratch_bytes: int
    launch_clocks: int


HOPPER = DeviceClass("H100 and H200", 132, 128, 1024, 16, 3000)


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


@dataclass(frozen=True)
class Split:
    """A sum of `turns` slices in `parts` of `each` slices; the last part may have fewer."""

    parts: int
    each: int
    turns: int


def best_shape(
    made: Matrices, shapes: tuple[TileShape, ...], item: int, gpu: DeviceClass
) -> tuple[TileShape, Split]:
    """The tile, and the parts of its sums, that take the fewest clocks by a rough count.

    Padding counts, reading little for every product, and multiprocessors without work. item: bytes
    of an element.
    """
    rows, columns, over = made.sizes
    outputs = rows * columns * size(made.batch)

    def clocks(choice: tuple[TileShape, Split]) -> float:
        shape, split = choice
        tiles = tile_count(made, shape) * split.parts
        waves = -(-tiles // gpu.multiprocessors)
        area = shape.rows * shape.columns + 8 * (shape.rows + shape.columns)
        is_tensor = isinstance(shape, TensorTile)
        products = gpu.tensor_products if is_tensor else gpu.thread_products
        spent = waves * split.each * shape.step * area / products
        if split.parts > 1:
            moved = 2 * split.parts * outputs * item
            spent += gpu.launch_clocks + moved / (gpu.multiprocessors * gpu.scratch_bytes)
        return spent

    def splits(shape: TileShape) -> Iterator[Split]:
        turns = -(-over // shape.step)
        for parts in (2**n for n in range(MOST_PARTS.bit_length())):
            each = -(-turns // parts)
            fits = parts * outputs * item <= MOST_SCRATCH and each >= LEAST_TURNS
            if parts == 1 or fits:
                yield Split(-(-turns // each), each, turns)

    return min(((shape, split) for shape in shapes for split in splits(shape)), key=clocks)


def tile_count(made: Matrices, shape: TileShape) -> int:
    """Tiles of the whole result."""
    rows, columns, _ = made.sizes
    return -(-rows // shape.rows) * -(-columns // shape.columns) * size(made.batch)
