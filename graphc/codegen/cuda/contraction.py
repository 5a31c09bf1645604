"""Contractions as tiles in shared memory: convolution, inner product and all their gradients."""

from __future__ import annotations

from graphc.codegen.cuda.matrices import matrices
from graphc.codegen.cuda.schedule import read
from graphc.codegen.cuda.text import Names, Text
from graphc.codegen.cuda.tile_arithmetic import TensorTiles, ThreadTiles
from graphc.codegen.cuda.tiles import Choice, Head, TiledKernel
from graphc.codegen.order import ordered_axes
from graphc.ir.types import REAL
from graphc.kernel.contraction import match
from graphc.kernel.lang import Kernel

SMALLEST_SIDE = 8  # rows or columns below which a tile is mostly empty
SHORTEST_SUM = 8


def emit_contraction(
    text: Text, kernel: Kernel, names: Names, buffers: dict[str, str], head: Head, choice: Choice
) -> TiledKernel | None:
    """The whole function, or None (and nothing written) where tiles do not suit the kernel."""
    contraction = match(kernel)
    if contraction is None or contraction.fold.values[0].dtype not in REAL:
        return None
    nodes = read(kernel)
    if any(ordered_axes(nodes).values()):
        return None
    made = matrices(contraction, nodes)
    rows, columns, over = made.sizes
    if min(rows, columns) < SMALLEST_SIDE or over < SHORTEST_SUM:
        return None
    if max(rows, columns, over) >= 2**30:
        return None
    tensor = choice.tf32 and contraction.fold.values[0].dtype == "float32"
    emitter = TensorTiles if tensor else ThreadTiles
    return emitter(text, names, buffers, nodes, made, contraction, choice).emit(head)
