"""The two phases a net can be built for."""

from __future__ import annotations

from typing import Final, Literal

Phase = Literal["TRAIN", "TEST"]
TRAIN: Final = "TRAIN"
TEST: Final = "TEST"
