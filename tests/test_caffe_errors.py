"""Definitions that Caffe refuses: graphc refuses them at the same stage, and says where and what.

The places and words below are graphc's own; Caffe's messages name the same things.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases_folder

import graphc
from graphc.error import NetError

FOLDER = cases_folder() / "caffe" / "errors"

# name -> line:column of the first complaint, and words it must hold.
PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "err_accuracy_forced_backward": ("7:11", ("Accuracy", "no gradient", "force_backward")),
    "err_axis_out_of_range": ("7:25", ("axis 2", "[2, 3]")),
    "err_bad_enum": ("7:25", ("MIN", "PoolMethod")),
    "err_bn_lr_mult": ("7:3", ("lr_mult", "statistics", "must be 0")),
    "err_bottom_before_top": ("4:11", ("unknown bottom blob 'data'", "order")),
    "err_concat_shapes": ("3:1", ("[2, 3, 4]", "[2, 3, 5]", "axis 1")),
    "err_crop_too_big": ("9:32", ("axis 2", "5", "extent")),
    "err_duplicate_top": ("12:8", ("top blob 'o'", "already produced")),
    "err_eltwise_prod_coeff": ("9:42", ("coeff", "sum", "product")),
    "err_eltwise_shapes": ("3:1", ("one shape", "[2, 3]", "[2, 4]")),
    "err_float_for_int": ("7:35", ("whole number", "2.5")),
    "err_group_channels": ("7:59", ("3 channels", "2 groups")),
    "err_group_outputs": ("7:35", ("num_output 3", "2 groups")),
    "err_include_and_exclude": ("8:3", ("include", "exclude", "one kind only")),
    "err_infogain_normalize": ("11:27", ("'normalize'", "'normalization'")),
    "err_inplace_reader_after": ("25:8", ("in place", "'h'")),
    "err_inplace_with_reader": ("19:8", ("in place", "'h'")),
    "err_ip_two_bottoms": ("3:1", ("InnerProduct", "1 bottom", "2")),
    "err_label_gradient": ("21:11", ("SigmoidCrossEntropyLoss", "no gradient", "'y'")),
    "err_layer_and_layers": ("2:1", ("'layer'", "'layers'", "not both")),
    "err_loss_batch_mismatch": ("3:1", ("[4, 3]", "[3]", "first extent")),
    "err_loss_weight_count": ("8:3", ("1 loss_weight", "2 tops")),
    "err_lrn_even": ("7:27", ("local_size", "odd", "4")),
    "err_missing_brace": ("1:1", ("not closed", "'}'")),
    "err_negative_kernel": ("7:50", ("kernel_size", "negative")),
    "err_no_kernel": ("2:1", ("kernel_size", "missing")),
    "err_pool_both_kernels": ("7:32", ("kernel_size", "kernel_h", "not both")),
    "err_pool_global_kernel": ("7:53", ("global_pooling", "kernel_size")),
    "err_pool_pad_ge_kernel": ("7:39", ("pad", "smaller than the kernel")),
    "err_propagate_down_count": ("9:3", ("1 propagate_down", "2 bottoms")),
    "err_reshape_count": ("7:19", ("10 elements", "12")),
    "err_share_shape": ("10:1", ("'w'", "[4, 3]", "[4, 4]")),
    "err_slice_points": ("8:30", ("2 slice points", "2 tops")),
    "err_slice_uneven": ("2:1", ("[2, 5]", "evenly", "2 tops")),
    "err_softmaxloss_two_tops": ("9:8", ("2 tops", "loss_weight")),
    "err_softmaxloss_two_tops_weights": ("3:1", ("SoftmaxWithLoss", "one top")),
    "err_unknown_bottom": ("5:11", ("unknown bottom blob 'dta'", "did you mean 'data'")),
    "err_unknown_field": ("2:56", ("no field 'foo'", "LayerParameter")),
    "err_unknown_filler": ("7:61", ("filler", "'gauss'", "did you mean 'gaussian'")),
    "err_unknown_layer_type": ("4:9", ("unknown layer type 'Convolutional'", "'Convolution'")),
}

# Definitions that graphc treats in another way, on purpose.
DIFFERENT = {
    "err_nbsp": "no-break spaces count as white space, with a warning, so that nets pasted from a"
    " web page work",
}


def cases(what: str) -> list[str]:
    """Names of the recorded definitions of one kind."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        if json.loads(path.read_text())["what"] == what:
            found.append(path.stem)
    return found


def run(path: Path, recorded: dict[str, Any]) -> None:
    """Build, forward, backward, as far as the definition lets it; the notes say the stage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        net = staged("build", lambda: graphc.Net(path, phase=recorded["phase"], threads=1))
    inputs = {
        name: np.asarray(values, np.float32).reshape(net.blobs[name].shape)
        for name, values in (recorded.get("inputs") or {}).items()
    }
    staged("forward", lambda: net.forward(**inputs))
    staged("backward", net.backward)


def staged(stage: str, call: Any) -> Any:
    try:
        return call()
    except NetError as error:
        error.add_note(stage)
        raise


@pytest.mark.parametrize("name", cases("net"))
def test_definition(name: str) -> None:
    if name in DIFFERENT:
        pytest.skip(DIFFERENT[name])
    recorded = json.loads((FOLDER / f"{name}.json").read_text())
    path = FOLDER / recorded["file"]
    if not recorded["rejected"]:
        run(path, recorded)
        return
    with pytest.raises(NetError) as raised:
        run(path, recorded)
    assert raised.value.__notes__ == [recorded["stage"]]
    place, words = PLACES[name]
    text = str(raised.value)
    assert text.startswith(f"{path}:{place}: error: "), text
    for word in words:
        assert word in text, text


def test_pasted_net_is_accepted_with_a_warning() -> None:
    with pytest.warns(graphc.NetWarning, match="no-break space"):
        graphc.Net(FOLDER / "err_nbsp.prototxt")


def test_every_refused_definition_has_a_place() -> None:
    refused = {name for name in cases("net") if name.startswith("err_")}
    assert refused and refused <= set(PLACES) | set(DIFFERENT)


# -- rules that the recorded definitions do not reach ----------------------------------------------

DATA = 'layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }\n'
WITHOUT_GRADIENT = {
    "ArgMax": 'layer { name: "l" type: "ArgMax" bottom: "x" top: "y" }',
    "Threshold": 'layer { name: "l" type: "Threshold" bottom: "x" top: "y" }',
    "Embed": 'layer { name: "l" type: "Embed" bottom: "x" top: "y"'
    " embed_param { input_dim: 3 num_output: 2 } }",
    "BatchReindex": 'layer { name: "i" type: "Input" top: "i" input_param { shape { dim: 2 } } }\n'
    'layer { name: "l" type: "BatchReindex" bottom: "x" bottom: "i" top: "y" }',
}


@pytest.mark.parametrize("kind", WITHOUT_GRADIENT)
def test_force_backward_is_refused_where_there_is_no_gradient(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphc.NetWarning)
        net = graphc.Net("force_backward: true\n" + DATA + WITHOUT_GRADIENT[kind], threads=1)
    net.forward()
    with pytest.raises(NetError, match=f"{kind}.* has no gradient .* force_backward"):
        net.backward()


def test_accuracy_beside_a_loss_is_no_obstacle() -> None:
    net = graphc.Net(
        DATA + 'layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 4 } } }\n'
        'layer { name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param'
        ' { num_output: 3 weight_filler { type: "xavier" } } }\n'
        'layer { name: "a" type: "Accuracy" bottom: "f" bottom: "t" top: "a" }\n'
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "f" bottom: "t" top: "l" }',
        threads=1,
    )
    net.forward(x=np.ones((4, 3), np.float32))
    net.backward()
    assert net.params["f"][0].diff.any()
