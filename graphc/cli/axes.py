"""In which order the users of a framework write the axes of a batch of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Axes:
    """An order of axes.

    Attributes:
        shown: as in messages.
        turned: graphs have the user's axes from last to first.
        channels: the position of the channels, or classes, in the user's order.
    """

    shown: str
    turned: bool
    channels: int

    def turn(self, array: np.ndarray) -> np.ndarray:
        """The user's array as graphs have it, or the other way round."""
        return array.T if self.turned else array

    def shape(self, of_graph: tuple[int, ...]) -> tuple[int, ...]:
        """A graph's shape, or back, as the user writes it."""
        return of_graph[::-1] if self.turned else of_graph

    def images(self, array: np.ndarray) -> np.ndarray:
        """The user's array of four axes as [N, C, H, W]; others as they are."""
        return array.transpose(3, 2, 0, 1) if self.turned and array.ndim == 4 else array

    def of_images(self, array: np.ndarray) -> np.ndarray:
        """[N, C, H, W] in the user's order."""
        return array.transpose(2, 3, 1, 0) if self.turned else array


CAFFE = Axes("N,C,H,W", False, 1)
MATLAB = Axes("H,W,C,N", True, 2)
