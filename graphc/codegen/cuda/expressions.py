"""Scalar expressions as C++.

Index arithmetic is int64 in the language. Here it is `int` wherever bounds show that nothing
overflows, which a GPU computes several times faster. A value that is used twice gets a name.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from graphc.codegen.bounds import Range
from graphc.codegen.cuda.text import Names, Text
from graphc.codegen.nodes import Address, Node, reachable
from graphc.ir.types import REAL
from graphc.kernel.lang import BOOL, INDEX, Axis

TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    BOOL: "bool",
}
INT_END = 2**31  # where the values of an `int` end
_LIMITS = {"int32": (-(2**31), 2**31 - 1), "uint8": (0, 255)}
_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMPARISONS = {"lt": "<", "le": "<=", "eq": "==", "and": "&&", "or": "||"}
# Functions of reals: (of float, of double).
_REALS = {
    name: (f"{name}f", name) for name in ("exp", "log", "log1p", "expm1", "sqrt", "tanh", "floor")
} | {"pow": ("powf", "pow"), "round": ("rintf", "rint"), "sigmoid": ("sigmoid", "sigmoid")}
_HELPERS = {"min": "least", "max": "most", "abs": "magnitude", "sign": "sign_of"}
_ROUNDING = {"floordiv": ("/", "floor_quotient"), "mod": ("%", "floor_remainder")}
_LONGEST = 60  # characters of an expression before a part of it gets a name


def fits_int(bounds: Range) -> bool:
    """Whether all values within bounds are values of an `int`."""
    return bounds is not None and bounds[0] > -INT_END and bounds[1] < INT_END


def counter(end: int) -> str:
    """The type of a variable that counts up to `end` and may come to it."""
    return "int" if end < INT_END else "long long"


def c_type(dtype: str, bounds: Range = None) -> str:
    """The type of a scalar."""
    return "int" if dtype == INDEX and fits_int(bounds) else TYPES[dtype]


def node_type(node: Node) -> str:
    """The type of a node's value."""
    return c_type(node.dtype, node.bounds)


def literal(value: float | bool, dtype: str) -> str:
    """A number."""
    if dtype == BOOL:
        return "true" if value else "false"
    if dtype in REAL:
        return _real_literal(float(value), dtype)
    whole = int(value)
    if whole == -(2**63):
        return "(-9223372036854775807LL - 1)"
    text = f"{whole}" if abs(whole) < 2**31 else f"{whole}LL"
    return f"({text})" if whole < 0 else text


def _real_literal(value: float, dtype: str) -> str:
    with np.errstate(over="ignore"):
        number = np.dtype(dtype).type(value)
    suffix, zero = ("f", "0.0f") if dtype == "float32" else ("", "0.0")
    if np.isnan(number):
        return f"not_a_number({zero})"
    if np.isinf(number):
        return f"infinity({zero})" if number > 0 else f"(-infinity({zero}))"
    text = str(number)
    if not any(c in text for c in ".e"):
        text += ".0"
    return f"({text}{suffix})" if text.startswith("-") else f"{text}{suffix}"


class Scalars:
    """Writes the values of one place in a kernel: a statement, inside of its loops.

    axes, locals and buffers map to C++ names.
    """

    def __init__(
        self,
        text: Text,
        names: Names,
        extents: dict[Axis, int],
        axes: dict[Axis, str],
        local_names: dict[str, str],
        buffers: dict[str, str],
    ):
        self.text = text
        self.names = names
        self.extents = extents
        self.axes = axes
        self.locals = local_names
        self.buffers = buffers
        self.lanes: dict[int, str] = {}  # by the identity of addresses: what stands for them
        self._known: dict[Node, str] = {}
        self._uses: Counter[Node] = Counter()

    def begin(self, roots: tuple[Node, ...]) -> None:
        """Forget what was computed: another statement, or another scope, follows."""
        self._known = {}
        self._uses = Counter(roots)
        for node in reachable(roots):
            self._uses.update(node.args)

    def value(self, node: Node) -> str:
        """An expression of the node's type; lines for what needs a name are written first."""
        known = self._known.get(node)
        if known is not None:
            return known
        text = self._made(node)
        if node.op in ("const", "axis", "local"):
            return text
        if self._uses[node] > 1 or len(text) > _LONGEST:
            name = self.names.fresh("v")
            self.text.line(f"const {node_type(node)} {name} = {_bare(text)};")
            text = name
        self._known[node] = text
        return text

    def place(self, address: Address) -> str:
        """`a0[...]`."""
        if id(address) in self.lanes:
            return self.lanes[id(address)]
        buffer, index = self.corner(address)
        return f"{buffer}[{index}]"

    def corner(self, address: Address) -> tuple[str, str]:
        """The names of a buffer and of an index into it."""
        terms = [
            (self.axes[axis], stride, self.extents[axis])
            for axis, stride in sorted(address.terms.items(), key=lambda term: -abs(term[1]))
        ]
        reach = abs(address.constant) + sum(abs(s) * (extent - 1) for _, s, extent in terms)
        wide = reach >= INT_END
        parts = [_term(name, stride, wide) for name, stride, _ in terms]
        for node, stride in address.parts:
            bounds = node.bounds
            far = bounds is None or abs(stride) * max(map(abs, bounds)) + reach >= INT_END
            parts.append(_term(self.value(node), stride, far and node_type(node) == "int"))
        if address.constant or not parts:
            parts.append(literal(address.constant, INDEX))
        return self.buffers[address.buffer.name], " + ".join(parts)

    # -- nodes --

    def _made(self, node: Node) -> str:
        if node.op == "const":
            return literal(node.data, node.dtype)
        if node.op == "axis":
            return self.axes[node.data]
        if node.op == "local":
            return self.locals[node.data]
        if node.op == "load":
            assert node.address is not None
            return self.place(node.address)
        args = [self.value(arg) for arg in node.args]
        if node.op == "cast":
            return self._cast(node, args[0])
        if node.op == "random_bits":
            return f"random_bits({', '.join(args)})"
        if node.op == "not":
            return f"(!{args[0]})"
        if node.op in _COMPARISONS:
            return f"({args[0]} {_COMPARISONS[node.op]} {args[1]})"
        if node.dtype in REAL and node.op in _REALS:
            return f"{_REALS[node.op][node.dtype == 'float64']}({', '.join(args)})"
        return self._arithmetic(node, args)

    def _arithmetic(self, node: Node, args: list[str]) -> str:
        """What is also there for integers: in `int` where all that occurs fits."""
        working = node_type(node)
        if node.dtype == INDEX:
            kinds = {node_type(arg) for arg in node.args if arg.dtype == INDEX} | {working}
            working = "int" if kinds == {"int"} else "long long"
            args = [
                f"(long long){text}"
                if working == "long long" and arg.dtype == INDEX and node_type(arg) == "int"
                else text
                for text, arg in zip(args, node.args, strict=True)
            ]
        text = self._operation(node, args)
        narrower = working != node_type(node) or node.dtype == "uint8"
        return f"({node_type(node)})({_bare(text)})" if narrower else text

    def _operation(self, node: Node, args: list[str]) -> str:
        if node.op == "select":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        if node.op == "neg":
            return f"(-{args[0]})"
        if node.op in _OPERATORS:
            return f"({args[0]} {_OPERATORS[node.op]} {args[1]})"
        if node.op in _ROUNDING:
            return self._rounded(node, args)
        if node.op in _HELPERS:
            kind = "" if node.dtype in REAL else f"<{_working(node)}>"
            return f"{_HELPERS[node.op]}{kind}({', '.join(map(_bare, args))})"
        if node.op in ("floor", "round"):
            return args[0]  # of an integer
        raise AssertionError(f"no C++ for {node.op} of {node.dtype}")

    def _rounded(self, node: Node, args: list[str]) -> str:
        sign, function = _ROUNDING[node.op]
        first, second = (arg.bounds for arg in node.args)
        plain = node.dtype == "uint8" or (
            first is not None and first[0] >= 0 and second is not None and second[0] > 0
        )
        if node.dtype in REAL:
            raise AssertionError(f"no {node.op} of reals")
        if plain:
            return f"({args[0]} {sign} {args[1]})"
        return f"{function}<{_working(node)}>({', '.join(map(_bare, args))})"

    def _cast(self, node: Node, text: str) -> str:
        source, wanted = node.args[0].dtype, node_type(node)
        if node.dtype == BOOL:
            return f"({text} != 0)"
        if source in REAL and node.dtype == INDEX:
            return f"to_int64({_bare(text)})"
        if source in REAL and node.dtype not in REAL:
            low, high = (literal(limit, INDEX) for limit in _LIMITS[node.dtype])
            return f"to_integer<{wanted}>({_bare(text)}, {low}, {high})"
        return text if node_type(node.args[0]) == wanted else f"(({wanted}){text})"


def _working(node: Node) -> str:
    """The type a function of integers computes in."""
    if node.dtype != INDEX:
        return TYPES[node.dtype]
    kinds = {node_type(arg) for arg in node.args} | {node_type(node)}
    return "int" if kinds == {"int"} else "long long"


def _term(name: str, stride: int, wide: bool) -> str:
    shown = f"(long long){name}" if wide else name
    return shown if stride == 1 else f"{shown} * {literal(stride, INDEX)}"


def _bare(text: str) -> str:
    """Without parentheses around the whole."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[1:-1] if position == len(text) - 1 else text
    return text
