"""The manager verifies after every pass, and keeps what each made."""

from __future__ import annotations

import pytest

from graphc.error import NetError
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType
from graphc.passes.manager import Pass, run
from graphc.passes.pipeline import compile_graph


def net() -> Graph:
    graph = Graph()
    x = graph.input("x", TensorType("float32", (2,)))
    graph.outputs["y"] = (x * 1.0) * 2.0
    graph.losses = [(graph.outputs["y"], 1.0)]
    graph.blobs["y"] = graph.outputs["y"]
    return graph


def break_it(graph: Graph) -> Graph:
    new, _ = graph.copy()
    new.nodes.reverse()
    return new


def test_a_wrong_pass_is_named():
    with pytest.raises(NetError, match=r"pass 'breaks' made a wrong graph: .* before it is made"):
        run(net(), [Pass("breaks", "reverses the nodes", break_it)])


def test_stages_are_kept_on_request():
    graph = net()
    stages = compile_graph(graph, ["x"], keep_stages=True).stages
    names = [stage.name for stage in stages]
    asked = ["start", "clean", "fuse", "sweep", "commute", "backward", "finish", "expand"]
    assert names == asked
    assert [stage.nodes for stage in stages][:2] == [2, 1]
    backward = stages[names.index("backward")].graph
    assert backward is not None
    assert "x.diff" in backward.outputs
    assert all(stage.graph is None for stage in compile_graph(graph).stages)


def test_the_given_graph_stays_as_it_is():
    graph = net()
    compile_graph(graph, ["x"], keep=["y"])
    assert len(graph.nodes) == 2
    assert graph.kept == set()


@pytest.mark.parametrize("name", ["yy", "yy.diff"])
def test_an_unknown_name_to_keep_is_refused(name: str):
    with pytest.raises(NetError, match="no blob, input or parameter 'yy'"):
        compile_graph(net(), keep=[name])
