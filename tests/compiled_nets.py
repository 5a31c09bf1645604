"""Small nets, and what compiling makes of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_programs import SAMPLES

import graphc
from graphc import driver
from graphc.artifact import save
from graphc.driver import Compilation, Signature
from graphc.linker import Form

LOSS_NET = """
name: "losses"
force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 3 } } }
layer {
  name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss" loss_weight: 2
}
"""

DROPOUT_NET = """
name: "drop"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 50 } } }
layer {
  name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 40 weight_filler { type: "msra" } }
}
layer { name: "drop" type: "Dropout" bottom: "ip" top: "y" }
"""

ODD_NAMES = """
name: "2 odd-n\u00e4mes \\"*/ ??="
layer { name: "a" type: "Input" top: "a = \\"b\\"" input_param { shape { dim: 1 dim: 4 } } }
layer { name: "n" type: "TanH" bottom: "a = \\"b\\"" top: "\u00fc%s" }
"""


class Sample:
    """A net, and what `graphc compile` would make of it."""

    def __init__(self, source: str | Path, given=(), wrt=(), **options):
        self.given, self.wrt = tuple(given), tuple(wrt)
        self.net = graphc.Net(source, seed=3, **options)
        self.parameters = {
            blob.name: blob.data for blobs in self.net.params.values() for blob in blobs
        }
        self.signature = Signature(
            phase=options.get("phase", graphc.TEST),
            given=self.given,
            wrt=self.wrt,
            dtype=options.get("dtype", "float32"),
        )

    def lowered(self) -> Compilation:
        return driver.lower(self.net.definition, self.signature)

    def save(
        self, path: Path, form: Form, beside: bool | None = None, target=None, name=None
    ) -> list[Path]:
        return save(self.lowered(), self.parameters, path, form, target, beside, name)

    def forward(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        self.net.prepare(wrt=())
        return {name: array.copy() for name, array in self.net.forward(**inputs).items()}

    def gradients(self, inputs: dict, given: dict) -> dict[str, np.ndarray]:
        found = self.net.forward_backward(inputs, given, wrt=list(self.wrt))
        return {name: array.copy() for name, array in found.items()}


def digits(grad: bool = False, **options) -> Sample:
    asked = {"given": ["score"], "wrt": ["data"]} if grad else {}
    return Sample(SAMPLES / "digits.prototxt", **asked, **options)


def image(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(5).random((1, 1, 8, 8)).astype(dtype)


def bad_inputs(place: Path) -> dict[str, str]:
    """File name -> what the program has to say about it."""
    good = image()
    np.save(place / "double.npy", good.astype("float64"))
    np.save(place / "shape.npy", good.reshape(1, 64))
    np.save(place / "less.npy", good[..., :4])
    with_nan = good.copy()
    with_nan[0, 0, 2, 1] = np.nan
    np.save(place / "nan.npy", with_nan)
    np.save(place / "good.npy", good)
    data = (place / "good.npy").read_bytes()
    (place / "short.npy").write_bytes(data[:-1])
    (place / "header.npy").write_bytes(data[:40])
    (place / "long.npy").write_bytes(data + b"\0")
    (place / "magic.npy").write_bytes(b"\x89PNG" + data[4:])
    (place / "empty.npy").write_bytes(b"")
    np.save(place / "big.npy", good.astype(">f4"))
    np.save(place / "whole.npy", good.astype("int32"))
    np.save(place / "pairs.npy", np.zeros((1, 1, 8, 8), "f4,f4"))
    np.save(place / "single.npy", np.float32(1))
    (place / "minus.npy").write_bytes(data.replace(b"(1, 1, 8, 8)", b"(1,-1,-8, 8)"))
    (place / "many.npy").write_bytes(data.replace(b"(1, 1, 8, 8)", b"(1,1,99999999999999999999)"))
    (place / "open.npy").write_bytes(data.replace(b"8, 8)", b"8, 8 "))
    (place / "wide.npy").write_bytes(data[:6] + b"\x02\0\xff\xff\xff\xff" + data[10:])
    (place / "zeros.npy").write_bytes(data[:10] + bytes(len(data) - 10))
    (place / "words.npy").write_bytes(data.replace(b"'descr'", b"'mystr'"))
    return {
        "double.npy": "holds '<f8', 'data' needs '<f4' (float32)",
        "shape.npy": "has shape (1, 64), 'data' needs [1, 1, 8, 8]",
        "less.npy": "has shape (1, 1, 8, 4), 'data' needs [1, 1, 8, 8]",
        "big.npy": "holds '>f4', 'data' needs '<f4'",
        "whole.npy": "holds '<i4', 'data' needs '<f4'",
        "pairs.npy": "holds '', 'data' needs '<f4'",
        "single.npy": "has shape (), 'data' needs [1, 1, 8, 8]",
        "minus.npy": "has shape (1,-1,-8, 8), 'data' needs [1, 1, 8, 8]",
        "many.npy": "has shape (1,1,99999999999999999999)",
        "open.npy": "has a damaged header",
        "wide.npy": "has a damaged header",
        "zeros.npy": "has a damaged header",
        "nan.npy": "holds nan, first at element 17",
        "short.npy": "is cut short",
        "header.npy": "is cut short",
        "long.npy": "is longer than its header says",
        "magic.npy": "is not a .npy file",
        "empty.npy": "is not a .npy file",
        "words.npy": "has a damaged header",
        "missing.npy": "cannot be opened",
    }


def needed_libraries(path: Path) -> set[str]:
    """The shared libraries that a program or a library asks for."""
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    text = subprocess.check_output([readelf, "-dW", path], text=True)
    return set(re.findall(r"\(NEEDED\).*\[(.*?)\]", text))


BARE = {"libc.so.6", "libm.so.6", "libpthread.so.0"}
