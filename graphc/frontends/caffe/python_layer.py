"""Caffe's Python layers: a class of the user's with setup, reshape, forward and backward.

    class Twice:
        def setup(self, bottom, top): ...
        def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
        def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data
        def backward(self, top, propagate_down, bottom): bottom[0].diff[...] = 2 * top[0].diff

Blobs have `data`, `diff`, `shape`, `num`, `channels`, `height`, `width`, `count` and `reshape`. The
layer object has `param_str` and `phase` (0 in training, 1 in testing). The module is a file beside
the definition, or any that Python finds. It may `import caffe` for `caffe.Layer`, though no Caffe
is there.

A layer learns what its setup adds to `self.blobs`:

        def setup(self, bottom, top):
            self.blobs.add_blob(3, 4)
            self.blobs[0].data[...] = 0.1

Such a blob is a parameter of the net: `param { lr_mult: 2 }` belongs to it, weight files hold it, a
solver updates it. backward adds to `self.blobs[0].diff`, which is zeros when it is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from graphc.error import NetError
from graphc.frontends.caffe.layer import LayerContext, layer
from graphc.ir.graph import Value
from graphc.ops.host import HostCall

PHASES = {"TRAIN": 0, "TEST": 1}


class Layer:
    """What `caffe.Layer` is to the user's class: a base that asks for nothing."""

    param_str = ""
    phase = PHASES["TEST"]
    blobs: LayerBlobs


class LayerBlob:
    """A bottom or top as the user's class sees it; `data` and `diff` are arrays to write into."""

    def __init__(self, shape: Sequence[int], dtype: str):
        self.dtype = dtype
        self.data = np.zeros(tuple(shape), dtype)
        self.diff = np.zeros(tuple(shape), dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents."""
        return tuple(self.data.shape)

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def num(self) -> int:
        """The first extent; `channels`, `height` and `width` are those after it, 1 if absent."""
        return self._extent(0)

    @property
    def channels(self) -> int:
        """The second extent."""
        return self._extent(1)

    @property
    def height(self) -> int:
        """The third extent."""
        return self._extent(2)

    @property
    def width(self) -> int:
        """The fourth extent."""
        return self._extent(3)

    def _extent(self, axis: int) -> int:
        return self.shape[axis] if axis < len(self.shape) else 1

    def reshape(self, *shape: int) -> None:
        """Another shape; the values are zeros then, unless it was the shape already."""
        if tuple(shape) != self.shape:
            self.data = np.zeros(shape, self.dtype)
            self.diff = np.zeros(shape, self.dtype)


class LayerBlobs(list[LayerBlob]):
    """What a layer learns: its setup adds to it."""

    def __init__(self, dtype: str):
        super().__init__()
        self.dtype = dtype

    def add_blob(self, *shape: int) -> LayerBlob:
        """Another parameter, zeros at first."""
        self.append(LayerBlob(shape, self.dtype))
        return self[-1]


class PythonLayer:
    """One layer of the net that is the user's object. Every error names the layer and the call.

    `initial` holds what setup left in the blobs that the layer learns.
    """

    def __init__(self, label: str, module: str, name: str, made: Any, blobs: LayerBlobs):
        self.label = label
        self.name = f"{module}.{name}"
        self.made = made
        self.blobs = blobs
        self.initial: list[np.ndarray] = []
        self.is_set_up = False

    def shapes(self, bottom: Sequence[LayerBlob], top: Sequence[LayerBlob]) -> None:
        """Let the object give the tops their shapes."""
        if not self.is_set_up:
            self.call("setup", bottom, top)
            self.is_set_up = True
            self.initial = [blob.data.copy() for blob in self.blobs]
        self.call("reshape", bottom, top)

    def forward(self, bottom: Sequence[LayerBlob], top: Sequence[LayerBlob]) -> None:
        """Fill the tops' data. The shapes may not change any more.

        `bottom` ends with the parameters.
        """
        bottom = self._take_parameters(bottom)
        before = [blob.shape for blob in top]
        self.call("reshape", bottom, top)
        if [blob.shape for blob in top] != before:
            after = ", ".join(str(list(blob.shape)) for blob in top)
            raise NetError(
                f"{self.label}: {self.name} changed its tops' shapes to {after} while the net"
                " runs; they are fixed when it is built"
            )
        self.call("forward", bottom, top)

    def backward(
        self, top: Sequence[LayerBlob], wanted: list[bool], bottom: Sequence[LayerBlob]
    ) -> None:
        """Fill the bottoms' diff where wanted, and add to that of the parameters behind them."""
        bottom = self._take_parameters(bottom)
        self.call("backward", top, wanted[: len(bottom)], bottom)

    def _take_parameters(self, bottom: Sequence[LayerBlob]) -> Sequence[LayerBlob]:
        """Let `self.blobs` show the parameters of the net; the bottoms without them."""
        count = len(bottom) - len(self.blobs)
        self.blobs[:] = bottom[count:]
        return bottom[:count]

    def call(self, method: str, *arguments: Any) -> None:
        """Call one method of the user's. What it raises becomes the cause of a NetError."""
        function: Callable[..., Any] | None = getattr(self.made, method, None)
        if function is None:
            raise NetError(f"{self.label}: {self.name} has no method '{method}'")
        try:
            function(*arguments)
        except Exception as error:  # the user's code may raise anything
            raise NetError(
                f"{self.label}: {self.name}.{method} raised {type(error).__name__}: {error}"
            ) from error


# A definition's layers keep their objects as long as the definition is there: a net is built more
# than once (for other shapes or gradients), and the object is set up only once.
_OBJECTS: dict[int, PythonLayer] = {}


@layer("Python")
def python_layer(c: LayerContext) -> tuple[Value, ...]:
    """The user's class makes the tops."""
    if not c.layer.tops:
        raise c.fail("a Python layer needs a top, or nobody would see what it does")
    held = _object_of(c)
    bottoms = [LayerBlob(x.shape, c.dtype) for x in c.bottoms]
    tops = [LayerBlob((), c.dtype) for _ in c.layer.tops]
    held.shapes(bottoms, tops)
    c.around.python_layers[c.layer.name] = held
    parameters = [
        c.parameter(index, values.shape, initial=values)
        for index, values in enumerate(held.initial)
    ]
    call = HostCall(c.layer.name, tuple(blob.shape for blob in tops), c.dtype)
    return c.graph.apply(call, *c.bottoms, *parameters)


def _object_of(c: LayerContext) -> PythonLayer:
    key = id(c.layer.message)
    if key not in _OBJECTS:
        _OBJECTS[key] = _made(c)
        weakref.finalize(c.layer.message, _OBJECTS.pop, key, None)
    return _OBJECTS[key]


def _made(c: LayerContext) -> PythonLayer:
    """The object of the user's class, not set up yet."""
    options = c.options("python_param")
    module, name = options.get("module"), options.get("layer")
    if not module or not name:
        raise c.fail("python_param needs module and layer, the names of a module and its class")
    found = getattr(_loaded(c, module), name, None)
    if not isinstance(found, type):
        raise c.fail(f"module '{module}' has no class '{name}'", "layer")
    blobs = LayerBlobs(c.dtype)
    try:
        made: Any = found()
        made.param_str = options.get("param_str")
        made.phase = PHASES[c.phase]
        made.blobs = blobs
    except Exception as error:  # the user's code may raise anything
        message = f"{module}.{name} cannot be made: {type(error).__name__}: {error}"
        raise c.fail(message) from error
    return PythonLayer(c.layer.label, module, name, made, blobs)


def _loaded(c: LayerContext, module: str) -> types.ModuleType:
    """The user's module: a file beside the definition, else what Python finds by that name."""
    path = c.path(f"{module.replace('.', '/')}.py").resolve()
    try:
        with _caffe_stand_in():
            if not path.is_file():
                return importlib.import_module(module)
            spec = importlib.util.spec_from_file_location(module, path)
            assert spec is not None and spec.loader is not None
            made = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(made)
            return made
    except Exception as error:  # importing runs the user's code, which may raise anything
        message = f"cannot load module '{module}': {type(error).__name__}: {error}"
        raise c.fail(message, "module") from error


@contextmanager
def _caffe_stand_in() -> Iterator[None]:
    """Let `import caffe` give a module with `Layer` while the user's module is loaded."""
    if "caffe" in sys.modules or importlib.util.find_spec("caffe") is not None:
        yield
        return
    stand_in = types.ModuleType("caffe")
    vars(stand_in)["Layer"] = Layer
    sys.modules["caffe"] = stand_in
    try:
        yield
    finally:
        del sys.modules["caffe"]
