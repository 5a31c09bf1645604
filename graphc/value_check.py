"""An operator's kernel against its reference: is the value right?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphc.error import NetError
from graphc.finite_difference import Finding
from graphc.ir.op import Op
from graphc.verdict import VALUES, verdict

_FLOOR = 1e-3  # numbers below this part of the largest one are compared as if they were that large


def has_reference(op: Op) -> bool:
    """Whether the operator says in numpy what it computes."""
    return type(op).reference is not Op.reference


def check_values(
    op: Op, inputs: Sequence[np.ndarray], found: Mapping[str, np.ndarray], tolerance: float
) -> list[Finding]:
    """A Finding for each output, given what the kernel made, in float64.

    Raises NetError where the reference fails or gives something of another shape.
    """
    try:
        with np.errstate(all="ignore"):
            made = op.reference(*(array.copy() for array in inputs))
    except NetError:
        raise
    except Exception as error:  # a reference may be the user's code, which may raise anything
        raise NetError(f"the reference of {op} raised {type(error).__name__}: {error}") from error
    wanted = made if isinstance(made, tuple) else (made,)
    if len(wanted) != len(found):
        raise NetError(f"the reference of {op} gives {len(wanted)} arrays, {len(found)} come out")
    findings = []
    for (name, array), reference in zip(found.items(), wanted, strict=True):
        expected = np.asarray(reference, np.float64)
        if expected.shape != array.shape:
            raise NetError(
                f"the reference of {op} gives {name} the shape {list(expected.shape)}, its kernel"
                f" {list(array.shape)}"
            )
        findings.append(_compared(str(op), name, array.astype(np.float64), expected, tolerance))
    return findings


def _compared(
    layer: str, name: str, array: np.ndarray, expected: np.ndarray, tolerance: float
) -> Finding:
    finding = Finding(layer, name, array.shape, "right", checked=array.size, what="value")
    if array.size == 0:
        return finding
    finite = np.abs(expected[np.isfinite(expected)])
    floor = _FLOOR * float(finite.max(initial=0.0))
    size = np.maximum(np.maximum(np.abs(array), np.abs(expected)), floor)
    same = (array == expected) | (np.isnan(array) & np.isnan(expected))
    with np.errstate(all="ignore"):
        errors = np.where(same, 0.0, np.abs(array - expected) / np.where(size > 0, size, 1.0))
    errors = np.where(np.isnan(errors), np.inf, errors)
    worst = tuple(int(i) for i in np.unravel_index(int(errors.argmax()), errors.shape))
    wrong = bool(errors.max() > tolerance)
    places = list(np.ndindex(*array.shape))
    pairs = list(zip(array.ravel().tolist(), expected.ravel().tolist(), strict=True))
    kept = [i for i, is_same in enumerate(same.ravel()) if not is_same or np.isfinite(pairs[i][0])]
    words = ""
    if wrong:
        chosen = [pairs[i] for i in kept]
        words = verdict(chosen, floor, tolerance, [places[i] for i in kept], VALUES)
    return Finding(
        **{
            **vars(finding),
            "status": "wrong" if wrong else "right",
            "worst": worst,
            "gradient": float(array[worst]),
            "difference": float(expected[worst]),
            "error": float(errors.max()),
            "words": words,
        }
    )
