"""What an operator must say, and the table of all operators.

An operator is one class, always in this order: doc, fields, equals, infer, reference, gradient,
kernel, examples. The smallest whole one:

    @operator
    class Negate(Op):
        \"\"\"-x, element by element.\"\"\"

        def infer(self, x):
            return x

        def reference(self, x):
            return -x

        def gradient(self, dy, y, x):
            return -dy

        def kernel(self, k, x, y):
            i = k.each(*x.shape)
            y[*i] = -x[*i]

        @classmethod
        def examples(cls):
            yield Example(cls(), normal(2, 3))

Calling an instance on values adds it to their graph: `Negate()(x)`. A gradient is written with the
same calls and touches no array.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

import numpy as np

from graphc.error import NetError, did_you_mean
from graphc.ir.types import TensorType

if TYPE_CHECKING:
    from graphc.ir.graph import Value

Types = TensorType | tuple[TensorType, ...]


class Op:
    """Base of all operators. Instances are frozen dataclasses of fields that are plain data.

    A field holds an int, a float, a string, a bool, None or a tuple of these; it prints and parses.
    Subclasses name the inputs of their methods one by one; `*inputs` here stands for that.
    """

    op_name: ClassVar[str] = ""
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # of what @operator makes

    # What passes may ask without knowing an operator's name.
    is_identity: ClassVar[bool] = False  # output 0 always equals input 0
    is_view: ClassVar[bool] = False  # output 0 is input 0's elements in row-major order, reshaped
    is_concat: ClassVar[bool] = False  # output 0 is the inputs one after another along field `axis`
    is_slice: ClassVar[bool] = (
        False  # the outputs are input 0's parts, in order, along field `axis`
    )
    gradient_stops: ClassVar[bool] = False  # no gradient is defined for any input, by intention
    has_effect: ClassVar[bool] = False  # kept even where nobody reads its outputs
    once_only: ClassVar[bool] = False  # twice in a row is most likely a mistake, as with softmax
    begins_with: ClassVar[str] = ""  # the once-only operator that it applies to input 0 itself
    results: ClassVar[int | None] = None  # outputs after so many are for its own gradient alone
    recomputes: ClassVar[bool] = False  # saves memory for time: takes others' place on request only

    def __call__(self, *inputs: Value) -> Any:
        """Add this operator to the graph of its inputs; a Value, or a tuple of several outputs."""
        outputs = inputs[0].graph.apply(self, *inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def equals(self, *inputs: Any, **_: Any) -> Any:
        """The graph this operator may replace: other operators on its fields and `inputs`.

        None where it replaces nothing. A list stands for several forms; a form may be a pair of a
        value and the fields that the operator then has, whatever was met. Fields may only be passed
        on, not computed with: `fuse` calls this with pattern variables in their place. A form may
        leave out the last inputs where these have a default.
        """
        return None

    def infer(self, *inputs: Any, **_: Any) -> Types:
        """Types of the outputs. Raises NetError with one sentence on what is wrong."""
        raise self._lacks("infer")

    def reference(self, *inputs: Any, **_: Any) -> Any:
        """The meaning, in numpy, in the inputs' precision: an array, or a tuple of several."""
        raise self._lacks("reference")

    def gradient(self, dy: Any, y: Any, *inputs: Any, **_: Any) -> Any:
        """Gradients of the inputs as graph: a tuple of a Value or None per input.

        One input needs no tuple. None says that nothing flows there.
        `dy` and `y` are Values where there is one output, else tuples; an entry of `dy` is None
        where no gradient arrives. What this reads is what backward keeps. An operator that leaves
        this out gets its gradient from its kernel, if that works element by element; else NetError
        is raised.
        """
        if not _FROM_KERNEL:
            raise NetError(f"operator '{self.op_name}' has no gradient")
        return _FROM_KERNEL[0](self, dy, y, *inputs)

    def kernel(self, k: Any, *buffers: Any, **_: Any) -> None:
        """Write the computation with the builder `k` (graphc.kernel.build).

        `buffers` are the inputs, then the outputs.
        """
        raise self._lacks("kernel")

    @classmethod
    def examples(cls) -> Iterator[Example]:
        """Instances with inputs, on which tests run. Raises NetError where there are none."""
        raise NetError(f"operator '{cls.op_name}' gives no examples")

    def viewed(self, old: tuple[int, ...], new: tuple[int, ...]) -> Op | None:
        """The operator that does to its one input, reshaped from `old` to `new`, what this one does
        before the same reshaping; None where there is none."""
        return None

    def expanded(self, *inputs: Any, **_: Any) -> Any:
        """The graph of smaller operators that this one is written out in, last of all passes: a
        Value, or a tuple of several. None: it has a kernel, and stays."""
        return None

    def scratch_bytes(self, *inputs: TensorType) -> int:
        """The largest array it makes on the way to its outputs; 0: none."""
        return 0

    def keeps_order(self) -> bool:
        """Whether, element by element, a larger input never gives a smaller output, and the
        derivative is 0 wherever two inputs give the same output."""
        return False

    def selects(self) -> bool:
        """Whether each element of output 0 is the largest of a fixed set of elements of the one
        input, and further outputs only say which."""
        return False

    def followed_by(self, function: Op) -> Op | None:
        """The operator that selects and then does `function` to output 0, if there is one: where
        the derivative of `function` is 0, its further outputs say that nothing was selected."""
        return None

    def _lacks(self, method: str) -> NetError:
        return NetError(f"operator '{self.op_name}' does not say its '{method}'")

    def fields(self) -> dict[str, Any]:
        """Field names and values, in order."""
        assert dataclasses.is_dataclass(self)
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.fields().items())
        return f"{self.op_name}({shown})" if shown else self.op_name


REGISTRY: dict[str, type[Op]] = {}

# How operators that do not say their gradient get one; who knows kernels puts it here.
_FROM_KERNEL: list[Callable[..., Any]] = []


def derive_gradients_with(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `function(op, dy, y, *inputs)` the gradient of operators that do not say theirs."""
    _FROM_KERNEL[:] = [function]
    return function


Class = TypeVar("Class", bound=type[Op])


@dataclass_transform(frozen_default=True)
def operator(cls: Class) -> Class:
    """Make a class an operator: a frozen dataclass, entered in REGISTRY by its snake-case name.

    The same class defined again takes the place of the older one. Raises NetError where another
    class has that name.
    """
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
    # The decorator gives back the class that it was given, which its type does not say.
    made: Class = dataclass(frozen=True, repr=False)(cls)  # type: ignore[assignment]
    made.op_name = name
    before = REGISTRY.get(name, cls)
    if (before.__module__, before.__qualname__) != (cls.__module__, cls.__qualname__):
        raise NetError(
            f"two operators are called '{name}': {before.__module__}.{before.__qualname__} and"
            f" {cls.__module__}.{cls.__qualname__}"
        )
    REGISTRY[name] = made
    return made


def lookup(name: str) -> type[Op]:
    """The operator class of that name. Raises NetError with a suggestion."""
    if name not in REGISTRY:
        hint = did_you_mean(name, REGISTRY)
        raise NetError(f"unknown operator '{name}'" + (f"; {hint}" if hint else ""))
    return REGISTRY[name]


@dataclass(frozen=True)
class Sample:
    """How to draw one example input; `differentiable`: whether finite differences make sense."""

    type: TensorType
    draw: Callable[[np.random.Generator], np.ndarray]
    differentiable: bool = True


@dataclass(frozen=True, init=False)
class Example:
    """An operator and samples of its inputs, in order: `Example(Shift(1.0), normal(2, 3))`.

    Tests and `graphc.check` run the operator on what the samples draw.
    """

    op: Op
    inputs: tuple[Sample, ...]

    def __init__(self, op: Op, *inputs: Sample):
        object.__setattr__(self, "op", op)
        object.__setattr__(self, "inputs", inputs)


def _real(shape: tuple[int, ...], draw: Callable[[np.random.Generator], np.ndarray]) -> Sample:
    return Sample(TensorType("float64", shape), lambda rng: np.asarray(draw(rng), np.float64))


def normal(*shape: int, scale: float = 1.0) -> Sample:
    """Normally distributed numbers."""
    return _real(shape, lambda rng: rng.standard_normal(shape) * scale)


def away_from_zero(*shape: int) -> Sample:
    """Numbers of both signs with magnitude in 0.2 .. 1.2: safe for kinks at 0 and for division."""
    return _real(
        shape, lambda rng: rng.uniform(0.2, 1.2, shape) * rng.choice(np.array([-1.0, 1.0]), shape)
    )


def positive(*shape: int, low: float = 0.2, high: float = 1.2) -> Sample:
    """Numbers between `low` and `high`."""
    return _real(shape, lambda rng: rng.uniform(low, high, shape))


def distinct(*shape: int) -> Sample:
    """Numbers no two of which are closer than 0.1: safe for a maximum."""
    return _real(
        shape, lambda rng: (rng.permutation(int(np.prod(shape))) * 0.1 - 1.0).reshape(shape)
    )


def probabilities(*shape: int, axis: int = 1) -> Sample:
    """Positive numbers that sum to 1 along `axis`."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        weights = rng.uniform(0.1, 1.0, shape)
        return np.asarray(weights / weights.sum(axis, keepdims=True))

    return _real(shape, draw)


def classes(count: int, *shape: int) -> Sample:
    """Whole numbers 0 .. count - 1, stored as reals as Caffe's labels are; not differentiable."""
    return Sample(
        TensorType("float64", shape),
        lambda rng: rng.integers(0, count, shape).astype(np.float64),
        differentiable=False,
    )


def integers(dtype: str, *shape: int) -> Sample:
    """Whole numbers 0 .. 9 of an integer type; not differentiable."""
    return Sample(
        TensorType(dtype, shape), lambda rng: np.asarray(rng.integers(0, 10, shape), dtype), False
    )


def counter(value: int = 7) -> Sample:
    """A scalar int64 state, such as dropout's counter."""
    return Sample(TensorType("int64", ()), lambda _: np.array(value, np.int64), False)
