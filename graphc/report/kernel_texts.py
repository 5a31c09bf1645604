"""Every distinct kernel of a program with its text in each language, cut out of the whole texts."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field

from graphc.codegen.cuda.program import kernel_texts as cuda_texts
from graphc.codegen.llvm.object import both_texts
from graphc.codegen.llvm.program import kernel_keys
from graphc.codegen.llvm.said import lines
from graphc.codegen.llvm.schedule_remarks import schedule_remarks
from graphc.error import NetError
from graphc.kernel.text import print_kernel
from graphc.plan.program import Program

LANGUAGES = ("kernel", "schedule", "llvm", "asm", "cuda")
TITLES = {
    "kernel": "Kernel",
    "schedule": "Schedule, and why",
    "llvm": "LLVM",
    "asm": "Assembly",
    "cuda": "CUDA C++",
}
WIDTH = 100  # columns of a schedule's text
_LLVM = re.compile(r'^define internal void @"?k(\d+)_[^\n]*\n.*?^}\n', re.MULTILINE | re.DOTALL)
_ASSEMBLY = re.compile(r"^k(\d+)_\w*:.*?(?=^\.Lfunc_end|\Z)", re.MULTILINE | re.DOTALL)


@dataclass
class KernelTexts:
    """A kernel: its name, `k3` in the report, the steps that run it, and its texts by language.

    A language that could not be printed has a sentence in `missing`.
    """

    name: str
    kernel: str
    steps: list[int]
    texts: dict[str, str]
    missing: dict[str, str] = field(default_factory=dict)


def texts_of_kernels(program: Program, code: bool = True) -> list[KernelTexts]:
    """All of them, in the order in which they first run. `code` False: the kernel text alone."""
    users: dict[str, list[int]] = {}
    for number, key in enumerate(kernel_keys(program)):
        users.setdefault(key, []).append(number)
    found = []
    for number, steps in enumerate(users.values()):
        kernel = program.steps[steps[0]].kernel
        texts = {"kernel": print_kernel(kernel)}
        found.append(KernelTexts(f"k{number + 1}", kernel.name, steps, texts))
    if code and found:
        _add_schedules(program, found)
        _add_machine_texts(program, found)
        _add_cuda(program, found)
    return found


def _add_schedules(program: Program, kernels: list[KernelTexts]) -> None:
    """Why the code for this machine is as it is; two steps that are one function share it."""
    told = schedule_remarks(program, range(len(program.steps)))
    known = {step: remarks for remarks in told for step in remarks.steps}
    for kernel in kernels:
        said = [(one.part, one.sentence) for one in known[kernel.steps[0]].said]
        kernel.texts["schedule"] = "\n".join(map(_wrapped, lines(said)))


def _wrapped(line: str) -> str:
    """A sentence as lines of a text, indented below its first."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _add_machine_texts(program: Program, kernels: list[KernelTexts]) -> None:
    llvm, assembly = both_texts(program)
    for language, pattern, text in (("llvm", _LLVM, llvm), ("asm", _ASSEMBLY, assembly)):
        for match in pattern.finditer(text):
            kernels[int(match[1])].texts[language] = match[0]
        for kernel in kernels:
            if language not in kernel.texts:
                kernel.missing[language] = "the whole text does not show this kernel apart"


def _add_cuda(program: Program, kernels: list[KernelTexts]) -> None:
    try:
        texts = cuda_texts(program)
    except NetError as error:
        for kernel in kernels:
            kernel.missing["cuda"] = f"there is no CUDA for this net: {error}"
        return
    for kernel, text in zip(kernels, texts, strict=True):
        kernel.texts["cuda"] = text
