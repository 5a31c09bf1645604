"""Arrays from the user: checked before native code sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.error import NetError


def real_numbers(array: Any, what: str) -> np.ndarray:
    """`array` as a numpy array of real numbers. Raises NetError where it is none."""
    try:
        numbers = np.asarray(array)
    except ValueError as error:
        raise NetError(f"{what}: not an array ({error})") from None
    if numbers.dtype.kind not in "fiub":
        raise NetError(f"{what}: an array of {numbers.dtype} cannot be used; give real numbers")
    return numbers


def checked(array: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """`array` as numbers of the given shape, up to trailing axes of extent 1.

    Raises NetError where it holds no real numbers or has another shape.
    """
    numbers = real_numbers(array, what)
    if _bare(numbers.shape) != _bare(shape):
        raise NetError(
            f"{what} has shape {list(shape)}; an array of {list(numbers.shape)} was given"
        )
    return numbers.reshape(shape)


def assign(target: np.ndarray, array: Any, what: str) -> None:
    """Copy into `target` after checking."""
    numbers = checked(array, target.shape, what)
    if numbers is not target:
        target[...] = numbers


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without trailing ones."""
    extents = list(shape)
    while extents and extents[-1] == 1:
        extents.pop()
    return tuple(extents)
