"""What a DagNN net consists of besides layers, and how a file holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from graphc.error import NetError, did_you_mean
from graphc.frontends.matconvnet.array import four_axes, is_missing, real_kind
from graphc.frontends.matconvnet.mat_file import listed, read_mat
from graphc.runtime.cpu import aligned_zeros

Array = np.ndarray
Item = TypeVar("Item")


class Table(dict[str, Item]):
    """Things by name, in order; a wrong name gets a suggestion."""

    def __missing__(self, name: str) -> Item:
        hint = did_you_mean(str(name), self)
        raise NetError(f"there is no '{name}' in this net" + (f"; {hint}" if hint else ""))


class Variable:
    """A variable: its value and derivative after an `eval`, None where they were not kept.

    precious: kept although conserve_memory is on.
    """

    def __init__(self, name: str):
        self.name = name
        self.value: Array | None = None
        self.der: Array | None = None
        self.precious = False


class Parameter:
    """A parameter: value, derivative, and how training treats it.

    train_method: "gradient" or "average" (moments, which follow der / number of images).
    """

    def __init__(self, name: str):
        self.name = name
        self.held: Array | None = None  # on our axes, as programs read it
        self.der: Array | None = None
        self.train_method = "gradient"
        self.learning_rate = 1.0
        self.weight_decay = 1.0

    @property
    def value(self) -> Array | None:
        """The array H x W x C x N; writing into it changes the net."""
        return None if self.held is None else self.held.T

    @value.setter
    def value(self, array: Any) -> None:
        if is_missing(array):
            self.held = None
            return
        given = four_axes(array, f"parameter '{self.name}'")
        dtype = real_kind({f"parameter '{self.name}'": given})
        self.held = aligned_zeros(given.shape[::-1], dtype)
        self.held[...] = given.T


def read_net(path: str | Path) -> dict[str, Any]:
    """The structure that DagNN saves: vars, params, layers, meta, perhaps in a variable `net`.

    Raises NetError where the file holds none.
    """
    return net_struct(read_mat(path), path)


def net_struct(found: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The same of a file's variables."""
    inner = found.get("net", found)
    layers = listed(inner.get("layers")) if isinstance(inner, dict) else []
    if not layers or not isinstance(layers[0], dict) or "block" not in layers[0]:
        simple = bool(layers) and isinstance(layers[0], dict) and "type" in layers[0]
        hint = "; read it with graphc.SimpleNet.load" if simple else ""
        raise NetError(f"'{path}' holds no DagNN net: there are no layers with blocks{hint}")
    return dict(inner)


def holds_dagnn(found: dict[str, Any]) -> bool:
    """Whether a file's variables are a DagNN net, whose layers have blocks."""
    inner = found.get("net", found)
    layers = listed(inner.get("layers")) if isinstance(inner, dict) else []
    return bool(layers) and isinstance(layers[0], dict) and "block" in layers[0]
