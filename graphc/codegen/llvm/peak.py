"""Loops whose speed is a limit of the machine: products, and memory that is read or copied.

What a benchmark is compared with. The loops are made by the same code generator as kernels, with
the same vectors, so a kernel at 100 % of a limit can be no faster.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm

from graphc.codegen.llvm.target import Target

_UNROLLED = 8  # vectors of memory a round
PLACES = 4  # in which memory is read, or copied, at once: on some machines it is faster so
_AHEAD = 4096  # bytes that are asked for ahead in each


@dataclass(frozen=True)
class LimitLoops:
    """The loops as functions that can be called from several threads at once.

    products(rounds): runs `rounds` rounds of `flops_a_round` floating-point operations of float32.
    reads: each (source, count) reads `count` chunks of `chunk_bytes` bytes, from end to end or in
    several places at once, for which `count` is a multiple of `PLACES`.
    write(target, count): writes them with stores that go past the caches.
    copies: each (target, source, count) copies them, by plain stores or such that go past the
    caches, in one place or several; both begin at multiples of a vector.
    """

    products: Callable[[int], None]
    reads: Sequence[Callable[[int, int], None]]
    write: Callable[[int, int], None]
    copies: Sequence[Callable[[int, int, int], None]]
    flops_a_round: int
    chunk_bytes: int
    keep: Any


def limit_loops(target: Target | None = None) -> LimitLoops:
    """Generate and load the loops for this machine."""
    chosen = target or Target.host()
    lanes = chosen.lanes("float32")
    accumulators = _accumulators(chosen)
    texts = {
        "limit_products": _products_text(chosen, lanes, accumulators),
        "limit_write": _write_text(chosen, lanes),
    }
    for places in (1, PLACES):
        texts[f"limit_read_{places}"] = _read_text(f"limit_read_{places}", lanes, places)
        for stream in (False, True):
            name = f"limit_{'stream' if stream else 'copy'}_{places}"
            texts[name] = _copy_text(name, chosen, lanes, stream, places)
    head = [f'target triple = "{chosen.triple}"', _declarations(chosen)]
    text = "\n".join([*head, *texts.values()])
    machine = chosen.machine(position_independent=True)
    code = machine.emit_object(llvm.parse_assembly(text))
    engine = llvm.create_lljit_compiler(use_jit_link=True)
    library = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    for name in texts:
        library.export_symbol(name)
    tracker = library.link(engine, "limits")
    long, place = ctypes.c_int64, ctypes.c_void_p
    arguments = {
        "products": (long,),
        "read": (place, long),
        "write": (place, long),
        "copy": (place, place, long),
        "stream": (place, place, long),
    }

    def loaded(*kinds: str) -> list[Callable[..., None]]:
        # The functions give a number, so that no compiler may leave their work out.
        return [
            ctypes.CFUNCTYPE(ctypes.c_float, *arguments[name.split("_")[1]])(int(tracker[name]))
            for name in texts
            if name.split("_")[1] in kinds
        ]

    return LimitLoops(
        products=loaded("products")[0],
        reads=loaded("read"),
        write=loaded("write")[0],
        copies=loaded("copy", "stream"),
        flops_a_round=2 * lanes * accumulators,
        chunk_bytes=4 * lanes * _UNROLLED,
        keep=(tracker, engine),
    )


def _accumulators(target: Target) -> int:
    """Sums that do not wait for each other: more than latency times units, and all in registers."""
    return min(16, target.registers - 4)


def _products_text(target: Target, lanes: int, accumulators: int) -> str:
    """sum = sum * a + b for many sums; they tend to b / (1 - a), so nothing overflows."""
    vector = f"<{lanes} x float>"
    lines = [
        f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})",
        "define float @limit_products(i64 %rounds) nounwind {",
        "entry:",
        f"  %a = {_spread(lanes, '0x3FEFF00000000000')}",
        f"  %b = {_spread(lanes, '0x3F80000000000000')}",
        "  br label %loop",
        "loop:",
        "  %n = phi i64 [ 0, %entry ], [ %next, %loop ]",
    ]
    for i in range(accumulators):
        lines.append(f"  %s{i} = phi {vector} [ %b, %entry ], [ %t{i}, %loop ]")
    for i in range(accumulators):
        if target.has_fma:
            lines.append(
                f"  %t{i} = call {vector} @llvm.fma.v{lanes}f32"
                f"({vector} %s{i}, {vector} %a, {vector} %b)"
            )
        else:
            lines.append(f"  %m{i} = fmul {vector} %s{i}, %a")
            lines.append(f"  %t{i} = fadd {vector} %m{i}, %b")
    lines += [
        "  %next = add i64 %n, 1",
        "  %more = icmp slt i64 %next, %rounds",
        "  br i1 %more, label %loop, label %done",
        "done:",
    ]
    total = "%t0"
    for i in range(1, accumulators):
        lines.append(f"  %u{i} = fadd {vector} {total}, %t{i}")
        total = f"%u{i}"
    lines += [f"  %first = extractelement {vector} {total}, i64 0", "  ret float %first", "}"]
    return "\n".join(lines)


def _spread(lanes: int, number: str) -> str:
    """A vector of one number that the code generator cannot know, so that it stays a register."""
    values = ", ".join([f"float {number}"] * lanes)
    return f"freeze <{lanes} x float> <{values}>"


def _read_text(name: str, lanes: int, places: int) -> str:
    """Eight running exclusive ors, one a vector of the chunk."""
    vector = f"<{lanes} x i32>"
    lines = [
        f"define float @{name}(ptr %source, i64 %count) nounwind {{",
        "entry:",
        f"  %part = udiv i64 %count, {places}",
        "  br label %loop",
        "loop:",
        "  %n = phi i64 [ 0, %entry ], [ %next, %loop ]",
    ]
    last = f"{places - 1}_"
    for i in range(_UNROLLED):
        lines.append(f"  %s{i} = phi {vector} [ zeroinitializer, %entry ], [ %t{last}{i}, %loop ]")
    for p in range(places):
        lines += _loads(vector, lanes, p, places)
        for i in range(_UNROLLED):
            before = f"%t{p - 1}_{i}" if p else f"%s{i}"
            lines.append(f"  %t{p}_{i} = xor {vector} {before}, %v{p}_{i}")
    lines += _loop_end("%part")
    total = f"%t{last}0"
    for i in range(1, _UNROLLED):
        lines.append(f"  %u{i} = xor {vector} {total}, %t{last}{i}")
        total = f"%u{i}"
    lines += [
        f"  %first = extractelement {vector} {total}, i64 0",
        "  %result = bitcast i32 %first to float",
        "  ret float %result",
        "}",
    ]
    return "\n".join(lines)


def _loads(vector: str, lanes: int, p: int, places: int) -> list[str]:
    """A chunk in the p-th of some places, and what comes there later asked for."""
    lines = [
        f"  %move{p} = mul i64 %part, {p}",
        f"  %chunk{p} = add i64 %n, %move{p}",
        f"  %start{p} = mul i64 %chunk{p}, {_UNROLLED}",
    ]
    for i in range(_UNROLLED):
        lines += [
            f"  %i{p}_{i} = add i64 %start{p}, {i}",
            f"  %p{p}_{i} = getelementptr {vector}, ptr %source, i64 %i{p}_{i}",
            f"  %v{p}_{i} = load {vector}, ptr %p{p}_{i}, align {4 * lanes}",
        ]
        if places > 1 and i * 4 * lanes % 64 == 0:
            lines += [
                f"  %a{p}_{i} = getelementptr i8, ptr %p{p}_{i}, i64 {_AHEAD}",
                f"  call {_PREFETCH}(ptr %a{p}_{i}, i32 0, i32 3, i32 1)",
            ]
    return lines


_PREFETCH = "void @llvm.prefetch.p0"
_SFENCE = "void @llvm.x86.sse.sfence()"


def _has_sfence(target: Target) -> bool:
    return target.triple.startswith(("x86_64", "i686", "amd64"))


def _declarations(target: Target) -> str:
    """The mark of stores that go past the caches, and what they must be waited for with."""
    declared = f"!0 = !{{i32 1}}\ndeclare {_PREFETCH}(ptr, i32, i32, i32)\n"
    return declared + (f"declare {_SFENCE}" if _has_sfence(target) else "")


def _fence(target: Target) -> list[str]:
    return [f"  call {_SFENCE}"] if _has_sfence(target) else []


def _write_text(target: Target, lanes: int) -> str:
    """Nothing but stores. Not of zeros, of which some memories need fewer bytes than of others."""
    vector = f"<{lanes} x i32>"
    value = f"<{', '.join(['i32 1065353216'] * lanes)}>"
    lines = [
        "define float @limit_write(ptr %target, i64 %count) nounwind {",
        *_LOOP_START,
    ]
    for i in range(_UNROLLED):
        lines += [
            f"  %i{i} = add i64 %start, {i}",
            f"  %p{i} = getelementptr {vector}, ptr %target, i64 %i{i}",
            f"  store {vector} {value}, ptr %p{i}, align {4 * lanes}, !nontemporal !0",
        ]
    return "\n".join([*lines, *_loop_end(), *_fence(target), "  ret float 0.0", "}"])


def _copy_text(name: str, target: Target, lanes: int, stream: bool, places: int) -> str:
    vector = f"<{lanes} x i32>"
    mark = ", !nontemporal !0" if stream else ""
    lines = [
        f"define float @{name}(ptr %target, ptr %source, i64 %count) nounwind {{",
        "entry:",
        f"  %part = udiv i64 %count, {places}",
        "  br label %loop",
        "loop:",
        "  %n = phi i64 [ 0, %entry ], [ %next, %loop ]",
    ]
    for p in range(places):
        lines += _loads(vector, lanes, p, places)
        for i in range(_UNROLLED):
            lines += [
                f"  %q{p}_{i} = getelementptr {vector}, ptr %target, i64 %i{p}_{i}",
                f"  store {vector} %v{p}_{i}, ptr %q{p}_{i}, align {4 * lanes}{mark}",
            ]
    lines += _loop_end("%part")
    lines += [*(_fence(target) if stream else []), "  ret float 0.0", "}"]
    return "\n".join(lines)


_LOOP_START = (
    "entry:",
    "  br label %loop",
    "loop:",
    "  %n = phi i64 [ 0, %entry ], [ %next, %loop ]",
    f"  %start = mul i64 %n, {_UNROLLED}",
)


def _loop_end(count: str = "%count") -> list[str]:
    return [
        "  %next = add i64 %n, 1",
        f"  %more = icmp slt i64 %next, {count}",
        "  br i1 %more, label %loop, label %done",
        "done:",
    ]
