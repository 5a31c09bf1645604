"""Older forms of a net definition, brought to the current one as Caffe does.

    V0   layers { layer { name: "c" type: "conv" kernelsize: 3 } bottom: "x" top: "c" }
    V1   layers { name: "c" type: CONVOLUTION blobs_lr: 1 convolution_param { kernel_size: 3 } }
    now  layer { name: "c" type: "Convolution" param { lr_mult: 1 } convolution_param { ... } }

Net inputs given by `input` and `input_dim` or `input_shape` become an Input layer, and the old
three `param` of a BatchNorm layer get rate 0. All of it works on the parsed messages, so every
place in the text stays known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphc.error import Diagnostic
from graphc.frontends.caffe.message import Message
from graphc.source import Span

# V1's enum names against the type names of today.
V1_TYPES = {
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "NONE": "",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}

# V0's type words that are not simply V1's in lower case, and those that are.
_V0_TYPES = {
    "conv": "CONVOLUTION",
    "images": "IMAGE_DATA",
    "innerproduct": "INNER_PRODUCT",
    "pool": "POOLING",
}
_V0_LOWER = frozenset(
    {
        "accuracy",
        "bnll",
        "concat",
        "data",
        "dropout",
        "euclidean_loss",
        "flatten",
        "hdf5_data",
        "hdf5_output",
        "im2col",
        "infogain_loss",
        "lrn",
        "multinomial_logistic_loss",
        "relu",
        "sigmoid",
        "softmax",
        "softmax_loss",
        "split",
        "tanh",
        "window_data",
    }
)

_WEIGHTED = {"conv": "convolution_param", "innerproduct": "inner_product_param"}
_WINDOWED = {"conv": "convolution_param", "pool": "pooling_param"}
_LRN = {"lrn": "lrn_param"}
_IMAGES = {"images": "image_data_param"}
_BATCHED = {
    "data": "data_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "window_data": "window_data_param",
}
_WINDOWS = {"window_data": "window_data_param"}

# V0 field -> (its name today, which message it moved to for which layer type).
_V0_FIELDS: dict[str, tuple[str, dict[str, str]]] = {
    "num_output": ("num_output", _WEIGHTED),
    "biasterm": ("bias_term", _WEIGHTED),
    "weight_filler": ("weight_filler", _WEIGHTED),
    "bias_filler": ("bias_filler", _WEIGHTED),
    "pad": ("pad", _WINDOWED),
    "kernelsize": ("kernel_size", _WINDOWED),
    "stride": ("stride", _WINDOWED),
    "group": ("group", {"conv": "convolution_param"}),
    "pool": ("pool", {"pool": "pooling_param"}),
    "dropout_ratio": ("dropout_ratio", {"dropout": "dropout_param"}),
    "local_size": ("local_size", _LRN),
    "alpha": ("alpha", _LRN),
    "beta": ("beta", _LRN),
    "k": ("k", _LRN),
    "source": ("source", _BATCHED | {"infogain_loss": "infogain_loss_param"}),
    "batchsize": ("batch_size", _BATCHED),
    "rand_skip": ("rand_skip", {"data": "data_param"} | _IMAGES),
    "shuffle_images": ("shuffle", _IMAGES),
    "new_height": ("new_height", _IMAGES),
    "new_width": ("new_width", _IMAGES),
    "concat_dim": ("concat_dim", {"concat": "concat_param"}),
    "det_fg_threshold": ("fg_threshold", _WINDOWS),
    "det_bg_threshold": ("bg_threshold", _WINDOWS),
    "det_fg_fraction": ("fg_fraction", _WINDOWS),
    "det_context_pad": ("context_pad", _WINDOWS),
    "det_crop_mode": ("crop_mode", _WINDOWS),
}
_V0_TRANSFORM = {
    "scale": "scale",
    "meanfile": "mean_file",
    "cropsize": "crop_size",
    "mirror": "mirror",
}
_V1_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")
_V1_DATA = {
    "DATA": "data_param",
    "IMAGE_DATA": "image_data_param",
    "WINDOW_DATA": "window_data_param",
}
_V1_RATES = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}


@dataclass
class Upgraded:
    """A net in the current form, and what there was to say about its older one."""

    message: Message
    errors: list[Diagnostic] = field(default_factory=list)
    warnings: list[Diagnostic] = field(default_factory=list)

    def error(self, message: str, span: Span, hint: str = "") -> None:
        """Note a mistake."""
        self.errors.append(Diagnostic(message, span, hint=hint))

    def warn(self, message: str, span: Span, hint: str = "") -> None:
        """Note something odd that Caffe lets pass."""
        self.warnings.append(Diagnostic(message, span, "warning", hint))


def upgrade(net: Message) -> Upgraded:
    """A NetParameter of any age in the current form; the one passed in is left as it is."""
    current = Message(net.descriptor, net.span)
    result = Upgraded(current)
    older = net.all("layers")
    if older and net.has("layer"):
        result.error(
            "a net holds either 'layer' or the older 'layers', not both",
            net.name_span_of("layers"),
            f"the first 'layer' is at {net.name_span_of('layer')}",
        )
    if any(layer.has("layer") for layer in older):
        older = [_from_v0(layer, result) for layer in _move_padding(older, result)]
    moved = {"layers", "layer", "input", "input_dim", "input_shape"}
    for given in net:
        if given.name not in moved:
            current.fields.append(given)
    _add_input_layer(net, result)
    for layer in [*net.all("layer"), *(_from_v1(layer, result) for layer in older)]:
        current.add("layer", _freeze_statistics(layer), layer.span)
    return result


def _add_input_layer(net: Message, result: Upgraded) -> None:
    """`input` with its shapes as a layer of type Input, before all others."""
    names = net.all("input")
    shapes = net.all("input_shape")
    dims = net.all("input_dim")
    if not names:
        return
    if not shapes and not dims:
        result.warn(
            "'input' without 'input_shape' or 'input_dim' is ignored, as Caffe does",
            net.span_of("input"),
        )
        return
    have = len(shapes) if shapes else len(dims) // 4
    if have < len(names):
        need = f"{len(names)} 'input_shape'" if shapes else f"{4 * len(names)} 'input_dim'"
        result.error(
            f"{len(names)} 'input' need {need}, there are {len(shapes or dims)}",
            net.name_span_of("input", have),
        )
        return
    if have > len(names) or (not shapes and len(dims) % 4):
        result.warn(
            "there are more input sizes than 'input' names; the rest is ignored",
            net.name_span_of("input_shape" if shapes else "input_dim", -1),
        )
    span = net.name_span_of("input")
    layer = Message.empty("LayerParameter", span)
    layer.add("name", "input")
    layer.add("type", "Input")
    sizes = layer.child("input_param", span)
    for i, name in enumerate(names):
        layer.add("top", name, net.span_of("input", i))
        if shapes:
            sizes.add("shape", shapes[i], net.name_span_of("input_shape", i))
            continue
        shape = Message.empty("BlobShape", net.span_of("input_dim", 4 * i))
        for k in range(4 * i, 4 * i + 4):
            shape.add("dim", dims[k], net.span_of("input_dim", k))
        sizes.add("shape", shape, shape.span)
    result.message.add("layer", layer, span)


def _freeze_statistics(layer: Message) -> Message:
    """BatchNorm layers used to name rates for their three statistics: those count as 0."""
    if layer.get("type") != "BatchNorm" or len(layer.all("param")) != 3:
        return layer
    frozen = Message(layer.descriptor, layer.span)
    for given in layer:
        value = given.value
        if given.name == "param":
            value = Message(value.descriptor, value.span, list(value.fields))
            value.put("lr_mult", 0.0)
            value.put("decay_mult", 0.0)
        frozen.add(given.name, value, given.span)
    return frozen


def _from_v1(old: Message, result: Upgraded) -> Message:
    new = Message.empty("LayerParameter", old.span)
    new.refused = old.refused
    rates = {theirs: old.all(ours) for ours, theirs in _V1_RATES.items()}
    for given in old:
        if given.name == "type":
            new.add("type", V1_TYPES[given.value], given.span)
        elif given.name not in _V1_RATES and given.name != "layer":
            new.fields.append(given)
    for i in range(max(len(values) for values in rates.values())):
        spec = Message.empty("ParamSpec", old.span)
        for (ours, theirs), values in zip(_V1_RATES.items(), rates.values(), strict=True):
            if i < len(values):
                spec.add(theirs, values[i], old.span_of(ours, i))
        new.add("param", spec, old.span)
    _move_transform(old, new)
    return new


def _move_transform(old: Message, new: Message) -> None:
    """Move a data layer's scale, mean, crop and mirror to where they are now looked for."""
    name = _V1_DATA.get(old.get("type"), "")
    if not name or not old.has(name):
        return
    data = old.get(name)
    kept = Message(data.descriptor, data.span)
    transform = Message.empty("TransformationParameter", data.span)
    transform.fields = list(old.get("transform_param").fields)
    for given in data:
        if given.name in _V1_TRANSFORM:
            transform.put(given.name, given.value, given.span)
        else:
            kept.fields.append(given)
    new.put(name, kept, data.span)
    if transform.fields:
        new.put("transform_param", transform, data.span)


def _move_padding(layers: list[Message], result: Upgraded) -> list[Message]:
    """V0's padding layers, moved into the convolution or pooling that reads them."""
    makers: dict[str, Message] = {}
    kept = []
    for layer in layers:
        kind = layer.get("layer").get("type")
        if kind != "padding":
            layer = _absorb_padding(layer, kind, makers, result)
            kept.append(layer)
        elif len(layer.all("bottom")) != 1 or len(layer.all("top")) != 1:
            result.error("a padding layer has one bottom and one top", layer.span)
            continue
        for top in layer.all("top"):
            makers[top] = layer
    return kept


def _absorb_padding(
    layer: Message, kind: str, makers: dict[str, Message], result: Upgraded
) -> Message:
    changed = Message(layer.descriptor, layer.span)
    for given in layer:
        maker = makers.get(given.value) if given.name == "bottom" else None
        if maker is None or maker.get("layer").get("type") != "padding":
            changed.fields.append(given)
            continue
        if kind not in _WINDOWED:
            result.error(
                f"padding layer '{maker.get('layer').get('name')}' is read by a '{kind}' layer; "
                "only conv and pool can take its padding",
                given.span,
            )
        changed.add("bottom", maker.get("bottom")[0], given.span)
        padding = maker.get("layer")
        inner = layer.get("layer")
        padded = Message(inner.descriptor, inner.span, list(inner.fields))
        padded.put("pad", padding.get("pad"), padding.span_of("pad"))
        layer = Message(layer.descriptor, layer.span, list(layer.fields))
        layer.put("layer", padded, inner.span)
    changed.put("layer", layer.get("layer"), layer.get("layer").span)
    return changed


def _from_v0(old: Message, result: Upgraded) -> Message:
    if not old.has("layer"):
        return old
    inner = old.get("layer")
    kind = inner.get("type")
    new = Message.empty("V1LayerParameter", old.span)
    for given in old:
        if given.name in ("bottom", "top"):
            new.fields.append(given)
    for given in inner:
        if given.name == "type":
            if kind in _V0_TYPES or kind in _V0_LOWER:
                new.add("type", _V0_TYPES.get(kind, kind.upper()), given.span)
            else:
                new.refused.add("type")
                result.error(f"unknown layer type '{kind}' of the oldest format", given.span)
        elif given.name in ("name", "blobs", "blobs_lr", "weight_decay", "hdf5_output_param"):
            new.fields.append(given)
        elif given.name in _V0_TRANSFORM:
            new.child("transform_param").put(_V0_TRANSFORM[given.name], given.value, given.span)
        else:
            name, homes = _V0_FIELDS.get(given.name, ("", {}))
            if kind in homes:
                new.child(homes[kind], given.span).put(name, given.value, given.span)
            else:
                result.warn(
                    f"'{given.name}' means nothing for a '{kind}' layer and is ignored",
                    given.name_span,
                )
    return new
