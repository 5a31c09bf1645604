"""Contractions that are products of matrices as cuBLASLt has them.

Its matrices are column-major: a row-major product y = left right is there y' = right' left', so
that the right factor is its first operand.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.codegen.cuda.library_form import (
    LibraryForm,
    LibraryOperand,
    Place,
    dense,
    only_value,
    operand_place,
    place,
    sum_of,
)
from graphc.codegen.cuda.matrices import Matrices, size
from graphc.kernel.affine import affine
from graphc.kernel.contraction import Contraction
from graphc.kernel.lang import Call, Const, Expr, Load
from graphc.runtime.library_call import Ending, Matrix, MatrixProduct

_LARGEST = 2**31  # rows, columns and leading dimensions are below it


def product(contraction: Contraction, made: Matrices, tf32: bool) -> LibraryForm | None:
    """The call, or None where the operands are no matrices."""
    store = contraction.stores[0]
    ending = _ending(contraction, made)
    direct = place(store.buffer, store.index)
    if ending is not None:
        kind, more = ending
        call = _call(contraction, made, direct, kind, tf32)
        if call is not None:
            return LibraryForm(call, (*_factors(made), *more), None, direct.constant)
    sums = dense(store.buffer.shape, store.buffer.strides)
    result = place(store.buffer, store.index, sums)
    call = _call(contraction, made, result, "", tf32)
    return None if call is None else LibraryForm(call, _factors(made), sums, result.constant)


def _factors(made: Matrices) -> tuple[LibraryOperand, LibraryOperand]:
    right, left = made.right, made.left
    return (
        LibraryOperand(right.buffer, right.constant),
        LibraryOperand(left.buffer, left.constant),
    )


def _call(
    contraction: Contraction, made: Matrices, result: Place, ending: Ending, tf32: bool
) -> MatrixProduct | None:
    rows, columns, over = made.sizes
    left, right = operand_place(made.left), operand_place(made.right)
    if left is None or right is None or max(rows, columns, over) >= _LARGEST:
        return None
    a = _stored(right.stride(made.columns), right.stride(made.over), columns, over)
    b = _stored(left.stride(made.over), left.stride(made.rows), over, rows)
    d = _stored(result.stride(made.columns), result.stride(made.rows), columns, rows)
    if a is None or b is None or d is None or d[1]:
        return None
    matrices = [
        _spaced(matrix, where.stride(made.batch) if made.batch else 0)
        for (matrix, _), where in zip((a, b, d), (right, left, result), strict=True)
    ]
    first, second, third = matrices
    if first is None or second is None or third is None:
        return None
    dtype = contraction.fold.values[0].dtype
    return MatrixProduct(
        dtype,
        first,
        second,
        third,
        transposed=(a[1], b[1]),
        count=size(made.batch),
        ending=ending,
        tf32=tf32 and dtype == "float32",
    )


def _spaced(matrix: Matrix, step: int | None) -> Matrix | None:
    """The matrix, the next of the batch being `step` elements on; None where that cannot be."""
    if step is None or step < 0 or matrix.leading >= _LARGEST:
        return None
    return replace(matrix, batch=step)


def _stored(
    near: int | None, far: int | None, rows: int, columns: int
) -> tuple[Matrix, bool] | None:
    """A matrix rows x columns with these strides as it is stored, and whether that is transposed.

    Strides along an extent of 1 do not matter.
    """
    if near is None or far is None:
        return None
    if near == 1 or rows == 1:
        leading = far if columns > 1 else rows
        if leading >= rows:
            return Matrix(rows, columns, leading), False
    if far == 1 or columns == 1:
        leading = near if rows > 1 else columns
        if leading >= columns:
            return Matrix(columns, rows, leading), True
    return None


# -- what follows the sum -------------------------------------------------------------------------


def _ending(
    contraction: Contraction, made: Matrices
) -> tuple[Ending, tuple[LibraryOperand, ...]] | None:
    """The ending that says all that follows the sum, and its operand; None: there is none."""
    value, total = only_value(contraction), sum_of(contraction)
    if value is None:
        return None
    inner = _clipped(value)
    is_clipped, value = inner is not None, value if inner is None else inner
    if value == total:
        return ("relu" if is_clipped else ""), ()
    if not isinstance(value, Call) or value.function != "add" or total not in value.args:
        return None
    other = value.args[1] if value.args[0] == total else value.args[0]
    if not isinstance(other, Load) or any(affine(i) is None for i in other.index):
        return None
    found, store = place(other.buffer, other.index), contraction.stores[0]
    operand = LibraryOperand(other.buffer, found.constant)
    if _is_vector(found, made):
        return ("bias+relu" if is_clipped else "bias"), (operand,)
    result = place(store.buffer, store.index)
    if not is_clipped and made.columns and found.terms == result.terms:
        return "add", (operand,)
    return None


def _clipped(value: Expr) -> Expr | None:
    """x of max(x, 0)."""
    if not isinstance(value, Call) or value.function != "max":
        return None
    first, second = value.args
    if isinstance(second, Const) and second.value == 0:
        return first
    return None


def _is_vector(found: Place, made: Matrices) -> bool:
    """Whether an element belongs to each column, neighbours to neighbours."""
    return found.stride(made.columns) == 1 and not any(
        found.terms.get(axis, 0) for axis in (*made.rows, *made.batch)
    )
