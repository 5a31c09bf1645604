"""The two kinds of tiles: by the threads' own arithmetic, and by tensor cores."""

from __future__ import annotations

from graphc.codegen.cuda.tile_shape import (
    TENSOR_TILES,
    THREAD_TILES,
    TensorTile,
    ThreadTile,
    best_shape,
)
from graphc.codegen.cuda.tiles import LONG_ROUNDED_SUM, Tiles

TWO_BLOCKS = 256  # threads of a block beside which a multiprocessor should have room for another


class ThreadTiles(Tiles):
    """A thread has rows and columns of its own, apart so that neighbours read different banks."""

    shape: ThreadTile

    def choose(self) -> None:
        shapes = [s for s in THREAD_TILES if self.item == 4 or s.rows + s.columns < 256]
        chosen, self.split = best_shape(self.made, tuple(shapes), self.item, self.gpu)
        assert isinstance(chosen, ThreadTile)
        self.shape, self.odd_rows = chosen, True

    def sums(self) -> None:
        across = self.shape.columns // self.shape.each
        self.text.line(f"const int x = threadIdx.x % {across};")
        self.text.line(f"const int y = threadIdx.x / {across};")
        self.declare_sums(self.shape.each, self.shape.each)

    def multiply(self) -> None:
        each, line = self.shape.each, self.text.line
        row_gap, column_gap = self.shape.rows // each, self.shape.columns // each
        with self.text.unrolled("k", self.shape.step):
            line(f"{self.kind} a[{each}], b[{each}];")
            with self.text.unrolled("i", each):
                line(f"a[i] = left[at + {self.left.place(f'y + i * {row_gap}', 'k')}];")
                line(f"b[i] = right[bt + {self.right.place(f'x + i * {column_gap}', 'k')}];")
            with self.text.unrolled("i", each):
                line("#pragma unroll")
                line(f"for (int j = 0; j < {each}; ++j) sum[i][j] += a[i] * b[j];")

    def each_sum(self) -> None:
        each, line = self.shape.each, self.text.line
        rows, columns, _ = self.made.sizes
        row_gap, column_gap = self.shape.rows // each, self.shape.columns // each
        with self.text.unrolled("i", each):
            line(f"const int m = row + y + i * {row_gap};")
            line(f"if (m >= {rows}) continue;")
            with self.text.unrolled("j", each):
                line(f"const int n = column + x + j * {column_gap};")
                line(f"if (n >= {columns}) continue;")
                self.store_one(f"{self.result}[i][j]")


class TensorTiles(Tiles):
    """A warp multiplies 16 x 8 of the right operand with 8 x 8 of the left one at a time.

    How the fragments of `mma.m16n8k8` are shared among lanes is in the PTX manual, "Matrix
    Fragments for mma.m16n8k8"; `g` is a lane's group of four, `q` its place there.
    """

    shape: TensorTile

    @property
    def longest_sum(self) -> int:
        """Longer than elsewhere: products have lost more digits than such a sum does."""
        return LONG_ROUNDED_SUM

    @property
    def bounds(self) -> str:
        """Two blocks of 8 warps fill a multiprocessor's pipelines, if they share its registers."""
        two = self.shape.threads == TWO_BLOCKS and not self.is_long
        return f"{self.shape.threads}, 2" if two else super().bounds

    def choose(self) -> None:
        chosen, self.split = best_shape(self.made, TENSOR_TILES, self.item, self.gpu)
        assert isinstance(chosen, TensorTile)
        self.shape, self.odd_rows = chosen, False

    def shown(self) -> str:
        return f"{super().shown()} by tensor cores (tf32)"

    def sums(self) -> None:
        shape, line = self.shape, self.text.line
        across = shape.columns // shape.warp_columns
        line("const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;")
        line(f"const int x = threadIdx.x / 32 % {across} * {shape.warp_columns};")
        line(f"const int y = threadIdx.x / {32 * across} * {shape.warp_rows};")
        self.declare_sums(shape.warp_rows // 16, shape.warp_columns // 8, 4)

    def multiply(self) -> None:
        line = self.text.line
        down, across = self.shape.warp_rows // 16, self.shape.warp_columns // 8
        with self.text.unrolled("k", self.shape.step, 8):
            line(f"unsigned a[{down}][4], b[{across}][2];")
            with self.text.unrolled("i", down):
                for part in range(4):
                    side = f"y + i * 16 + g{' + 8' * (part % 2)}"
                    place = self.left.place(side, f"k + q{' + 4' * (part // 2)}")
                    line(f"a[i][{part}] = to_tf32(left[at + {place}]);")
            with self.text.unrolled("j", across):
                for part in range(2):
                    place = self.right.place("x + j * 8 + g", f"k + q{' + 4' * part}")
                    line(f"b[j][{part}] = to_tf32(right[bt + {place}]);")
            with self.text.unrolled("i", down):
                line("#pragma unroll")
                line(f"for (int j = 0; j < {across}; ++j) multiply_16x8x8(sum[i][j], a[i], b[j]);")

    def each_sum(self) -> None:
        line = self.text.line
        rows, columns, _ = self.made.sizes
        down, across = self.shape.warp_rows // 16, self.shape.warp_columns // 8
        with self.text.unrolled("i", 2 * down):
            line("const int m = row + y + i * 8 + g;")
            line(f"if (m >= {rows}) continue;")
            if self.is_paired:
                with self.text.unrolled("j", across):
                    line("const int n = column + x + j * 8 + q * 2;")
                    line(f"if (n >= {columns}) continue;")
                    self.store_pair(lambda lane: f"{self.result}[i / 2][j][i % 2 * 2 + {lane}]")
                return
            with self.text.unrolled("j", 2 * across):
                line("const int n = column + x + j / 2 * 8 + q * 2 + j % 2;")
                line(f"if (n >= {columns}) continue;")
                self.store_one(f"{self.result}[i / 2][j / 2][i % 2 * 2 + j % 2]")
