"""The text of LLVM's language: the same machine code as from llvmlite's own `ir`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as theirs
import pytest

from graphc.codegen.llvm import ir as ours
from graphc.codegen.llvm.target import Target

KINDS = {
    "i1": lambda ir: ir.IntType(1),
    "i32": lambda ir: ir.IntType(32),
    "i64": lambda ir: ir.IntType(64),
    "f32": lambda ir: ir.FloatType(),
    "f64": lambda ir: ir.DoubleType(),
    "ptr": lambda ir: ir.PointerType(),
    "8 f32": lambda ir: ir.VectorType(ir.FloatType(), 8),
    "8 f64": lambda ir: ir.VectorType(ir.DoubleType(), 8),
    "8 i32": lambda ir: ir.VectorType(ir.IntType(32), 8),
    "8 i64": lambda ir: ir.VectorType(ir.IntType(64), 8),
    "8 i1": lambda ir: ir.VectorType(ir.IntType(1), 8),
}
WHOLE = ("add", "sub", "mul", "sdiv", "udiv", "srem", "urem", "and_", "or_", "xor")
SHIFTS = ("shl", "lshr", "ashr")
REAL = ("fadd", "fsub", "fmul", "fdiv")
RELATIONS = ("<", "<=", ">", ">=", "==", "!=")

Body = Callable[[Any, Any, list[Any]], Any]


def assembly(ir: Any, kinds: str, body: Body) -> str:
    """The machine's text of `body`, of arguments of these kinds, its result stored at a pointer."""
    module = ir.Module("one")
    module.triple = Target.host().triple
    types = [KINDS[kind](ir) for kind in kinds.split(", ")]
    types.append(ir.PointerType())
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    *given, result = function.args
    builder.store(body(ir, builder, given), result)
    builder.ret_void()
    machine = Target.host().machine()
    return str(machine.emit_assembly(llvm.parse_assembly(str(module))))


def same(kinds: str, body: Body) -> None:
    text = assembly(ours, kinds, body)
    assert text == assembly(theirs, kinds, body)
    assert "ret" in text


@pytest.mark.parametrize("name", [*WHOLE, *SHIFTS])
def test_instructions_on_whole_numbers(name: str) -> None:
    for kinds in ("i32, i32", "i64, i64", "8 i32, 8 i32"):
        same(kinds, lambda ir, b, given: getattr(b, name)(*given))


@pytest.mark.parametrize("name", REAL)
def test_instructions_on_real_numbers(name: str) -> None:
    for kinds in ("f32, f32", "f64, f64", "8 f32, 8 f32", "8 f64, 8 f64"):
        same(kinds, lambda ir, b, given: getattr(b, name)(*given))


@pytest.mark.parametrize("relation", RELATIONS)
def test_comparisons(relation: str) -> None:
    for name in ("icmp_signed", "icmp_unsigned"):
        for kinds in ("i32, i32", "8 i64, 8 i64", "ptr, ptr"):
            same(kinds, lambda ir, b, given, name=name: getattr(b, name)(relation, *given))
    for name in ("fcmp_ordered", "fcmp_unordered"):
        for kinds in ("f32, f32", "8 f64, 8 f64"):
            same(kinds, lambda ir, b, given, name=name: getattr(b, name)(relation, *given))


def test_whether_there_is_a_nan() -> None:
    same("f32, f32", lambda ir, b, given: b.fcmp_unordered("uno", *given))


@pytest.mark.parametrize(
    ("kind", "name", "to"),
    [
        ("i64", "trunc", "i32"),
        ("8 i64", "trunc", "8 i32"),
        ("i32", "zext", "i64"),
        ("i1", "zext", "i32"),
        ("i32", "sext", "i64"),
        ("f64", "fptrunc", "f32"),
        ("8 f32", "fpext", "8 f64"),
        ("i32", "sitofp", "f32"),
        ("8 i32", "uitofp", "8 f64"),
        ("f64", "fptosi", "i64"),
        ("8 f32", "bitcast", "8 i32"),
        ("f32", "bitcast", "f32"),
        ("ptr", "ptrtoint", "i64"),
        ("i64", "inttoptr", "ptr"),
    ],
)
def test_conversions(kind: str, name: str, to: str) -> None:
    same(kind, lambda ir, b, given: getattr(b, name)(given[0], KINDS[to](ir)))


def test_signs_and_bits_and_choices() -> None:
    same("i32", lambda ir, b, given: b.neg(given[0]))
    same("8 f32", lambda ir, b, given: b.fneg(given[0]))
    same("i64", lambda ir, b, given: b.not_(given[0]))
    same("8 i32", lambda ir, b, given: b.not_(given[0]))
    same("i1, f32, f32", lambda ir, b, given: b.select(*given))
    same("8 i1, 8 f32, 8 f32", lambda ir, b, given: b.select(*given))


def test_what_is_known_takes_no_instruction() -> None:
    i64, i32 = ours.IntType(64), ours.IntType(32)
    types = [i64, ours.PointerType(), KINDS["8 i64"](ours)]
    function = ours.Function(ours.Module("m"), ours.FunctionType(ours.VoidType(), types), "f")
    b = ours.IRBuilder(block := function.append_basic_block())
    x, place, lanes = function.args

    def number(value: int, type_: ours.Type = i64) -> ours.Constant:
        return ours.Constant(type_, value)

    assert b.add(x, number(0)) is x
    assert b.add(number(0), x) is x
    assert b.mul(x, number(1)) is x
    assert b.mul(number(1), x) is x
    assert b.gep(place, [number(0)], source_etype=i32) is place
    assert b.add(number(5), number(-7)).text == "-2"
    assert b.mul(number(-5), number(7)).text == "-35"
    assert not block.lines
    made = [
        b.add(x, number(1)),
        b.mul(x, number(0)),
        b.mul(x, number(2)),
        b.add(number(2**31 - 1, i32), number(1, i32)),  # it goes round
        b.mul(number(2**62), number(2)),
        b.add(lanes, ours.Splat(lanes.type, 1)),
        b.gep(place, [x], source_etype=i32),
        b.gep(place, [number(1)], source_etype=i32),
    ]
    assert len(block.lines) == len(made)


def test_lanes() -> None:
    def lane(ir: Any, number: int) -> Any:
        return ir.Constant(ir.IntType(32), number)

    def order(ir: Any, numbers: list[int]) -> Any:
        return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)

    same("8 f32", lambda ir, b, given: b.extract_element(given[0], lane(ir, 3)))
    same("8 f32, f32", lambda ir, b, given: b.insert_element(*given, lane(ir, 5)))
    same("8 f32, 8 f32", lambda ir, b, given: b.shuffle_vector(*given, order(ir, [1, 9, 0, 8])))


def test_memory() -> None:
    def moved(ir: Any, b: Any, given: list[Any]) -> Any:
        place = b.gep(given[0], [given[1]], source_etype=ir.FloatType())
        return b.load(place, typ=ir.VectorType(ir.FloatType(), 8), align=4)

    def fenced(ir: Any, b: Any, given: list[Any]) -> Any:
        b.store(given[1], given[0], align=4)
        b.fence("seq_cst")
        b.fence("acq_rel", "singlethread")
        return b.load(given[0], typ=ir.FloatType(), align=4)

    same("ptr, i64", moved)
    same("ptr, f32", fenced)


def test_places_in_lanes() -> None:
    """llvmlite gives such a place the type of one address."""
    function = ours.Function(
        module := ours.Module("m"),
        ours.FunctionType(ours.VoidType(), [ours.PointerType(), KINDS["8 i64"](ours)]),
        "f",
    )
    b = ours.IRBuilder(function.append_basic_block())
    places = b.gep(function.args[0], [function.args[1]], source_etype=ours.FloatType())
    assert places.type is ours.VectorType(ours.PointerType(), 8)
    b.ret_void()
    llvm.parse_assembly(str(module)).verify()


def test_going_on_in_blocks() -> None:
    """A loop, an argument that is promised not to be met elsewhere, and a call."""

    def text(ir: Any) -> str:
        i64 = ir.IntType(64)
        module = ir.Module("loop")
        module.triple = Target.host().triple
        square = ir.Function(module, ir.FunctionType(i64, [i64]), "square")
        function = ir.Function(module, ir.FunctionType(i64, [i64, ir.PointerType()]), "sum")
        function.args[1].add_attribute("noalias")
        before = function.append_basic_block()
        inside, after = function.append_basic_block(), function.append_basic_block()
        b = ir.IRBuilder(before)
        b.branch(inside)
        b.position_at_end(inside)
        i, total = b.phi(i64), b.phi(i64)
        more = b.add(total, b.call(square, [i]))
        following = b.add(i, ir.Constant(i64, 1))
        b.cbranch(b.icmp_signed("<", following, function.args[0]), inside, after)
        for phi, value in ((i, following), (total, more)):
            phi.add_incoming(ir.Constant(i64, 0), before)
            phi.add_incoming(value, inside)
        b.position_at_end(after)
        b.ret(more)
        return str(module)

    def made(ir: Any) -> str:
        return str(Target.host().machine().emit_assembly(llvm.parse_assembly(text(ir))))

    assert made(ours) == made(theirs)
    assert "noalias" in text(ours)


def test_what_is_put_before_the_end_of_a_block() -> None:
    function = ours.Function(
        module := ours.Module("m"), ours.FunctionType(ours.VoidType(), [ours.IntType(64)]), "f"
    )
    b = ours.IRBuilder(entry := function.append_basic_block())
    b.branch(after := b.append_basic_block("after"))
    b.position_at_end(after)
    b.ret_void()
    b.position_at_end(entry)
    b.add(function.args[0], function.args[0])
    assert str(function) == (
        "define void @f(i64 %a0) {\n"
        "entry:\n"
        "  %v1 = add i64 %a0, %a0\n"
        "  br label %after0\n"
        "after0:\n"
        "  ret void\n"
        "}\n"
    )
    llvm.parse_assembly(str(module)).verify()


NUMBERS = [0.0, -0.0, 1.0, -1.5, 0.1, 1e-45, 1e-320, 3e38, 1e39, -1e39, math.inf, -math.inf]


@pytest.mark.parametrize("number", NUMBERS)
def test_real_constants(number: float) -> None:
    for kind in ("f32", "f64"):
        same(kind, lambda ir, b, given, kind=kind: b.fadd(given[0], constant(ir, kind, number)))


def constant(ir: Any, kind: str, number: object) -> Any:
    return ir.Constant(KINDS[kind](ir), number)


def test_other_constants() -> None:
    for kind in KINDS:
        same("i32", lambda ir, b, given, kind=kind: constant(ir, kind, None))
    for kind, numbers in (("8 f32", [n / 4 for n in range(8)]), ("8 i32", list(range(-4, 4)))):
        same(kind, lambda ir, b, given, k=kind, n=numbers: constant(ir, k, n))
    same("i1", lambda ir, b, given: b.xor(given[0], constant(ir, "i1", True)))
    assert constant(ours, "f32", math.nan).text == "0x7ff8000000000000"
    assert constant(ours, "8 f32", ours.Undefined).text == "undef"


def test_one_number_in_all_lanes() -> None:
    one = ours.Splat(KINDS["8 f32"](ours), 0.5)
    assert (one.text, one.constant) == ("splat (float 0x3fe0000000000000)", 0.5)
    for kind in ("8 f32", "8 i32"):
        split = assembly(ours, kind, lambda ir, b, given, k=kind: ir.Splat(KINDS[k](ir), 3))
        assert split == assembly(ours, kind, lambda ir, b, given, k=kind: constant(ir, k, [3] * 8))


def test_there_is_one_of_each_type() -> None:
    for kind, make in KINDS.items():
        assert make(ours) is make(ours), kind
    assert len({make(ours) for make in KINDS.values()}) == len(KINDS)
    assert ours.FloatType() != ours.DoubleType()


def test_a_function_is_declared_once() -> None:
    module = ours.Module("m")
    i64 = ours.IntType(64)
    first = module.declared("llvm.expect.i64", i64, [i64, i64])
    assert module.declared("llvm.expect.i64", i64, [i64, i64]) is first
    assert first.is_declaration
    assert "declare i64 @llvm.expect.i64(i64, i64)\n" in str(module)


@pytest.mark.parametrize("name", ["more than a word", "7", "2nd", "k0_mul.v2", "größe"])
def test_names_of_functions(name: str) -> None:
    module = ours.Module("m")
    function = ours.Function(module, ours.FunctionType(ours.VoidType(), []), name)
    b = ours.IRBuilder(function.append_basic_block())
    b.call(function, [])
    b.ret_void()
    parsed = llvm.parse_assembly(str(module))
    assert [function.name for function in parsed.functions] == [name]


@pytest.mark.parametrize("name", ["tiny", 'a "net"', "two\nlines", "größe", "tab\t"])
def test_names_of_modules(name: str) -> None:
    """They are what nets are called."""
    text = str(ours.Module(name))
    assert len(text.splitlines()) == len(str(ours.Module("m")).splitlines())
    llvm.parse_assembly(text).verify()


def test_stores_past_the_caches() -> None:
    def text(past_caches: bool) -> str:
        module = ours.Module("m")
        types = [ours.PointerType(), KINDS["8 f32"](ours)]
        function = ours.Function(module, ours.FunctionType(ours.VoidType(), types), "f")
        b = ours.IRBuilder(function.append_basic_block())
        b.store(function.args[1], function.args[0], align=32, past_caches=past_caches)
        b.ret_void()
        target = Target.named("x86-64-v3")
        module.triple = target.triple
        machine = target.machine()
        return str(machine.emit_assembly(llvm.parse_assembly(str(module))))

    assert "vmovntps" in text(True)
    assert "vmovntps" not in text(False)
