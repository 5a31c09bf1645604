"""Blocks as .mat files hold them: the name of a class, and a structure of its properties."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from graphc.error import NetError, did_you_mean
from graphc.frontends.matconvnet.block import Block
from graphc.frontends.matconvnet.blocks import (
    LRN,
    BatchNorm,
    BilinearSampler,
    Concat,
    Conv,
    ConvTranspose,
    Crop,
    DropOut,
    NormOffset,
    PDist,
    Pooling,
    ReLU,
    ROIPooling,
    Scale,
    Sigmoid,
    SoftMax,
    SpatialNorm,
    Sum,
)
from graphc.frontends.matconvnet.loss_blocks import L2Loss, Loss, SoftTargetLoss
from graphc.frontends.matconvnet.mat_file import listed, plain
from graphc.frontends.matconvnet.mat_write import Cell

BLOCKS: dict[str, type[Block]] = {
    cls.__name__: cls
    for cls in (
        Conv, ConvTranspose, Pooling, ReLU, Sigmoid, SoftMax, DropOut, LRN, SpatialNorm, NormOffset,
        BatchNorm, Scale, Sum, Concat, Crop, BilinearSampler, ROIPooling, PDist, Loss, L2Loss,
    )
}  # fmt: skip


def block_from_struct(layer: str, kind: str, properties: dict[str, Any]) -> Block:
    """A block as a file holds it: `dagnn.Conv` and its properties. Raises NetError for others."""
    name = kind.removeprefix("dagnn.")
    if name not in BLOCKS:
        hint = did_you_mean(name, BLOCKS)
        raise NetError(
            f"layer '{layer}' has the block '{kind}', which is not known here"
            + (f"; {hint}" if hint else "")
        )
    cls = BLOCKS[name]
    known = {f.name: f.default for f in dataclasses.fields(cls)}
    found: dict[str, Any] = {}
    for key, value in properties.items():
        short = snake_case(key)
        if short in known and not (isinstance(value, np.ndarray) and value.size == 0):
            found[short] = plain(value)
            if isinstance(known[short], bool) and found[short] in (0, 1):
                found[short] = bool(found[short])
    if cls is Loss:
        found["opts"] = listed(properties.get("opts"))
    block = cls(**found)
    if isinstance(block, Loss):
        try:
            block.settled()
        except NetError as error:
            raise NetError(f"layer '{layer}' ({name}): {error}") from None
    return block


def block_struct(layer: str, block: Block) -> tuple[str, dict[str, Any]]:
    """(`dagnn.Conv`, its properties) as DagNN saves them.

    Raises NetError for a block of the user's own, whose code no file holds, and for what MatConvNet
    does not have: it would read another loss, or none.
    """
    if isinstance(block, SoftTargetLoss):
        raise NetError(f"layer '{layer}' is a SoftTargetLoss, which MatConvNet does not have")
    name = type(block).__name__
    if BLOCKS.get(name) is not type(block):
        raise NetError(f"layer '{layer}' has a block of your own ({name}); no .mat file holds code")
    if isinstance(block, Loss):
        if block.label_smoothing:
            raise NetError(
                f"layer '{layer}' has label_smoothing={block.label_smoothing:g}, which MatConvNet's"
                " Loss does not have: set it to 0 to save the net"
            )
        options = [part for pair in block.vl_options().items() for part in pair]
        chosen = block.settled()
        properties = {"loss": chosen.loss, "ignoreAverage": bool(block.ignore_average)}
        return f"dagnn.{name}", {**properties, "opts": Cell(options)}
    fields = dataclasses.fields(block)
    return f"dagnn.{name}", {camel_case(f.name): getattr(block, f.name) for f in fields}


def camel_case(name: str) -> str:
    """pool_size -> poolSize."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def snake_case(name: str) -> str:
    """poolSize -> pool_size."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
