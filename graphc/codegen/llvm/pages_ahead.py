"""Arrays that are walked from end to end, and asked for in several pages ahead at once.

A core's prefetchers follow each stream of reads, but never beyond its page, and on some cores not
far enough: sixteen streams come half as fast again as one. A loop that reads one line after another
makes more streams where, with each line that it reads, it asks for a line of another page. With
four streams and pages of eight lines, while

    0 1 2 3 4 5 6 7    are read of page p,
    0 2 4 6 1 3 5 7    are asked for in the pages
    4 3 2 1 4 3 2 1    after p

Every line is asked for once, and those of a page one after another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import CACHE_LINE
from graphc.codegen.llvm.loops import INT64, POINTER, whole
from graphc.codegen.llvm.target import PAGE_BYTES, Target
from graphc.codegen.nodes import Address, KernelNodes
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis, Buffer, Kernel

ALONE = 2  # so many times as large as all other arrays together is one that has memory alone
LEAST_READ = 0.75  # of what lies between the first and the last that loops read, or it is no walk


@dataclass(frozen=True)
class Pages:
    """What is asked for with a line: one that lies 1 to `count` pages further on; a power of 2."""

    count: int

    def ahead(self, b: ir.IRBuilder, place: ir.Value) -> ir.Value:
        """Where the line lies that is asked for when the line of a place is read.

        Of a page's lines, numbered in two digits, the right one has `count` values. It says how
        far the page is: 0 for the farthest; and which part of that page. The left one says which
        line of that part.
        """
        digit = self.count.bit_length() - 1
        size = PAGE_BYTES // self.count  # of a part
        number = b.ptrtoint(place, INT64)
        first = b.and_(number, whole(-PAGE_BYTES))
        line = b.and_(b.lshr(number, whole(digit)), whole(size - CACHE_LINE))
        right = b.and_(b.udiv(number, whole(CACHE_LINE)), whole(self.count - 1))
        nearer = b.mul(right, whole(PAGE_BYTES - size))
        farthest = b.add(b.add(first, line), whole(self.count * PAGE_BYTES))
        return b.inttoptr(b.sub(farthest, nearer), POINTER)


def pages_of(kernel: Kernel, target: Target) -> Pages | None:
    """In how many pages at once a kernel asks for lines; None where one stream is as fast.

    In as many as a core reads fastest, if memory does little else than bring one array.
    """
    read = sorted(map(_bytes, kernel.inputs), reverse=True)
    written = sum(map(_bytes, kernel.outputs))
    alone = bool(read) and read[0] > ALONE * (sum(read[1:]) + written)
    return most_pages(target, 1 if alone else 2)


def most_pages(target: Target, streams: int = 1) -> Pages | None:
    """The same where memory brings, and takes, so many streams as fast as one another."""
    count = min(target.streams // streams, PAGE_BYTES // CACHE_LINE)
    return Pages(1 << (count.bit_length() - 1)) if count > 1 else None


def _bytes(buffer: Buffer) -> int:
    return math.prod(buffer.shape) * DTYPES[buffer.dtype]


def is_walk(address: Address, axes: Sequence[Axis], nodes: KernelNodes) -> bool:
    """Whether loops, the outermost first, meet an array's elements as they lie, nearly all."""
    run = 1
    for axis in reversed(axes):
        step, extent = address.terms.get(axis, 0), nodes.extents[axis]
        if extent == 1:
            continue
        if step < run or run < LEAST_READ * step:
            return False
        run = step * extent
    return True
