"""What `lr_mult: 0` and `propagate_down: false` do, shown on frozen_trunk.prototxt.

    python samples/freeze.py

Both keep layers from learning, in different ways:

- `lr_mult: 0` speaks about one parameter: its own gradient is not computed. Gradients still pass
  through the layer to whatever lies below.
- `propagate_down: false` speaks about a path: no gradient leaves the layer at that bottom, so
  nothing below can get one, whatever its lr_mult.

A gradient that is not computed costs nothing: its kernels are not in the program. One that is asked
for and cannot be there, behind a cut path, is filled with zeros.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import graphc

FOLDER = Path(__file__).resolve().parent
AS_WRITTEN = (FOLDER / "frozen_trunk.prototxt").read_text()
VARIANTS = {
    "as written": AS_WRITTEN,
    "without propagate_down: false": AS_WRITTEN.replace("  propagate_down: false\n", ""),
    "without lr_mult: 0": AS_WRITTEN.replace("lr_mult: 0 }", "lr_mult: 1 }"),
    "without both": AS_WRITTEN.replace("  propagate_down: false\n", "").replace(
        "lr_mult: 0 }", "lr_mult: 1 }"
    ),
}


def learning(definition: str) -> tuple[dict[str, bool], int]:
    """Which parameters get a gradient that is not zero, and how many steps the backward has."""
    net = graphc.Net(definition, phase=graphc.TRAIN)
    rng = np.random.default_rng(0)
    data = rng.standard_normal(net.blobs["data"].shape, dtype=np.float32)
    net.forward_backward({"data": data, "label": rng.integers(0, 5, 8)})
    program = net.compilation().program
    moved = {
        f"{layer}/{i}": bool(parameter.diff.any())
        for layer, parameters in net.params.items()
        for i, parameter in enumerate(parameters)
    }
    return moved, len(program.steps) - program.forward_steps


def main() -> None:
    results = {title: learning(definition) for title, definition in VARIANTS.items()}
    names = list(results["as written"][0])
    width = max(map(len, results))
    print(" " * width, *names, "backward steps", sep="  ")
    for title, (moved, steps) in results.items():
        cells = [("yes" if moved[name] else "-").center(len(name)) for name in names]
        print(title.ljust(width), *cells, steps, sep="  ")


if __name__ == "__main__":
    main()
