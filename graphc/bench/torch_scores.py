"""What compares scores with labels, in torch: losses, accuracies and the words they share.

Most of it is written out in tensor operations, as torch has a function for few of them. Labels are
whole numbers here, whatever their type.
"""

from __future__ import annotations

import math
import operator as python
from typing import Any

from graphc.bench.torch_emit import Emit, arguments, as_type, translates, written_out
from graphc.ir.graph import Node

# -- labels ----------------------------------------------------------------------------------------


def whole(torch: Any, label: Any) -> Any:
    """Labels as int64, cut towards zero."""
    return label.to(torch.int64)


def _classes(torch: Any, label: Any, ignored: int | None) -> tuple[Any, Any]:
    """(class numbers, 0 where ignored; which positions count, None: all)."""
    number = whole(torch, label)
    if ignored is None:
        return number, None
    valid = number != ignored
    return torch.where(valid, number, 0), valid


def _counted(torch: Any, valid: Any, loss: Any, missing: float = 0.0) -> Any:
    return loss if valid is None else torch.where(valid, loss, missing)


def _own(torch: Any, x: Any, number: Any, axis: int) -> Any:
    """x[label] at each position."""
    return torch.gather(x, axis, number.unsqueeze(axis)).squeeze(axis)


def _is_class(torch: Any, number: Any, count: int, axis: int) -> Any:
    """Along a new axis of classes: whether it is the label's."""
    places = [1] * (number.dim() + 1)
    places[axis] = count
    steps = torch.arange(count, device=number.device).reshape(places)
    return number.unsqueeze(axis) == steps


@written_out("one_hot")
def _one_hot(torch: Any, op: Any, label: Any) -> Any:
    hot = _is_class(torch, whole(torch, label), op.extent, op.axis)
    return hot.to(getattr(torch, op.dtype) if op.dtype else label.dtype)


@written_out("valid_weight")
def _valid_weight(torch: Any, op: Any, label: Any) -> Any:
    count = (whole(torch, label) != op.ignore_label).sum()
    return 1 / count.clamp(min=1).to(getattr(torch, op.dtype))


# -- softmax and its losses ------------------------------------------------------------------------


@translates("softmax")
def _softmax(emit: Emit, node: Node, op: Any) -> Any:
    return emit.call(emit.functional.softmax, *arguments(emit, node), op.axis)


@written_out("softmax_log_loss")
def _softmax_log_loss(torch: Any, op: Any, scores: Any, label: Any) -> Any:
    return _cross_entropy(torch, op, scores, label, 0.0)


def _cross_entropy(torch: Any, op: Any, scores: Any, label: Any, smoothing: float) -> Any:
    return torch.nn.functional.cross_entropy(
        scores if scores.dim() == 1 else scores.movedim(op.axis, 1),
        whole(torch, label),
        ignore_index=-100 if op.ignore_label is None else op.ignore_label,
        reduction="none",
        label_smoothing=smoothing,
    )


@written_out("linear_softmax_log_loss")
def _linear_softmax_log_loss(torch: Any, op: Any, x: Any, w: Any, label: Any, *bias: Any) -> Any:
    weights = w.t() if op.transposed else w.flatten(1)
    scores = torch.nn.functional.linear(x.movedim(1, -1), weights, *bias).movedim(-1, 1)
    if op.shape is not None:
        scores = scores.reshape(op.shape)
    return _softmax_log_loss(torch, op, scores, label)


@written_out("softmax_soft_target_loss")
def _softmax_soft_target_loss(torch: Any, op: Any, scores: Any, target: Any) -> Any:
    return -(target * torch.log_softmax(scores, op.axis)).sum(op.axis)


def _smoothed(torch: Any, op: Any, label: Any, dtype: Any) -> Any:
    number, valid = _classes(torch, label, op.ignore_label)
    hot = _is_class(torch, number, op.count, op.axis).to(dtype)
    smooth = (1 - op.smoothing) * hot + op.smoothing / op.count
    return _counted(torch, None if valid is None else valid.unsqueeze(op.axis), smooth)


@written_out("smoothed_targets")
def _smoothed_targets(torch: Any, op: Any, label: Any) -> Any:
    return _smoothed(torch, op, label, getattr(torch, op.dtype))


@written_out("softmax_smoothed_loss")
def _softmax_smoothed_loss(torch: Any, op: Any, scores: Any, label: Any) -> Any:
    return _cross_entropy(torch, op, scores, label, op.smoothing)


def _infogain(torch: Any, op: Any, logs: Any, label: Any, matrix: Any) -> Any:
    number, valid = _classes(torch, label, op.ignore_label)
    rows = torch.nn.functional.embedding(number, matrix).movedim(-1, op.axis)
    return _counted(torch, valid, -(rows * logs).sum(op.axis))


@written_out("infogain_loss")
def _infogain_loss(torch: Any, op: Any, p: Any, label: Any, matrix: Any) -> Any:
    return _infogain(torch, op, p.clamp(min=op.floor).log(), label, matrix)


@written_out("softmax_infogain_loss")
def _softmax_infogain_loss(torch: Any, op: Any, scores: Any, label: Any, matrix: Any) -> Any:
    # The floor is for the value alone: the gradient is that of the logarithm.
    logs = torch.log_softmax(scores, op.axis)
    if op.floor > 0:
        logs = logs + (logs.detach().clamp(min=math.log(op.floor)) - logs.detach())
    return _infogain(torch, op, logs, label, matrix)


# -- other losses ----------------------------------------------------------------------------------


@written_out("pick")
def _pick(torch: Any, op: Any, x: Any, label: Any) -> Any:
    number, valid = _classes(torch, label, op.ignore_label)
    return _counted(torch, valid, _own(torch, x, number, op.axis), op.missing)


@written_out("multinomial_log_loss")
def _multinomial_log_loss(torch: Any, op: Any, p: Any, label: Any) -> Any:
    number, valid = _classes(torch, label, op.ignore_label)
    return _counted(torch, valid, -_own(torch, p, number, op.axis).clamp(min=op.floor).log())


@written_out("soft_target_log_loss")
def _soft_target_log_loss(torch: Any, op: Any, p: Any, target: Any) -> Any:
    return -torch.xlogy(target, p).sum(op.axis)


@written_out("sigmoid_log_loss")
def _sigmoid_log_loss(torch: Any, op: Any, x: Any, target: Any) -> Any:
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        x, target.to(x.dtype), reduction="none"
    )
    if op.ignore_label is None:
        return loss
    return torch.where(whole(torch, target) != op.ignore_label, loss, 0.0)


@written_out("hinge_loss")
def _hinge_loss(torch: Any, op: Any, x: Any, label: Any) -> Any:
    own = _is_class(torch, whole(torch, label), x.shape[op.axis], op.axis)
    margin = (1 - torch.where(own, x, -x)).clamp(min=0)
    return (margin.square() if op.squared else margin).sum(op.axis)


@written_out("structured_hinge")
def _structured_hinge(torch: Any, op: Any, x: Any, label: Any) -> Any:
    number, valid = _classes(torch, label, op.ignore_label)
    own = _is_class(torch, number, x.shape[op.axis], op.axis)
    rival = x.masked_fill(own, -math.inf).max(op.axis).values
    return _counted(torch, valid, (1 + rival - _own(torch, x, number, op.axis)).clamp(min=0))


@written_out("squared_distance")
def _squared_distance(torch: Any, op: Any, a: Any, b: Any) -> Any:
    squares = (a - b).square()
    return squares.flatten(1).sum(1) if squares.dim() > 1 else squares


@written_out("contrastive_loss")
def _contrastive_loss(torch: Any, op: Any, a: Any, b: Any, similar: Any) -> Any:
    squared = _squared_distance(torch, op, a, b)
    if op.legacy:
        apart = (op.margin - squared).clamp(min=0)
    else:
        apart = (op.margin - squared.sqrt()).clamp(min=0).square()
    return torch.where(whole(torch, similar) != 0, squared, apart)


@written_out("lp_norm")
def _lp_norm(torch: Any, op: Any, d: Any) -> Any:
    total = d.abs().pow(op.p).sum(1)
    return total.pow(1 / op.p) if op.root else total


# -- accuracies ------------------------------------------------------------------------------------


@written_out("correct")
def _correct(torch: Any, op: Any, scores: Any, label: Any) -> Any:
    number, valid = _classes(torch, label, op.ignore_label)
    return _counted(torch, valid, _hits(torch, scores, number, op.axis, op.top_k))


def _hits(torch: Any, scores: Any, number: Any, axis: int, top: int) -> Any:
    """1 where the label is among the best, else 0."""
    best = torch.topk(scores.detach(), top, dim=axis).indices
    return (best == number.unsqueeze(axis)).any(axis).to(scores.dtype)


@written_out("top_error")
def _top_error(torch: Any, op: Any, scores: Any, label: Any) -> Any:
    number, valid = _classes(torch, label, op.ignore_label)
    return _counted(torch, valid, 1 - _hits(torch, scores, number, op.axis, op.top))


@written_out("class_accuracy")
def _class_accuracy(torch: Any, op: Any, correct: Any, label: Any) -> Any:
    number = whole(torch, label).flatten()
    mine = _is_class(torch, number, op.count, 0).to(correct.dtype)
    if op.ignore_label is not None:
        mine = mine * (number != op.ignore_label)
    return (mine * correct.flatten()).sum(1) / mine.sum(1).clamp(min=1)


@translates("arg_max")
def _arg_max(emit: Emit, node: Node, op: Any) -> Any:
    (x,) = arguments(emit, node)
    found = emit.call(emit.torch.topk, x, op.top_k, dim=op.axis)
    dtype = getattr(emit.torch, node.outputs[0].type.dtype)
    places = emit.call(as_type, emit.call(python.getitem, found, 1), dtype)
    return places, emit.call(python.getitem, found, 0)
