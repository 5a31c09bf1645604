"""Factors that are the same for all terms of a sum are taken out of it: x a + y a is (x + y) a.

Batch normalisation with a factor and a shift of its own asks for four sums in backward: of the
gradient, of the gradient times the normalised image, and both again times the factor. Without what
is one number a channel, two of the four are left:

    db = sum r dy[r, c]                                    db = sum r dy[r, c]
    dg = sum r dy[r, c] * ((x[r, c] - m[c]) * s[c])    =>  t = sum r dy[r, c] * (x[r, c] - m[c])
    dm = sum r dy[r, c] * g[c]                             dg = t * s[c]
    dv = sum r (dy[r, c] * g[c]) * (x[r, c] - m[c])        dm = db * g[c]
                                                           dv = t * g[c]

Results differ by rounding, and where a factor is infinite or the sum too large for its type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from graphc.ir.types import REAL
from graphc.kernel.contraction import match
from graphc.kernel.join import canonical, without_repeats
from graphc.kernel.lang import Axis, Call, Expr, Fold, Kernel, Let, Local, Statement
from graphc.kernel.walk import axes_of


def take_factors_out(kernel: Kernel) -> Kernel:
    """The kernel with simpler sums, equal ones once; itself where no sum has such a factor."""
    if not any(_has_factor(s) for s in kernel.body) or match(kernel) is not None:
        return kernel
    body = [made for statement in kernel.body for made in _simplified(statement)]
    return canonical(replace(kernel, body=tuple(without_repeats(body, kernel.outputs))))


def _has_factor(statement: Statement) -> bool:
    if not isinstance(statement, Fold) or statement.kind != "sum":
        return False
    return any(_split(value, statement.axes)[1] for value in statement.values)


def _simplified(statement: Statement) -> Iterator[Statement]:
    """The statement, or a sum without its factors and what makes its results of it."""
    if not isinstance(statement, Fold) or not _has_factor(statement):
        yield statement
        return
    locals_, values, results = list(statement.locals), list(statement.values), []
    for place, local in enumerate(statement.locals):
        terms, factors = _split(values[place], statement.axes)
        if factors and terms:
            plain = Local(f"{local.name}%", local.dtype)
            locals_[place], values[place] = plain, _product(terms)
            results.append(Let(local, _product([plain, *factors])))
    yield replace(statement, locals=tuple(locals_), values=tuple(values))
    yield from results


def _split(value: Expr, axes: tuple[Axis, ...]) -> tuple[list[Expr], list[Expr]]:
    """Factors of a product that differ from term to term, and those that do not."""
    own = set(axes)
    factors = list(_factors(value)) if value.dtype in REAL else [value]
    terms = [factor for factor in factors if own & axes_of(factor)]
    return terms, [factor for factor in factors if factor not in terms] if terms else []


def _factors(value: Expr) -> Iterator[Expr]:
    """What a product is made of, from left to right."""
    if isinstance(value, Call) and value.function == "mul":
        for part in value.args:
            yield from _factors(part)
    else:
        yield value


def _product(factors: list[Expr]) -> Expr:
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product
