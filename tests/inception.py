"""The text of a net like GoogLeNet, for tests of what large nets do.

The shapes are those of table 1 of "Going Deeper with Convolutions" (arXiv 1409.4842).
"""

from __future__ import annotations

# name: outputs of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
_MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class _Text:
    def __init__(self) -> None:
        self.parts = ['name: "GoogLeNet"']

    def layer(self, kind: str, name: str, bottoms: list[str], top: str, rest: str = "") -> str:
        below = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
        self.parts.append(f'layer {{ name: "{name}" type: "{kind}" {below} top: "{top}" {rest} }}')
        return top

    def conv(self, name: str, bottom: str, count: int, size: int, stride: int = 1) -> str:
        pad = size // 2
        self.layer(
            "Convolution",
            name,
            [bottom],
            name,
            f"convolution_param {{ num_output: {count} kernel_size: {size} stride: {stride}"
            f' pad: {pad} weight_filler {{ type: "xavier" }} }}',
        )
        return self.layer("ReLU", f"{name}/relu", [name], name)

    def pool(self, name: str, bottom: str, size: int, stride: int, pad: int = 0) -> str:
        fields = f"pool: MAX kernel_size: {size} stride: {stride} pad: {pad}"
        return self.layer("Pooling", name, [bottom], name, f"pooling_param {{ {fields} }}")

    def scores(self, name: str, bottom: str) -> str:
        fields = 'num_output: 1000 weight_filler { type: "xavier" }'
        return self.layer(
            "InnerProduct", name, [bottom], name, f"inner_product_param {{ {fields} }}"
        )

    def module(self, name: str, below: str) -> str:
        own, reduce3, three, reduce5, five, projected = _MODULES[name]
        start = f"inception_{name}"
        ends = [
            self.conv(f"{start}/1x1", below, own, 1),
            self.conv(f"{start}/3x3", self.conv(f"{start}/3x3_r", below, reduce3, 1), three, 3),
            self.conv(f"{start}/5x5", self.conv(f"{start}/5x5_r", below, reduce5, 1), five, 5),
            self.conv(f"{start}/proj", self.pool(f"{start}/pool", below, 3, 1, 1), projected, 1),
        ]
        return self.layer("Concat", f"{start}/out", ends, f"{start}/out")

    def loss(self, name: str, scores: str, weight: float) -> None:
        self.layer("SoftmaxWithLoss", name, [scores, "label"], name, f"loss_weight: {weight}")

    def side(self, name: str, below: str) -> None:
        fields = "pool: AVE kernel_size: 5 stride: 3"
        pooled = self.layer(
            "Pooling", f"{name}/pool", [below], f"{name}/pool", f"pooling_param {{ {fields} }}"
        )
        self.loss(
            name, self.scores(f"{name}/scores", self.conv(f"{name}/conv", pooled, 128, 1)), 0.3
        )


def googlenet(batch: int = 16, size: int = 224) -> str:
    """A prototxt with three losses, as one trains it."""
    text = _Text()
    for name, shape in (("data", (batch, 3, size, size)), ("label", (batch,))):
        extents = " ".join(f"dim: {extent}" for extent in shape)
        text.layer("Input", name, [], name, f"input_param {{ shape {{ {extents} }} }}")
    below = text.pool("pool1", text.conv("conv1", "data", 64, 7, 2), 3, 2)
    below = text.layer("LRN", "norm1", [below], "norm1", "lrn_param { local_size: 5 }")
    below = text.conv("conv2", text.conv("conv2_r", below, 64, 1), 192, 3)
    below = text.layer("LRN", "norm2", [below], "norm2", "lrn_param { local_size: 5 }")
    below = text.pool("pool2", below, 3, 2)
    for name in _MODULES:
        below = text.module(name, below)
        if name in ("4a", "4d"):
            text.side(f"loss_{name}", below)
        if name in ("3b", "4e"):
            below = text.pool(f"pool{name[0]}", below, 3, 2)
    below = text.layer(
        "Pooling", "pool5", [below], "pool5", "pooling_param { pool: AVE global_pooling: true }"
    )
    below = text.layer("Dropout", "drop", [below], "pool5", "dropout_param { dropout_ratio: 0.4 }")
    text.loss("loss", text.scores("scores", below), 1.0)
    return "\n".join(text.parts) + "\n"
