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
from graphc.frontends.matconvnet.loss_blocks import L2Loss, Loss
from graphc.frontends.matconvnet.mat_file import listed, plain

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
    known = {f.name for f in dataclasses.fields(cls)}
    found: dict[str, Any] = {}
    for key, value in properties.items():
        short = snake_case(key)
        if short in known and not (isinstance(value, np.ndarray) and value.size == 0):
            found[short] = plain(value)
    if cls is Loss:
        found["opts"] = listed(properties.get("opts"))
    block = cls(**found)
    if isinstance(block, Loss):
        try:
            block.settled()
        except NetError as error:
            raise NetError(f"layer '{layer}' ({name}): {error}") from None
    return block


def snake_case(name: str) -> str:
    """poolSize -> pool_size."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
