"""What must hold for every Graph. Run between passes: a wrong rewrite is caught where it is."""

from __future__ import annotations

from graphc.error import NetError, need
from graphc.ir.graph import Graph, Node, Value


def verify(graph: Graph) -> None:
    """Raise NetError with one sentence on the first thing that is wrong.

    - Single assignment: a value is an input (it has a role) or the output of exactly one node.
    - Order: a node stands after the nodes that make its inputs.
    - Types: what `infer` says of the inputs is what the outputs have.
    - Names: each value is found under its name; edges of the networkx graph say the same as nodes.
    - Ends: outputs, updates, blobs and losses are values of this graph; an update has the type of
      the state it replaces; constants have data of their type.
    """
    made = _verify_inputs(graph)
    for node in graph.nodes:
        _verify_node(graph, node, made)
        made.update(node.outputs)
    for value in graph.values.values():
        need(value in made, f"{value} is neither an input nor made by a node")
    need(
        len(graph.net) == len(graph.values) + len(graph.nodes),
        "the networkx graph holds something that is neither a value nor a node of the graph",
    )
    _verify_ends(graph)


def _verify_inputs(graph: Graph) -> set[Value]:
    made: set[Value] = set()
    for name, value in graph.values.items():
        need(value.name == name, f"{value} is entered under the name '{name}'")
        need(value.graph is graph, f"{value} belongs to another graph")
        if value.role is None:
            continue
        made.add(value)
        need(graph.producer(value) is None, f"input {value} is made by a node")
        if value.role == "constant":
            data = graph.constants.get(name)
            need(data is not None, f"constant {value} has no data")
            assert data is not None
            fits = data.shape == value.shape and data.dtype == value.type.dtype
            need(fits, f"the data of constant {value} is not {value.type}")
    return made


def _verify_node(graph: Graph, node: Node, made: set[Value]) -> None:
    where = f"node '{node.op}' that makes {', '.join(map(str, node.outputs)) or 'nothing'}"
    for position, value in enumerate(node.inputs):
        need(value.graph is graph, f"{where} reads {value} of another graph")
        need(value in made, f"{where} reads {value} before it is made")
        edge = graph.net.has_edge(value, node, key=position)
        need(edge, f"{where} reads {value} but no edge says so")
    for position, value in enumerate(node.outputs):
        need(
            graph.values.get(value.name) is value, f"{where} makes a value the graph does not know"
        )
        need(value.role is None, f"{where} makes {value}, which is an input")
        need(value not in made, f"{value} is made twice")
        edge = graph.net.has_edge(node, value, key=position)
        need(edge, f"{where} makes {value} but no edge says so")
    need(
        graph.net.in_degree(node) == len(node.inputs)
        and graph.net.out_degree(node) == len(node.outputs),
        f"{where} has edges beyond its inputs and outputs",
    )
    if not graph.unchecked:
        _verify_types(node, where)


def _verify_types(node: Node, where: str) -> None:
    try:
        types = node.op.infer(*(value.type for value in node.inputs))
    except NetError as error:
        raise NetError(f"{where} refuses its inputs: {error}") from None
    types = types if isinstance(types, tuple) else (types,)
    need(
        tuple(value.type for value in node.outputs) == types,
        f"{where} should have the types {', '.join(map(str, types))},"
        f" not {', '.join(str(value.type) for value in node.outputs)}",
    )


def _verify_ends(graph: Graph) -> None:
    ends = [(f"output '{name}'", value) for name, value in graph.outputs.items()]
    ends += [(f"update '{name}'", value) for name, value in graph.updates.items()]
    ends += [(f"blob '{name}'", value) for name, value in graph.blobs.items()]
    ends += [("a loss", value) for value, _ in graph.losses]
    for what, value in ends:
        fits = graph.values.get(value.name) is value
        need(fits, f"{what} is {value}, which is not of this graph")
    for name, value in graph.updates.items():
        state = graph.values.get(name)
        need(
            state is not None and state.role == "state", f"update '{name}' has no state to replace"
        )
        assert state is not None
        need(state.type == value.type, f"update '{name}' makes {value.type} of {state.type}")
