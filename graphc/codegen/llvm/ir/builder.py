"""Instructions: each method writes one at the end of a block, and gives what it makes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from graphc.codegen.llvm.ir.function import Block, Function, Module
from graphc.codegen.llvm.ir.types import IntType, PointerType, Type, VectorType, VoidType
from graphc.codegen.llvm.ir.values import Constant, Phi, Splat, Value

_BOOL, _POINTER, _VOID = IntType(1), PointerType(), VoidType()
_RELATIONS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}


def _two(name: str) -> Callable[[IRBuilder, Value, Value], Value]:
    """A method for an instruction on two values of a type, which is the result's, too."""

    def emit(self: IRBuilder, left: Value, right: Value) -> Value:
        return self._made(left.type, f"{name} {left.type.text} {left.text}, {right.text}")

    emit.__doc__ = f"LLVM's `{name}`."
    return emit


def _conversion(name: str) -> Callable[[IRBuilder, Value, Type], Value]:
    """A method for a conversion; what has the type already stays as it is."""

    def emit(self: IRBuilder, value: Value, type_: Type) -> Value:
        if value.type is type_:
            return value
        return self._made(type_, f"{name} {value.type.text} {value.text} to {type_.text}")

    emit.__doc__ = f"LLVM's `{name}`."
    return emit


def _is_number(value: Value, number: int) -> bool:
    """Whether a whole number is known, and is this one."""
    if not isinstance(value, Constant) or not isinstance(value.type, IntType):
        return False
    return isinstance(value.constant, int) and value.constant == number


def _known(left: Value, right: Value, function: Callable[[int, int], int]) -> Constant | None:
    """What two known whole numbers make; None where either is not, or their sum has no room."""
    if not isinstance(left, Constant) or not isinstance(right, Constant):
        return None
    if not isinstance(left.constant, int) or not isinstance(right.constant, int):
        return None
    if not isinstance(left.type, IntType):
        return None
    made = function(left.constant, right.constant)
    fits = made.bit_length() < left.type.width
    return Constant(left.type, made) if fits else None


def _known_or_two(
    name: str, function: Callable[[int, int], int], neutral: int
) -> Callable[[IRBuilder, Value, Value], Value]:
    """As `_two`, but what is known takes no instruction; `neutral` changes nothing."""
    instruction = _two(name)

    def emit(self: IRBuilder, left: Value, right: Value) -> Value:
        known = _known(left, right, function)
        if known is not None:
            return known
        if _is_number(left, neutral):
            return right
        return left if _is_number(right, neutral) else instruction(self, left, right)

    emit.__doc__ = f"LLVM's `{name}`; what is known is computed here."
    return emit


class IRBuilder:
    """Writes at the end of `block`, before its terminator if it has one."""

    def __init__(self, block: Block):
        self.block = block

    @property
    def function(self) -> Function:
        """The function it writes."""
        return self.block.function

    @property
    def module(self) -> Module:
        """The module of that function."""
        return self.block.function.module

    def append_basic_block(self, name: str = "block") -> Block:
        """A new block at the end of the function."""
        return self.block.function.append_basic_block(name)

    def position_at_end(self, block: Block) -> None:
        """Write there from now on."""
        self.block = block

    def _made(self, type_: Type, instruction: str) -> Value:
        name = self.block.function.fresh()
        self.block.lines.append(f"  {name} = {instruction}")
        return Value(type_, name)

    # -- where to go on --

    def branch(self, block: Block) -> None:
        """Go on there."""
        self.block.terminator = f"  br label %{block.name}"

    def cbranch(self, condition: Value, yes: Block, no: Block) -> None:
        """Go on in one of two blocks."""
        self.block.terminator = f"  br i1 {condition.text}, label %{yes.name}, label %{no.name}"

    def ret_void(self) -> None:
        """Return."""
        self.block.terminator = "  ret void"

    def ret(self, value: Value) -> None:
        """Return a value."""
        self.block.terminator = f"  ret {value}"

    def phi(self, type_: Type) -> Phi:
        """A value that depends on where the block was entered from."""
        phi = Phi(type_, self.block.function.fresh())
        self.block.phis.append(phi)
        return phi

    def call(self, function: Function, arguments: Sequence[Value]) -> Value:
        """Call a function."""
        listed = ", ".join([f"{value.type.text} {value.text}" for value in arguments])
        called = f"call {function.result.text} {function.called}({listed})"
        if function.result is not _VOID:
            return self._made(function.result, called)
        self.block.lines.append(f"  {called}")
        return Value(_VOID, "")

    # -- numbers --

    add, mul = _known_or_two("add", operator.add, 0), _known_or_two("mul", operator.mul, 1)
    sub = _two("sub")
    sdiv, udiv, srem, urem = _two("sdiv"), _two("udiv"), _two("srem"), _two("urem")
    and_, or_, xor = _two("and"), _two("or"), _two("xor")
    shl, lshr, ashr = _two("shl"), _two("lshr"), _two("ashr")
    fadd, fsub, fmul, fdiv = _two("fadd"), _two("fsub"), _two("fmul"), _two("fdiv")

    trunc, zext, sext = _conversion("trunc"), _conversion("zext"), _conversion("sext")
    fptrunc, fpext = _conversion("fptrunc"), _conversion("fpext")
    sitofp, uitofp, fptosi = _conversion("sitofp"), _conversion("uitofp"), _conversion("fptosi")
    bitcast = _conversion("bitcast")
    ptrtoint, inttoptr = _conversion("ptrtoint"), _conversion("inttoptr")

    def neg(self, value: Value) -> Value:
        """0 - value."""
        return self.sub(Constant(value.type, None), value)

    def fneg(self, value: Value) -> Value:
        """The other sign, of a nan too."""
        return self._made(value.type, f"fneg {value.type.text} {value.text}")

    def not_(self, value: Value) -> Value:
        """All bits turned."""
        every = Splat if isinstance(value.type, VectorType) else Constant
        return self.xor(value, every(value.type, -1))

    def icmp_signed(self, relation: str, left: Value, right: Value) -> Value:
        """Compare integers with a sign."""
        return self._compared("icmp", relation, "s", left, right)

    def icmp_unsigned(self, relation: str, left: Value, right: Value) -> Value:
        """Compare integers without a sign, or addresses."""
        return self._compared("icmp", relation, "u", left, right)

    def fcmp_ordered(self, relation: str, left: Value, right: Value) -> Value:
        """Compare numbers: false with a nan."""
        return self._compared("fcmp", relation, "o", left, right)

    def fcmp_unordered(self, relation: str, left: Value, right: Value) -> Value:
        """Compare numbers: true with a nan. "uno": whether there is a nan."""
        return self._compared("fcmp", relation, "u", left, right)

    def _compared(self, name: str, relation: str, kind: str, left: Value, right: Value) -> Value:
        type_ = left.type
        made = VectorType(_BOOL, type_.count) if isinstance(type_, VectorType) else _BOOL
        word = _RELATIONS.get(relation, relation)
        if word is not relation and (name == "fcmp" or word not in ("eq", "ne")):
            word = kind + word
        return self._made(made, f"{name} {word} {type_.text} {left.text}, {right.text}")

    def select(self, condition: Value, yes: Value, no: Value) -> Value:
        """One of two values, or of each lane's."""
        return self._made(yes.type, f"select {condition}, {yes}, {no}")

    # -- lanes --

    def extract_element(self, vector: Value, lane: Value) -> Value:
        """One lane."""
        return self._made(vector.type.element, f"extractelement {vector}, {lane}")

    def insert_element(self, vector: Value, value: Value, lane: Value) -> Value:
        """The vector with one lane changed."""
        return self._made(vector.type, f"insertelement {vector}, {value}, {lane}")

    def shuffle_vector(self, left: Value, right: Value, order: Value) -> Value:
        """Lanes of two vectors, counted through both, in an order."""
        type_ = VectorType(left.type.element, order.type.count)
        return self._made(type_, f"shufflevector {left}, {right}, {order}")

    # -- memory --

    def alloca(self, type_: Type, align: int) -> Value:
        """Room on the stack."""
        return self._made(_POINTER, f"alloca {type_.text}, align {align}")

    def gep(self, place: Value, indices: Sequence[Value], source_etype: Type) -> Value:
        """The place moved by elements of a type."""
        if len(indices) == 1 and _is_number(indices[0], 0):
            return place
        moved = ", ".join([f"{index.type.text} {index.text}" for index in indices])
        instruction = f"getelementptr {source_etype.text}, {place}, {moved}"
        return self._made(_addresses(place, indices), instruction)

    def load(self, place: Value, typ: Type, align: int | None = None) -> Value:
        """What is there."""
        end = f", align {align}" if align else ""
        return self._made(typ, f"load {typ.text}, ptr {place.text}{end}")

    def store(
        self, value: Value, place: Value, align: int | None = None, past_caches: bool = False
    ) -> None:
        """Put a value there; of whole lines, past the caches if wished."""
        end = f", align {align}" if align else ""
        if past_caches:
            self.module.has_streams = True
            end += ", !nontemporal !0"
        self.block.lines.append(f"  store {value}, ptr {place.text}{end}")

    def fence(self, ordering: str, scope: str = "") -> None:
        """Keep accesses to memory on either side in order; for a "singlethread", if it says so."""
        within = f'syncscope("{scope}") ' if scope else ""
        self.block.lines.append(f"  fence {within}{ordering}")


def _addresses(place: Value, indices: Sequence[Value]) -> Type:
    """The type of a place moved by indices: lanes of them where an index has lanes."""
    lanes = [index.type.count for index in indices if isinstance(index.type, VectorType)]
    return VectorType(_POINTER, lanes[0]) if lanes else place.type
