"""Whole compilations kept on disk: nothing that a user can see tells a second start from a first,
and whatever changes a program misses the cache."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import compilation_cache, driver, lowering
from graphc.compilation_cache import compiler_digest
from graphc.driver import Compilation, Signature
from graphc.error import NetError, NetWarning
from graphc.frontends.caffe.caffemodel_writer import write_blob
from graphc.frontends.caffe.definition import read_net
from graphc.ir.op import REGISTRY
from graphc.kernel.text import print_kernel
from graphc.ops.neuron import Relu
from graphc.plan.budget import BudgetError
from graphc.runtime import cache_folder
from graphc.summary import Summary

TEXT = """
name: "small"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
RNG = np.random.default_rng(3)
INPUTS = {
    "data": RNG.standard_normal((4, 3, 6, 6)).astype(np.float32),
    "label": np.array([0, 6, 3, 3], np.float32),
}


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def lowerings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Signature]]:
    """The signatures that went through passes and plan since it was last cleared."""
    seen: list[Signature] = []
    lowered = lowering.lowered

    def noted(caffe: Any, signature: Signature, *rest: Any, **named: Any) -> lowering.Lowering:
        seen.append(signature)
        return lowered(caffe, signature, *rest, **named)

    monkeypatch.setattr(lowering, "lowered", noted)
    yield seen


def make(text: str | Path = TEXT, **options: Any) -> graphc.Net:
    options = {"phase": graphc.TRAIN, "threads": 1, **options}
    return graphc.Net(text, **options)


def results(net: graphc.Net) -> dict[str, np.ndarray]:
    """All that a training call gives, and what its states are afterwards."""
    net.clear_param_diffs()
    net.forward_backward(INPUTS)
    found = {f"{layer}/{i}.diff": b.diff for layer, held in net.params.items()
             for i, b in enumerate(held)}  # fmt: skip
    return {
        k: v.copy() for k, v in {**found, **net.values(), "loss": net.blobs["loss"].data}.items()
    }


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name], equal_nan=True) for name in one
    )


def compilations(folder: Path) -> list[Path]:
    return sorted(folder.glob("net-*")) if folder.is_dir() else []


def shown(made: Compilation) -> list[str]:
    """All that can be looked at."""
    program = made.program
    return [
        *map(str, made.remarks),
        *(stage.name for stage in made.stages),
        repr(program.slots),
        repr(program.buffers),
        *(print_kernel(step.kernel) for step in program.steps),
        repr((program.readable, program.readable_forward, program.overwritten)),
    ]


# -- a second start ------------------------------------------------------------------------------


def test_a_second_start_gives_the_same_and_does_not_compile(
    own_cache: Path, lowerings: list[Signature]
) -> None:
    first = results(make())
    assert len(lowerings) == 1 and len(compilations(own_cache)) == 1
    second = results(make())
    assert same(first, second)
    assert len(lowerings) == 1 and len(compilations(own_cache)) == 1


def test_a_second_start_shows_the_same() -> None:
    first, second = make(), make()
    one, other = first.prepare(), second.prepare()
    assert other.kept is not None and one.kept is None
    assert one.executable and other.executable
    assert one.executable.bundle == other.executable.bundle
    assert one.surface == other.surface
    assert shown(one) == shown(other)
    assert str(make().summary()) == str(first.summary())
    assert isinstance(second.summary(), Summary)


def test_a_second_start_warns_the_same() -> None:
    text = (
        TEXT.replace('"SoftmaxWithLoss" bottom: "ip"', '"SoftmaxWithLoss" bottom: "prob"')
        .replace(
            'layer { name: "loss"',
            'layer { name: "p" type: "Softmax" bottom: "ip" top: "prob" }\nlayer { name: "loss"',
        )
        .replace(
            'weight_filler { type: "xavier" } } }\nlayer { name: "p"', '} }\nlayer { name: "p"'
        )
    )
    said = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            net = make(text)
            net.prepare()
        said.append(([str(w.message) for w in caught if w.category is NetWarning], net.warnings))
    assert said[0] == said[1]
    assert len(said[0][0]) == 2  # two softmaxes; weights that are all zero
    assert "two softmaxes in a row" in said[0][0][0]


def test_errors_come_again() -> None:
    """Of the compiler, and of those who read a blob that is gone."""
    for _ in range(2):
        with pytest.raises(BudgetError, match="the least"):
            make(memory=16).forward(**INPUTS)
    said = []
    for _ in range(2):
        net = make()
        net.forward_backward(INPUTS)
        found = []
        for name in ("conv", "ip"):
            for look in ("data", "diff"):
                try:
                    found.append(getattr(net.blobs[name], look).copy())
                except NetError as error:
                    found.append(str(error))
        said.append(found)
    for one, other in zip(*said, strict=True):
        assert type(one) is type(other)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
    assert any(isinstance(one, str) and "keep=" in one for one in said[0])


def test_a_check_that_fails_names_its_layer() -> None:
    for _ in range(2):
        with pytest.raises(NetError, match=r"'loss' \(SoftmaxWithLoss\).*found 9"):
            make().forward(**{**INPUTS, "label": np.array([0, 9, 3, 3])})


def test_a_solver_starts_from_the_cache(lowerings: list[Signature], tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TEXT)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 random_seed: 4'
    )

    def losses() -> list[float]:
        made = graphc.Solver(solver, threads=1)
        return [made.step(feed=lambda: INPUTS) for _ in range(3)]

    first = losses()
    assert len(lowerings) == 1
    assert losses() == first
    assert len(lowerings) == 1
    solver.write_text(solver.read_text().replace("0.9", "0.8"))
    assert losses()[:2] == first[:2] and losses() != first
    assert len(lowerings) == 2


# -- what misses ---------------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {"phase": graphc.TEST},
    {"threads": 2},
    {"keep": ["conv"]},
    {"memory": "all"},
    {"memory": "1MiB"},
    {"dtype": "float64"},
    {"masks": ["drop"]},
    {"exact": True},
    {"fast_math": ["winograd4"]},
    {"fuse": False},
    {"blockwise_loss": True},
    {"shapes": {"data": (2, 3, 6, 6), "label": (2,)}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_option_misses(
    options: dict[str, Any], own_cache: Path, lowerings: list[Signature]
) -> None:
    make().prepare()
    make(**options).prepare()
    assert len(lowerings) == 2 and len(compilations(own_cache)) == 2


def test_other_gradients_miss(lowerings: list[Signature]) -> None:
    make().prepare()
    make().prepare(wrt=())
    make().prepare(wrt=["data"])
    make().prepare(wrt=["ip"], given=["ip"])
    assert len(lowerings) == 4


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_output: 5", "num_output: 6"),
        ("kernel_size: 3", "kernel_size: 3 stride: 2"),
        ('"Dropout"', '"Dropout" dropout_param { dropout_ratio: 0.4 }'),
        ('top: "loss"', 'top: "loss" loss_weight: 2'),
        ('"InnerProduct"', '"InnerProduct" param { lr_mult: 0 }'),
        ('name: "ip"', 'name: "scores"'),
        ('type: "ReLU"', 'type: "ReLU" relu_param { negative_slope: 0.1 }'),
    ],
)
def test_another_text_misses(old: str, new: str, lowerings: list[Signature]) -> None:
    make().prepare()
    make(TEXT.replace(old, new)).prepare()
    assert len(lowerings) == 2


def test_a_file_that_moved_hits(tmp_path: Path, lowerings: list[Signature]) -> None:
    """And its remarks tell the places in the new file."""
    for name, text in (("a.prototxt", TEXT), ("b.prototxt", f"# a comment\n{TEXT}")):
        (tmp_path / name).write_text(text)
        made = make(tmp_path / name).prepare()
        assert len(lowerings) == 1
    assert "b.prototxt" in str([remark.span for remark in made.remarks])


@pytest.mark.parametrize("name", ["scalar", "x86-64-v2"])
def test_another_target_misses(
    name: str, monkeypatch: pytest.MonkeyPatch, lowerings: list[Signature]
) -> None:
    first = results(make())
    monkeypatch.setenv("GRAPHC_TARGET", name)
    again = results(make())
    assert len(lowerings) == 2
    np.testing.assert_allclose(again["loss"], first["loss"], rtol=1e-5)
    monkeypatch.setenv("GRAPHC_TARGET", "nonsense")
    with pytest.raises(NetError, match="no target is named 'nonsense'"):
        make().prepare()


def test_a_variable_misses(monkeypatch: pytest.MonkeyPatch, lowerings: list[Signature]) -> None:
    make().prepare()
    monkeypatch.setenv("GRAPHC_WINOGRAD", "2")
    make().prepare()
    assert len(lowerings) == 2
    monkeypatch.setenv("GRAPHC_WINOGRAD", "nonsense")
    with pytest.raises(NetError, match="GRAPHC_WINOGRAD is one of"):
        make().prepare()


def test_another_source_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of the compiler counts, not those that only show."""
    package = Path(compilation_cache.__file__).parent
    copy = tmp_path / "graphc"
    shutil.copytree(package, copy)
    monkeypatch.setattr(compilation_cache, "__file__", str(copy / "compilation_cache.py"))
    here = compiler_digest()
    assert compiler_digest() == here
    (copy / "bench" / "work.py").write_text("")
    assert compiler_digest() == here
    digests = {here}
    for place in ("plan/cheap.py", "passes/clean.py", "codegen/llvm/tile.py", "ops/conv.py"):
        text = (copy / place).read_text()
        (copy / place).write_text(text + "#\n")
        digests.add(compiler_digest())
        (copy / place).write_text(text)
    (copy / "ops" / "conv.py").rename(copy / "ops" / "convolve.py")
    digests.add(compiler_digest())
    assert len(digests) == 6


def test_a_numpy_of_another_version_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    here = compiler_digest()
    monkeypatch.setattr(np, "__version__", "0.0")
    assert compiler_digest() != here


def test_an_operator_that_is_not_graphcs_own(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    """It may take part in any net by what it equals; and a method may be replaced later."""

    class Foreign(graphc.Op):
        """Not used by any net."""

    def gradient(self: Any, dy: Any, y: Any, x: Any) -> Any:
        return dy * 2.0

    right = results(make())
    with monkeypatch.context() as patch:
        patch.setitem(REGISTRY, "foreign", Foreign)
        assert make().prepare().kept is None
    with monkeypatch.context() as patch:
        patch.setattr(Relu, "gradient", gradient)
        assert not same(results(make()), right)
    assert len(compilations(own_cache)) == 1
    assert make().prepare().kept is not None
    assert same(results(make()), right)


# -- data of the definition ----------------------------------------------------------------------


def with_matrix(folder: Path, factor: float) -> Path:
    """A net whose loss reads a matrix from a file."""
    matrix = (np.eye(7) * factor + 0.1).astype(np.float32)
    write_blob(folder / "gain.binaryproto", matrix.reshape(1, 1, 7, 7))
    text = TEXT.replace(
        'type: "SoftmaxWithLoss"',
        'type: "InfogainLoss" infogain_loss_param { source: "gain.binaryproto" }',
    )
    path = folder / "net.prototxt"
    path.write_text(text)
    return path


def test_constants_are_kept(tmp_path: Path, lowerings: list[Signature]) -> None:
    first = results(make(with_matrix(tmp_path, 1)))
    assert same(results(make(tmp_path / "net.prototxt")), first)
    assert len(lowerings) == 1
    other = results(make(with_matrix(tmp_path, 2)))
    assert len(lowerings) == 2
    assert other["loss"] > first["loss"]


def test_large_constants_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setattr(compilation_cache, "_MOST_CONSTANT_BYTES", 100)
    first = results(make(with_matrix(tmp_path, 1)))
    assert compilations(own_cache) == []
    assert same(results(make(tmp_path / "net.prototxt")), first)


# -- files that are not as they were written -----------------------------------------------------


def test_a_broken_file_is_not_used(own_cache: Path, lowerings: list[Signature]) -> None:
    first = results(make())
    (entry,) = compilations(own_cache)
    whole = entry.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    for content in (b"", whole[:20], whole[: len(whole) // 2], whole[:-1], bytes(damaged)):
        entry.write_bytes(content)
        lowerings.clear()
        assert same(results(make()), first)
        assert len(lowerings) == 1
        assert entry.read_bytes() == whole


def sealed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def test_a_file_that_says_nonsense_is_not_used(own_cache: Path, lowerings: list[Signature]) -> None:
    """Though its digest fits."""
    first = results(make())
    (entry,) = compilations(own_cache)
    whole = entry.read_bytes()[32:]
    line = len(b"graphc compilation 1\n")
    nonsense = [
        b"",
        whole[:line],
        whole[: line + 7],
        whole[: line + 16],
        whole[:-1],
        whole + b"more",
        whole.replace(b'"blobs"', b'"globs"'),
        whole.replace(b"graphc bundle", b"another thing"),
        whole[:line] + b"\xff" * 16 + whole[line + 16 :],
        whole[: line + 16] + b"[" * (len(whole) - line - 16),
    ]
    for content in nonsense:
        entry.write_bytes(sealed(content))
        lowerings.clear()
        assert same(results(make()), first)
        assert len(lowerings) == 1
        assert entry.read_bytes()[32:] == whole


def test_a_file_for_another_machine_is_not_used(own_cache: Path) -> None:
    """Somebody has copied it under the name of ours."""
    first = results(make())
    (entry,) = compilations(own_cache)
    kept = compilation_cache.read(entry.name)
    assert kept is not None
    for changed in (
        {"triple": "riscv64-unknown-linux-gnu"},
        {"vector_bytes": 4096},
        {"cpu": "pentium"},
        {"objects": (b"no object file",)},
    ):
        strange = replace(kept, bundle=replace(kept.bundle, **changed))
        compilation_cache.write(entry.name, strange)
        assert same(results(make()), first)


def test_a_folder_that_others_can_write_is_not_read(own_cache: Path) -> None:
    first = results(make())
    own_cache.chmod(0o777)
    net = make()
    assert net.prepare().kept is None
    assert same(results(net), first)


def test_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowerings: list[Signature]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(cache_folder.ENVIRONMENT, str(tmp_path / "file" / "below"))
    first = results(make())
    assert same(results(make()), first)
    assert len(lowerings) == 2
    monkeypatch.delenv(cache_folder.ENVIRONMENT)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert same(results(make()), first)
    assert same(results(make()), first)
    assert len(lowerings) == 3
    assert len(compilations(tmp_path / "home" / ".cache" / "graphc")) == 1


def test_where_the_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    monkeypatch.setenv(cache_folder.ENVIRONMENT, "/chosen")
    assert cache_folder.folder() == Path("/chosen")
    monkeypatch.delenv(cache_folder.ENVIRONMENT)
    assert cache_folder.folder() == Path("/elsewhere/graphc")
    for relative in ("", "elsewhere"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache_folder.folder() == tmp_path / ".cache" / "graphc"


def test_the_front_end_builds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = driver.build

    def counted(*arguments: Any, **options: Any) -> Any:
        built.append(options)
        return build(*arguments, **options)

    monkeypatch.setattr(driver, "build", counted)
    net = make()
    net.forward_backward(INPUTS)
    assert len(built) == 1
    net.blobs["data"].reshape(2, 3, 6, 6)
    net.blobs["label"].reshape(2)
    net.reshape()
    assert len(built) == 2


def test_a_graph_without_places_is_the_same_text_elsewhere() -> None:
    one, other = (driver.front(read_net(text), Signature()).graph for text in (TEXT, f"\n\n{TEXT}"))
    keys = [compilation_cache.key(graph, Signature(), "a machine") for graph in (one, other)]
    assert keys[0] == keys[1] is not None
    assert compilation_cache.key(one, Signature(), "another") != keys[0]
