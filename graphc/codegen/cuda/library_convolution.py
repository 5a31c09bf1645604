"""Contractions that are convolutions of images, or their gradients, as cuDNN has them.

The geometry is read off the indices. With image row i, result row t and window row j

    i = t * stride + j * dilation - pad

holds in all three; the contraction sums over two of the loops (or over images and t). What is read
so is compared with the whole of every index: a loop that does anything else is no convolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from graphc.codegen.cuda.library_form import LibraryForm, LibraryOperand, dense, stores_sum
from graphc.kernel.affine import Affine, affine
from graphc.kernel.contraction import Contraction, Operand, Position
from graphc.kernel.lang import Axis, Buffer
from graphc.runtime.library_call import Convolution, Four, Way

_WAYS: tuple[Way, ...] = ("forward", "data gradient", "weight gradient")
_CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True)
class Indexed:
    """One of the three tensors: its buffer, and the index of an element."""

    buffer: Buffer
    index: tuple[Position, ...]


@dataclass(frozen=True)
class Side:
    """One direction: how image, window and result meet."""

    stride: int
    dilation: int
    pad: int


def convolution(contraction: Contraction, tf32: bool) -> LibraryForm | None:
    """The call, or None where it is no convolution of two spatial axes in float32."""
    store = contraction.stores[0]
    forms = [affine(i) for i in store.index]
    if contraction.fold.values[0].dtype != "float32" or len(store.buffer.shape) != 4:
        return None
    if any(len(o.buffer.shape) != 4 for o in (contraction.left, contraction.right)):
        return None
    result = Indexed(store.buffer, tuple(Position(form) for form in forms if form is not None))
    for way, (first, second) in itertools.product(_WAYS, _orders(contraction)):
        one, two = (Indexed(o.buffer, o.index) for o in (first, second))
        data, weights, image = _roles(way, one, two, result)
        sides = _geometry(contraction, data, weights, image)
        if sides is not None:
            return _form(contraction, way, (first, second), (data, weights, image), sides, tf32)
    return None


def _orders(contraction: Contraction) -> Iterator[tuple[Operand, Operand]]:
    yield contraction.left, contraction.right
    yield contraction.right, contraction.left


def _roles(
    way: Way, one: Indexed, two: Indexed, result: Indexed
) -> tuple[Indexed, Indexed, Indexed]:
    """Data, weights and result of the convolution, of what is read and what is stored."""
    if way == "forward":
        return one, two, result
    return (result, two, one) if way == "data gradient" else (one, result, two)


# -- indices --------------------------------------------------------------------------------------

Terms = dict[Axis, int]


def _terms(form: Affine) -> Terms:
    """The loops that run more than once."""
    return {axis: factor for axis, factor in form.terms if axis.extent > 1}


def _whole(position: Position, extent: int) -> Terms | None:
    """The loop that runs over all of an axis; no loop for an extent of 1; None: another index."""
    form, found = position.affine, _terms(position.affine)
    if position.divisor > 1 or form.constant:
        return None
    if not found:
        return found if extent == 1 else None
    (axis, factor), *others = found.items()
    return found if not others and factor == 1 and axis.extent == extent else None


def _geometry(
    contraction: Contraction, data: Indexed, weights: Indexed, result: Indexed
) -> tuple[int, tuple[Side, Side]] | None:
    """Groups, and both directions; None where the indices say anything else."""
    images = [_whole(t.index[0], t.buffer.shape[0]) for t in (data, result)]
    if images[0] is None or images[0] != images[1]:
        return None
    groups = _groups(data, weights, result)
    sides = [_side(data, weights, result, axis) for axis in (2, 3)]
    if groups is None or sides[0] is None or sides[1] is None:
        return None
    loops = {axis for axis in (*contraction.each, *contraction.over) if axis.extent > 1}
    used: set[Axis] = set()
    for tensor in (data, weights, result):
        found = [axis for position in tensor.index for axis in _terms(position.affine)]
        if len(set(found)) < len(found):
            return None  # a diagonal
        used |= set(found)
    return (groups, (sides[0], sides[1])) if used == loops else None


def _groups(data: Indexed, weights: Indexed, result: Indexed) -> int | None:
    """How many groups of channels there are."""
    inner = _whole(weights.index[1], weights.buffer.shape[1])
    positions = (data.index[1], weights.index[0], result.index[1])
    if inner is None or any(p.divisor > 1 or p.affine.constant for p in positions):
        return None
    channels, outputs, others = (_terms(p.affine) for p in positions)
    if outputs != others or result.buffer.shape[1] != weights.buffer.shape[0]:
        return None
    shared = [axis for axis in channels if axis in outputs]
    if len(shared) > 1:
        return None
    groups = shared[0].extent if shared else 1
    each = weights.buffer.shape[1], weights.buffer.shape[0] // groups
    if data.buffer.shape[1] != groups * each[0] or weights.buffer.shape[0] != groups * each[1]:
        return None
    of_group = {axis: factor for axis, factor in outputs.items() if axis not in shared}
    if channels != {**dict.fromkeys(shared, each[0]), **inner}:
        return None
    if any(outputs[axis] != each[1] for axis in shared) or not _is_loop(of_group, each[1]):
        return None
    return groups


def _is_loop(found: Terms, extent: int) -> bool:
    return [(axis.extent, factor) for axis, factor in found.items()] == [(extent, 1)] * (extent > 1)


def _side(data: Indexed, weights: Indexed, result: Indexed, axis: int) -> Side | None:
    """How image, window and result meet along one spatial axis."""
    shapes = [t.buffer.shape[axis] for t in (data, weights, result)]
    window = _whole(weights.index[axis], shapes[1])
    if window is None:
        return None
    image, row = data.index[axis], result.index[axis]
    rows = _whole(row, shapes[2])
    if rows is not None:  # i = t * stride + j * dilation - pad
        found = dict(_terms(image.affine))
        stride = found.pop(next(iter(rows)), 0) if rows else 0
        sign, pad, divisor = 1, -image.affine.constant, image.divisor
    else:  # t = (i - j * dilation + pad) / stride
        pixels = _whole(image, shapes[0])
        found = dict(_terms(row.affine))
        if pixels is None or any(found.pop(pixel, 0) != 1 for pixel in pixels):
            return None
        sign, pad, divisor, stride = -1, row.affine.constant, 1, row.divisor
    dilation = sign * found.pop(next(iter(window)), 0) if window else 1
    if found or divisor > 1 or pad < 0 or dilation < 1 or (rows and stride < 1):
        return None
    room = shapes[0] + 2 * pad - dilation * (shapes[1] - 1) - 1
    stride = stride or room + 1  # one row of the result: any stride that leaves no second one
    if room < 0 or room // stride + 1 != shapes[2]:
        return None
    return Side(stride, dilation, pad)


# -- layouts --------------------------------------------------------------------------------------


def _form(
    contraction: Contraction,
    way: Way,
    read: Sequence[Operand],
    tensors: tuple[Indexed, Indexed, Indexed],
    geometry: tuple[int, tuple[Side, Side]],
    tf32: bool,
) -> LibraryForm | None:
    data, weights, result = (tensor.buffer for tensor in tensors)
    groups, (down, across) = geometry
    stored = contraction.stores[0].buffer
    wanted = _packed(stored.shape)
    has_sums = not stores_sum(contraction) or not _suits(stored, way == "weight gradient")
    layouts = {
        id(b): _normal(b.shape, wanted if b is stored and has_sums else b.strides)
        for b in (data, result)
    }
    if any(layout is None for layout in layouts.values()):
        return None
    data_strides, result_strides = layouts[id(data)], layouts[id(result)]
    assert data_strides is not None and result_strides is not None
    call = Convolution(
        way=way,
        data=_four(data.shape),
        data_strides=data_strides,
        weights=_four(weights.shape),
        result=_four(result.shape),
        result_strides=result_strides,
        pads=(down.pad, across.pad),
        strides=(down.stride, across.stride),
        dilations=(down.dilation, across.dilation),
        groups=groups,
        tf32=tf32,
    )
    operands = tuple(
        LibraryOperand(o.buffer, 0, _copied(o.buffer) if o.buffer is weights else None)
        for o in read
    )
    return LibraryForm(call, operands, wanted if has_sums else None)


def _packed(shape: Sequence[int]) -> Four:
    """Strides with the channels (of weights: those they read) as neighbours, without gaps."""
    return _four(dense(shape, _ranks(_CHANNELS_LAST)))


def _ranks(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(len(order) - order.index(axis) for axis in range(len(order)))


def _copied(weights: Buffer) -> tuple[int, ...] | None:
    packed = _packed(weights.shape)
    return None if _normal(weights.shape, weights.strides) == packed else packed


def _suits(buffer: Buffer, whole: bool) -> bool:
    """Whether a call can write the buffer as it lies; `whole`: without gaps alone."""
    strides = _normal(buffer.shape, buffer.strides)
    return strides is not None and (not whole or strides == _packed(buffer.shape))


def _normal(shape: Sequence[int], strides: Sequence[int]) -> Four | None:
    """Strides with axes of extent 1 as if without gaps; None: channels are no neighbours, or the
    axes lie in another order.
    """
    found = [0] * 4
    reach = 1
    for axis in reversed(_CHANNELS_LAST):
        found[axis] = strides[axis] if shape[axis] > 1 else reach
        if found[axis] < reach or (axis == 1 and found[axis] != 1):
            return None
        reach = found[axis] * shape[axis]
    return _four(found)


def _four(numbers: Iterable[int]) -> Four:
    a, b, c, d = numbers
    return a, b, c, d
