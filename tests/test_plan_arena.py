"""Placing blocks in the arena: nothing that lives together overlaps, and little is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.plan.arena import ALIGNMENT, Block, aligned, pack, stacked
from graphc.plan.layout import channels_last, lies_in_order, reshaped, strides_of
from graphc.plan.liveness import bound_of_order

BLOCKS = st.lists(
    st.builds(
        lambda size, first, length: Block(size, first, first + length),
        st.integers(0, 5000),
        st.integers(0, 20),
        st.integers(0, 12),
    ),
    max_size=30,
)


def meet(a: Block, b: Block) -> bool:
    return a.first <= b.last and b.first <= a.last


@settings(max_examples=60, deadline=None, derandomize=True)
@given(BLOCKS)
def test_blocks_that_live_together_do_not_overlap(blocks: list[Block]) -> None:
    offsets, size = pack(blocks)
    goal = bound_of_order([(aligned(b.bytes), b.first, b.last) for b in blocks], 40)
    assert goal <= size <= 1.25 * goal + 64
    placed = list(zip(blocks, offsets, strict=True))
    for position, (block, offset) in enumerate(placed):
        assert offset % ALIGNMENT == 0
        assert offset + block.bytes <= size
        for other, place in placed[:position]:
            apart = offset >= place + other.bytes or place >= offset + block.bytes
            assert apart or not meet(block, other)


def test_equal_blocks_give_equal_places() -> None:
    blocks = [Block(100 * (i * 7 % 13), i % 9, i % 9 + i % 4) for i in range(40)]
    assert pack(blocks) == pack(list(blocks))


def test_stacked_blocks_share_nothing() -> None:
    offsets, size = stacked([Block(10, 0, 0), Block(100, 1, 1), Block(1, 2, 2)])
    assert offsets == [0, 64, 192]
    assert size == 256


def test_a_tight_case_is_placed_without_loss() -> None:
    """Long and short lives mixed; the best offsets are those of a jigsaw with no gap."""
    blocks = [Block(64, 0, 9), Block(128, 0, 3), Block(192, 4, 9), Block(64, 0, 3), Block(64, 2, 9)]
    goal = bound_of_order([(b.bytes, b.first, b.last) for b in blocks], 10)
    assert pack(blocks)[1] == goal


def test_strides_follow_the_order_of_axes() -> None:
    assert strides_of((2, 3, 4, 5), channels_last(4)) == (60, 1, 15, 3)
    assert strides_of((2, 3, 1, 1), channels_last(4)) == (3, 1, 1, 1), "the same as row-major"
    assert lies_in_order((2, 3, 4, 5), (120, 1, 30, 6), channels_last(4)), "gaps do not matter"
    assert not lies_in_order((2, 3, 4, 5), (60, 20, 5, 1), channels_last(4))


def test_a_view_has_strides_where_they_exist() -> None:
    assert reshaped((2, 12), (12, 1), (2, 3, 4)) == (12, 4, 1)
    assert reshaped((2, 3, 4), (24, 4, 1), (2, 12)) == (24, 1), "rows with gaps between"
    assert reshaped((2, 3, 4), (12, 1, 3), (2, 12)) is None, "channels-last cannot be flattened"
    assert reshaped((2, 3, 1, 1), (3, 1, 1, 1), (2, 3)) == (3, 1)
    assert reshaped((4, 6), (6, 1), (8, 3)) == (3, 1)
