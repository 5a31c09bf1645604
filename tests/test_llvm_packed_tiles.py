"""Weight gradients whose tiles read a copy that all taps of a window share."""

from __future__ import annotations

from dataclasses import replace

import native_kernels
import pytest
from test_llvm_blocks_beside import check, tiling_of, weight_gradient
from test_llvm_contraction import Geometry

from graphc.codegen.llvm import panel_shape
from graphc.codegen.llvm.packed_tiles import points, tile_items
from graphc.codegen.llvm.product import products
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.tiling import Tiling
from graphc.kernel.contraction import match

NONE, ONE, TWO = ((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 2), (2, 2))
# What taps share: all or some of a window's points, clipped by padding on each side or on none.
COPIED: dict[str, Geometry] = {
    "padded": ((1, 1), ONE, (1, 1), 1, (7, 32, 15, 14), (48, 32, 3, 3)),
    "not padded": ((1, 1), NONE, (1, 1), 1, (9, 32, 15, 14), (48, 32, 3, 3)),
    "padded unevenly": ((1, 1), ((0, 2), (3, 1)), (1, 1), 1, (7, 32, 13, 17), (43, 32, 3, 3)),
    "long lines": ((1, 1), ONE, (1, 1), 1, (2, 24, 9, 70), (40, 24, 3, 3)),
    "dilated": ((1, 1), TWO, (2, 2), 1, (7, 56, 14, 15), (40, 56, 3, 3)),
    "strided": ((2, 2), ONE, (1, 1), 1, (14, 64, 19, 20), (40, 64, 3, 3)),
    "strided unevenly": ((3, 1), ONE, (1, 2), 1, (11, 64, 19, 20), (40, 64, 3, 3)),
    "5x5": ((1, 1), TWO, (1, 1), 1, (7, 30, 14, 14), (32, 30, 5, 5)),
    "1x3": ((1, 1), ((0, 0), (1, 1)), (1, 1), 1, (9, 72, 12, 13), (72, 72, 1, 3)),
    "groups": ((1, 1), ONE, (1, 1), 2, (7, 64, 14, 13), (96, 32, 3, 3)),
    "small images": ((1, 1), ONE, (1, 1), 1, (67, 40, 4, 5), (40, 40, 3, 3)),
}


@pytest.fixture(autouse=True)
def _copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are made wherever they can be; what lies around and between elements is nan."""
    monkeypatch.setattr(native_kernels, "CANARY", 0xFF)
    monkeypatch.setattr(panel_shape, "SHARED_SETS", 4)
    monkeypatch.setattr(panel_shape, "COPIED_FOR", 1)


def machine(name: str) -> Target:
    return replace(Target.named(name), l1_bytes=1 << 11, l2_bytes=1 << 21, near_pages=48)


@pytest.mark.parametrize("name", ["host", "x86-64-v3", "x86-64"])
@pytest.mark.parametrize("case", COPIED)
def test_taps_share_a_copy(case: str, name: str) -> None:
    target = machine(name)
    tiling = tiling_of(weight_gradient(COPIED[case])[0], target)
    if target.registers == 16:
        assert tiling.packs_tiles
    check(COPIED[case], target)


def tiling_on_avx2(geometry: Geometry, **changed: int) -> Tiling:
    return tiling_of(weight_gradient(geometry)[0], replace(machine("x86-64-v3"), **changed))


def test_no_copy_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = COPIED["padded"]
    assert tiling_on_avx2(geometry).packs_tiles
    assert not tiling_on_avx2(geometry, near_pages=0).packs_tiles  # pages are no matter
    assert not tiling_on_avx2(geometry, l1_bytes=1 << 19).packs_tiles  # it stays in a cache
    assert not tiling_on_avx2(geometry, l2_bytes=1 << 14).packs_tiles  # the copy would not
    monkeypatch.setattr(panel_shape, "SHARED_SETS", 512)
    assert not tiling_on_avx2(geometry).packs_tiles  # lines lie in many sets
    monkeypatch.setattr(panel_shape, "SHARED_SETS", 128)
    assert tiling_on_avx2(geometry).packs_tiles
    monkeypatch.setattr(panel_shape, "COPIED_FOR", 1000)
    assert not tiling_on_avx2(geometry).packs_tiles  # few vectors meet what is copied


@pytest.mark.parametrize(
    ("case", "y", "x"),
    [
        ("strided", (2, 1, 3, 1, 20), (2, 1, 3, 1, 21)),
        ("dilated", (1, 2, 3, 2, 16), (1, 2, 3, 2, 17)),
    ],
)
def test_points_that_values_and_taps_meet(
    case: str, y: tuple[int, ...], x: tuple[int, ...]
) -> None:
    kernel = weight_gradient(COPIED[case])[0]
    tiling = tiling_of(kernel, machine("x86-64-v3"))
    found = match(kernel)
    assert found is not None
    (product,) = products(found) or ()
    met = points(product, tiling)
    assert met is not None
    along = [met[axis] for axis in tiling.inner[-2:]]
    assert [(p.step, p.apart, p.taps, p.first, p.end) for p in along] == [y, x]
    assert along[0].count(2) == y[0] + y[1] * 2 + 1
    held = along[0].count(product.extents[tiling.inner[-2]])
    held *= along[1].count(product.extents[tiling.inner[-1]])
    assert tile_items(product, tiling) >= tiling.panel_rows * held
