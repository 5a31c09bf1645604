"""Data sets of HDF5 files: what a damaged or hostile header claims is not allocated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphc.error import need
from graphc.runtime.cpu import physical_memory

_DEFLATED = 1032  # zlib makes no more bytes of one
_NEVER_WRITTEN = 64 << 20  # bytes that a file may leave out, since they hold its fill value


def is_dataset(item: Any) -> bool:
    """Whether an item of h5py's is one, and neither a group nor a named type."""
    return hasattr(item, "shape")


def read_dataset(item: Any) -> np.ndarray:
    """All of a data set. Raises NetError where it claims more than its file can hold.

    `item` is h5py's; what that raises for damaged data is its caller's to catch.
    """
    need(is_dataset(item), f"'{item.name}' is no data set")
    width = max(item.dtype.itemsize, 1)
    size = (item.size or 0) * width
    need(
        size <= physical_memory(),
        f"'{item.name}' has {size / 2**30:.3g} GiB, more than the memory",
    )
    chunks = item.chunks or ()
    need(len(chunks) in (0, len(item.shape)), f"'{item.name}' has chunks of another rank")
    held = min(item.id.get_storage_size(), item.file.id.get_filesize())
    claimed = max(size, math.prod(chunks) * width)  # a chunk is read whole
    need(
        claimed <= max(held * _DEFLATED, _NEVER_WRITTEN),
        f"'{item.name}' claims {claimed} bytes, and the file holds {held} of them",
    )
    return np.asarray(item[()])
