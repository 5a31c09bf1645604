"""Gradients against finite differences: is what a net computes the derivative of what it computes?

Everything is run through the native program, in float64. Each layer is checked alone, on the values
that it gets in the net, so that a wrong gradient is found where it is made; then the whole net,
which checks how layers are put together (values that are used twice, losses, fusion).

The number that is derived is the sum of the weighted losses and of every blob that has a given
gradient, multiplied with it. An element x is moved by h both ways:

    slope = (f(x + h) - f(x - h)) / 2h

Where that disagrees with the gradient, half the step decides: at a kink nearby (ReLU, maximum) the
two slopes differ, or the slopes to either side do; then nothing can be said about the element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

import graphc.driver as driver
from graphc.arrays import assign
from graphc.driver import Signature
from graphc.error import NetError
from graphc.frontends.caffe.definition import NetDefinition
from graphc.frontends.caffe.filler import fill
from graphc.frontends.caffe.network import CaffeNet
from graphc.random_inputs import input_kinds, random_input
from graphc.weights import fill_parameters, load_weights

Arrays = dict[str, np.ndarray]
Progress = Callable[[int, int, str], None]
Status = Literal["right", "wrong", "not smooth", "no gradient"]

WHOLE_NET = "(whole net)"
STEP = 1e-5  # relative to the typical element of an array
_SMALL_BATCH = 2
_ROUNDINGS = 16  # roundings, each of one unit in the last place, that an output may have seen


@dataclass(frozen=True)
class Finding:
    """What the check found about one array.

    Attributes:
        layer: the layer that was run, or WHOLE_NET.
        name: the input, blob or parameter that was moved.
        checked, rough: how many elements were compared, and at how many more a kink is near.
        worst: the index of the largest error among those compared; `gradient` and `difference` are
            the two numbers there, `error` their distance relative to the larger one, or to a
            thousandth of the array's largest gradient where both are smaller.
        reason: why there is no gradient.
    """

    layer: str
    name: str
    shape: tuple[int, ...]
    status: Status
    checked: int = 0
    rough: int = 0
    worst: tuple[int, ...] | None = None
    gradient: float = 0.0
    difference: float = 0.0
    error: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Sampling:
    """How much is checked: elements of each array, their choice, and the relative error allowed."""

    elements: int = 12
    tolerance: float = 1e-5
    seed: int = 0
    threads: int = 1


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
    weights: str | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    gradients: Mapping[str, np.ndarray] | None = None,
    wrt: Sequence[str] = (),
    sampling: Sampling | None = None,
    progress: Progress = lambda done, total, label: None,
) -> list[Finding]:
    """Check every layer alone, then the whole net.

    Args:
        signature: phase, shapes and the like; its dtype becomes float64.
        weights: a .caffemodel or `random:SEED`; None draws all parameters at random.
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


def _parameters(front: CaffeNet, weights: str | None, seed: int) -> Arrays:
    """All parameters: loaded, or random ones that let every path count."""
    arrays = {name: np.zeros(held.type.shape) for name, held in front.parameters.items()}
    if weights is not None:
        fill_parameters(front, arrays, seed)
        load_weights(front, arrays, weights)
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
    findings = _check(function, name, moved, sampling)
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
    return _check(function, WHOLE_NET, movable, sampling)


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
        constants = self.made.graph.constants
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
        graph = self.made.caffe.graph
        for output, (_, weight) in zip(driver.loss_outputs(graph), graph.losses, strict=True):
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


def _check(
    function: _Function, layer: str, names: Sequence[str], sampling: Sampling
) -> list[Finding]:
    if not names or not function.coefficients:
        return []
    gradients = function.gradients(names)
    findings = []
    for number, name in enumerate(names):
        reason = function.why_none(name)
        shape = gradients[name].shape
        if reason or name not in function.arrays:
            findings.append(Finding(layer, name, shape, "no gradient", reason=reason))
            continue
        rng = np.random.default_rng([sampling.seed, number])
        findings.append(_check_array(function, layer, name, gradients[name], rng, sampling))
    return findings


# -- elements --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slope:
    """A difference quotient over 2h: the whole, and how much of it rounding may have made."""

    slope: float
    noise: float


def _check_array(
    function: _Function,
    layer: str,
    name: str,
    gradient: np.ndarray,
    rng: np.random.Generator,
    sampling: Sampling,
) -> Finding:
    size = gradient.size
    if size == 0:
        return Finding(layer, name, gradient.shape, "right")
    chosen = rng.choice(size, min(sampling.elements, size), replace=False)
    flat = gradient.reshape(-1)
    chosen = np.unique([*chosen, int(np.abs(flat).argmax())])
    floor = 1e-3 * float(np.abs(flat).max())
    best = Finding(layer, name, gradient.shape, "right")
    rough = compared = 0
    largest = (-1.0, -1.0)
    for index in chosen:
        found = _compare(function, name, int(index), float(flat[index]), floor, sampling)
        if found is None:
            rough += 1
            continue
        compared += 1
        compared_to, distance = found
        if distance > largest:
            largest = distance
            where = tuple(int(i) for i in np.unravel_index(int(index), gradient.shape))
            best = replace(
                best,
                worst=where,
                gradient=float(flat[index]),
                difference=compared_to,
                error=distance[1],
            )
    status: Status = "right" if largest[0] <= sampling.tolerance else "wrong"
    if compared == 0:
        status = "not smooth"
    return replace(best, status=status, checked=compared, rough=rough)


def _compare(
    function: _Function,
    name: str,
    index: int,
    gradient: float,
    floor: float,
    sampling: Sampling,
) -> tuple[float, tuple[float, float]] | None:
    """(difference quotient, its errors as of `_errors`) at one element; None near a kink."""
    flat = function.arrays[name].reshape(-1)
    typical = float(np.sqrt(np.mean(np.square(flat))))
    step = STEP * (max(abs(float(flat[index])), typical) or 1.0)
    near = _slope(function, flat, index, step, -step)
    errors = _errors(gradient, near, floor)
    if errors[0] <= sampling.tolerance:
        return near.slope, errors
    half = _slope(function, flat, index, step / 2, -step / 2)
    bends = [
        abs(
            _slope(function, flat, index, h, 0.0).slope
            - _slope(function, flat, index, 0.0, -h).slope
        )
        for h in (step, step / 2)
    ]
    scale = max(abs(near.slope), abs(half.slope), floor)
    allowed = sampling.tolerance * scale + half.noise
    if abs(near.slope - half.slope) > allowed:
        return None  # a kink lies between the two steps
    if bends[1] > allowed and bends[1] > 0.75 * bends[0]:
        return None  # a smooth bend shrinks with the step, a kink does not
    return half.slope, _errors(gradient, half, floor)


def _slope(function: _Function, flat: np.ndarray, index: int, above: float, below: float) -> _Slope:
    """(f(x + above) - f(x + below)) / (above - below), summed over what changed at all."""
    held = flat[index]
    try:
        flat[index] = held + above
        high_at = flat[index]
        high = function.forward()
        flat[index] = held + below
        width = float(high_at - flat[index])
        low = function.forward()
    finally:
        flat[index] = held
    total = noise = 0.0
    for name, weight in function.coefficients.items():
        change = weight * (high[name] - low[name])
        total += float(change.sum())
        moved = change != 0
        noise += float(np.square(weight * high[name])[moved].sum())
    rounding = _ROUNDINGS * np.finfo(np.float64).eps * np.sqrt(noise)
    return _Slope(total / width, rounding / abs(width))


def _errors(gradient: float, found: _Slope, floor: float) -> tuple[float, float]:
    """The distance of both, without what rounding explains and with it, relative to the larger."""
    distance = abs(gradient - found.slope)
    if not np.isfinite(distance):
        return float("inf"), float("inf")
    scale = max(abs(gradient), abs(found.slope), floor)
    if scale == 0:
        return 0.0, 0.0
    return max(0.0, distance - found.noise) / scale, distance / scale
