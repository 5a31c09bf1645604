"""What moves between the processor and the GPU, and that nobody can see that the rest does not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from cuda_programs import needs_compiler
from stand_in_gpu import StandIn
from test_cuda_nets import INCEPTION, LENET, fill

import graphc
from graphc.error import NetError
from graphc.runtime import cuda
from graphc.runtime.cpu import aligned_zeros
from graphc.runtime.cuda_arrays import DeviceArrays, resident

INPUT_BYTES = 6 * 28 * 28 * 4
WEIGHT_BYTES = 100 * 800 * 4  # of ip1, the largest parameter
SOLVER = """
base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.001
type: "{method}" iter_size: {size}
test_iter: 1 test_interval: 1000 test_initialization: false snapshot_prefix: "{prefix}"
net_param {{ {net} }}
"""


@pytest.fixture
def nets(stand_in: StandIn) -> Iterator[tuple[graphc.Net, graphc.Net]]:
    """The same net on the stand-in and in the emulator, filled with the same numbers."""
    made = [
        graphc.Net(LENET, phase=graphc.TRAIN, seed=3, target=target)
        for target in ("cuda", "cuda-emulator")
    ]
    for net in made:
        fill(net, 0)
    yield made[0], made[1]


def assert_same_losses(nets: tuple[graphc.Net, graphc.Net]) -> None:
    for net in nets:
        net.forward()
    assert nets[0].loss == nets[1].loss


# -- tables ---------------------------------------------------------------------------------------


def test_lent_is_what_python_references():
    table = DeviceArrays({"x": aligned_zeros((4, 6), "float32")})
    held = table.held("x")
    assert not held.is_lent
    x = table["x"]
    assert x is table["x"] and held.is_lent
    part = x[1:3, 2].reshape(-1)
    del x
    assert held.is_lent
    part[...] = 7
    del part
    assert not held.is_lent
    assert table["x"][1, 2] == table["x"][2, 2] == 7
    own = np.zeros((2, 3), np.float32)
    table["own"] = own
    assert table.held("own").is_lent and resident(own) is table.held("own")
    del own
    assert not table.held("own").is_lent


def test_memory_of_somebody_else_is_always_lent():
    """Its owner may write there without an array that could be counted."""
    table = DeviceArrays({"x": np.frombuffer(bytearray(64), np.float32)})
    assert table.held("x").is_lent


def test_tables_share_what_is_the_same_memory():
    one, other = DeviceArrays({"x": aligned_zeros((3,), "float32")}), DeviceArrays()
    other["y"] = one["x"]
    assert other.held("y") is one.held("x") and other["y"] is one["x"]
    assert not one.held("x").is_lent


# -- forward and backward -------------------------------------------------------------------------


@needs_compiler
def test_parameters_go_once(stand_in: StandIn, nets: tuple[graphc.Net, graphc.Net]):
    assert_same_losses(nets)
    assert stand_in.moved["to"][WEIGHT_BYTES] == 1
    stand_in.forget_moves()
    for turn in range(3):
        for net in nets:
            fill(net, turn)
        assert_same_losses(nets)
    assert stand_in.largest_moved() == INPUT_BYTES
    assert stand_in.moved["to"][INPUT_BYTES] == 3


@needs_compiler
def test_inputs_that_nobody_has_seen_stay(stand_in: StandIn, nets: tuple[graphc.Net, graphc.Net]):
    executable = nets[0].prepare().executable
    nets[0].forward()
    executable.call("both")
    stand_in.forget_moves()
    executable.call("both")
    assert stand_in.largest_moved() == cuda._ERROR_BYTES


@needs_compiler
def test_what_is_written_in_place_counts(stand_in: StandIn, nets: tuple[graphc.Net, graphc.Net]):
    assert_same_losses(nets)
    weights = [net.params["ip1"][0].data for net in nets]
    for held in weights:
        held *= 0.5
    assert_same_losses(nets)
    rows = [held[3:7] for held in weights]
    del weights, held
    for part in rows:
        part[...] = 0.25
    assert_same_losses(nets)
    for part in rows:
        part[1] = 4  # after a call that the array was lent over
    del rows, part
    assert_same_losses(nets)
    stand_in.forget_moves()
    assert_same_losses(nets)
    assert stand_in.moved["to"][WEIGHT_BYTES] == 0
    for net in nets:
        net.copy_from("random:5")
    assert_same_losses(nets)
    assert stand_in.moved["to"][WEIGHT_BYTES] == 1


@needs_compiler
def test_gradients_come_when_they_are_read(stand_in: StandIn, nets: tuple[graphc.Net, graphc.Net]):
    for net in nets:
        net.forward()
        net.backward()
    stand_in.forget_moves()
    for net in nets:  # added up on the GPU
        net.forward()
        net.backward()
    assert stand_in.moved["to"][WEIGHT_BYTES] == stand_in.moved["from"][WEIGHT_BYTES] == 0
    one, other = (net.params["ip1"][0].diff for net in nets)
    assert stand_in.moved["from"][WEIGHT_BYTES] == 1
    np.testing.assert_array_equal(one, other)
    assert np.abs(one).max() > 0
    for net in nets:
        net.clear_param_diffs()
        net.forward()
        net.backward()
    np.testing.assert_array_equal(one, other)  # the same arrays, brought up to date


@needs_compiler
def test_statistics_are_noted_where_they_are(stand_in: StandIn):
    """A second backward runs forward again from the states as the first pass found them."""
    found = []
    for target in ("cuda", "cuda-emulator"):
        net = graphc.Net(INCEPTION, phase=graphc.TRAIN, seed=3, target=target)
        for turn in range(3):
            fill(net, turn)
            net.forward()
            net.backward()
            stand_in.forget_moves()
            net.backward(wrt=["data"])
            statistics = 16 * 4
            assert stand_in.moved["to"][statistics] == 0 or turn == 0
        found.append({name: array.copy() for name, array in net.values().items()})
    for name, array in found[1].items():
        np.testing.assert_array_equal(found[0][name], array, name)


# -- training -------------------------------------------------------------------------------------


def solver(target: str, folder: object, method: str = "SGD", size: int = 1) -> graphc.Solver:
    text = SOLVER.format(method=method, size=size, net=LENET, prefix=f"{folder}/{target}")
    return graphc.Solver(text, seed=3, target=target)


def train(made: graphc.Solver, turns: range) -> list[float]:
    losses = []
    for turn in turns:
        fill(made.net, turn)
        losses.append(made.step())
    return losses


@needs_compiler
@pytest.mark.parametrize(("method", "size"), [("SGD", 1), ("Adam", 2)])
def test_steps_of_training_move_no_parameters(
    stand_in: StandIn, tmp_path: object, method: str, size: int
):
    made = [solver(target, tmp_path, method, size) for target in ("cuda", "cuda-emulator")]
    assert train(made[0], range(2)) == train(made[1], range(2))
    stand_in.forget_moves()
    assert train(made[0], range(2, 5)) == train(made[1], range(2, 5))
    assert stand_in.largest_moved() == INPUT_BYTES
    for name, array in made[1].net.values().items():
        np.testing.assert_array_equal(made[0].net.values()[name], array, name)
    assert stand_in.moved["from"][WEIGHT_BYTES] >= 2  # the weights, and their history


@needs_compiler
def test_an_array_that_is_held_follows_training(stand_in: StandIn, tmp_path: object):
    made = [solver(target, tmp_path) for target in ("cuda", "cuda-emulator")]
    held = [one.net.params["ip2"][0].data for one in made]
    for turn in range(3):
        train(made[0], range(turn, turn + 1)), train(made[1], range(turn, turn + 1))
        np.testing.assert_array_equal(*held)
        held[0][turn] = held[1][turn] = 0.5
    assert train(made[0], range(3, 5)) == train(made[1], range(3, 5))


@needs_compiler
def test_test_nets_and_snapshots_see_what_was_trained(stand_in: StandIn, tmp_path: object):
    made = [solver(target, tmp_path) for target in ("cuda", "cuda-emulator")]
    scores = []
    for one in made:
        train(one, range(2))
        fill(one.test_nets[0], 9)
        stand_in.forget_moves()
        scores.append(one.test().loss)
        assert stand_in.largest_moved() <= INPUT_BYTES  # one memory for both nets
        one.snapshot()
    assert scores[0] == scores[1]
    one, other = (made[n].net.params["ip1"][0].data for n in (0, 1))
    np.testing.assert_array_equal(one, other)
    del one, other
    for one in made:
        train(one, range(2, 4))
        one.restore(f"{one.definition.folder / one.definition.snapshot_prefix}_iter_2.solverstate")
    assert train(made[0], range(5, 8)) == train(made[1], range(5, 8))


@needs_compiler
@pytest.mark.parametrize("target", ["cpu", "cuda", "cuda-emulator"])
def test_a_refused_batch_changes_nothing(stand_in: StandIn, tmp_path: object, target: str):
    """A wrong label is found in forward; parameters are changed in backward."""
    one = solver(target, tmp_path)
    train(one, range(2))
    before = {name: array.copy() for name, array in one.net.values().items()}
    fill(one.net, 2)
    one.net.blobs["label"].data[1] = 99
    with pytest.raises(NetError, match="found 99"):
        one.step()
    for name, array in before.items():
        np.testing.assert_array_equal(one.net.values()[name], array, name)
