"""Index expressions as affine forms: a constant, and an integer coefficient for each loop."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.kernel.lang import INDEX, Axis, Call, Const, Expr, Var


@dataclass(frozen=True)
class Affine:
    """constant + sum of coefficient * axis, with integer coefficients, none of them 0."""

    terms: tuple[tuple[Axis, int], ...]
    constant: int

    def coefficient(self, axis: Axis) -> int:
        """The factor of `axis`; 0 where it does not occur."""
        return dict(self.terms).get(axis, 0)


def affine(expr: Expr) -> Affine | None:
    """The affine form of an index expression; None where it has none."""
    if isinstance(expr, Const) and expr.dtype == INDEX:
        return Affine((), int(expr.value))
    if isinstance(expr, Var):
        return Affine(((expr.axis, 1),), 0)
    if not isinstance(expr, Call) or expr.function not in ("add", "sub", "mul", "neg"):
        return None
    parts = [affine(a) for a in expr.args]
    if any(p is None for p in parts):
        return None
    first = parts[0]
    assert first is not None
    if expr.function == "neg":
        return _combined(Affine((), 0), first, -1)
    second = parts[1]
    assert second is not None
    if expr.function == "mul":
        if second.terms and first.terms:
            return None
        scaled, factor = (first, second.constant) if not second.terms else (second, first.constant)
        return _combined(Affine((), 0), scaled, factor)
    return _combined(first, second, 1 if expr.function == "add" else -1)


def _combined(left: Affine, right: Affine, factor: int) -> Affine:
    totals = dict(left.terms)
    for axis, coefficient in right.terms:
        totals[axis] = totals.get(axis, 0) + factor * coefficient
    terms = tuple((axis, c) for axis, c in totals.items() if c)
    return Affine(terms, left.constant + factor * right.constant)


def bounds(form: Affine) -> tuple[int, int]:
    """Smallest and largest value of an affine form over all its axes, whose extents are not 0."""
    low = high = form.constant
    for axis, coefficient in form.terms:
        reach = coefficient * (axis.extent - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high
