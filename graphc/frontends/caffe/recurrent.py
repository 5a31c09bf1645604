"""Caffe's recurrent layers, unrolled over time: LSTM, RNN, and the single step LSTMUnit.

Bottoms: x [T, N, ...] and cont [T, N], which is 0 where a sequence begins and 1 where it goes on;
perhaps a static input [N, ...] that every step sees; with expose_hidden, the first state. The state
at the end of a call is where the next call begins, unless it is exposed. No gradient flows from one
call into another.
"""

from __future__ import annotations

from math import prod

from graphc.frontends.caffe.layer import LayerContext, layer
from graphc.frontends.caffe.message import Message
from graphc.frontends.caffe.neurons import given_filler
from graphc.frontends.caffe.shapes import viewed
from graphc.ir.core.axes import Broadcast
from graphc.ir.graph import Value
from graphc.ops.linear import AddBias, MatMul
from graphc.ops.linear import Scale as ScaleBy
from graphc.ops.neuron import Sigmoid, Tanh
from graphc.ops.shape import Concat, Slice


def _parts(x: Value, axis: int, count: int) -> tuple[Value, ...]:
    """`x` cut into equal parts."""
    if count == 1:
        return (x,)
    width = x.shape[axis] // count
    parts: tuple[Value, ...] = Slice(axis, tuple(range(width, x.shape[axis], width)))(x)
    return parts


def _times(x: Value, weights: Value) -> Value:
    """x [rows, in] times the transpose of weights [out, in]."""
    product: Value = MatMul(False, True)(x, weights)
    return product


def _lstm_step(gates: Value, cell: Value, cont: Value) -> tuple[Value, Value]:
    """The new cell and hidden state [N, H] from the four gates [N, 4 H]: in, forget, out, new."""
    entering, forget, leaving, new = _parts(gates, 1, 4)
    kept = ScaleBy(0)(Sigmoid()(forget) * cell, cont)
    cell = kept + Sigmoid()(entering) * Tanh()(new)
    return cell, Sigmoid()(leaving) * Tanh()(cell)


@layer("LSTMUnit", bottoms=3)
def lstm_unit(c: LayerContext) -> tuple[Value, Value]:
    """One step: cell [1, N, H], gates [1, N, 4 H] and cont [1, N] -> new cell, hidden state."""
    cell, gates, cont = c.bottoms
    shape = cell.shape
    fits = len(shape) == 3 and shape[0] == 1 and gates.shape == (1, shape[1], 4 * shape[2])
    if not fits or cont.shape != shape[:2]:
        raise c.fail(
            "LSTMUnit takes a cell [1, N, H], gates [1, N, 4 H] and cont [1, N], not"
            f" {list(shape)}, {list(gates.shape)} and {list(cont.shape)}"
        )
    if len(c.layer.tops) != 2:
        raise c.fail(f"LSTMUnit has 2 tops, the cell and the hidden state, not {len(c.layer.tops)}")
    new, hidden = _lstm_step(
        viewed(gates, gates.shape[1:]), viewed(cell, shape[1:]), viewed(cont, shape[1:2])
    )
    return viewed(new, shape), viewed(hidden, shape)


class _Sequence:
    """What LSTM and RNN share: the bottoms by their parts, the parameters in Caffe's order."""

    def __init__(self, c: LayerContext, states: tuple[str, ...]):
        self.c = c
        self.options: Message = c.options("recurrent_param")
        self.states = states
        self.exposed: bool = self.options.get("expose_hidden")
        self.outputs: int = self.options.get("num_output")
        if self.outputs < 1:
            raise c.fail("num_output must be given and be at least 1", "num_output")
        self._need_bottoms()
        self.x, self.cont = c.bottoms[:2]
        if len(self.x.shape) < 2 or self.cont.shape != self.x.shape[:2]:
            raise c.fail(
                "x must have the shape [time, sequences, ...] and cont [time, sequences], not"
                f" {list(self.x.shape)} and {list(self.cont.shape)}"
            )
        self.steps, self.items = self.x.shape[:2]
        self.made = 0
        if not self.steps:
            raise c.fail(f"x of shape {list(self.x.shape)} has no time steps")

    def _need_bottoms(self) -> None:
        """x, cont and perhaps a static input; the first states where they are exposed."""
        count, tops = len(self.c.bottoms), len(self.c.layer.tops)
        shown = len(self.states) if self.exposed else 0
        if count - shown not in (2, 3):
            raise self.c.fail(
                f"{self.c.layer.type} takes {2 + shown} bottoms, or {3 + shown} with a static"
                f" input, not {count}"
            )
        if tops != 1 + shown:
            raise self.c.fail(f"{self.c.layer.type} has {1 + shown} tops here, not {tops}")
        self.has_static = count - shown == 3

    def weights(self, rows: int, columns: int) -> Value:
        """The next parameter, a matrix."""
        self.made += 1
        filler = given_filler(self.options, "weight_filler")
        return self.c.parameter(self.made - 1, (rows, columns), filler)

    def bias(self, size: int) -> Value:
        """The next parameter, a vector."""
        self.made += 1
        return self.c.parameter(self.made - 1, (size,), given_filler(self.options, "bias_filler"))

    def driven(self, size: int) -> list[Value]:
        """What x and the static input give to each step: [N, size]."""
        width = prod(self.x.shape[2:])
        weights = self.weights(size, width)
        flat = viewed(self.x, (self.steps * self.items, width))
        drive = AddBias(1)(_times(flat, weights), self.bias(size))
        if self.has_static:
            drive = drive + self._static(size)
        return list(_parts(drive, 0, self.steps))

    def _static(self, size: int) -> Value:
        """The static input's part, for all steps at once."""
        static = self.c.bottoms[2]
        if not static.shape or static.shape[0] != self.items:
            raise self.c.fail(
                f"the static input '{self.c.layer.bottoms[2]}' of shape {list(static.shape)} must"
                f" hold one item for each of the {self.items} sequences"
            )
        width = prod(static.shape[1:])
        given = _times(viewed(static, (self.items, width)), self.weights(size, width))
        spread = Broadcast((self.steps, self.items, size), (0,))(given)
        return viewed(spread, (self.steps * self.items, size))

    def marks(self) -> list[Value]:
        """cont of each step: [N]."""
        return [viewed(part, (self.items,)) for part in _parts(self.cont, 0, self.steps)]

    def first(self) -> list[Value]:
        """The states [N, H] that the first step meets."""
        shape = (self.items, self.outputs)
        if not self.exposed:
            return [self.c.state(name, shape) for name in self.states]
        given = self.c.bottoms[-len(self.states) :]
        for name, value in zip(self.c.layer.bottoms[-len(self.states) :], given, strict=True):
            if value.shape != (1, *shape):
                raise self.c.fail(
                    f"the first state '{name}' must have the shape {[1, *shape]},"
                    f" not {list(value.shape)}"
                )
        return [viewed(value, shape) for value in given]

    def tops(self, outputs: list[Value], last: list[Value]) -> tuple[Value, ...]:
        """The outputs of all steps as one blob; the last states as tops or for the next call."""
        rows = [viewed(value, (1, *value.shape)) for value in outputs]
        joined = rows[0] if len(rows) == 1 else Concat(0)(*rows)
        if self.exposed:
            return joined, *(viewed(value, (1, *value.shape)) for value in last)
        for name, value in zip(self.states, last, strict=True):
            self.c.remember(name, value)
        return (joined,)


@layer("LSTM")
def lstm(c: LayerContext) -> tuple[Value, ...]:
    """Long short-term memory, as Caffe has it (arXiv 1411.4389): gates i, f, o, g in this order."""
    sequence = _Sequence(c, ("h", "c"))
    drives = sequence.driven(4 * sequence.outputs)
    recurrent = sequence.weights(4 * sequence.outputs, sequence.outputs)
    hidden, cell = sequence.first()
    outputs = []
    for drive, cont in zip(drives, sequence.marks(), strict=True):
        gates = drive + _times(ScaleBy(0)(hidden, cont), recurrent)
        cell, hidden = _lstm_step(gates, cell, cont)
        outputs.append(hidden)
    return sequence.tops(outputs, [hidden, cell])


@layer("RNN")
def rnn(c: LayerContext) -> tuple[Value, ...]:
    """h = tanh(W_x x + b + W_h h'), output tanh(W_o h + b_o)."""
    sequence = _Sequence(c, ("h",))
    size = sequence.outputs
    drives = sequence.driven(size)
    recurrent = sequence.weights(size, size)
    leaving, bias = sequence.weights(size, size), sequence.bias(size)
    (hidden,) = sequence.first()
    outputs = []
    for drive, cont in zip(drives, sequence.marks(), strict=True):
        hidden = Tanh()(drive + _times(ScaleBy(0)(hidden, cont), recurrent))
        outputs.append(Tanh()(AddBias(1)(_times(hidden, leaving), bias)))
    return sequence.tops(outputs, [hidden])
