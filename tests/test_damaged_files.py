"""Files of weights, states and arrays with broken bytes: an error with a name, in little memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from graphc.error import NetError
from graphc.frontends.caffe.caffemodel import read_blob, read_weights
from graphc.frontends.caffe.caffemodel_writer import write_blob, write_weights
from graphc.frontends.caffe.hdf5 import (
    hdf5_shapes,
    read_hdf5_arrays,
    read_hdf5_weights,
    write_hdf5_weights,
)
from graphc.frontends.caffe.solverstate import SolverState, read_solverstate, write_solverstate
from graphc.frontends.matconvnet.mat_file import read_mat
from graphc.numpy_file import array_shape, read_array, read_arrays

CASES = 400
MOST_BYTES = 100 << 20
LAYERS = {"fc": [np.ones((3, 4), np.float32), np.ones(3, np.float32)]}
STATE = SolverState(3, "w", 1, [array for arrays in LAYERS.values() for array in arrays])


def write_mat(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = np.ones((3, 4))
        file["x"].attrs["MATLAB_class"] = np.bytes_("double")
    data = path.read_bytes()
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + data[128:])


def write_data(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.ones((6, 3)), chunks=(2, 3), compression="gzip")


KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "a.caffemodel": (lambda p: write_weights(p, "net", LAYERS), read_weights),
    "a.caffemodel.h5": (
        lambda p: write_hdf5_weights(p, {n: dict(enumerate(a)) for n, a in LAYERS.items()}),
        read_hdf5_weights,
    ),
    "a.solverstate": (lambda p: write_solverstate(p, STATE), read_solverstate),
    "a.solverstate.h5": (lambda p: write_solverstate(p, STATE), read_solverstate),
    "a.binaryproto": (lambda p: write_blob(p, np.ones((1, 3, 4, 4), np.float32)), read_blob),
    "a.npy": (lambda p: np.save(p, LAYERS["fc"][0]), read_array),
    "a.npz": (lambda p: np.savez(p, a=LAYERS["fc"][0]), read_arrays),
    "a.mat": (write_mat, read_mat),
    "shape.npy": (lambda p: np.save(p, LAYERS["fc"][0]), array_shape),
    "a.h5": (write_data, lambda p: (hdf5_shapes(p), read_hdf5_arrays(p, ["x"]))),
}


def damaged(data: bytes, seed: str) -> Iterator[bytes]:
    """The file cut short, and with some bits, bytes and words changed, most near its beginning."""
    rng = random.Random(seed)
    for case in range(CASES):
        broken = bytearray(data)
        if case % 5 == 0:
            yield bytes(broken[: rng.randrange(len(broken))])
            continue
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(min(len(data), rng.choice([128, 1024, len(data)])))
            width = rng.choice([0, 1, 4, 8])
            if width == 0:
                broken[at] ^= 1 << rng.randrange(8)
            else:
                broken[at : at + width] = rng.choice([b"\xff", b"\x7f", b"\0"]) * width
        yield bytes(broken)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_errors(name: str, tmp_path: Path) -> None:
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    read(path)
    refused = 0
    for broken in damaged(path.read_bytes(), name):
        path.write_bytes(broken)
        tracemalloc.start()
        try:
            read(path)
        except NetError as error:
            assert name in str(error)
            refused += 1
        finally:
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert most < MOST_BYTES
    assert refused > CASES // 10


@pytest.mark.parametrize("huge", [(1 << 40,), (1 << 28,)])
@pytest.mark.parametrize("name", ["iter", "learned_net", "history/0"])
def test_a_state_that_claims_a_huge_array(huge: tuple[int, ...], name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.solverstate.h5"
    write_solverstate(path, STATE)
    with h5py.File(path, "a") as file:
        kind = file[name].dtype
        del file[name]
        file.create_dataset(name, huge, kind, chunks=(1 << 20,))
    with pytest.raises(NetError, match=r"a\.solverstate\.h5.*" + name) as refused:
        read_solverstate(path)
    assert "more than the memory" in str(refused.value) or "the file holds" in str(refused.value)


def test_chunks_that_do_not_fit_their_data_set(tmp_path: Path) -> None:
    """The library itself would take gigabytes and not come back."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = np.ones((6, 6, 4, 4))
        file.create_dataset("x", data=data, chunks=(2, 3, 4, 4), compression="gzip")
    content = path.read_bytes()
    # The shape: version 1, so many axes, and whether their largest extents follow the extents.
    four, one = (bytes([1, axes, 1, 0, 0, 0, 0, 0, *(6).to_bytes(8, "little")]) for axes in (4, 1))
    assert content.count(four) == 1
    path.write_bytes(content.replace(four, one))
    with pytest.raises(NetError, match="chunks of another rank"):
        read_hdf5_arrays(path, ["x"])
