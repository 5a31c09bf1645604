"""`graphc.check`: is the gradient right? Of an operator, or of a net of either framework.

    for finding in graphc.check(MyLoss):
        print(finding)

    MyLoss(): the gradient of x is 2.0 times too small everywhere; at [0, 2] it is ...

How arrays are compared is said in `graphc.finite_difference`.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphc.dagnn import DagNet
from graphc.driver import Signature, with_shapes
from graphc.error import NetError, need
from graphc.finite_difference import Finding, Sampling, check_function
from graphc.frontends.caffe.definition import read_net
from graphc.gradient_check import check_net, small_shapes
from graphc.graph_call import compile_graph_call
from graphc.graph_function import GraphFunction
from graphc.ir.graph import Graph, Value
from graphc.ir.op import REGISTRY, Op
from graphc.ir.types import TensorType
from graphc.mat_check import check_model
from graphc.mat_model import MatModel
from graphc.net import Net
from graphc.ops.elementwise import Map
from graphc.simple_net import SimpleNet
from graphc.unreadable import unreadable
from graphc.value_check import check_values, has_reference

Progress = Callable[[int, int, str], None]


def check(
    subject: Any,
    inputs: Any = None,
    *,
    samples: int = 12,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> list[Finding]:
    """Compare gradients with finite differences in float64; a Finding for each array.

    Args:
        subject: an operator (its class, with its examples, or an instance), a Net, a SimpleNet or a
            DagNet (each layer alone, then the whole), or the path of a net or of a file of
            operators.
        inputs: for an operator a sequence of arrays; for a net arrays by name, for a SimpleNet x
            alone will do. What is not given is random.
        samples: how many elements of each array are compared.
        tolerance: the relative error that is right.
        seed: of what is random.

    `finding.failed` says whether something is wrong, `str(finding)` what. Raises NetError for a
    subject that is none of these, and for inputs that do not fit.
    """
    sampling = Sampling(samples, tolerance, seed)
    if isinstance(subject, Op) or (isinstance(subject, type) and issubclass(subject, Op)):
        return check_operator(subject, inputs, sampling)
    if isinstance(subject, Net):
        parameters = {name: [b.data for b in blobs] for name, blobs in subject.params.items()}
        shapes = {name: tuple(subject.blobs[name].shape) for name in subject.inputs}
        signature = with_shapes(subject.compilations.base, shapes)
        return check_net(
            subject.definition,
            replace(signature, keep=(), target="cpu"),
            weights=parameters or None,
            inputs=inputs,
            sampling=sampling,
        )
    if isinstance(subject, DagNet):
        mode = "test" if subject.mode == "test" else "normal"
        return check_model(MatModel.of_dagnn(subject), inputs or {}, mode, sampling)
    if isinstance(subject, SimpleNet):
        given = inputs if isinstance(inputs, Mapping) else {"x1": inputs}
        model, classes = MatModel.with_classes(subject)
        return check_model(model, {**classes, **given}, "normal", sampling)
    if isinstance(subject, (str, Path)):
        return _check_file(Path(subject), inputs, sampling)
    raise NetError(f"an operator, a net or a path can be checked, not {type(subject).__name__}")


def _check_file(path: Path, inputs: Any, sampling: Sampling) -> list[Finding]:
    if path.suffix == ".py":
        return [f for cls in operators_in(path) for f in check_operator(cls, None, sampling)]
    if path.suffix.lower() == ".mat":
        return check_model(MatModel.load(path), inputs or {}, "test", sampling)
    definition = read_net(path)
    signature = Signature(dtype="float64")
    if not inputs:
        signature = small_shapes(definition, signature)
    return check_net(definition, signature, inputs=inputs, sampling=sampling)


def operators_in(path: Path) -> list[type[Op]]:
    """The operators that a Python file defines. Raises NetError where it cannot be loaded."""
    try:
        path.open().close()
    except OSError as error:
        raise unreadable(path, error) from None
    name = path.stem
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    held = sys.modules.get(name)
    sys.modules[name] = module  # where a class finds the names in its annotations
    try:
        specification.loader.exec_module(module)
    except NetError:
        raise
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise NetError(f"cannot load '{path}': {type(error).__name__}: {error}") from error
    finally:
        if held is None:
            del sys.modules[name]
        else:
            sys.modules[name] = held
    found = [cls for cls in REGISTRY.values() if vars(module).get(cls.__name__) is cls]
    found = [cls for cls in found if cls.__module__ == name]
    need(found, f"'{path}' defines no operator; @graphc.operator makes a class one")
    return found


def check_operator(
    subject: Op | type[Op], inputs: Sequence[Any] | None, sampling: Sampling
) -> list[Finding]:
    """Check one operator: on arrays, or on its examples.

    Raises NetError for arrays without an instance, or where it has no examples or cannot be run.
    """
    if inputs is not None:
        need(isinstance(subject, Op), "arrays are for an instance of an operator: Name(...)")
        assert isinstance(subject, Op)
        arrays = [np.asarray(array) for array in inputs]
        arrays = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
        return _check_application(subject, arrays, [a.dtype.kind == "f" for a in arrays], sampling)
    findings: list[Finding] = []
    for number, example in enumerate(subject.examples()):
        if isinstance(subject, Op) and example.op != subject:
            continue
        rng = np.random.default_rng([sampling.seed, number])
        arrays = [np.asarray(sample.draw(rng)) for sample in example.inputs]
        moved = [s.differentiable and s.type.is_real for s in example.inputs]
        findings += _check_application(example.op, arrays, moved, sampling)
    need(findings, f"operator '{subject.op_name}' has no example to be checked on; give arrays")
    return findings


def _check_application(
    op: Op, arrays: Sequence[np.ndarray], moved: Sequence[bool], sampling: Sampling
) -> list[Finding]:
    """Check one operator on one set of inputs; an operator without a gradient may have a reason."""
    graph = Graph(op.op_name)
    names = _input_names(op, len(arrays))
    values = [
        graph.input(name, TensorType(str(array.dtype), array.shape))
        for name, array in zip(names, arrays, strict=True)
    ]
    made = op(*values) if values else graph.apply(op)
    outputs = (made,) if isinstance(made, Value) else tuple(made)
    results = []
    for number, value in enumerate(outputs):
        name = "y" if len(outputs) == 1 else f"y{number}"
        while name in graph.values:
            name += "_"
        graph.blobs[name] = graph.outputs[name] = value
        if value.type.is_real:
            results.append(name)
    wrt = [name for name, is_moved in zip(names, moved, strict=True) if is_moved]
    feed = dict(zip(names, arrays, strict=True))
    try:
        function = GraphFunction(graph, wrt, results, feed, sampling.seed)
    except NetError as error:
        if "has no gradient" not in str(error):
            raise
        found = _without_gradient(graph, op, wrt, results, feed, str(error), sampling)
    else:
        found = check_function(function, str(op), wrt, sampling)
    return _value_findings(op, graph, feed, sampling) + found


def _value_findings(
    op: Op, graph: Graph, feed: Mapping[str, np.ndarray], sampling: Sampling
) -> list[Finding]:
    """The operator's kernel against its reference, where it has one; in float64."""
    if not has_reference(op):
        return []
    outputs = {name: value for name, value in graph.outputs.items() if name in graph.blobs}
    made = compile_graph_call(graph)(feed)
    found = {name: made[name] for name in outputs}
    return check_values(op, list(feed.values()), found, sampling.tolerance)


def _without_gradient(
    graph: Graph,
    op: Op,
    wrt: Sequence[str],
    results: Sequence[str],
    feed: Mapping[str, np.ndarray],
    error: str,
    sampling: Sampling,
) -> list[Finding]:
    """An operator that cannot have a gradient is told from one that lacks it."""
    function = GraphFunction(graph, (), results, feed, sampling.seed)
    found = check_function(function, str(op), wrt, sampling)
    return [
        f if f.status == "not differentiable"
        else Finding(f.layer, f.name, f.shape, "no gradient", reason=error)
        for f in found
    ]  # fmt: skip


def _input_names(op: Op, count: int) -> list[str]:
    """What the operator calls its inputs; x0, x1 and so on where it does not name each."""
    said = op.scalar if isinstance(op, Map) else op.infer
    parameters = list(inspect.signature(said).parameters.values())
    parameters = [p for p in parameters if p.name != "k"]
    named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(named) == count and len(parameters) == count:
        return named
    return [f"x{position}" for position in range(count)]
