"""The rival: the same Graph run by PyTorch, as somebody who knows PyTorch would write it.

A Graph becomes a `torch.fx` module, which is plain Python code that calls torch functions: biases
go into their convolutions and products, the parts of batch normalisation are one call again, ReLU
works in place where it may. Gradients come from autograd. Three variants are run: eager, eager on
channels-last tensors, and `torch.compile`.

torch is no dependency of this project; it is imported when a rival is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.bench import (  # noqa: F401  (each enters its translations)
    torch_layers,
    torch_maps,
    torch_products,
    torch_scores,
)
from graphc.bench.torch_emit import TRANSLATIONS, Emit
from graphc.bench.torch_place import PLACES
from graphc.bench.torch_scalars import translate_map
from graphc.error import NetError, need
from graphc.ir.graph import Graph, Node, Value
from graphc.ops.elementwise import Map

INSTALL = "pip install torch==2.13.0"
VARIANTS = ("eager", "channels-last", "compile")

_REGIONS = "torch has no pooling of regions; that of torchvision rounds their borders otherwise"
_BLOCKS = "blockwise_loss makes it; `graphc bench loss` compares whole last layers"

# Operators of forward graphs that have no translation, and why.
BEYOND_TORCH = {
    "assumed_moments": "torch has no gradient through moments that are given",
    "block_mass": _BLOCKS,
    "block_places": _BLOCKS,
    "mass_log_loss": _BLOCKS,
    "host_call": "it is the user's own Python code",
    "roi_avg_pool": _REGIONS,
    "roi_max_pool": _REGIONS,
}


def import_torch() -> Any:
    """The module. Raises NetError with the command that installs it where it is missing."""
    try:
        with _unheard():
            import torch
    except ImportError:
        raise NetError(f"there is no torch to compare with; {INSTALL}") from None
    return torch


class UnsupportedError(NetError):
    """Work that torch cannot run, or that is not compared with it."""


@contextlib.contextmanager
def leaving_out(variant: str, refusals: dict[str, str]) -> Iterator[None]:
    """Where torch cannot run what the block asks for, note why, in a line, and go on behind it.

    Torch's own warnings are not heard. Other NetErrors, as of results that differ, pass through.
    """
    try:
        with _unheard():
            yield
    except UnsupportedError as error:
        refusals[variant] = str(error)
    except NetError:
        raise
    except Exception as error:  # torch raises what its compilers happen to raise
        said = str(error).strip().partition("\n")[0]
        refusals[variant] = f"{type(error).__name__}: {said}"


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """No warnings and no lines of logs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@dataclass(frozen=True)
class Workload:
    """What is compared: a forward graph on these arrays, and the gradients of `wrt` if any.

    arrays: every input, parameter and state by name. given: gradients of blobs by name; each loss
    of the graph starts from its weight besides.
    """

    graph: Graph
    arrays: Mapping[str, np.ndarray]
    wrt: tuple[str, ...] = ()
    given: Mapping[str, np.ndarray] = field(default_factory=dict)


class TorchRun:
    """One variant on one workload, ready to be run again and again.

    masked: dropout multiplies with the masks that the graph's own operators would draw, so that
    results can be compared; without it torch draws masks, which is what is timed. `is_masked` says
    whether that made a difference. target: a key of PLACES. tf32: tensor cores may round.
    double: all real numbers are float64, for a result that is right but for its inputs' rounding.
    """

    def __init__(
        self,
        workload: Workload,
        variant: str,
        threads: int,
        masked: bool = False,
        target: str = "cpu",
        tf32: bool = False,
        double: bool = False,
    ):
        need(variant in VARIANTS, f"'{variant}' is none of {', '.join(VARIANTS)}")
        self.name = f"torch {variant}"
        self._torch = import_torch()
        self._place = PLACES[target](self._torch, threads)
        self._tf32 = tf32
        self._double = double
        self._workload = workload
        self._wanted = _results(workload)
        counter = workload.arrays.get("dropout.counter", np.array(0)) if masked else None
        module, names, masks = translate(workload.graph, list(self._wanted.values()), counter)
        module = module.to(self._place.device)
        if double:
            module = module.double()
        self.is_masked = bool(masks)
        self._tensors = {name: self._tensor(name, variant, masks) for name in names}
        self._wrt = [self._leaf(name) for name in workload.wrt]
        self._seeds = self._made_seeds(variant)
        self._module = self._torch.compile(module) if variant == "compile" else module

    def _tensor(self, name: str, variant: str, masks: Mapping[str, np.ndarray]) -> Any:
        array = masks.get(name)
        if array is None:
            array = self._workload.arrays.get(name)
        if array is None:
            array = self._workload.graph.constants[name]
        return self._placed(self._torch.from_numpy(np.array(array)), variant)

    def _placed(self, tensor: Any, variant: str) -> Any:
        tensor = tensor.to(self._place.device)
        if self._double and tensor.is_floating_point():
            tensor = tensor.double()
        if variant == "channels-last" and tensor.dim() == 4:
            return tensor.contiguous(memory_format=self._torch.channels_last)
        return tensor

    def _leaf(self, name: str) -> Any:
        if name not in self._tensors:
            raise UnsupportedError(
                f"the torch rival takes gradients of inputs and parameters, '{name}' is neither or"
                " is not read"
            )
        return self._tensors[name].requires_grad_()

    def _made_seeds(self, variant: str) -> list[Any]:
        torch = self._torch
        seeds = [
            self._placed(torch.full(value.shape, float(weight)), variant)
            for value, weight in self._workload.graph.losses
        ]
        arrays = self._workload.given.values()
        return seeds + [self._placed(torch.from_numpy(np.array(a)), variant) for a in arrays]

    def run(self) -> tuple[Any, ...]:
        """Forward, and the gradients if any are wanted: the outputs, then the gradients."""
        self._place.begin(self._tf32)
        made = self._made_results()
        self._place.end()
        return made

    def _made_results(self) -> tuple[Any, ...]:
        torch = self._torch
        if not self._wrt:
            with torch.inference_mode():
                return tuple(self._module(*self._tensors.values()))
        outputs = self._module(*self._tensors.values())
        starts = outputs[len(outputs) - len(self._seeds) :]
        gradients = torch.autograd.grad(starts, self._wrt, self._seeds, allow_unused=True)
        return (*outputs, *gradients)

    def backward_alone(self) -> Callable[[], object]:
        """A function that runs the backward pass of one forward pass, which is made here."""
        torch = self._torch
        self._place.begin(self._tf32)
        with _kept_for_more_than_one_backward(torch):
            outputs = self._module(*self._tensors.values())
        starts = outputs[len(outputs) - len(self._seeds) :]

        def run() -> object:
            self._place.begin(self._tf32)
            found = torch.autograd.grad(starts, self._wrt, self._seeds, retain_graph=True)
            self._place.end()
            return found

        return run

    def held_bytes(self) -> int:
        """Memory of the inputs and parameters."""
        return sum(t.numel() * t.element_size() for t in self._tensors.values())

    def peak_bytes(self) -> int | None:
        """Memory of a run at most; None where the system does not tell."""
        return self._place.peak_bytes(self.run, self.held_bytes())

    def results(self) -> dict[str, np.ndarray]:
        """Outputs by name and gradients as `NAME.diff`."""
        found = self.run()
        names = [*self._wanted, *(f"{name}.diff" for name in self._workload.wrt)]
        return {
            name: tensor.detach().cpu().numpy().copy()
            for name, tensor in zip(names, found, strict=True)
            if tensor is not None and not name.startswith("start ")
        }


def _kept_for_more_than_one_backward(torch: Any) -> contextlib.AbstractContextManager[Any]:
    """Compiled forward passes lend buffers to the first backward pass, unless told not to."""
    import torch._functorch.config as config

    patched: contextlib.AbstractContextManager[Any] = config.patch(donated_buffer=False)
    return patched


def _results(workload: Workload) -> dict[str, Value]:
    """What the module returns: the graph's outputs, then what gradients start from."""
    graph = workload.graph
    wanted = dict(graph.outputs)
    if workload.wrt:
        for number, (value, _) in enumerate(graph.losses):
            wanted[f"start {number}"] = value
        for name in workload.given:
            wanted[f"start {name}"] = graph.blobs[name]
    return wanted


def translate(
    graph: Graph, wanted: Sequence[Value], counter: np.ndarray | None
) -> tuple[Any, list[str], dict[str, np.ndarray]]:
    """(the fx module, its inputs' names in order, the masks among them).

    With a counter, dropout takes the masks that the graph draws for it, as inputs. Raises
    UnsupportedError for an operator that has no translation.
    """
    torch = import_torch()
    return _Translation(torch, graph, wanted, counter).finish()


class _Translation:
    """The module under construction. It is what translations of operators get as `emit`."""

    def __init__(
        self, torch: Any, graph: Graph, wanted: Sequence[Value], counter: np.ndarray | None
    ):
        self.torch = torch
        self.functional = torch.nn.functional
        self.masked = counter is not None
        self._counter = counter
        self._graph = graph
        self._wanted = list(wanted)
        self._ends = set(wanted)
        self._fx = torch.fx.Graph()
        self._made: dict[Value, Any] = {}
        self._masks: dict[str, np.ndarray] = {}
        self._buffers: dict[str, Any] = {}
        self._inputs: list[str] = []
        self._needed = self._find_needed()
        for value in self._read():
            self._made[value] = self._placeholder(value.name)
        for node in graph.nodes if self.masked else []:
            if node in self._needed:
                self._add_mask(node)

    def _find_needed(self) -> set[Node]:
        """Nodes that the wanted values depend on; a counter of dropout is nobody's input here."""
        found: set[Node] = set()
        open_values = list(self._wanted)
        while open_values:
            node = self._graph.producer(open_values.pop())
            if node is not None and node not in found:
                found.add(node)
                open_values.extend(_sources(node))
        return found

    def _read(self) -> Iterator[Value]:
        read = {value for node in self._needed for value in _sources(node)} | self._ends
        yield from (value for value in self._graph.inputs() if value in read)

    def _placeholder(self, name: str) -> Any:
        self._inputs.append(name)
        return self._fx.placeholder(f"input{len(self._inputs)}")

    def _add_mask(self, node: Node) -> None:
        if node.op.op_name != "dropout":
            return
        name = f"mask of {node.outputs[0].name}"
        ones = np.ones(node.inputs[0].shape, node.inputs[0].type.dtype)
        self._masks[name] = node.op.reference(ones, self._counter)
        self._made[node.outputs[0]] = self._placeholder(name)

    # -- what translations use --

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """A call of a torch function, as a value."""
        return self._fx.call_function(function, arguments, named)

    def of(self, value: Value) -> Any:
        """The translated value."""
        return self._made[value]

    def mask(self, node: Node) -> Any:
        """The placeholder of a dropout's mask."""
        return self._made[node.outputs[0]]

    def buffer(self, tensor: Any) -> Any:
        """A tensor that the module owns and may change."""
        name = f"buffer{len(self._buffers)}"
        self._buffers[name] = tensor
        return self._fx.get_attr(name)

    def producer(self, value: Value) -> Node | None:
        """The node that makes it."""
        return self._graph.producer(value)

    def alone(self, value: Value) -> bool:
        """Whether one node reads it, and nobody outside."""
        readers = [node for node, _ in self._graph.readers(value) if node in self._needed]
        return len(readers) == 1 and value not in self._ends

    # -- making --

    def _emit(self, node: Node) -> None:
        name = node.op.op_name
        translation = TRANSLATIONS.get(name)
        if translation is None and isinstance(node.op, Map):
            translation = translate_map
        if translation is None:
            layer = f" (layer '{node.origin.layer}')" if node.origin.layer else ""
            why = f": {BEYOND_TORCH[name]}" if name in BEYOND_TORCH else ""
            raise UnsupportedError(f"the torch rival cannot run the operator '{name}'{layer}{why}")
        emit: Emit = self
        made = translation(emit, node, node.op)
        if len(node.outputs) == 1:
            self._made[node.outputs[0]] = made
            return
        for position, value in enumerate(node.outputs):
            self._made[value] = made[position] if isinstance(made, tuple) else made

    def finish(self) -> tuple[Any, list[str], dict[str, np.ndarray]]:
        """Emit all that is needed, in order; what a later call has taken in is dropped again."""
        for node in self._graph.nodes:
            if node in self._needed:
                self._emit(node)
        self._fx.output(tuple(self._made[value] for value in self._wanted))
        self._fx.eliminate_dead_code()
        root = self.torch.nn.Module()
        for name, tensor in self._buffers.items():
            root.register_buffer(name, tensor)
        module = self.torch.fx.GraphModule(root, self._fx)
        return module, self._inputs, self._masks


def _sources(node: Node) -> tuple[Value, ...]:
    """The inputs that a translation reads."""
    return node.inputs[:1] if node.op.op_name == "dropout" else node.inputs
