"""The C side of a compiled program: a header, the calls it declares, and a main program.

The C is in `graphc/codegen/c/`; here its tables are printed, and the names of one net are put in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphc.codegen.c_training import training_lines
from graphc.error import need
from graphc.runtime.bundle import Bundle, SlotEntry, Training
from graphc.runtime.parameter_file import (
    aligned,
    file_bytes,
    fingerprint,
    offsets,
    slot_bytes,
    table_lines,
)

_FOLDER = Path(__file__).parent / "c"
_C_TYPES = {"float32": "float", "float64": "double"}
_DESCRIPTIONS = {"float32": "<f4", "float64": "<f8"}  # what .npy files call them
_INCLUDES = (
    *("fcntl.h", "math.h", "sched.h", "stdio.h", "stdlib.h", "string.h"),
    *("sys/mman.h", "sys/stat.h", "unistd.h"),
)
# What the header says about the order of elements.
_LAYOUTS = {
    "row-major": "Arrays are row-major, begin at multiples of 64\n * bytes,",
    "column-major": "Arrays are column-major, as MATLAB stores\n"
    " * them (of H x W x C x N the first varies fastest), begin at multiples of 64 bytes,\n *",
}
# Kind of array -> its C type, and what the header says about it.
_GROUPS = {
    "input": ("", "inputs, which you write"),
    "output": ("const ", "outputs of the forward pass"),
    "parameter": ("const ", "parameters; embedded or mapped ones can only be read"),
    "trained": ("", "parameters, which steps change, and you may"),
    "history": ("", "the solver's state, by the name of the parameter"),
    "given": ("", "gradients that you give, by the name of their blob; zero until you write them"),
    "gradient": ("const ", "gradients that backward computes, by the name of what they are of"),
}


@dataclass(frozen=True)
class Interface:
    """What a compiled program shows to C.

    Attributes:
        name: prefix of all names in C.
        bundle: the program's tables; its machine code exports `NAME_run_forward` and
            `NAME_run_backward`.
        outputs: blobs that the forward pass writes.
        wrt: what gradients are computed for; their slots are called `NAME.diff`.
        weights_file: name of the weights file; empty where they are embedded.
        features: what the processor must have, as `__builtin_cpu_supports` calls it.
    """

    name: str
    bundle: Bundle
    outputs: tuple[str, ...]
    wrt: tuple[str, ...]
    weights_file: str = ""
    features: tuple[str, ...] = ()

    @property
    def training(self) -> Training | None:
        """What steps of training do; None: there are none."""
        return self.bundle.training

    @property
    def dtype(self) -> str:
        """Element type of all the arrays that the user sees."""
        shown = [row for rows in self.groups().values() for _, row in rows]
        types = {slot.dtype for slot in shown} or {"float32"}
        need(
            len(types) == 1 and types <= set(_C_TYPES),
            f"a C interface needs arrays of one real type, '{self.bundle.name}' has"
            f" {', '.join(sorted(types))}",
        )
        return types.pop()

    @property
    def order(self) -> str:
        """How arrays lie in memory."""
        return "column-major" if self.bundle.column_major else "row-major"

    def shape(self, slot: SlotEntry) -> tuple[int, ...]:
        """The extents that the user sees."""
        return slot.shape[::-1] if self.bundle.column_major else slot.shape

    def groups(self) -> dict[str, list[tuple[str, SlotEntry]]]:
        """Kind of array -> (the name it is shown under, its slot)."""
        slots = {slot.name: slot for slot in self.bundle.slots[1:]}
        by_role: dict[str, list[SlotEntry]] = {}
        for slot in slots.values():
            by_role.setdefault(slot.role, []).append(slot)
        given = [(s.name.removesuffix(".diff"), s) for s in by_role.get("gradient", [])]
        groups = {
            "input": [(s.name, s) for s in by_role.get("input", [])],
            "output": [(n, slots.get(f"{n}~out") or slots[n]) for n in self.outputs],
            "parameter": [(s.name, s) for s in by_role.get("parameter", [])],
        }
        if self.training is not None:
            rate, parameters = self.training.rate, self.training.parameters
            groups["input"] = [row for row in groups["input"] if row[0] != rate]
            groups["parameter"] = [(name, slots[name]) for name in parameters if name in slots]
            groups["history"] = [(name, slots[name]) for name in self.training.histories]
        elif self.wrt:
            # What a caller gives to a blob is not what arrives there in all.
            arriving = [slots.get(f"{n}.diff~out", slots.get(f"{n}.diff")) for n in self.wrt]
            groups["given"] = given
            groups["gradient"] = [(n, s) for n, s in zip(self.wrt, arriving, strict=True) if s]
        return groups


_BINDING = """\
/* Makes a net read a parameter from an array of yours instead, which begins at a multiple of 64
 * bytes and stays valid; NULL goes back to the net's own. */
int @NET@_bind_parameter(@NET@_net *net, int i, const @NET@_real *array);
"""
_STEP = """\
/* One pass of training by @METHOD@ with lr_policy "@POLICY@": forward, backward and, in every
 * @NET@_ITER_SIZE-th call, the change of the parameters by the gradients of all passes since the
 * last. The learning rate follows the policy by the iterations done; a call that fails changes
 * nothing, and the next one begins the iteration again. */
#define @NET@_HAS_STEP 1
#define @NET@_ITER_SIZE @PASSES@
#define @NET@_MAX_ITER @MAX_ITER@ /* of the solver; 0: it says none */
int @NET@_step(@NET@_net *net, int threads);
/* The rate of the next change; not finite where the policy has none, and then a step fails. */
double @NET@_learning_rate(const @NET@_net *net);
/* Iterations done; it can be set, to go on elsewhere. */
int64_t @NET@_iteration(const @NET@_net *net);
int @NET@_set_iteration(@NET@_net *net, int64_t iteration);
/* Writes all that training needs to go on, whole or not at all: a weights file for @NET@_create,
 * for graphc.Solver.restore and, as weights, for graphc.Net. */
int @NET@_save(const @NET@_net *net, const char *path);
"""


def _step_text(training: Training) -> str:
    words = {
        "METHOD": training.method,
        "POLICY": training.rates.policy,
        "PASSES": str(training.passes),
        "MAX_ITER": str(training.rates.max_iter),
    }
    text = _STEP
    for word, meaning in words.items():
        text = text.replace(f"@{word}@", meaning)
    return text


def identifier(name: str) -> str:
    """A net's name as a C identifier: `my-net 2` becomes `my_net_2`."""
    word = re.sub(r"[^0-9A-Za-z_]", "_", name)
    return word if re.match(r"[A-Za-z]", word) else f"net_{word.lstrip('_')}"


def header_text(interface: Interface) -> str:
    """The header NAME.h; C99 and C++."""
    backward = ""
    if interface.training is not None:
        backward = _step_text(interface.training)
    elif interface.wrt:
        backward = (
            "/* Computes the gradients, from those given and from the losses; once after each\n"
            " * forward pass, whose memory it reuses. */\n"
            "#define @NET@_HAS_GRADIENTS 1\n"
            "int @NET@_backward(@NET@_net *net, int threads);\n"
        )
    weights = "; NULL: those inside of this program"
    if interface.weights_file:
        weights = f" ({_in_comment(interface.weights_file)})"
    return _filled(
        "net.h",
        interface,
        TITLE=_in_comment(interface.bundle.name),
        TARGET=_in_comment(f"{interface.bundle.target} ({interface.bundle.triple})"),
        ARRAYS="\n".join(_array_lines(interface)),
        BACKWARD=backward,
        BINDING=_BINDING if interface.training is None else "",
        GROUPS="\n".join(_group_lines(interface)),
        LAYOUT=_LAYOUTS[interface.order],
        WEIGHTS=weights,
    )


def source_text(interface: Interface) -> str:
    """The C source of the calls."""
    bundle, training = interface.bundle, interface.training
    lines = [
        "#define _POSIX_C_SOURCE 200809L",
        *(f"#include <{name}>" for name in _INCLUDES),
        "#pragma GCC visibility push(default) /* what the header declares is seen from outside */",
        f'#include "{interface.name}.h"',
        "#pragma GCC visibility pop",
        "",
        *_constant_lines(interface),
        "",
        "/* Memory of a slot: its own, or in the weights, from where a state starts too. */",
        "typedef struct { uint64_t bytes, weights_offset; int own; } slot_entry;",
        "typedef struct { const char *name; int slot, rank; const int64_t *shape; int64_t size; }",
        "    array_entry;",
        "typedef struct { int slot; int64_t size; double weight; } loss_entry;",
        *_table_lines(interface),
    ]
    parts = ["net.c"]
    if training is not None:
        texts = {line.decode(): _c_string(line.decode()) for line in table_lines(bundle.slots)}
        lines += training_lines(training, bundle, texts)
        parts.append("step.c")
    return "\n".join([*lines, "", *(_filled(part, interface) for part in parts)])


def _constant_lines(interface: Interface) -> list[str]:
    """Sizes, and what the processor must have."""
    bundle = interface.bundle
    supported = [f'__builtin_cpu_supports("{name}")' for name in interface.features]
    return [
        '#define HIDDEN __attribute__((visibility("hidden")))',
        f"#define SLOT_COUNT {len(bundle.slots)}",
        f"#define ARENA_BYTES INT64_C({bundle.arena_bytes})",
        f"#define WEIGHTS_BYTES UINT64_C({file_bytes(bundle.slots)})",
        f"#define WEIGHTS_LAYOUT UINT64_C({fingerprint(bundle.slots)})",
        *_embedding_lines(interface),
        f"#define PROCESSOR_FITS ({' && '.join(['1', *supported])})",
    ]


def _table_lines(interface: Interface) -> Iterable[str]:
    """The tables of slots, states, checks, losses and of each kind of array, and their lengths."""
    bundle = interface.bundle
    numbers = {slot.name: number for number, slot in enumerate(bundle.slots)}
    renewed = [slot for slot in bundle.slots if slot.name in bundle.renewed]
    checks = [_check_text(c.layer, c.kind, c.message) for c in bundle.checks]
    losses = [
        f"{{{numbers[slot]}, {_size(bundle.slots[numbers[slot]])}, {weight!r}}}"
        for slot, weight in bundle.losses
    ]
    yield from _table("static const slot_entry slot_table[]", _slot_rows(interface))
    notes = [str(numbers[slot.name]) for slot in renewed]
    yield from _table("static const int note_table[]", notes, "0")
    yield f"#define NOTE_COUNT {len(notes)}"
    yield f"#define NOTE_BYTES {sum(aligned(slot_bytes(slot)) for slot in renewed)}"
    yield from _table("static const char *const check_table[]", checks, "NULL")
    yield f"#define CHECK_COUNT {len(checks)}"
    yield from _table("static const loss_entry loss_table[]", losses)
    yield f"#define LOSS_COUNT {len(losses)}"
    for kind, rows in interface.groups().items():
        entries = [
            _array_row(name, slot, interface.shape(slot), numbers[slot.name]) for name, slot in rows
        ]
        yield from _table(f"static const array_entry {kind}_table[]", entries)
        yield f"#define {kind.upper()}_COUNT {len(rows)}"


def main_text(interface: Interface) -> str:
    """The C source of a program that reads and writes .npy files."""
    training = interface.training
    shared = ("main.c", "arguments.c")
    parts = (*shared, "picture.c", "run.c") if training is None else (*shared, "train.c")
    others = '", a picture (P2, P3, P5, P6) or a .raw file"' if training is None else ""
    words = {
        "VISIBLE": visible_text(),
        "OTHER_FILES": others,
        "METHOD": training.method if training else "",
        "DTYPE": interface.dtype,
        "DESCR": _DESCRIPTIONS[interface.dtype],
        "WEIGHTS_FILE": _c_string(interface.weights_file) if interface.weights_file else "NULL",
        "HAS_LOSSES": "1" if interface.bundle.losses else "0",
        "ORDER": interface.order,
        "COLUMN_MAJOR": str(int(interface.bundle.column_major)),
    }
    return "".join(_filled(part, interface, **words) for part in parts)


def visible_text() -> str:
    """C, and C++ too: `print_visible(stream, text)`, which no text can steer a terminal by."""
    return (_FOLDER / "visible.c").read_text()


def weights_assembly(interface: Interface, file_name: str) -> str:
    """Assembly that puts a file into a read-only section; for ELF."""
    symbol = f"{interface.name}_weights"
    return "\n".join(
        [
            "    .section .rodata",
            "    .balign 64",
            f"    .globl {symbol}",
            f"    .hidden {symbol}",
            f"    .type {symbol}, %object",
            f"{symbol}:",
            f'    .incbin "{file_name}"',
            f"    .size {symbol}, . - {symbol}",
            '    .section .note.GNU-stack, "", %progbits',
            "",
        ]
    )


def _filled(template: str, interface: Interface, **words: str) -> str:
    text = (_FOLDER / template).read_text()
    for word, meaning in words.items():
        text = text.replace(f"@{word}@", meaning)
    return text.replace("@REAL@", _C_TYPES[interface.dtype]).replace("@NET@", interface.name)


def _array_lines(interface: Interface) -> Iterable[str]:
    for kind, rows in interface.groups().items():
        for number, (name, slot) in enumerate(rows):
            shape = ", ".join(str(extent) for extent in interface.shape(slot))
            yield f" *   {kind} {number}: {_in_comment(name)} {slot.dtype}[{shape}]"


def _group_lines(interface: Interface) -> Iterable[str]:
    for kind in interface.groups():
        learned = kind == "parameter" and interface.training is not None
        constant, meaning = _GROUPS["trained" if learned else kind]
        yield f"/* {meaning} */"
        yield f"int @NET@_{kind}_count(void);"
        yield f"int @NET@_{kind}_index(const char *name);"
        yield f"const char *@NET@_{kind}_name(int i);"
        yield f"int @NET@_{kind}_rank(int i);"
        yield f"const int64_t *@NET@_{kind}_shape(int i);"
        yield f"int64_t @NET@_{kind}_size(int i);"
        yield f"{constant}@NET@_real *@NET@_{kind}(const @NET@_net *net, int i);"


def _embedding_lines(interface: Interface) -> list[str]:
    if interface.weights_file:
        return ["#define EMBEDDED_WEIGHTS NULL"]
    symbol = f"{interface.name}_weights"
    return [
        f"extern const unsigned char {symbol}[] HIDDEN;",
        f"#define EMBEDDED_WEIGHTS {symbol}",
    ]


def _slot_rows(interface: Interface) -> list[str]:
    bundle = interface.bundle
    shared = ("parameter", "constant") if interface.training is None else ("constant",)
    places = offsets(bundle.slots)
    rows = [f"{{{aligned(bundle.arena_bytes)}, 0, 1}}"]
    for slot in bundle.slots[1:]:
        own = int(slot.role not in shared)
        rows.append(f"{{{aligned(slot_bytes(slot))}, {places.get(slot.name, 0)}, {own}}}")
    return rows


def _array_row(name: str, slot: SlotEntry, shape: tuple[int, ...], number: int) -> str:
    extents = f"(const int64_t[]){{{', '.join(map(str, shape)) or '0'}}}"
    return f"{{{_c_string(name)}, {number}, {len(shape)}, {extents}, {_size(slot)}}}"


def _size(slot: SlotEntry) -> int:
    size = 1
    for extent in slot.shape:
        size *= extent
    return size


def _table(declaration: str, rows: Sequence[str], none: str = "{0}") -> list[str]:
    """A C table; an empty one, which C does not have, gets a row that no count includes."""
    return [f"{declaration} = {{", *(f"    {row}," for row in rows or [none]), "};"]


def _check_text(layer: str, kind: str, message: str) -> str:
    owner = f"layer '{layer}'" if layer else "the net"
    return _c_string(f"{owner} ({kind}): {message}" if kind else f"{owner}: {message}")


def _c_string(text: str) -> str:
    """A C string literal. Bytes that are not plain ASCII letters or signs are octal escapes."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'


def _in_comment(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text).replace("*/", "* /")
