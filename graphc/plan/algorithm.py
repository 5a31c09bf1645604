"""Which convolutions run as Winograd's, by what they cost and what the user allows.

Such a step gets two arrays more: its weights transformed, which a step of its own makes from the
weights, and memory to work in, which is all that a weight gradient gets. Its kernel's body stays
the plain sum: the kernel's meaning, and what a back end runs that knows no other way.

Transformed weights are made at each call, since users may write parameters between any two. At
batch 8 that is 1 to 10 % of a convolution, 15 % of 512 to 512 channels at 7x7; at batch 1 a third
to a half of those with many channels. A checksum to know of changes would read what the transform
reads, and not be certain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from graphc.ir.types import TensorType, row_major
from graphc.kernel import winograd
from graphc.kernel.contraction import Contraction, match
from graphc.kernel.lang import Buffer, Expr, Kernel, Load, Winograd
from graphc.kernel.walk import rebuild_statement, statement_exprs, walk
from graphc.kernel.winograd import Geometry
from graphc.kernel.winograd_gradient import (
    gradient_error_bound,
    gradient_geometry,
    gradient_speedup,
    is_possible,
)
from graphc.kernel.winograd_gradient import work_shape as gradient_work_shape
from graphc.plan.draft import Array, Draft, DraftStep
from graphc.plan.permission import Algorithms

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}
WORTH_IT = 1.05  # modelled speedup from which the other algorithm is taken


@dataclass(frozen=True)
class _Way:
    """How a step could be Winograd's: what its tiles cost and how exact they are."""

    form: Geometry
    is_gradient: bool

    def tiles(self, allowed: Algorithms) -> list[int]:
        """Those that are allowed and for which there are matrices."""
        return self.form.tilings(allowed.winograd)

    def name(self, tile: int) -> str:
        """As it is written."""
        taps = self.form.taps
        return f"Winograd's F({tile}x{tile}, {taps}x{taps})"

    def speedup(self, tile: int) -> float:
        """As `winograd.speedup`."""
        measure = gradient_speedup if self.is_gradient else winograd.speedup
        return measure(self.form, tile)

    def error_bound(self, tile: int) -> float:
        """As `winograd.error_bound`."""
        measure = gradient_error_bound if self.is_gradient else winograd.error_bound
        return measure(self.form, tile)


def choose_algorithms(draft: Draft, allowed: Algorithms) -> None:
    """Let convolutions be Winograd's where that is allowed and worth it, and say why."""
    readers = draft.readers()
    for step in list(draft.steps):
        contraction = match(step.kernel)
        if contraction is None:
            continue
        way = _way(contraction)
        if way is None or not way.tiles(allowed):
            _stay_direct(draft, step, contraction, _why_not(contraction, way, allowed))
            continue
        tile = _choice(draft, step, way, allowed)
        if tile and way.is_gradient:
            _give_memory(draft, step, way.form, tile, allowed.threads)
        elif tile:
            _transform(draft, step, way.form, tile, allowed.threads, readers)


def _why_not(contraction: Contraction, way: _Way | None, allowed: Algorithms) -> str:
    """Why a sum is not even compared with Winograd's; nothing of a product without windows."""
    if way is not None and not allowed.winograd:
        return "; Winograd's forms are for the CPU, where exact sums are not asked for"
    if way is not None:
        size = f"{way.form.taps}x{way.form.taps}"
        return f"; there are no matrices of Winograd's for {size} windows and these tiles"
    if _has_windows(contraction):
        return (
            "; Winograd's forms need 3x3 or 5x5 windows that move by one pixel, float32, and a sum"
            " over channels that lie together"
        )
    return ""


def _stay_direct(draft: Draft, step: DraftStep, contraction: Contraction, why: str) -> None:
    terms = math.prod(axis.extent for axis in contraction.over)
    bound = terms * UNIT_ROUNDOFF[contraction.left.buffer.dtype]
    draft.remark(
        "algorithm",
        f"layer:{step.label}",
        f"{step.kernel.name} ({_direction(step)}) is a direct sum of {terms:,} products{why};"
        f" rounding is within {bound:.1e} of the largest sum possible",
    )


def _has_windows(contraction: Contraction) -> bool:
    """Whether an index is a position and a tap, as one of a convolution of more than 1x1 is."""
    return any(
        len(position.affine.terms) > 1 or position.divisor > 1
        for operand in (contraction.left, contraction.right)
        for position in operand.index
    )


def _direction(step: DraftStep) -> str:
    return "backward" if step.backward else "forward"


def _way(contraction: Contraction) -> _Way | None:
    form = winograd.geometry(contraction)
    if form is not None and winograd.is_possible(form):
        return _Way(form, is_gradient=False)
    form = gradient_geometry(contraction)
    if form is not None and is_possible(form):
        return _Way(form, is_gradient=True)
    return None


def _choice(draft: Draft, step: DraftStep, way: _Way, allowed: Algorithms) -> int:
    """The tile, or 0 for the direct sum."""
    direct = way.error_bound(0)
    subject = f"layer:{step.label}"
    what = f"{step.kernel.name} ({_direction(step)})"
    speed = {tile: way.speedup(tile) for tile in way.tiles(allowed)}
    best = max(speed, key=lambda tile: speed[tile])
    if not allowed.forced and speed[best] < WORTH_IT:
        why = f"would be {speed[best]:.2g} times as fast by the model"
        if not speed[best]:
            why = "would leave lanes empty, with so few channels"
        draft.remark(
            "algorithm",
            subject,
            f"{what} is a direct sum: {way.name(best)} {why};"
            f" rounding is within {direct:.1e} of the largest sum possible",
        )
        return 0
    bound = way.error_bound(best)
    why = "as was forced" if allowed.forced else f"{speed[best]:.2g} times as fast by the model"
    draft.remark(
        "algorithm",
        subject,
        f"{what} is {way.name(best)}, {why}; rounding is within"
        f" {bound:.1e} of the largest sum possible (the direct sum: {direct:.1e})",
    )
    return best


def _give_memory(draft: Draft, step: DraftStep, form: Geometry, tile: int, threads: int) -> None:
    """Let a weight gradient be Winograd's: all it needs is memory to work in."""
    shape = gradient_work_shape(form, tile, threads)
    work = _room(draft, f"{step.writes[0]}~work", shape)
    room = Buffer(step.kernel.free_name(), "float32", shape, work.strides)
    step.kernel = replace(
        step.kernel,
        name=f"winograd{tile}.{step.kernel.name}",
        outputs=(*step.kernel.outputs, room),
        winograd=Winograd(tile, room.name),
    )
    step.arguments = (*step.arguments, work.name)


def _transform(
    draft: Draft,
    step: DraftStep,
    form: Geometry,
    tile: int,
    threads: int,
    readers: dict[str, list[DraftStep]],
) -> None:
    """Change the step, and put one before it that makes its filters."""
    position = [b.name for b in step.kernel.inputs].index(form.weights.buffer.name)
    packed = step.arguments[position]
    copy = _copy_that_makes(draft, packed)
    plain = copy.reads[0] if copy else packed
    filters = _room(draft, f"{plain}~winograd{tile}", winograd.filter_shape(form, tile)).name
    work = _room(draft, f"{step.writes[0]}~work", winograd.work_shape(form, tile, threads)).name
    maker = _filter_step(draft, step, form, tile, plain, filters)
    inputs, outputs = len(step.kernel.inputs), len(step.kernel.outputs)
    step.kernel = _with_filters(draft, step.kernel, form, tile, plain, work)
    arguments = list(step.arguments)
    arguments[position] = plain
    step.arguments = (*arguments[:inputs], filters, *arguments[inputs : inputs + outputs], work)
    draft.steps.insert(draft.steps.index(step), maker)
    if copy is None:
        return
    for other in draft.steps:
        if copy in other.after:
            other.after |= {maker, step}  # they read what the copy was made from
    if packed not in draft.sources(step.reads):
        readers[packed].remove(step)
    if not readers[packed]:
        _drop(draft, copy)


def _filter_step(
    draft: Draft, step: DraftStep, form: Geometry, tile: int, plain: str, filters: str
) -> DraftStep:
    """The step that makes `filters` from the weights as the user has them."""
    weights = form.weights.buffer
    source = Buffer("a0", weights.dtype, weights.shape, draft.arrays[plain].strides)
    shape = winograd.filter_shape(form, tile)
    target = Buffer("a1", "float32", shape, row_major(shape))
    return DraftStep(
        winograd.filter_kernel(form, tile, source, target),
        (plain, filters),
        layers=step.layers[:1],
        kinds=("winograd_filter",),
        backward=step.backward,
    )


def _with_filters(
    draft: Draft, kernel: Kernel, form: Geometry, tile: int, plain: str, work: str
) -> Kernel:
    """The kernel with an input more, its filters, and an output more, its memory to work in."""
    weights = form.weights.buffer
    shape = winograd.filter_shape(form, tile)
    formal = Buffer(kernel.free_name(), "float32", shape, row_major(shape))
    memory = draft.arrays[work]
    room = Buffer(kernel.free_name(formal.name), "float32", memory.type.shape, memory.strides)
    other = _reading(kernel, weights, replace(weights, strides=draft.arrays[plain].strides))
    return replace(
        other,
        name=f"winograd{tile}.{other.name}",
        inputs=(*other.inputs, formal),
        outputs=(*other.outputs, room),
        winograd=Winograd(tile, room.name, formal.name),
    )


def _room(draft: Draft, name: str, shape: tuple[int, ...]) -> Array:
    return draft.array(name, TensorType("float32", shape))


def _copy_that_makes(draft: Draft, name: str) -> DraftStep | None:
    for step in draft.steps:
        if step.is_copy and step.writes == (name,) and draft.arrays[name].sources == {name}:
            return step
    return None


def _reading(kernel: Kernel, old: Buffer, new: Buffer) -> Kernel:
    """The kernel with one input laid out in another way."""
    change: dict[Expr, Expr] = {
        part: Load(new, part.index)
        for statement in kernel.body
        for expr in statement_exprs(statement)
        for part in walk(expr)
        if isinstance(part, Load) and part.buffer == old
    }
    return replace(
        kernel,
        inputs=tuple(new if b == old else b for b in kernel.inputs),
        body=tuple(rebuild_statement(s, change) for s in kernel.body),
    )


def _drop(draft: Draft, copy: DraftStep) -> None:
    """Forget packed weights that nothing reads any more, and what was said about them."""
    if set(copy.writes) & (draft.survivors() | set(draft.blobs.values())):
        return
    draft.steps.remove(copy)
    for step in draft.steps:
        step.after.discard(copy)
    source = copy.reads[0]
    draft.remarks = [
        r
        for r in draft.remarks
        if not (r.stage == "layout" and r.subject == source and "is copied into" in r.sentence)
    ]
