"""MATLAB's arrays and ours: the same memory, read from the other end.

A MATLAB array H x W x C x N is stored with H fastest. Read row-major, those bytes are an array
[N, C, W, H]; graphs built from MatConvNet work on these axes. Turning an array over is `.T`, and a
window's elements, taken row-major over (W, H), are in MATLAB's order. What is no such array or
number raises NetError, which calls it `what`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.error import NetError, need


def is_missing(array: Any) -> bool:
    """Whether an argument is None or MATLAB's empty array []."""
    return array is None or (np.ndim(array) > 0 and np.size(array) == 0)


def four_axes(array: Any, what: str) -> np.ndarray:
    """An array of numbers with the trailing axes of extent 1 that MATLAB drops put back."""
    try:
        numbers = np.asarray(array)
    except ValueError as error:
        raise NetError(f"{what} is no array ({error})") from None
    need(
        numbers.dtype.kind in "fiub",
        f"{what} holds {numbers.dtype}; it must be an array of real numbers",
    )
    while numbers.ndim > 4 and numbers.shape[-1] == 1:
        numbers = numbers[..., 0]
    need(numbers.ndim <= 4, f"{what} has {numbers.ndim} axes; there are four: H x W x C x N")
    return numbers.reshape(numbers.shape + (1,) * (4 - numbers.ndim))


def real_kind(arrays: dict[str, Any]) -> str:
    """The one real element type of several arrays; float32 where all of them hold integers.

    Raises NetError where some are float32 and others float64: MatConvNet refuses that, too.
    """
    kinds = {name: np.asarray(array).dtype for name, array in arrays.items()}
    reals = {name: kind for name, kind in kinds.items() if kind.kind == "f"}
    for name, kind in reals.items():
        need(
            kind in (np.float32, np.float64), f"{name} is {kind}; float32 and float64 are possible"
        )
    if len(set(reals.values())) > 1:
        shown = ", ".join(f"{name} is {kind}" for name, kind in reals.items())
        raise NetError(f"the arrays of one call must be of one type, but {shown}")
    return str(next(iter(reals.values()), np.dtype("float32")))


def pair(value: Any, what: str, least: int = 1) -> tuple[int, int]:
    """[vertical horizontal] from one or two whole numbers."""
    numbers = _whole(value, what, least)
    need(len(numbers) in (1, 2), f"{what} is one number or [vertical horizontal], not {value}")
    return (numbers[0], numbers[-1])


def margins(value: Any, what: str) -> tuple[int, int, int, int]:
    """[top bottom left right] from one or four whole numbers."""
    numbers = _whole(value, what, 0)
    need(len(numbers) in (1, 4), f"{what} is one number or [top bottom left right], not {value}")
    top, bottom, left, right = numbers * 4 if len(numbers) == 1 else numbers
    return top, bottom, left, right


def _whole(value: Any, what: str, least: int) -> tuple[int, ...]:
    numbers = np.asarray(value).ravel()
    fine = numbers.size and numbers.dtype.kind in "fiu" and (numbers == np.trunc(numbers)).all()
    need(
        fine and (numbers >= least).all(),
        f"{what} is made of whole numbers of at least {least}, not {value}",
    )
    return tuple(int(number) for number in numbers)


def numbers_of(value: Any, count: int, what: str) -> tuple[float, ...]:
    """That many real numbers."""
    given = np.asarray(value)
    need(
        given.size == count and given.dtype.kind in "fiu",
        f"{what} is made of {count} numbers, not {value}",
    )
    return tuple(float(number) for number in given.ravel())


def real(value: Any, what: str) -> float:
    """One real number."""
    given = np.asarray(value)
    need(given.size == 1 and given.dtype.kind in "fiub", f"{what} is one number, not {value!r:.60}")
    return float(given.item())


def whole(value: Any, what: str, least: int = 1) -> int:
    """One whole number."""
    return pair(real(value, what), what, least)[0]


def dropout_mask(
    shape: tuple[int, ...], rate: float, dtype: str, rng: np.random.Generator | None = None
) -> np.ndarray:
    """A new mask: 0 with probability rate, else 1 / (1 - rate).

    Without a generator numpy's global one draws it.
    """
    need(0 <= rate < 1, f"a dropout rate is at least 0 and below 1, not {rate}")
    kept = (np.random.random_sample(shape) if rng is None else rng.random(shape)) >= rate
    return np.asarray(kept * (1 / (1 - rate)), dtype)
