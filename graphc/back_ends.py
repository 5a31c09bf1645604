"""What runs a program: the ways from a plan to something that can be called, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphc.error import NetError, did_you_mean, need
from graphc.ir.remark import Remark
from graphc.plan.cores import GPU, PROCESSOR, Cores
from graphc.plan.permission import DIRECT, Algorithms, allowed
from graphc.runtime.cpu import Executable
from graphc.runtime.cuda_arrays import DeviceArrays
from graphc.runtime.host_arrays import Arrays, HostArrays
from graphc.runtime.launch import LIBRARY_CHOICES

if TYPE_CHECKING:
    from graphc.plan.program import Program


@dataclass(frozen=True)
class BackEnd:
    """A way to run a program: `compile` makes a bundle of it, `load` makes that callable.

    compile takes the program, whether tensor cores may round, and whether steps may be calls of
    libraries. `arrays` makes the tables that the user's arrays are in; `remarks` are what making
    the code decided. has_algorithms: convolutions may be other than direct sums. `machine` says
    what code depends on besides the program; None: no bundle of it is kept on disk. `cores` is
    what a plan asks about it.
    """

    compile: Callable[[Program, bool, str], Any]
    load: Callable[[Any], Executable]
    arrays: Callable[[], Arrays] = HostArrays
    remarks: Callable[[Any], list[Remark]] = lambda bundle: []
    has_algorithms: bool = False
    machine: Callable[[], str] | None = None
    cores: Cores = PROCESSOR

    def algorithms(self, exact: bool, fast_math: tuple[str, ...], threads: int) -> Algorithms:
        """What convolutions may be. Raises NetError where the choices contradict each other."""
        chosen = allowed(exact, fast_math, threads)
        return chosen if self.has_algorithms else DIRECT


def back_end(target: str) -> BackEnd:
    """That of a name. Raises NetError for another one."""
    hint = did_you_mean(target, BACK_ENDS) if isinstance(target, str) else ""
    need(
        target in BACK_ENDS,
        f"target is one of {', '.join(BACK_ENDS)}, not {target!r}" + (f"; {hint}" if hint else ""),
    )
    return BACK_ENDS[target]


def need_processor(layer: str, target: str) -> None:
    """Raise NetError for a layer of Python code, which runs beside native code alone."""
    need(target == "cpu", f"layer '{layer}' is Python code; target '{target}' cannot run it")


def need_library_choice(libraries: str) -> None:
    """Raise NetError for another word than those of LIBRARY_CHOICES."""
    need(
        libraries in LIBRARY_CHOICES,
        f"libraries is one of {', '.join(LIBRARY_CHOICES)}, not {libraries!r}",
    )


def _compile_native(program: Program, tf32: bool, libraries: str) -> Any:
    from graphc.codegen.llvm.object import compile_program

    return compile_program(program)


def _load_native(bundle: Any) -> Executable:
    from graphc.codegen.llvm.jit import load

    return load(bundle)


def _native_machine() -> str:
    from graphc.codegen.llvm.target import Target, llvm_version

    return f"{Target.host()} LLVM {llvm_version()}"


def _compile_cuda(program: Program, tf32: bool, libraries: str) -> Any:
    from graphc.codegen.cuda.program import compile_cuda

    return compile_cuda(program, tf32=tf32)


def _compile_for_gpu(program: Program, tf32: bool, libraries: str) -> Any:
    from graphc.codegen.cuda.program import compile_cuda
    from graphc.runtime.library_steps import library_choice

    return compile_cuda(program, tf32=tf32, libraries=library_choice(libraries))


def gpu_remarks(program: Program, tf32: bool) -> list[Remark]:
    """What is decided, or was found before, about a program's code for a GPU; none is needed."""
    from graphc.codegen.cuda.program import compile_cuda
    from graphc.runtime import cuda
    from graphc.runtime.library_steps import outlook

    bundle = compile_cuda(program, tf32, libraries="auto")
    try:
        gpu = cuda.device()
    except NetError:
        gpu = None
    return remarks_of([*bundle.decisions, *outlook(bundle, gpu)])


def _cuda_remarks(bundle: Any) -> list[Remark]:
    return remarks_of(bundle.decisions)


def remarks_of(decisions: Iterable[tuple[str, str]]) -> list[Remark]:
    """Those of (layer, sentence), about the whole net where there is no layer."""
    return [Remark("cuda", f"layer:{layer}" if layer else "net", said) for layer, said in decisions]


def _load_emulated(bundle: Any) -> Executable:
    from graphc.runtime import emulator

    return emulator.load(bundle)


def _load_cuda(bundle: Any) -> Executable:
    from graphc.runtime import cuda

    return cuda.load(bundle)


BACK_ENDS: dict[str, BackEnd] = {
    "cpu": BackEnd(_compile_native, _load_native, has_algorithms=True, machine=_native_machine),
    "cuda": BackEnd(_compile_for_gpu, _load_cuda, DeviceArrays, _cuda_remarks, cores=GPU),
    "cuda-emulator": BackEnd(_compile_cuda, _load_emulated, remarks=_cuda_remarks, cores=GPU),
}
