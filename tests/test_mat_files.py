""".mat files of every age: what MATLAB and MatConvNet have written, and what is no such file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import matlab_hdf5
import numpy as np
import pytest
import scipy.io
from mat_nets import cell
from matlab_hdf5 import Function, Sparse, Structs
from scipy.sparse import csc_matrix

import graphc
from graphc import NetError, dagnn, vl
from graphc.frontends.matconvnet import block_struct as dagnn_blocks
from graphc.frontends.matconvnet.mat_file import read_mat

RNG = np.random.default_rng(4)
FILTERS = RNG.standard_normal((3, 2, 2, 4)).astype("f4")
BIASES = RNG.standard_normal((1, 4)).astype("f4")
X = RNG.standard_normal((5, 6, 2, 3)).astype("f4")
MATLAB_FILES = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"


# -- version 7.3 -------------------------------------------------------------------------------


def test_every_class_of_version_7_3(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "matrix": np.arange(6.0).reshape(2, 3),
        "single": np.arange(24, dtype="f4").reshape(2, 3, 2, 2),
        "bytes": np.array([[1, 2]], "u1"),
        "flag": np.array([[True, False]]),
        "text": "naïve ∞",
        "none": np.zeros((0, 0)),
        "nothing": "",
        "cell": ["a", [np.ones((1, 1)), []], {"b": "c"}],
        "structs": Structs([{"k": "x", "v": np.ones((2, 2))}, {"k": "", "v": np.zeros((0, 0))}]),
        "no_structs": Structs(),
        "nested": {"inner": {"deep": np.eye(2), "code": Function()}},
        "sparse": Sparse(np.array([[0, 2.0, 0], [3, 0, 0], [0, 0, 0], [4, 5, 6]])),
    }
    path = tmp_path / "all.mat"
    matlab_hdf5.write(path, values)
    found = read_mat(path)
    assert set(found) == set(values)
    for name in ("matrix", "single", "bytes", "flag"):
        np.testing.assert_array_equal(found[name], values[name])
        assert found[name].dtype == values[name].dtype
    np.testing.assert_array_equal(found["sparse"], values["sparse"].whole)
    assert found["text"] == "naïve ∞"
    assert found["nothing"] == ""
    assert found["none"].size == 0
    assert found["no_structs"] == []
    assert found["cell"][0] == "a"
    assert found["cell"][1][1] == []
    assert found["cell"][2] == {"b": "c"}
    assert [struct["k"] for struct in found["structs"]] == ["x", ""]
    np.testing.assert_array_equal(found["structs"][0]["v"], np.ones((2, 2)))
    np.testing.assert_array_equal(found["nested"]["inner"]["deep"], np.eye(2))
    assert found["nested"]["inner"]["code"] == "@function"


def test_rows_of_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.mat"
    matlab_hdf5.write(path, {"other": np.ones((1, 1))})
    with h5py.File(path, "a") as file:
        rows = np.array([[ord(c) for c in row] for row in ("one  ", "three")], np.uint16)
        made = file.create_dataset("rows", data=rows.T)
        made.attrs["MATLAB_class"] = np.bytes_("char")
    assert read_mat(path)["rows"] == ["one  ", "three"]


def test_a_simplenn_net_of_version_7_3(tmp_path: Path) -> None:
    layers = [
        {"type": "conv", "name": "c1", "weights": [FILTERS, BIASES], "pad": np.ones((1, 1))},
        {"type": "pool", "name": "p1", "pool": np.array([[2.0, 3.0]]), "method": "avg"},
        {"type": "relu", "name": "r1", "leak": np.zeros((0, 0)), "precious": np.array([[False]])},
    ]
    path = tmp_path / "net.mat"
    matlab_hdf5.write(path, {"net": {"layers": layers, "meta": {"about": "a test"}}})
    net = graphc.SimpleNet.load(path)
    assert net.meta == {"about": "a test"}
    wanted = vl.relu(vl.pool(vl.conv(X, FILTERS, BIASES, pad=1), [2, 3], method="avg"))
    np.testing.assert_array_equal(graphc.simplenn(net, X)[-1].x, wanted)


def test_a_dagnn_net_of_version_7_3(tmp_path: Path) -> None:
    conv = {"size": np.array([[3.0, 2.0, 2.0, 4.0]]), "hasBias": np.array([[True]])}
    struct = {"name": "", "type": "", "inputs": [], "outputs": [], "params": [], "block": {}}
    layers = Structs(
        [
            {
                **struct,
                **{"name": "c", "type": "dagnn.Conv", "inputs": ["x"], "outputs": ["y"]},
                **{"params": ["f", "b"], "block": conv | {"opts": ["cuDNN"]}},
            },
            {**struct, "name": "r", "type": "dagnn.ReLU", "inputs": ["y"], "outputs": ["z"]},
        ]
    )
    params = Structs([{"name": "f", "value": FILTERS}, {"name": "b", "value": BIASES}])
    names = Structs([{"name": n, "precious": np.array([[n == "y"]])} for n in "xyz"])
    path = tmp_path / "net.mat"
    variables = {"layers": layers, "params": params, "vars": names, "meta": {}}
    matlab_hdf5.write(path, variables)
    net = graphc.DagNet.load(path)
    net.eval({"x": X})
    wanted = vl.conv(X, FILTERS, BIASES)
    np.testing.assert_array_equal(net.vars["y"].value, wanted)
    np.testing.assert_array_equal(net.vars["z"].value, vl.relu(wanted))


def broken(path: Path, change: str) -> None:
    """A file of version 7.3 in which something is wrong."""
    matlab_hdf5.write(path, {"layers": [{"type": "relu"}], "m": Sparse(np.eye(3))})
    if change == "cut short":
        path.write_bytes(path.read_bytes()[:-700])
        return
    if change == "header alone":
        path.write_bytes(path.read_bytes()[:600])
        return
    with h5py.File(path, "a") as file:
        if change == "contains itself":
            made = file.create_dataset("loop", (1, 1), dtype=h5py.ref_dtype)
            made.attrs["MATLAB_class"] = np.bytes_("cell")
            made[0, 0] = made.ref
        elif change == "null reference":
            made = file.create_dataset("null", (1, 1), dtype=h5py.ref_dtype)
            made.attrs["MATLAB_class"] = np.bytes_("cell")
        elif change == "link outside":
            file["away"] = h5py.ExternalLink("/etc/passwd", "/")
        elif change == "huge":
            made = file.create_dataset("big", (1 << 40, 1 << 10), "f8", chunks=(1, 1 << 10))
            made.attrs["MATLAB_class"] = np.bytes_("double")
        elif change == "sparse rows":
            file["m"].attrs["MATLAB_sparse"] = np.uint64(2)
        elif change == "huge sparse":
            file["m"].attrs["MATLAB_sparse"] = np.uint64(1 << 60)
        elif change == "columns":
            group = file.create_group("uneven")
            group.attrs["MATLAB_class"] = np.bytes_("struct")
            for count in (1, 2):
                column = group.create_dataset(f"f{count}", (count, 1), dtype=h5py.ref_dtype)
                for i in range(count):
                    column[i, 0] = file["m"].ref


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("cut short", "is no .mat file that can be read"),
        ("header alone", "is no .mat file that can be read"),
        ("contains itself", "levels deep"),
        ("null reference", "is no .mat file that can be read"),
        ("link outside", "'away' is a link to elsewhere"),
        ("huge", "more than the memory"),
        ("sparse rows", "indices do not fit"),
        ("huge sparse", "too large"),
        ("columns", "different lengths"),
    ],
)
def test_broken_files_of_version_7_3(tmp_path: Path, change: str, said: str) -> None:
    path = tmp_path / "net.mat"
    broken(path, change)
    with pytest.raises(NetError, match=said) as info:
        graphc.SimpleNet.load(path)
    assert "net.mat" in str(info.value)


# -- files that MATLAB itself wrote ------------------------------------------------------------

needs_files = pytest.mark.skipif(not MATLAB_FILES.is_dir(), reason="scipy came without its files")


@needs_files
@pytest.mark.parametrize("name", sorted(p.name for p in MATLAB_FILES.glob("*.mat")))
def test_files_of_matlab_are_read_or_refused(name: str) -> None:
    try:
        found = read_mat(MATLAB_FILES / name)
    except NetError as error:
        assert name in str(error)
    else:
        assert found
        with pytest.raises(NetError, match="holds no SimpleNN net"):
            graphc.SimpleNet.load(MATLAB_FILES / name)


def test_damaged_files_of_level_5(tmp_path: Path) -> None:
    """Cut short, or with other bytes, they are read or refused, whatever their lengths say."""
    layer = {
        "type": "relu",
        "name": "r",
        "w": np.arange(6.0).reshape(2, 3),
        "s": csc_matrix(np.eye(4)),
    }
    rng, path = np.random.default_rng(7), tmp_path / "net.mat"
    refused = 0
    for compressed in (False, True):
        scipy.io.savemat(path, {"net": {"layers": cell(layer, layer)}}, do_compression=compressed)
        whole = path.read_bytes()
        layers = read_mat(path)["net"]["layers"]
        np.testing.assert_array_equal(layers[1]["w"], np.arange(6.0).reshape(2, 3))
        np.testing.assert_array_equal(layers[0]["s"], np.eye(4))
        for _ in range(300):
            damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for place in rng.integers(0, len(damaged), 3):
                damaged[place] = rng.choice([0, 1, 127, 255, rng.integers(256)])
            path.write_bytes(damaged)
            try:
                read_mat(path)
            except NetError as error:
                refused += 1
                assert "net.mat" in str(error)
    assert refused > 300


def test_arrays_in_each_other_without_end(tmp_path: Path) -> None:
    value: Any = 1.0
    for _ in range(150):
        value = cell(value)
    scipy.io.savemat(tmp_path / "net.mat", {"net": value})
    with pytest.raises(NetError, match="more than 100 deep"):
        read_mat(tmp_path / "net.mat")


@needs_files
def test_what_matlab_wrote() -> None:
    def read(name: str) -> Any:
        (value,) = read_mat(MATLAB_FILES / name).values()
        return value

    assert read("testfunc_7.4_GLNX86.mat") == "@function"
    assert read("test_empty_struct.mat") == {}
    assert read("testscalarcell_7.4_GLNX86.mat") == [1]
    assert read("one_by_zero_char.mat") == ""
    assert read("teststringarray_7.4_GLNX86.mat") == ["one  ", "two  ", "three"]
    assert read("teststructnest_7.4_GLNX86.mat")["two"] == {"three": "number 3"}
    assert read("testsparse_7.4_GLNX86.mat").shape == (3, 5)
    assert read("logical_sparse.mat").any()
    assert read("testcomplex_7.4_GLNX86.mat").dtype == complex
    assert read_mat(MATLAB_FILES / "big_endian.mat")["floats"].dtype == np.float32


# -- MatConvNet's formats through the years ----------------------------------------------------


def test_the_first_format(tmp_path: Path) -> None:
    """As in imagenet-vgg-f.mat of 2014: filters and biases, classes and normalization beside."""
    layers = cell(
        {"type": "conv", "filters": FILTERS, "biases": BIASES, "stride": 1, "pad": 0},
        {"type": "relu", "rememberOutput": True},
        {"type": "normalize", "param": [5.0, 2.0, 1e-4, 0.75]},
        {"type": "pool", "pool": [2.0, 2.0], "stride": 1, "pad": [0.0, 1.0, 0.0, 1.0]},
        {"type": "softmax"},
    )
    path = tmp_path / "net.mat"
    normalization = {"imageSize": [5.0, 6.0, 2.0], "averageImage": np.zeros((5, 6, 2), "f4")}
    classes = {"name": cell("cat", "dog"), "description": cell("a", "b")}
    scipy.io.savemat(path, {"layers": layers, "classes": classes, "normalization": normalization})
    net = graphc.SimpleNet.load(path)
    assert [layer["name"] for layer in net.layers] == [f"layer{i}" for i in range(1, 6)]
    assert net.layers[1]["precious"] is True
    assert net.meta["classes"]["name"] == ["cat", "dog"]
    y = vl.relu(vl.conv(X, FILTERS, BIASES))
    y = vl.pool(vl.normalize(y, [5, 2, 1e-4, 0.75]), 2, pad=[0, 1, 0, 1])
    res = graphc.simplenn(net, X, conserve_memory=True)
    np.testing.assert_allclose(res[-1].x, vl.softmax(y), rtol=1e-5)
    assert res[2].x is not None


def test_fields_that_are_empty_get_their_defaults(tmp_path: Path) -> None:
    nothing = np.zeros((0, 0))
    layers = cell(
        {"type": "conv", "weights": cell(FILTERS, nothing), "pad": nothing, "stride": nothing},
        {"type": "bnorm", "weights": cell(np.ones((4, 1), "f4"), np.zeros((4, 1), "f4"))},
        {"type": "dropout", "rate": nothing, "name": nothing},
    )
    path = tmp_path / "net.mat"
    scipy.io.savemat(path, {"net": {"layers": layers, "meta": nothing}})
    net = graphc.SimpleNet.load(path)
    assert (net.layers[0]["pad"], net.layers[0]["stride"], net.layers[2]["rate"]) == (0, 1, 0.5)
    assert net.layers[1]["weights"][2].shape == (4, 2)
    assert net.layers[2]["name"] == "layer3"


def test_blocks_with_missing_fields(tmp_path: Path) -> None:
    """As in nets that were imported from Caffe: no vars, params of name and value, bare blocks."""
    kinds = {
        "dagnn.Conv": {"size": [3.0, 2.0, 2.0, 4.0], "fanout": 1.0},
        "dagnn.ReLU": {},
        "dagnn.Pooling": {"poolSize": [2.0, 2.0], "opts": cell("cuDNN")},
        "dagnn.LRN": np.zeros((0, 0)),
        "dagnn.DropOut": {"rate": 0.25, "frozen": False},
        "dagnn.SoftMax": {},
    }
    layers = [
        {
            "name": f"l{i}",
            "type": kind,
            "inputs": cell(f"x{i}"),
            "outputs": cell(f"x{i + 1}"),
            "params": cell("f", "b") if i == 0 else cell(),
            "block": block,
        }
        for i, (kind, block) in enumerate(kinds.items())
    ]
    params = [{"name": "f", "value": FILTERS, "fanout": 1}, {"name": "b", "value": BIASES}]
    path = tmp_path / "net.mat"
    scipy.io.savemat(path, {"layers": cell(*layers), "params": cell(*params), "meta": {}})
    net = graphc.DagNet.load(path)
    net.mode = "test"
    net.eval({"x0": X})
    y = vl.normalize(vl.pool(vl.relu(vl.conv(X, FILTERS, BIASES)), 2))
    np.testing.assert_allclose(net.vars["x6"].value, vl.softmax(y), rtol=1e-5)
    assert net.layers["l4"].block.rate == 0.25


# -- saving ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "struct", "said"),
    [
        ("layers", {"type": "dagnn.ReLU", "block": {"a": 1.0}}, "layer 1 has no name"),
        ("layers", {"name": np.ones(3), "block": {"a": 1.0}}, "layer 1 has no name"),
        ("vars", {"precious": 1.0}, "variable 1 has no name"),
        ("vars", {"name": "y", "precious": np.ones(20)}, "'precious' of variable 'y'"),
        ("params", {"value": 1.0}, "parameter 1 has no name"),
        ("params", {"name": "f", "learningRate": "much"}, "'learningRate' of parameter 'f'"),
    ],
)
def test_a_dagnn_net_with_a_part_missing(
    tmp_path: Path, part: str, struct: dict[str, Any], said: str
) -> None:
    conv = {"name": "c", "type": "dagnn.Conv", "inputs": cell("x"), "outputs": cell("y")}
    conv |= {"params": cell("f"), "block": {"size": [1.0, 1, 1, 1], "hasBias": 0.0}}
    whole = {"layers": cell(conv), "vars": cell({"name": "x"}), "params": cell()}
    scipy.io.savemat(tmp_path / "net.mat", whole)
    assert list(graphc.DagNet.load(tmp_path / "net.mat").layers) == ["c"]
    scipy.io.savemat(tmp_path / "net.mat", {**whole, part: cell(struct)})
    with pytest.raises(NetError, match=said):
        graphc.DagNet.load(tmp_path / "net.mat")


def test_a_dagnn_net_that_is_saved(tmp_path: Path) -> None:
    net = graphc.DagNet()
    conv = dagnn.Conv((3, 2, 2, 4), pad=(1, 0, 2, 0), dilate=(1, 2))
    net.add_layer("c", conv, "x", "y", ("f", "b"))
    net.add_layer("n", dagnn.BatchNorm(4, 1e-3), "y", "n", ("g", "h", "m"))
    net.add_layer("r", dagnn.ReLU(leak=0.1, use_short_circuit=False), "n", "z")
    net.add_layer("p", dagnn.Pooling((2, 1), "avg", stride=(1, 2)), "z", "q")
    net.add_layer("d", dagnn.DropOut(rate=0.25), "q", "e")
    weights = np.array([1.0, 0.5, 2.0])
    loss = dagnn.Loss("mhinge", opts={"instanceWeights": weights, "topK": 3})
    net.add_layer("l", loss, ("e", "label"), "objective")
    net.init_params(0)
    net.vars["z"].precious = True
    net.params["b"].learning_rate = 2.0
    net.meta = {"inputSize": [5, 6, 2], "classes": {"name": ["cat", "dog"]}}
    net.save(tmp_path / "net.mat")
    again = graphc.DagNet.load(tmp_path / "net.mat")
    assert list(again.layers) == list(net.layers)
    assert again.vars["z"].precious and not again.vars["y"].precious
    assert (again.params["b"].learning_rate, again.params["m"].train_method) == (2.0, "average")
    assert again.meta["classes"] == {"name": ["cat", "dog"]}
    block = again.layers["c"].block
    assert (list(block.pad), list(block.dilate), block.has_bias) == ([1, 0, 2, 0], [1, 2], True)
    assert again.layers["l"].block.settled().top_k == 3
    inputs = {"x": X, "label": np.array([1.0, 4.0, 2.0])}
    for made in (net, again):
        made.mode = "test"
        made.eval(inputs, {"objective": 1})
    np.testing.assert_array_equal(again.vars["z"].value, net.vars["z"].value)
    for name in ("f", "b", "g"):
        np.testing.assert_array_equal(again.params[name].der, net.params[name].der)
    again.save(tmp_path / "again.mat")
    stored = [(tmp_path / name).read_bytes()[128:] for name in ("net.mat", "again.mat")]
    assert stored[0] == stored[1]


def test_a_dagnn_net_from_its_own_structure() -> None:
    net = graphc.DagNet()
    net.add_layer("c", dagnn.Conv((1, 1, 2, 4), stride=2), "x", "y", ("f", "b"))
    net.init_params(0)
    net.vars["y"].precious = True
    again = graphc.DagNet.from_struct(net.to_struct())
    assert again.layers["c"].block == net.layers["c"].block
    assert again.vars["y"].precious and not again.vars["x"].precious
    np.testing.assert_array_equal(again.params["f"].value, net.params["f"].value)


@pytest.mark.parametrize("struct", [{"vars": []}, {}, [], None])
def test_a_structure_without_layers_is_refused(struct: Any) -> None:
    with pytest.raises(NetError, match="a dict with 'layers'"):
        graphc.DagNet.from_struct(struct)


@pytest.mark.parametrize("name", sorted(dagnn_blocks.BLOCKS))
def test_every_block_is_saved(tmp_path: Path, name: str) -> None:
    net = graphc.DagNet()
    net.add_layer("l", dagnn_blocks.BLOCKS[name](), "x", "y")
    net.save(tmp_path / "net.mat")
    again = graphc.DagNet.load(tmp_path / "net.mat")
    wanted, found = net.to_struct()["layers"], again.to_struct()["layers"]
    for key, value in wanted[0]["block"].items():
        np.testing.assert_array_equal(np.ravel(found[0]["block"][key]), np.ravel(value), key)


def test_a_simplenn_net_that_is_saved(tmp_path: Path) -> None:
    layers = [
        {"type": "conv", "name": "c", "weights": [FILTERS, None], "pad": [1, 0, 2, 0]},
        {"type": "bnorm", "weights": [np.ones(4, "f4"), np.zeros(4, "f4")]},
        {"type": "relu", "leak": 0.1, "precious": True},
        {"type": "softmaxloss", "class": np.array([1, 2, 3])},
    ]
    net = graphc.SimpleNet(layers, {"about": "a test"})
    net.save(tmp_path / "net.mat")
    again = graphc.SimpleNet.load(tmp_path / "net.mat")
    assert again.meta == {"about": "a test"}
    assert again.layers[2]["precious"] is True
    wanted, found = graphc.simplenn(net, X, 1.0), graphc.simplenn(again, X, 1.0)
    np.testing.assert_array_equal(found[-1].x, wanted[-1].x)
    np.testing.assert_array_equal(found[0].dzdw[0], wanted[0].dzdw[0])
    assert found[0].dzdw[1] is None


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    own = graphc.DagNet()
    own.add_layer("mine", dagnn.PythonBlock(lambda x: x), "x", "y")
    with pytest.raises(NetError, match=r"layer 'mine' has a block of your own \(PythonBlock\)"):
        own.save(tmp_path / "net.mat")
    ours = graphc.DagNet()
    ours.add_layer("l", dagnn.Loss(label_smoothing=0.1), ("x", "label"), "y")
    with pytest.raises(NetError, match=r"layer 'l' has label_smoothing=0.1, which MatConvNet's"):
        ours.save(tmp_path / "net.mat")
    ours = graphc.DagNet()
    ours.add_layer("l", dagnn.SoftTargetLoss(), ("x", "t"), "y")
    with pytest.raises(NetError, match="'l' is a SoftTargetLoss, which MatConvNet does not have"):
        ours.save(tmp_path / "net.mat")
    custom = graphc.SimpleNet([{"type": "custom", "name": "mine", "forward": None}])
    with pytest.raises(NetError, match="'mine' is custom"):
        custom.save(tmp_path / "net.mat")
    net = graphc.SimpleNet([{"type": "relu"}], {"code": print})
    with pytest.raises(NetError, match=r"'meta\.code' is builtin_function_or_method"):
        net.save(tmp_path / "net.mat")
    net.meta = {}
    with pytest.raises(NetError, match="cannot write"):
        net.save(tmp_path / "none" / "net.mat")
    assert not list(tmp_path.iterdir())
