"""Texts made small enough for one file: cut after some lines, deflated, in base64."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from graphc.report.kernel_texts import LANGUAGES, KernelTexts

_LIMITS = (1_000_000, 6000, 3000, 1500, 800, 400, 200, 100, 50, 10)  # lines of a text


def packed(data: Any) -> str:
    """JSON as a zlib stream in base64, what `DecompressionStream("deflate")` reads."""
    return base64.b64encode(zlib.compress(_bytes(data), 9)).decode()


def packed_kernels(kernels: Sequence[KernelTexts], budget: int) -> dict[str, str]:
    """Every kernel's texts by its name; the longest ones are cut until all fit the budget."""
    for limit in _LIMITS:
        # A quick compression tells how large it gets at most; base64 makes 4 characters of 3.
        sizes = (len(zlib.compress(_bytes(_cut(kernel, limit)), 1)) for kernel in kernels)
        if sum(sizes) * 4 / 3 <= budget:
            break
    return {kernel.name: packed(_cut(kernel, limit)) for kernel in kernels}


def _bytes(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def _cut(kernel: KernelTexts, limit: int) -> dict[str, Any]:
    texts, left_out = {}, {}
    for language in LANGUAGES:
        if language in kernel.texts:
            lines = kernel.texts[language].splitlines()
            texts[language] = "\n".join(lines[:limit])
            if len(lines) > limit:
                left_out[language] = len(lines) - limit
    return {"texts": texts, "left_out": left_out, "missing": kernel.missing}
