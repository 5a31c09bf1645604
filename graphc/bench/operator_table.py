"""The operators that `graphc bench ops` measures, each as a graph of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType
from graphc.ops.conv import Conv, ConvDataGradient, ConvWeightGradient
from graphc.ops.dropout import Dropout
from graphc.ops.linear import AddBias, MatMul, Scale
from graphc.ops.lrn import Lrn
from graphc.ops.moments import InverseDeviation, Moments, Standardize
from graphc.ops.neuron import Elu, Relu, Sigmoid
from graphc.ops.pool import AvgPool, MaxPool, pooled_extent
from graphc.ops.softmax import Softmax

Shape = tuple[int, ...]
REAL = "float32"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    graph: a new forward graph whose output is `y`. way: "forward", "data gradient", "weight
    gradient" (graphs that are that operator), or "backward": the backward pass of `graph` for x.
    bytes: what must at least be read and written. memory: which limit of the machine they are
    measured against: "copy", or "read" or "write" where nearly all of them go one way.
    """

    name: str
    way: str
    graph: Callable[[], Graph]
    bytes: int
    library: bool = False  # torch calls a library's kernel for it, compiled or not
    memory: str = "copy"


@dataclass(frozen=True)
class Convolution:
    """A layer's geometry: input channels and side, outputs, kernel, stride, padding, groups."""

    net: str
    channels: int
    side: int
    outputs: int
    kernel: int
    stride: int = 1
    pad: int = 0
    groups: int = 1

    @property
    def label(self) -> str:
        """As a reader finds it in the table."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        groups = f" groups {self.groups}" if self.groups > 1 else ""
        return (
            f"{self.net} {self.kernel}x{self.kernel}{stride} {self.channels}->{self.outputs}"
            f" @{self.side}{groups}"
        )


CONVOLUTIONS = (
    Convolution("CaffeNet", 3, 227, 96, 11, 4),
    Convolution("CaffeNet", 96, 27, 256, 5, 1, 2, 2),
    Convolution("CaffeNet", 256, 13, 384, 3, 1, 1),
    Convolution("CaffeNet", 384, 13, 384, 3, 1, 1, 2),
    Convolution("CaffeNet", 384, 13, 256, 3, 1, 1, 2),
    Convolution("VGG", 3, 224, 64, 3, 1, 1),
    Convolution("VGG", 64, 224, 64, 3, 1, 1),
    Convolution("VGG", 128, 112, 128, 3, 1, 1),
    Convolution("VGG", 256, 56, 256, 3, 1, 1),
    Convolution("VGG", 512, 28, 512, 3, 1, 1),
    Convolution("VGG", 512, 14, 512, 3, 1, 1),
    Convolution("GoogLeNet", 3, 224, 64, 7, 2, 3),
    Convolution("GoogLeNet", 64, 56, 192, 3, 1, 1),
    Convolution("GoogLeNet", 192, 28, 64, 1),
    Convolution("GoogLeNet", 96, 28, 128, 3, 1, 1),
    Convolution("GoogLeNet", 16, 28, 32, 5, 1, 2),
    Convolution("GoogLeNet", 528, 14, 256, 1),
    Convolution("GoogLeNet", 832, 7, 384, 1),
    Convolution("ResNet", 64, 56, 64, 1),
    Convolution("ResNet", 64, 56, 64, 3, 1, 1),
    Convolution("ResNet", 64, 56, 256, 1),
    Convolution("ResNet", 128, 56, 128, 3, 2, 1),
    Convolution("ResNet", 256, 56, 512, 1, 2),
    Convolution("ResNet", 256, 14, 256, 3, 1, 1),
    Convolution("ResNet", 512, 7, 512, 3, 1, 1),
    Convolution("ResNet", 512, 7, 2048, 1),
    Convolution("MobileNet", 128, 56, 128, 3, 1, 1, 128),
    Convolution("MobileNet", 32, 112, 32, 3, 1, 1, 32),
    Convolution("MobileNet", 128, 56, 128, 3, 2, 1, 128),
    Convolution("MobileNet", 512, 14, 512, 3, 1, 1, 512),
    Convolution("EfficientNet", 144, 56, 144, 5, 2, 2, 144),
    Convolution("EfficientNet", 240, 28, 240, 5, 1, 2, 240),
    Convolution("ResNeXt", 128, 56, 128, 3, 1, 1, 32),
    Convolution("ResNeXt", 256, 56, 256, 3, 2, 1, 32),
    Convolution("ResNeXt", 256, 28, 256, 3, 1, 1, 32),
    Convolution("ResNeXt", 512, 14, 512, 3, 1, 1, 32),
)
# What stands for its kind where time is short.
FEW = (1, 2, 15, 18, 21)


def convolution_rows(geometry: Convolution, batch: int) -> Iterator[Row]:
    """Forward and both gradients of a convolution."""
    g = geometry
    after = (g.side + 2 * g.pad - g.kernel) // g.stride + 1
    x = (batch, g.channels, g.side, g.side)
    w = (g.outputs, g.channels // g.groups, g.kernel, g.kernel)
    y = (batch, g.outputs, after, after)
    fields = ((g.stride,) * 2, ((g.pad, g.pad),) * 2, (1, 1), g.groups)
    moved = sum(4 * _size(shape) for shape in (x, w, y))
    ways = (
        ("forward", Conv(*fields), x, w),
        ("data gradient", ConvDataGradient(x[2:], *fields), y, w),
        ("weight gradient", ConvWeightGradient(w[2:], *fields), x, y),
    )
    for way, op, first, second in ways:
        yield Row(g.label, way, _graph_of(op, first, second), moved, library=True)


def _size(shape: Shape) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


def _graph_of(
    op: Conv | ConvDataGradient | ConvWeightGradient | MatMul, *shapes: Shape
) -> Callable[[], Graph]:
    def make() -> Graph:
        graph = Graph("operator")
        values = [graph.input(f"x{i}", TensorType(REAL, shape)) for i, shape in enumerate(shapes)]
        return _ended(graph, op(*values))

    return make


def _ended(graph: Graph, y: Value) -> Graph:
    graph.outputs["y"] = y
    graph.blobs["y"] = y
    return graph


def inner_product_rows(batch: int, inputs: int, outputs: int) -> Iterator[Row]:
    """Forward and both gradients of a product with weights [outputs, inputs]."""
    x, w, y = (batch, inputs), (outputs, inputs), (batch, outputs)
    moved = sum(4 * _size(shape) for shape in (x, w, y))
    name = f"inner product {inputs}->{outputs}, batch {batch}"
    for way, memory, op, first, second in (
        ("forward", "read", MatMul(False, True), x, w),
        ("data gradient", "read", MatMul(False, False), y, w),
        ("weight gradient", "write", MatMul(True, False), y, x),
    ):
        graph = _graph_of(op, first, second)
        yield Row(name, way, graph, moved, library=True, memory=memory)


def elementwise_rows(shape: Shape, rows: Shape) -> Iterator[Row]:
    """What is bound by memory: an image of `shape`, and scores of shape `rows` for softmax.

    Alone, a batch norm finds its image as the user has it; inside a net channels lie last, as those
    of a matrix of pixels do. Bytes of a backward pass: the gradients in and out, and what it must
    know of the forward pass.
    """
    image = 4 * _size(shape)
    side = shape[2]
    pixels = (image // 4 // shape[1], shape[1])
    half = pooled_extent(side, 3, 2, (0, 0))
    pooled = _size((*shape[:2], half, half))
    scores = 4 * _size(rows)
    maximum = MaxPool((3, 3), (2, 2), ((0, 0),) * 2, (half, half))
    mean = AvgPool((3, 3), (2, 2), ((0, 0),) * 2, (half, half))
    entries: tuple[tuple[str, Callable[[Graph, Value], Value], Shape, int, int], ...] = (
        ("bias + ReLU", _bias_relu, shape, 2 * image, 3 * image),
        ("batch norm", _batch_norm, shape, 3 * image, 5 * image),
        ("batch norm, channels last,", _batch_norm, pixels, 3 * image, 5 * image),
        ("dropout", _dropout, (shape[0], _size(shape[1:])), 2 * image, 2 * image),
        (
            "max pool 3x3/2 + ReLU",
            lambda g, x: maximum(Relu()(x))[0],
            shape,
            image + 5 * pooled,
            image + 5 * pooled,
        ),
        ("average pool 3x3/2", lambda g, x: mean(x), shape, image + 4 * pooled, image + 4 * pooled),
        ("LRN", lambda g, x: Lrn(5, 1e-4, 0.75)(x), shape, 2 * image, 3 * image),
        ("sigmoid", lambda g, x: Sigmoid()(x), shape, 2 * image, 3 * image),
        ("ELU", lambda g, x: Elu()(x), shape, 2 * image, 3 * image),
        ("softmax", lambda g, x: Softmax()(x), rows, 2 * scores, 3 * scores),
    )
    for name, build, extents, forward, backward in entries:
        label = f"{name} {'x'.join(map(str, extents))}"
        for way, moved in (("forward", forward), ("backward", backward)):
            yield Row(label, way, _graph_of_one(build, extents), moved)


def _graph_of_one(build: Callable[[Graph, Value], Value], shape: Shape) -> Callable[[], Graph]:
    def make() -> Graph:
        graph = Graph("operator")
        return _ended(graph, build(graph, graph.input("x", TensorType(REAL, shape))))

    return make


def _vector(graph: Graph, name: str, x: Value) -> Value:
    return graph.input(name, TensorType(REAL, (x.shape[1],)), "parameter")


def _bias_relu(graph: Graph, x: Value) -> Value:
    y: Value = Relu()(AddBias()(x, _vector(graph, "bias", x)))
    return y


def _batch_norm(graph: Graph, x: Value) -> Value:
    axes = (0, *range(2, len(x.shape)))
    mean, variance = Moments(axes)(x)
    centred = Standardize(axes)(x, mean, InverseDeviation(1e-5)(variance))
    scaled = Scale()(centred, _vector(graph, "factor", x))
    y: Value = AddBias()(scaled, _vector(graph, "shift", x))
    return y


def _dropout(graph: Graph, x: Value) -> Value:
    y: Value = Dropout(0.5, 1)(x, graph.input("dropout.counter", TensorType("int64", ()), "state"))
    return y


@dataclass(frozen=True)
class Sizes:
    """What a table is made of: geometries at a batch, (batch, inputs, outputs) of products, the
    extents of an image and of scores for what is bound by memory.
    """

    convolutions: tuple[Convolution, ...]
    batch: int
    products: tuple[tuple[int, int, int], ...]
    image: Shape
    scores: Shape


FEW_SIZES = Sizes(
    tuple(CONVOLUTIONS[i] for i in FEW),
    2,
    ((1, 2048, 1024), (16, 2048, 1024)),
    (4, 96, 55, 55),
    (512, 1000),
)
# What fills a processor, and what fills a GPU.
FULL_SIZES = {
    "cpu": Sizes(
        CONVOLUTIONS, 8, ((1, 9216, 4096), (16, 9216, 4096)), (32, 96, 55, 55), (4096, 1000)
    ),
    "cuda": Sizes(
        CONVOLUTIONS,
        64,
        ((16, 9216, 4096), (256, 9216, 4096), (4096, 4096, 4096)),
        (256, 96, 55, 55),
        (65536, 8192),
    ),
}


def table(full: bool, target: str = "cpu") -> list[Row]:
    """All rows: a few small ones, or everything at the sizes of real nets on that target."""
    sizes = FULL_SIZES[target] if full else FEW_SIZES
    rows = [row for one in sizes.convolutions for row in convolution_rows(one, sizes.batch)]
    for extents in sizes.products:
        rows += inner_product_rows(*extents)
    rows += elementwise_rows(sizes.image, sizes.scores)
    return rows
