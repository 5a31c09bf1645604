"""Definitions of deep nets, as Caffe prototxt: the plan is tried on their shapes."""

from __future__ import annotations

from collections.abc import Sequence


class Prototxt:
    """Writes layers one after another; each method returns the name of its top."""

    def __init__(self, name: str, batch: int, size: int, classes: int = 1000):
        self.classes = classes
        self.lines = [f'name: "{name}"']
        shapes = ((batch, 3, size, size), (batch,))
        for top, shape in zip(("data", "label"), shapes, strict=True):
            dims = " ".join(f"dim: {extent}" for extent in shape)
            self.layer(top, "Input", (), f"input_param {{ shape {{ {dims} }} }}")

    def layer(self, name: str, kind: str, bottoms: Sequence[str], more: str = "", top: str = ""):
        """Any layer; `top` names another blob than the layer, to work in place."""
        ends = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
        top = top or name
        self.lines.append(f'layer {{ name: "{name}" type: "{kind}" {ends} top: "{top}" {more} }}')
        return top

    def conv(self, x: str, name: str, count: int, size: int, stride=1, pad=0, bias=True) -> str:
        more = f"num_output: {count} kernel_size: {size} stride: {stride} pad: {pad}"
        if not bias:
            more += " bias_term: false"
        filler = 'weight_filler { type: "msra" }'
        return self.layer(name, "Convolution", (x,), f"convolution_param {{ {more} {filler} }}")

    def relu(self, x: str, name: str) -> str:
        """In place."""
        return self.layer(name, "ReLU", (x,), top=x)

    def norm(self, x: str, name: str, top: str = "") -> str:
        """BatchNorm and Scale, in place or to a blob of their own."""
        y = self.layer(f"bn_{name}", "BatchNorm", (x,), top=top or x)
        more = "scale_param { bias_term: true }"
        return self.layer(f"scale_{name}", "Scale", (y,), more, top=y)

    def pool(self, x: str, name: str, size: int, stride: int, kind: str = "MAX", pad=0) -> str:
        more = f"pool: {kind} kernel_size: {size} stride: {stride} pad: {pad}"
        return self.layer(name, "Pooling", (x,), f"pooling_param {{ {more} }}")

    def loss(self, x: str) -> str:
        """The whole, ended by an average over all positions, an inner product and a loss."""
        x = self.layer("pool", "Pooling", (x,), "pooling_param { pool: AVE global_pooling: true }")
        more = f'num_output: {self.classes} weight_filler {{ type: "xavier" }}'
        x = self.layer("fc", "InnerProduct", (x,), f"inner_product_param {{ {more} }}")
        self.layer("loss", "SoftmaxWithLoss", (x, "label"))
        return "\n".join(self.lines) + "\n"


def resnet(
    batch: int = 16, size: int = 224, blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64
) -> str:
    """A residual net with bottlenecks (arXiv 1512.03385); these blocks and width: ResNet-50."""
    net = Prototxt("resnet", batch, size)
    x = net.relu(net.norm(net.conv("data", "conv1", width, 7, 2, 3, False), "conv1"), "r1")
    x = net.pool(x, "pool1", 3, 2)
    for stage, count in enumerate(blocks):
        for block in range(count):
            x = _bottleneck(net, x, f"res{stage + 2}{chr(97 + block)}", stage, block, width)
    return net.loss(x)


def _bottleneck(net: Prototxt, x: str, name: str, stage: int, block: int, width: int) -> str:
    inner, stride = width << stage, 2 if stage and not block else 1
    side = x
    if not block:
        side = net.norm(net.conv(x, f"{name}_side", 4 * inner, 1, stride, 0, False), f"{name}_side")
    y = net.norm(net.conv(x, f"{name}_a", inner, 1, stride, 0, False), f"{name}_a")
    y = net.relu(y, f"{name}_a_relu")
    y = net.norm(net.conv(y, f"{name}_b", inner, 3, 1, 1, False), f"{name}_b")
    y = net.relu(y, f"{name}_b_relu")
    y = net.norm(net.conv(y, f"{name}_c", 4 * inner, 1, 1, 0, False), f"{name}_c")
    return net.relu(net.layer(name, "Eltwise", (side, y)), f"{name}_relu")


def googlenet(batch: int = 16, size: int = 224) -> str:
    """Inception modules (arXiv 1409.4842), without the auxiliary losses."""
    net = Prototxt("googlenet", batch, size)
    x = net.pool(net.relu(net.conv("data", "conv1", 64, 7, 2, 3), "relu1"), "pool1", 3, 2)
    x = net.layer("norm1", "LRN", (x,), "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")
    x = net.relu(net.conv(x, "conv2r", 64, 1), "relu2r")
    x = net.relu(net.conv(x, "conv2", 192, 3, 1, 1), "relu2")
    x = net.layer("norm2", "LRN", (x,), "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")
    x = net.pool(x, "pool2", 3, 2)
    x = _inception(net, x, "3a", 64, 96, 128, 16, 32, 32)
    x = net.pool(_inception(net, x, "3b", 128, 128, 192, 32, 96, 64), "pool3", 3, 2)
    x = _inception(net, x, "4a", 192, 96, 208, 16, 48, 64)
    x = _inception(net, x, "4b", 160, 112, 224, 24, 64, 64)
    x = _inception(net, x, "4c", 128, 128, 256, 24, 64, 64)
    x = _inception(net, x, "4d", 112, 144, 288, 32, 64, 64)
    x = net.pool(_inception(net, x, "4e", 256, 160, 320, 32, 128, 128), "pool4", 3, 2)
    x = _inception(net, x, "5a", 256, 160, 320, 32, 128, 128)
    return net.loss(_inception(net, x, "5b", 384, 192, 384, 48, 128, 128))


def _inception(net: Prototxt, x: str, name: str, *counts: int) -> str:
    one, three_in, three, five_in, five, pooled = counts

    def conv(y: str, part: str, count: int, size: int) -> str:
        made = net.conv(y, f"{name}_{part}", count, size, 1, size // 2)
        return net.relu(made, f"{name}_{part}_relu")

    parts = [
        conv(x, "1x1", one, 1),
        conv(conv(x, "3x3_in", three_in, 1), "3x3", three, 3),
        conv(conv(x, "5x5_in", five_in, 1), "5x5", five, 5),
        conv(net.pool(x, f"{name}_pool", 3, 1, pad=1), "pooled", pooled, 1),
    ]
    return net.layer(f"{name}_out", "Concat", parts)


def densenet(batch: int = 16, size: int = 224, blocks: Sequence[int] = (6, 12, 24, 16)) -> str:
    """Densely connected blocks (arXiv 1608.06993); these blocks: DenseNet-121."""
    growth = 32
    net = Prototxt("densenet", batch, size)
    x = net.relu(net.norm(net.conv("data", "conv1", 64, 7, 2, 3, False), "conv1"), "relu1")
    x = net.pool(x, "pool1", 3, 2)
    channels = 64
    for stage, count in enumerate(blocks):
        for block in range(count):
            name = f"dense{stage + 1}_{block + 1}"
            y = net.relu(net.norm(x, f"{name}_in", f"{name}_in"), f"{name}_in_relu")
            y = net.norm(net.conv(y, f"{name}_a", 4 * growth, 1, bias=False), f"{name}_a")
            y = net.conv(net.relu(y, f"{name}_a_relu"), f"{name}_b", growth, 3, 1, 1, False)
            x = net.layer(name, "Concat", (x, y))
            channels += growth
        if stage + 1 < len(blocks):
            channels //= 2
            name = f"transition{stage + 1}"
            y = net.relu(net.norm(x, f"{name}_in", f"{name}_in"), f"{name}_relu")
            y = net.conv(y, f"{name}_conv", channels, 1, bias=False)
            x = net.pool(y, name, 2, 2, "AVE")
    x = net.relu(net.norm(x, "last", "last"), "last_relu")
    return net.loss(x)
