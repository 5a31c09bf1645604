"""Whatever a user may hand over wrongly is one clear NetError, and the net can still be used.

What could end the process where a check is missing (huge shapes, empty blobs, wrong labels) runs in
a process of its own.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import NetError

NET = """name: "small"
force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer {
  name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
DATA = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
LABEL = np.array([2, 0])


def small(**options: Any) -> graphc.Net:
    return graphc.Net(NET, **options)


def message(action: Callable[[], Any]) -> str:
    """The text of the NetError that the action raises, which must speak of one thing only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        with pytest.raises(NetError) as caught:
            action()
    assert len(caught.value.diagnostics) == 1, str(caught.value)
    text = str(caught.value)
    assert text.strip()
    assert "Traceback" not in text
    return text


def alone(script: str) -> str:
    """The NetError that a script prints when it runs in a process of its own."""
    program = textwrap.dedent(script)
    head = f"import warnings, numpy as np, graphc\nwarnings.simplefilter('ignore')\nNET = {NET!r}\n"
    tail = "\nprint('NOT REFUSED')\n"
    guarded = f"try:\n{textwrap.indent(program + tail, '    ')}"
    guarded += "except graphc.NetError as error:\n    print(error)\n"
    ran = subprocess.run(
        [sys.executable, "-c", head + guarded], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, f"ended with {ran.returncode}: {ran.stderr[-500:]}"
    assert "NOT REFUSED" not in ran.stdout
    return ran.stdout


# -- definitions -----------------------------------------------------------------------------------

IMAGE = 'input: "x" input_shape { dim: 1 dim: 2 dim: 8 dim: 8 }\n'


def layer(type: str, options: str = "", head: str = IMAGE) -> str:
    return f'{head}layer {{ name: "one" type: "{type}" bottom: "x" top: "y" {options} }}\n'


def conv(fields: str) -> str:
    return layer("Convolution", f"convolution_param {{ {fields} }}")


def pool(fields: str) -> str:
    return layer("Pooling", f"pooling_param {{ {fields} }}")


def ip(fields: str) -> str:
    return layer("InnerProduct", f"inner_product_param {{ {fields} }}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (layer("Convolutoin"), "unknown layer type 'Convolutoin'\n did you mean 'Convolution'?"),
        (layer("ReLU", "relu_param { slope: 1 }"), "ReLUParameter has no field 'slope'"),
        (conv("num_output: 2 kernal_size: 3"), "no field 'kernal_size'\n 'kernel_size'?"),
        (layer("ReLU", 'bottom: "z"'), "unknown bottom blob 'z'"),
        ('layer { name: "x" type: "Input" top: "x" }\n', "no shape is given for the input 'x'"),
        (IMAGE + 'layer { name: "one" type: "ReLU" top: "y" }\n', "takes 1 bottoms, not 0"),
        ('layer { name: "one" }\n', "layer 'one' has no type"),
        ("name: 'nothing'\n", "the net has no layers"),
        ("\n", "the net has no layers"),
        (conv("kernel_size: 3"), "num_output must be given"),
        (conv("num_output: 2"), "kernel_size is missing"),
        (conv("num_output: 2 kernel_size: 9"), "does not fit into an image of [8, 8]"),
        (conv("num_output: 2 kernel_size: 0"), "kernel must be at least 1"),
        (conv("num_output: 2 kernel_size: 3 stride: 0"), "stride must be at least 1"),
        (conv("num_output: 2 kernel_size: 3 dilation: 0"), "dilation must be at least 1"),
        (conv("num_output: 2 kernel_size: 3 group: 0"), "group must be at least 1"),
        (conv("num_output: 3 kernel_size: 3 group: 2"), "num_output 3 cannot be split into 2"),
        (conv("num_output: 3 kernel_size: 3 group: 3"), "2 channels cannot be split into 3"),
        (conv("num_output: 2 kernel_size: 3 pad: -1"), "'pad' must not be negative"),
        (conv("num_output: 2 kernel_size: 3 axis: 9"), "axis 9 does not exist"),
        (pool("kernel_size: 9"), "do not fit into an image of [8, 8]"),
        (pool("kernel_size: 0"), "kernel_size must be given"),
        (pool("kernel_size: 3 stride: 0"), "stride must be at least 1"),
        (pool("kernel_size: 3 pad: 3"), "must be smaller than the kernel"),
        (pool("kernel_size: 3 pool: MEDIAN"), "PoolMethod has no value 'MEDIAN'"),
        (ip("num_output: 0"), "num_output must be given and be at least 1"),
        (ip("num_output: 2 axis: 7"), "axis 7 does not exist"),
        (ip("num_output: 2.5"), "num_output"),
        (ip('num_output: 2 weight_filler { type: "wibble" }'), "unknown filler type 'wibble'"),
        (layer("LRN", "lrn_param { local_size: 4 }"), "local_size"),
        (layer("Dropout", "dropout_param { dropout_ratio: 1 }"), "less than 1, not 1"),
        (layer("Softmax", "softmax_param { axis: 4 }"), "axis 4 does not exist"),
        (layer("Reshape", "reshape_param { shape { dim: 7 dim: -1 } }"), "128"),
        (layer("Slice", 'top: "z" slice_param { slice_point: 8 }'), "slice points [8]"),
        (layer("Concat", 'bottom: "x" concat_param { axis: 6 }'), "axis 6 does not exist"),
        (layer("EuclideanLoss", 'bottom: "x" loss_weight: 1 loss_weight: 2'), "2 loss_weight"),
        (layer("ReLU", "propagate_down: true propagate_down: false"), "2 propagate_down"),
        (layer("ReLU") + layer("ReLU", head=""), "already produced by layer 'one'"),
        (
            'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: -1 } } }\n',
            "negative",
        ),
    ],
)
def test_definitions(text: str, said: str) -> None:
    found = message(lambda: graphc.Net(text))
    for part in said.split("\n "):
        assert part in found
    assert "<text>:" in found, "the place is missing"


def test_shapes_of_several_bottoms_must_agree() -> None:
    text = 'input: "x" input: "w" input_shape { dim: 2 dim: 3 } input_shape { dim: 2 dim: 4 }\n'
    found = message(lambda: graphc.Net(layer("Eltwise", 'bottom: "w"', text)))
    assert "'x' is [2, 3]" in found
    assert "'w' is [2, 4]" in found


def test_all_errors_of_a_definition_come_at_once() -> None:
    text = conv("num_output: 2 kernel_size: 9")
    text += 'layer { name: "two" type: "Pooling" bottom: "x" top: "z" }\n'
    text += 'layer { name: "three" type: "ReLU" bottom: "y" top: "r" }\n'  # its bottom is broken
    with pytest.raises(NetError) as caught:
        graphc.Net(text)
    found = [diagnostic.message for diagnostic in caught.value.diagnostics]
    assert len(found) == 2
    assert "layer 'one'" in found[0]
    assert "layer 'two'" in found[1]


@pytest.mark.parametrize(
    "source", ["nothing.prototxt", "", "{", "}\n", "layer {\n", "\x00\n", "layer: 3\n", "a: b: c\n"]
)
def test_texts_and_paths_that_hold_no_net_are_refused(source: str) -> None:
    with pytest.raises(NetError):
        graphc.Net(source)


@pytest.mark.parametrize("source", [None, 3, b"layer {}", ["a"], {}])
def test_sources_of_another_kind(source: Any) -> None:
    assert "a net is a path or a text" in message(lambda: graphc.Net(source))


def test_a_folder_is_no_definition(tmp_path: Path) -> None:
    assert "cannot read" in message(lambda: graphc.Net(tmp_path))


# -- arguments of the constructor ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"phase": "DEPLOY"}, "phase is TRAIN or TEST, not 'DEPLOY'"),
        ({"phase": None}, "phase is TRAIN or TEST"),
        ({"dtype": "float16"}, "dtype is float32 or float64"),
        ({"memory": "some"}, "memory: 'all', 'reuse' or a budget"),
        ({"infogain_input": "logits"}, "infogain_input is 'scores' or 'probabilities'"),
        ({"threads": 0}, "threads is a whole number from 1 to 256"),
        ({"threads": -1}, "threads is"),
        ({"threads": 10**9}, "threads is"),
        ({"threads": 1.5}, "threads is"),
        ({"threads": "2"}, "threads is"),
        ({"seed": -1}, "seed is a whole number"),
        ({"seed": 2**80}, "seed is"),
        ({"seed": 0.5}, "seed is"),
        ({"seed": "a"}, "seed is"),
        ({"level": "high"}, "level is a whole number"),
        ({"stages": [3]}, "stages is a sequence of names"),
        ({"keep": 3}, "keep is a sequence of names"),
        ({"keep": [3]}, "keep is a sequence of names"),
        ({"keep": ["ipp"]}, "keep: there is no blob 'ipp'; did you mean 'ip'?"),
        ({"keep": ["nothing.diff"]}, "keep: there is no blob 'nothing.diff'"),
        ({"masks": ["drop"]}, "a mask is given for 'drop', which is no layer"),
        ({"shapes": {"dta": (2, 4)}}, "no net input 'dta'; did you mean 'data'?"),
        ({"shapes": {"data": (2, -4)}}, "negative"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    assert said in message(lambda: small(**options))


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("nothing.caffemodel", "cannot read 'nothing.caffemodel'"),
        ("random:many", "needs a whole number"),
        (3, "weights are a path, a dict or 'random:SEED'"),
        ({"ip": 3}, "'ip' needs a sequence of arrays"),
        ({"ip": "ab"}, "'ip' needs a sequence of arrays"),
        ({"ip": [np.zeros((3, 4))]}, "layer 'ip' has 2 parameters"),
        ({"ip": [np.zeros((3, 5)), np.zeros(3)]}, "parameter 0 of layer 'ip'"),
        ({"ip": [np.zeros((3, 4), complex), np.zeros(3)]}, "an array of complex128"),
        ({"ip": [np.zeros((3, 4), object), np.zeros(3)]}, "an array of object"),
        ({"ip": [[[1, 2], [3]], np.zeros(3)]}, "not an array"),
        ({"ip/1": np.zeros(3)}, "'ip/1' comes before 'ip/0'"),
        ({"ipp": [np.zeros((3, 4)), np.zeros(3)]}, "no layer name is one of the net's"),
        ({4: [np.zeros((3, 4))]}, "4 is no layer's name"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(type(value).__name__),
)
def test_wrong_weights_are_refused_and_the_old_ones_stay(weights: Any, said: str) -> None:
    net = small()
    held = [p.data.copy() for p in net.params["ip"]]
    assert said in message(lambda: net.copy_from(weights))
    for blob, values in zip(net.params["ip"], held, strict=True):
        np.testing.assert_array_equal(blob.data, values)
    assert said in message(lambda: small(weights=weights))


def test_a_truncated_caffemodel_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    net = small()
    net.save(tmp_path / "whole.caffemodel")
    whole = (tmp_path / "whole.caffemodel").read_bytes()
    held = net.params["ip"][0].data.copy()
    for length in range(0, len(whole), 5):
        path = tmp_path / "part.caffemodel"
        path.write_bytes(whole[:length])
        net.params["ip"][0].data[...] = 7
        try:
            net.copy_from(path)
        except NetError as error:
            assert "part.caffemodel" in str(error)
            assert (net.params["ip"][0].data == 7).all()
        else:  # a file may end between two layers: then what it holds is whole
            np.testing.assert_array_equal(net.params["ip"][0].data, held)
    path.write_bytes(whole[: len(whole) // 2])
    assert "part.caffemodel" in message(lambda: net.copy_from(path))


def test_a_file_of_noise_is_no_caffemodel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.caffemodel"
    for length in (1, 10, 1000):
        path.write_bytes(rng.bytes(length))
        assert "noise.caffemodel" in message(lambda: small(weights=path))


def test_weights_that_cannot_be_written(tmp_path: Path) -> None:
    net = small()
    wrong: Any = 3
    assert "cannot write" in message(lambda: net.save(tmp_path / "no folder" / "a.caffemodel"))
    assert "cannot write" in message(lambda: net.save(tmp_path))
    assert "a path is needed" in message(lambda: net.save(wrong))


def test_names_that_would_steer_a_terminal_are_shown() -> None:
    name = "fc\x1b[2J\x07\x9b"
    text = NET.replace('bottom: "data"', 'bottom: "fc\\033[2J\\007\u009b"')
    net = small()
    for found in (message(lambda: graphc.Net(text)), message(lambda: net.blobs[name])):
        assert r"'fc\x1b[2J\x07\x9b'" in found
        assert found.replace("\n", "").isprintable()
    assert str(graphc.NetWarning(f"layer '{name}'")) == r"layer 'fc\x1b[2J\x07\x9b'"


def test_names_with_an_end_of_line_are_names() -> None:
    head, odd = 'name: "small"', 'name: "a\\r\\n\\"b\\342\\200\\256"'
    assert head in NET
    text = NET.replace(head, odd).replace('"ip"', '"i\\n\\"p"')
    net = graphc.Net(text)
    assert net.name == 'a\r\n"b\u202e'
    found = net.forward(data=DATA, label=LABEL)["loss"]
    np.testing.assert_array_equal(found, small().forward(data=DATA, label=LABEL)["loss"])


# -- arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 5)), "input 'data' has shape [2, 4]; an array of [2, 5] was given"),
        (np.zeros((4, 2)), "has shape [2, 4]"),
        (np.zeros(8), "has shape [2, 4]"),
        (np.zeros((1, 2, 4)), "has shape [2, 4]"),
        (3.0, "has shape [2, 4]"),
        (np.zeros((2, 4), complex), "complex128"),
        (np.zeros((2, 4), object), "object"),
        (np.full((2, 4), "a"), "give real numbers"),
        (np.zeros((2, 4), "datetime64[s]"), "give real numbers"),
        (np.zeros((2, 4), [("a", "f4")]), "give real numbers"),
        ([[1, 2, 3, 4], [1, 2, 3]], "not an array"),
        (None, "give real numbers"),
        ("data.npy", "give real numbers"),
        ({"a": 1}, "give real numbers"),
        (np.full((2, 4), np.nan), "input 'data' holds nan, first at [0, 0]"),
    ],
    ids=range(15),
)
def test_wrong_input_arrays_are_refused_and_the_net_still_works(array: Any, said: str) -> None:
    net = small()
    wanted = float(net.forward(data=DATA, label=LABEL)["loss"])
    assert said in message(lambda: net.forward(data=array))
    if said.endswith("[0, 0]"):  # the array was good enough to be copied
        assert said in message(lambda: net.forward())
        net.set_inputs({"data": DATA})
    assert float(net.forward()["loss"]) == wanted


def test_a_nan_in_a_given_gradient_is_refused() -> None:
    """As among the inputs, given or written; infinity is taken, as there."""
    net = small()
    said = "the gradient of 'ip' holds nan, first at [1, 2]"
    seed = np.ones((2, 3), np.float32)
    net.forward(data=DATA, label=LABEL)
    before = net.backward(ip=seed, wrt=["data"])["data"].copy()
    broken = seed.copy()
    broken[1, 2] = np.nan
    assert said in message(lambda: net.backward(ip=broken, wrt=["data"]))
    assert said in message(lambda: net.forward_backward({}, {"ip": broken}, wrt=["data"]))
    np.testing.assert_array_equal(net.backward(ip=seed, wrt=["data"])["data"], before)
    net.blobs["ip"].diff[1, 2] = np.nan
    assert said in message(lambda: net.backward(start="ip", wrt=["data"]))
    broken[1, 2] = np.inf
    assert not np.isfinite(net.backward(ip=broken, wrt=["data"])["data"]).all()


def test_inputs_are_taken_all_or_none() -> None:
    net = small()
    wanted = float(net.forward(data=DATA, label=LABEL)["loss"])
    assert "input 'label'" in message(lambda: net.forward(data=0 * DATA, label=np.zeros(3)))
    assert "no net input 'lable'" in message(lambda: net.forward(data=0 * DATA, lable=LABEL))
    assert float(net.forward()["loss"]) == wanted


@pytest.mark.parametrize("passes", ["forward", "forward_backward"])
@pytest.mark.parametrize("label", [-1, 3, 1000, 2**40, 1e30, -1e30, np.inf, -np.inf, np.nan])
def test_labels_that_are_no_class_are_refused_and_nothing_changes(
    label: float, passes: str
) -> None:
    net = small()
    wanted = float(net.forward(data=DATA, label=LABEL)["loss"])
    net.backward()
    held = net.params["ip"][0].diff.copy()

    def run() -> None:
        bad = {"label": [0, label]}
        if passes == "forward":
            net.forward(**bad)
        else:
            net.forward_backward(bad)

    found = message(run)
    assert "label" in found
    assert ("nan" if np.isnan(label) else "0 .. 2") in found
    np.testing.assert_array_equal(net.params["ip"][0].diff, held)
    assert float(net.forward(label=LABEL)["loss"]) == wanted
    net.backward()
    np.testing.assert_allclose(net.params["ip"][0].diff, 2 * held, rtol=1e-6)


def test_a_refused_call_draws_no_random_numbers() -> None:
    text = NET.replace(
        'layer { name: "loss"',
        'layer { name: "d" type: "Dropout" bottom: "ip" top: "ip" }\nlayer { name: "loss"',
    )
    nets = [graphc.Net(text, phase=graphc.TRAIN) for _ in range(2)]
    message(lambda: nets[0].forward(data=DATA, label=[0, 9]))
    message(lambda: nets[0].forward_backward({"data": DATA, "label": [0, 9]}))
    losses = [
        [net.forward(data=DATA, label=LABEL)["loss"].copy() for _ in range(4)] for net in nets
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 4)), "the gradient of 'ip' has shape [2, 3]"),
        (np.zeros((2, 3), complex), "complex128"),
        ([[1, 2, 3], [1]], "not an array"),
        (None, "give real numbers"),
    ],
    ids=range(4),
)
def test_gradient_arrays(array: Any, said: str) -> None:
    net = small()
    net.forward(data=DATA, label=LABEL)
    assert said in message(lambda: net.backward(ip=array))
    assert said in message(lambda: net.forward_backward({}, {"ip": array}))
    assert net.backward()["data"].any()


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda n: n.forward(dta=DATA), "no net input 'dta'; did you mean 'data'?"),
        (lambda n: n.forward(ip=np.zeros((2, 3))), "no net input 'ip'"),
        (lambda n: n.forward(blobs=["ipp"]), "no blob 'ipp'; did you mean 'ip'?"),
        (lambda n: n.forward(start="losss"), "no layer 'losss'; did you mean 'loss'?"),
        (lambda n: n.forward(end=3), "no layer '3'"),
        (lambda n: n.forward(start="loss", end="ip"), "'loss' comes after layer 'ip'"),
        (lambda n: n.forward(start="loss", data=DATA), "no input of this part 'data'"),
        (
            lambda n: n.forward(start="loss", blobs=["data"]),
            "blob 'data' lies outside of the part from layer 'loss'",
        ),
        (
            lambda n: n.forward(start="ip", end="ip", blobs=["loss"]),
            "blob 'loss' lies outside of the part from layer 'ip' to layer 'ip'",
        ),
        (lambda n: n.forward(DATA), "blobs is a sequence of names"),
        (lambda n: n.backward(DATA), "diffs is a sequence of names"),
        (lambda n: setattr(n, "threads", 1.5), "threads is a whole number from 1 to 256"),
        (lambda n: setattr(n, "threads", 0), "threads is a whole number from 1 to 256"),
        (lambda n: copy.deepcopy(n), "a net cannot be copied or pickled"),
        (lambda n: pickle.dumps(n), "a net cannot be copied or pickled"),
        (lambda n: n.backward(wrt=["nothing"]), "no blob or parameter 'nothing'"),
        (lambda n: n.backward(wrt=["ip/2"]), "no blob or parameter 'ip/2'"),
        (lambda n: n.backward(wrt=[3]), "wrt is a sequence of names"),
        (lambda n: n.backward(wrt=3), "wrt is a sequence of names"),
        (lambda n: n.backward(wrt=["label"]), "'label' has no gradient: layer 'loss'"),
        (lambda n: n.backward(diffs=["label"]), "'label' has no gradient"),
        (lambda n: n.backward(ipp=DATA), "no blob or parameter 'ipp'; did you mean 'ip'?"),
        (lambda n: n.backward(start="lost"), "no layer 'lost'; did you mean 'loss'?"),
        (lambda n: n.backward(end="ipp"), "no layer 'ipp'; did you mean 'ip'?"),
        (lambda n: n.forward_backward({"label": LABEL}, {"ipp": DATA}), "'ipp'"),
        (lambda n: n.blobs["ipp"], "no blob 'ipp'; did you mean 'ip'?"),
        (lambda n: n.params["ipp"], "no layer with parameters 'ipp'; did you mean 'ip'?"),
        (lambda n: n.blobs["ip"].reshape(2, 3), "only inputs can be reshaped"),
        (lambda n: n.blobs["data"].reshape(2, -4), "whole numbers of at least 0"),
        (lambda n: n.blobs["data"].reshape(2.5, 4), "whole numbers of at least 0"),
        (lambda n: n.blobs["data"].reshape("2", 4), "whole numbers of at least 0"),
    ],
)
def test_wrong_names_are_refused_and_the_net_still_works(
    action: Callable[[graphc.Net], Any], said: str
) -> None:
    net = small()
    wanted = float(net.forward(data=DATA, label=LABEL)["loss"])
    assert said in message(lambda: action(net))
    assert net.backward()["data"].any()
    assert float(net.forward()["loss"]) == wanted


@pytest.mark.parametrize(
    "action",
    [
        lambda n: n.backward(),
        lambda n: n.backward(wrt=["data"]),
        lambda n: n.loss,
        lambda n: n.blobs["ip"].data,
        lambda n: n.blobs["loss"].data,
        lambda n: n.forward(start="loss"),
    ],
)
def test_before_the_first_forward_pass(action: Callable[[graphc.Net], Any]) -> None:
    net = small(keep=["ip"])
    assert "forward pass" in message(lambda: action(net))
    net.forward(data=DATA, label=LABEL)
    action(net)


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        "graphc.Net(NET.replace('dim: 2 dim: 4', 'dim: 1000000 dim: 1000000'))",
        "graphc.Net(NET.replace('dim: 2 dim: 4', 5 * 'dim: 1000000000 '))",
        "graphc.Net(NET.replace('num_output: 3', 'num_output: 1000000000000'))",
        "graphc.Net(NET.replace('num_output: 3', 'num_output: 4000000000'))",
        "net = graphc.Net(NET)\nnet.blobs['data'].reshape(10**6, 10**6)\nnet.reshape()",
        "net = graphc.Net(NET)\nnet.blobs['data'].reshape(10**12, 4)\nnet.forward()",
        "graphc.Net(NET, shapes={'data': (10**12, 4)})",
    ],
)
def test_more_elements_than_any_machine_holds(script: str) -> None:
    found = alone(script)
    assert any(word in found for word in ("elements", "memory", "out of range"))
    assert len(found) < 1000


def test_huge_windows() -> None:
    for fields in (
        "num_output: 2 kernel_size: 3 pad: 4000000000",
        "num_output: 2 kernel_size: 4294967295",
        "num_output: 2 kernel_size: 3 dilation: 4000000000",
        "num_output: 2 kernel_size: 3 pad: 200000",
    ):
        assert "layer 'one'" in (found := alone(f"graphc.Net({conv(fields)!r}).forward()")) or (
            "memory" in found
        )


def test_a_reshape_that_is_refused_leaves_the_net_as_it_was() -> None:
    net = small()
    wanted = float(net.forward(data=DATA, label=LABEL)["loss"])
    for shape in ((10**6, 10**6), (5, 4), (2, 5), (2, 4, 2), (4,)):
        net.blobs["data"].reshape(*shape)
        message(lambda: net.reshape())
        assert net.blobs["data"].shape == (2, 4)
        assert float(net.forward()["loss"]) == wanted


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "text",
    [
        conv("num_output: 2 kernel_size: 3").replace("dim: 1", "dim: 0"),
        pool("kernel_size: 3 stride: 2").replace("dim: 1", "dim: 0"),
        pool("pool: AVE kernel_size: 3 stride: 2").replace("dim: 1", "dim: 0"),
        ip("num_output: 2").replace("dim: 1", "dim: 0"),
        layer("Softmax").replace("dim: 1", "dim: 0"),
        layer("LRN").replace("dim: 1", "dim: 0"),
        layer("Flatten").replace("dim: 1", "dim: 0"),
        layer("EuclideanLoss", 'bottom: "x"').replace("dim: 1", "dim: 0"),
        layer("Concat", 'bottom: "x" concat_param { axis: 0 }').replace("dim: 1", "dim: 0"),
        layer("Slice", 'top: "z" slice_param { axis: 0 }').replace("dim: 1", "dim: 0"),
        layer("Softmax").replace("dim: 2", "dim: 0"),
    ],
)
def test_a_batch_of_nothing(text: str, threads: int) -> None:
    """Caffe takes it; results are empty, and parameter gradients zero."""
    program = f"""
import warnings, numpy as np, graphc
warnings.simplefilter("ignore")
net = graphc.Net("force_backward: true " + {text!r}, threads={threads})
y = net.forward()["y"]
assert net.backward()["x"].shape == net.blobs["x"].shape
assert 0 in net.blobs["x"].shape and (y.size == 0 or not y.any())
assert not any(p.diff.any() for layer in net.params.values() for p in layer)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr[-800:]


def test_a_batch_of_nothing_with_labels() -> None:
    net = small()
    net.blobs["data"].reshape(0, 4)
    net.blobs["label"].reshape(0)
    net.forward()
    assert net.loss == 0
    assert net.backward()["data"].shape == (0, 4)
    assert not net.params["ip"][0].diff.any()
