"""The machine that code is generated for, as data: vector width, registers, caches.

Everything that differs between machines is a field of `Target`. Schedules and vector math read the
fields; nothing asks for a processor's name.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from graphc.error import NetError, did_you_mean

ENVIRONMENT = "GRAPHC_TARGET"
PAGE_BYTES = 4096  # of memory, the smallest there are
ITEM_BYTES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "uint8": 1, "bool": 1}


def llvm_version() -> str:
    """The version of the LLVM that llvmlite brings."""
    return ".".join(map(str, llvm.llvm_version_info))


@dataclass(frozen=True)
class Target:
    """One machine. `cpu` and `features` are LLVM's words for it; sizes are in bytes.

    has_fma: a multiplication and an addition round once, in one instruction.
    has_rounding: rounding to a whole number is an instruction.
    has_scaling: x * 2**n is an instruction, right for denormal results too.
    l3_bytes: of the cache that cores share, 0 where none is known.
    load_slots: how many multiply-adds of vectors take the time of one load beside them. A core that
    loads as often as it multiplies has 1; where loads fall behind, tiles need fewer of them.
    streams: in how many places at once a core reads memory fastest. near_pages: how many pages of
    memory it reads by turns without delay, 0 where that never showed. stored_piece: how many
    multiply-adds of vectors take the time until a core has begun a line in another page, of a
    result that leaves the caches. shared_stores: whether the cache that cores share takes what is
    stored to it faster than memory does past all caches.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    has_fma: bool
    has_rounding: bool
    has_scaling: bool
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int = 0
    load_slots: float = 1.0
    streams: int = 1
    near_pages: int = 0
    stored_piece: float = 0.0
    shared_stores: bool = True

    @property
    def has_estimates(self) -> bool:
        """1 / sqrt(x) to 14 bits is an instruction on 16 lanes: AVX-512, as is scaling."""
        return self.has_scaling and self.vector_bytes == 64

    @staticmethod
    def host() -> Target:
        """This machine, or what the variable GRAPHC_TARGET names. NetError for an unknown name."""
        chosen = os.environ.get(ENVIRONMENT, "")
        return Target.named(chosen) if chosen not in ("", "host") else _detected()

    @staticmethod
    def named(name: str) -> Target:
        """A target of the table below, or "host". NetError for a name that is not there."""
        if name == "host":
            return _detected()
        if name not in _MACHINES:
            known = ", ".join(["host", *_MACHINES])
            hint = did_you_mean(name, _MACHINES)
            raise NetError(
                f"no target is named '{name}'; there are {known}" + (f"; {hint}" * bool(hint))
            )
        machine = _MACHINES[name]
        return Target(
            name=name,
            triple=_triple(machine.architecture),
            cpu=machine.cpu,
            features="",
            vector_bytes=machine.vector_bytes,
            registers=machine.registers,
            has_fma=machine.has_fma,
            has_rounding=machine.has_rounding,
            has_scaling=machine.has_scaling,
            l1_bytes=machine.l1_kib << 10,
            l2_bytes=machine.l2_kib << 10,
            **_habits(machine.cpu, machine.vector_bytes),
        )

    def lanes(self, dtype: str) -> int:
        """How many elements of `dtype` ("float32", "int64", ...) one register holds, at least 1."""
        return max(1, self.vector_bytes // ITEM_BYTES[str(dtype)])

    def machine(self, opt: int = 2, position_independent: bool = False) -> llvm.TargetMachine:
        """A new LLVM target machine (an engine takes possession of it, so it is never shared).

        position_independent: for object files that end in a shared library or an executable.
        """
        _initialise(self.triple == _host_triple())
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu,
            features=self.features,
            opt=opt,
            reloc="pic" if position_independent else "default",
            codemodel="default" if position_independent else "jitdefault",
        )


@dataclass(frozen=True)
class _Machine:
    """A row of the table of named targets. No architecture: the one this process runs on."""

    architecture: str
    cpu: str
    vector_bytes: int
    registers: int
    has_fma: bool = True
    has_rounding: bool = True
    has_scaling: bool = False
    l1_kib: int = 32
    l2_kib: int = 512


_MACHINES = {
    # One element at a time, with what every processor of the architecture has.
    "scalar": _Machine("", "generic", 4, 16, has_fma=False, has_rounding=False, l2_kib=256),
    "x86-64": _Machine("x86_64", "x86-64", 16, 16, has_fma=False, has_rounding=False, l2_kib=256),
    "x86-64-v2": _Machine("x86_64", "x86-64-v2", 16, 16, has_fma=False, l2_kib=256),
    "x86-64-v3": _Machine("x86_64", "x86-64-v3", 32, 16, l2_kib=256),
    "x86-64-v4": _Machine("x86_64", "x86-64-v4", 64, 32, has_scaling=True, l2_kib=1024),
    "znver3": _Machine("x86_64", "znver3", 32, 16),
    "znver4": _Machine("x86_64", "znver4", 64, 32, has_scaling=True, l2_kib=1024),
    "znver5": _Machine("x86_64", "znver5", 64, 32, has_scaling=True, l1_kib=48, l2_kib=1024),
    "skylake-avx512": _Machine("x86_64", "skylake-avx512", 64, 32, has_scaling=True, l2_kib=1024),
    "neoverse-n1": _Machine("aarch64", "neoverse-n1", 16, 32, l1_kib=64, l2_kib=1024),
    "neoverse-v1": _Machine("aarch64", "neoverse-v1", 16, 32, l1_kib=64, l2_kib=1024),
    "apple-m1": _Machine("aarch64", "apple-m1", 16, 32, l1_kib=128, l2_kib=4096),
}


@dataclass(frozen=True)
class _Extension:
    """What a detected machine has if LLVM reports `feature` (or always, if it is empty)."""

    feature: str
    vector_bytes: int
    registers: int
    has_scaling: bool = False


# The first that the machine reports counts. AVX-512 without VL (Knights Landing) counts as AVX2.
_EXTENSIONS = {
    "x86_64": (
        _Extension("avx512vl", 64, 32, has_scaling=True),
        _Extension("avx", 32, 16),
        _Extension("", 16, 16),
    ),
    "aarch64": (_Extension("", 16, 32),),
}
_UNKNOWN = (_Extension("", 4, 16),)
_OTHER_NAMES = {"arm64": "aarch64", "amd64": "x86_64"}
_CACHE_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL_CACHES = {1: 32 << 10, 2: 256 << 10, 3: 0}


@functools.cache
def _detected() -> Target:
    reported = llvm.get_host_cpu_features()
    architecture = _architecture(_host_triple())
    choices = _EXTENSIONS.get(architecture, _UNKNOWN)
    extension = next(e for e in choices if not e.feature or reported.get(e.feature))
    always = architecture == "aarch64"  # both are in its base instruction set
    caches = _data_caches()
    return Target(
        name="host",
        triple=_host_triple(),
        cpu=llvm.get_host_cpu_name(),
        features=reported.flatten(),
        vector_bytes=extension.vector_bytes,
        registers=extension.registers,
        has_fma=always or bool(reported.get("fma")),
        has_rounding=always or bool(reported.get("sse4.1")),
        has_scaling=extension.has_scaling,
        l1_bytes=caches[1],
        l2_bytes=caches[2],
        l3_bytes=caches[3],
        **_habits(llvm.get_host_cpu_name(), extension.vector_bytes),
    )


def _habits(cpu: str, vector_bytes: int) -> dict[str, Any]:
    """What cores of one kind do well beside what their features tell, as fields of `Target`.

    Measured: on Ice Lake loads fall behind, 16 streams come half as fast again as one, more rows
    than pages are at hand cost a fifth, and stores to lines in the shared cache take twice as long
    as those past it, of which they are half as fast on Zen 5; there one stream is best. On Zen 3
    more rows than pages are at hand cost up to half, and one stream is best.
    """
    if vector_bytes < 64:
        return {"near_pages": 48} if vector_bytes == 32 else {}
    if cpu.startswith("znver"):
        return {}
    return {
        "load_slots": 2.0,
        "streams": 16,
        "near_pages": 48,
        "stored_piece": 100.0,
        "shared_stores": False,
    }


def _data_caches() -> dict[int, int]:
    """Bytes of the first core's three levels, as Linux tells; usual sizes elsewhere."""
    sizes = dict(_USUAL_CACHES)
    for folder in sorted(_CACHE_FOLDER.glob("index*")):
        try:
            kind, level, size = (
                (folder / entry).read_text().strip() for entry in ("type", "level", "size")
            )
            if kind != "Instruction" and int(level) in sizes:
                sizes[int(level)] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return sizes


def _architecture(triple: str) -> str:
    first = triple.split("-")[0]
    return _OTHER_NAMES.get(first, first)


@functools.cache
def _host_triple() -> str:
    return str(llvm.get_process_triple())


def _triple(architecture: str) -> str:
    own = _host_triple()
    return own if architecture in ("", _architecture(own)) else f"{architecture}-unknown-linux-gnu"


@functools.cache
def _initialise(native_only: bool) -> None:
    """Tell LLVM which back ends to load; foreign ones only when one of them is asked for."""
    if native_only:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
