"""Gradients of a Caffe net against finite differences.

Each layer is checked alone, on the values that it gets in the net, so that a wrong gradient is
found where it is made; then the whole net, which checks how layers are put together (values that
are used twice, losses, fusion). Everything runs through the native program, in float64. How one
array is compared is said in `graphc.finite_difference`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import graphc.driver as driver
from graphc.arrays import assign
from graphc.driver import Signature
from graphc.error import NetError
from graphc.finite_difference import WHOLE_NET, Arrays, Finding, Sampling, check_function
from graphc.frontends.caffe.definition import NetDefinition
from graphc.frontends.caffe.filler import fill
from graphc.frontends.caffe.network import CaffeNet
from graphc.random_inputs import input_kinds, random_input
from graphc.weights import start_parameters

Progress = Callable[[int, int, str], None]

_SMALL_BATCH = 2


def small_shapes(definition: NetDefinition, signature: Signature) -> Signature:
    """The signature for a batch of 2, where the net allows it without a change of parameters."""
    front = driver.front(definition, signature)
    shapes = {name: front.graph.values[name].shape for name in front.inputs}
    batch = next((shape[0] for shape in shapes.values() if shape), 0)
    if batch <= _SMALL_BATCH:
        return signature
    small = {
        name: (_SMALL_BATCH, *shape[1:]) if shape and shape[0] == batch else shape
        for name, shape in shapes.items()
    }
    smaller = driver.with_shapes(signature, small)
    try:
        same = driver.parameter_types(driver.front(definition, smaller))
    except NetError:
        return signature
    return smaller if same == driver.parameter_types(front) else signature


def check_net(
    definition: NetDefinition,
    signature: Signature,
    *,
    weights: str | Mapping[str, Any] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    gradients: Mapping[str, np.ndarray] | None = None,
    wrt: Sequence[str] = (),
    sampling: Sampling | None = None,
    progress: Progress = lambda done, total, label: None,
) -> list[Finding]:
    """Check every layer alone, then the whole net.

    Args:
        signature: phase, shapes and the like; its dtype becomes float64.
        weights: a .caffemodel, arrays by layer or `random:SEED`; None draws all parameters.
        inputs: values by name; the others are drawn.
        gradients: of blobs, for the whole net; None draws one for every output that is no loss.
        wrt: what to derive for; by default all inputs that are no labels, and all learned
            parameters. With it only layers that have one of them are checked.
    Raises NetError for unknown names and shapes that do not fit.
    """
    sampling = sampling or Sampling()
    definition = _without_cuts(definition)
    signature = replace(signature, dtype="float64", given=(), wrt=(), accumulate=False)
    front = driver.front(definition, signature)
    rng = np.random.default_rng(sampling.seed)
    values = _input_values(front, inputs or {}, rng)
    parameters = _parameters(front, weights, sampling.seed)
    owned = [front.owners.get(name, name) for name in wrt]
    for name in owned:
        if name not in parameters and name not in front.inputs and name not in front.graph.blobs:
            raise NetError(f"there is no input, blob or parameter '{name}' to check")
    findings: list[Finding] = []
    blobs = dict(values)
    steps = len(definition.layers) + 1
    for position, layer in enumerate(front.layer_tops):
        progress(position, steps, layer)
        if not definition.layers[position].bottoms and _is_input(front, layer):
            continue
        findings += _check_layer(
            definition, signature, front, position, blobs, parameters, owned, sampling
        )
    progress(steps - 1, steps, WHOLE_NET)
    findings += _check_whole(
        definition, signature, front, values, parameters, gradients, owned, sampling
    )
    progress(steps, steps, "")
    return findings


def _without_cuts(definition: NetDefinition) -> NetDefinition:
    """propagate_down is a decision about who learns; the derivative is what it is without."""
    return replace(
        definition, layers=tuple(replace(la, propagate_down=()) for la in definition.layers)
    )


def _is_input(front: CaffeNet, layer: str) -> bool:
    return all(top in front.inputs for top in front.layer_tops[layer])


def _input_values(
    front: CaffeNet, given: Mapping[str, np.ndarray], rng: np.random.Generator
) -> Arrays:
    kinds = input_kinds(front.graph)
    values = {}
    for name in front.inputs:
        value = front.graph.values[name]
        values[name] = np.zeros(value.shape, value.type.dtype)
        drawn = random_input(value, kinds[name], rng)
        assign(values[name], given.get(name, drawn), f"input '{name}'")
    return values


def _parameters(front: CaffeNet, weights: Any, seed: int) -> Arrays:
    """All parameters: loaded, or random ones that let every path count."""
    arrays = {name: np.zeros(held.type.shape) for name, held in front.parameters.items()}
    if weights is not None:
        start_parameters(front, arrays, seed, weights)
        return arrays
    rng = np.random.default_rng([seed, 1])
    for name, held in front.parameters.items():
        shape = held.type.shape
        if not held.learned:
            arrays[name][...] = fill(shape, held.filler, rng)
        elif len(shape) < 2:
            arrays[name][...] = rng.normal(0.3, 0.2, shape)
        else:
            fan_in = max(1, int(np.prod(shape[1:])))
            arrays[name][...] = rng.normal(0, np.sqrt(2 / fan_in), shape)
    return arrays


# -- one layer, the whole net ----------------------------------------------------------------------


def _check_layer(
    definition: NetDefinition,
    signature: Signature,
    front: CaffeNet,
    position: int,
    blobs: Arrays,
    parameters: Arrays,
    wrt: Sequence[str],
    sampling: Sampling,
) -> list[Finding]:
    """Run one layer on `blobs`, check it, and put its tops into `blobs`.

    Tops get names of their own, so that an in-place layer has two blobs.
    """
    name = list(front.layer_tops)[position]
    layer = definition.layers[position]
    tops = {top: f"{top}.top" for top in layer.tops}
    alone = replace(layer, tops=tuple(tops.values()))
    layers = (*definition.layers[:position], alone, *definition.layers[position + 1 :])
    shapes = {bottom: blobs[bottom].shape for bottom in layer.bottoms}
    part = replace(
        driver.with_shapes(signature, shapes), only=(name, name), masks=(), keep=(), memory="reuse"
    )
    definition = replace(definition, layers=layers)
    built = driver.front(definition, part)
    own = {key: parameters[front.owners[key]] for key in built.parameters}
    kinds = input_kinds(built.graph)
    moved = [n for n in dict.fromkeys(layer.bottoms) if kinds[n].classes is None]
    moved += [key for key, held in built.parameters.items() if held.learned]
    moved = [n for n in moved if not wrt or front.owners.get(n, n) in wrt]
    given = tuple(top for top in built.graph.blobs if top in tops.values())
    function = _Function(
        definition, replace(part, given=given, wrt=tuple(moved), keep=given), sampling.threads
    )
    function.set({bottom: blobs[bottom] for bottom in layer.bottoms} | own)
    function.draw_gradients(given, np.random.default_rng([sampling.seed, position]))
    findings = check_function(function, name, moved, sampling)
    function.forward()
    for top, inner in tops.items():
        blobs[top] = function.executable.read(inner)
    return findings


def _check_whole(
    definition: NetDefinition,
    signature: Signature,
    front: CaffeNet,
    values: Arrays,
    parameters: Arrays,
    gradients: Mapping[str, np.ndarray] | None,
    wrt: Sequence[str],
    sampling: Sampling,
) -> list[Finding]:
    kinds = input_kinds(front.graph)
    moved = list(wrt) or [
        *(name for name in front.inputs if kinds[name].classes is None),
        *(name for name, held in front.parameters.items() if held.learned),
    ]
    movable = [name for name in moved if name in front.inputs or name in parameters]
    weighted = {id(value) for value, _ in front.graph.losses}
    given = list(gradients or ()) or [
        name
        for name, value in front.graph.outputs.items()
        if id(value) not in weighted and name not in front.inputs
    ]
    asked = replace(
        signature, given=tuple(given), wrt=tuple(movable), keep=(*signature.keep, *given)
    )
    function = _Function(definition, asked, sampling.threads)
    function.set({**values, **parameters})
    function.draw_gradients(tuple(given), np.random.default_rng([sampling.seed, 2]))
    for name, array in (gradients or {}).items():
        assign(function.coefficients[name], array, f"the gradient of '{name}'")
    return check_function(function, WHOLE_NET, movable, sampling)


class _Function:
    """A compiled net as a function of its arrays.

    `coefficients` are the gradients given for blobs and, by number, the weights of losses.
    """

    def __init__(self, definition: NetDefinition, signature: Signature, threads: int):
        self.made = driver.compile_net(definition, signature)
        executable = self.made.executable
        assert executable is not None
        self.executable = executable
        self.threads = threads
        self.arrays = executable.bind_new()
        self.coefficients: Arrays = {}
        constants = self.made.surface.constants
        for slot in executable.bundle.slots:
            if slot.role == "constant":
                self.arrays[slot.name][...] = constants[slot.name]
        self.states = [s.name for s in executable.bundle.slots if s.role == "state"]

    def set(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy values into inputs and parameters; those that the program does not read are left."""
        for name, array in arrays.items():
            if name in self.arrays:
                self.arrays[name][...] = array.reshape(self.arrays[name].shape)

    def draw_gradients(self, names: Sequence[str], rng: np.random.Generator) -> None:
        """Random gradients for these blobs; every loss has its weight."""
        for name in names:
            shape = self.made.caffe.graph.blobs[name].shape
            self.coefficients[name] = rng.standard_normal(shape)
        for output, weight in self.made.losses:
            self.coefficients[output] = np.full(self.arrays[output].shape, weight)

    def forward(self) -> Arrays:
        """Run forward, always with the same random numbers; what `coefficients` weigh."""
        for name in self.states:
            self.arrays[name][...] = 0
        self.executable.call("forward", self.threads)
        return {
            name: self.arrays[name].copy()
            if name.startswith("loss.") and name in self.arrays
            else self.executable.read(name)
            for name in self.coefficients
        }

    def gradients(self, names: Sequence[str]) -> Arrays:
        """Run forward and backward."""
        for name in self.states:
            self.arrays[name][...] = 0
        for name, array in self.coefficients.items():
            if f"{name}.diff" in self.arrays:
                self.arrays[f"{name}.diff"][...] = array
        self.executable.call("both", self.threads)
        return {name: self.arrays[f"{name}.diff"].copy() for name in names}

    def why_none(self, name: str) -> str:
        """The backward pass's reason where no gradient arrives at `name`, else nothing."""
        for remark in self.made.remarks:
            about = remark.subject in (name, f"blob:{name}")
            if remark.stage == "backward" and about and remark.sentence.startswith("its gradient"):
                return remark.sentence
        return ""
