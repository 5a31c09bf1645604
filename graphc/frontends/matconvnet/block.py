"""What every block of DagNN is: the base class, and what a block may ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from graphc.call_arguments import why_misfit
from graphc.error import NetError
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType

WEIGHTS = "weights/{}"  # the constant that holds the instance weights of a loss layer


@dataclass
class Surroundings:
    """What a block may ask for while it is built.

    Attributes:
        masks: dropout layers -> the input that holds their mask.
        moments: batch normalising layers -> their batch's moments [1, 1, 2, C].
        callbacks: layers that are the user's Python code -> that code.
    """

    graph: Graph
    mode: str
    version: str
    layer: str = ""
    masks: dict[str, str] = field(default_factory=dict)
    moments: dict[str, Value] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)

    @property
    def testing(self) -> bool:
        """Whether random and batch-dependent layers work as they do after training."""
        return self.mode == "test"

    def mask(self, like: Value) -> Value:
        """The input that holds this layer's dropout mask."""
        name = f"mask/{self.layer}"
        self.masks[self.layer] = name
        return self.graph.input(name, like.type)

    def instance_weights(self, array: np.ndarray) -> Value:
        """The layer's own weights, which the program holds; a call may put others there."""
        name = WEIGHTS.format(self.layer)
        self.graph.constants[name] = np.ascontiguousarray(array)
        return self.graph.input(name, TensorType(str(array.dtype), array.shape), "constant")


class BlockType(type):
    """The class of block classes: a wrong property gets a suggestion."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except TypeError:
            init = cls.__init__  # type: ignore[misc]  # of this very class, not of a derived one
            misfit = why_misfit(init, (cls, *args), kwargs, cls.__name__)
            if misfit is None:
                raise
            raise NetError(misfit) from None


@dataclass
class Block(metaclass=BlockType):
    """Base of all blocks."""

    learned: ClassVar[tuple[int, ...]] = (0,)  # the inputs that have a derivative
    has_several: ClassVar[bool] = False  # any number of inputs, each with a derivative

    def build(self, x: list[Value], params: list[Value], around: Surroundings) -> Value:
        """The output. Raises NetError with one sentence on what does not fit."""
        raise NotImplementedError

    def differentiates(self, position: int) -> bool:
        """Whether the input at that position has a derivative."""
        return self.has_several or position in self.learned

    def param_shapes(self) -> list[tuple[int, ...]]:
        """Sizes of the parameters in MATLAB's order, for `init_params`."""
        return []
