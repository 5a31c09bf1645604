"""Which values and derivatives a call of a DagNet leaves, by DagNN's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.frontends.matconvnet.blocks import ReLU
from graphc.frontends.matconvnet.loss_blocks import Loss
from graphc.frontends.matconvnet.network import MatLayer, reached
from graphc.mat_call import Piece


@dataclass(frozen=True)
class Remaining:
    """What the user asks to remain: all without `conserve`, else the precious and what follows."""

    conserve: bool
    precious: frozenset[str]

    def values(self, run: Sequence[MatLayer], piece: Piece) -> set[str]:
        """The variables whose value remains after these layers have run.

        Forward only, that is what nobody reads; with derivatives, inputs, and what no backward pass
        comes by.
        """
        inputs = dict(piece.inputs)
        active, _ = reached(run, piece.given)
        passed = {name for layer in active for name in layer.outputs}
        readers: dict[str, list[MatLayer]] = {}
        for layer in run:
            for name in layer.inputs:
                readers.setdefault(name, []).append(layer)
        found = set()
        for name in computed(run, piece):
            if not piece.given:
                stays = name not in readers
            elif name in inputs:
                stays = name not in readers or not all(map(_lets_go, readers[name]))
            else:
                stays = name not in passed
            if stays or not self.conserve or name in self.precious:
                found.add(name)
        return found

    def needed_values(self, run: Sequence[MatLayer], piece: Piece) -> set[str]:
        """Those, and the losses, whose means are followed."""
        losses = {name for layer in run if isinstance(layer.block, Loss) for name in layer.outputs}
        return self.values(run, piece) | losses

    def keeps_derivative(self, name: str, piece: Piece) -> bool:
        """Whether a variable's derivative remains."""
        return not self.conserve or name in self.precious or name in dict(piece.inputs)


def computed(run: Sequence[MatLayer], piece: Piece) -> list[str]:
    """All variables that have a value in a call."""
    return [*dict(piece.inputs), *(name for layer in run for name in layer.outputs)]


def ends(run: Sequence[MatLayer], piece: Piece) -> list[str]:
    """Variables whose derivative is the given one alone: no active layer hands them another."""
    active, _ = reached(run, piece.given)
    handed = {
        name
        for layer in active
        for i, name in enumerate(layer.inputs)
        if layer.block.differentiates(i)
    }
    return [name for name in piece.given if name not in handed]


def _lets_go(layer: MatLayer) -> bool:
    """Whether a layer needs its input for the output alone: a ReLU that differentiates by y."""
    return isinstance(layer.block, ReLU) and layer.block.use_short_circuit
