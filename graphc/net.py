"""The pycaffe-like face: `graphc.Net`.

    net = graphc.Net("caffenet.prototxt", weights="caffenet.caffemodel")
    scores = net.forward(data=image)["prob"]
    saliency = net.backward(fc8=one_hot, wrt=["data"])["data"]

Arrays in `.data` and `.diff` of inputs, outputs and parameters are stable: they are the memory the
native program works on, and may be written in place. Inner blobs are copied out when they are read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from graphc import driver
from graphc.back_ends import back_end
from graphc.blob import Blob, Named
from graphc.blob_values import BlobValues
from graphc.call_arguments import as_names, explained, unknown
from graphc.compilations import (
    Compilations,
    accumulating,
    checked_signature,
    is_whole,
    keeping,
    thread_count,
)
from graphc.driver import Compilation, Signature
from graphc.error import NetError, NetWarning, need
from graphc.frontends.caffe.definition import NetDefinition, read_net
from graphc.frontends.caffe.layer import LAYERS
from graphc.frontends.caffe.network import CaffeNet
from graphc.net_arrays import NetArrays
from graphc.net_calls import NetCalls
from graphc.net_inputs import NetInputs
from graphc.net_parameters import NetParameters
from graphc.net_parts import NetParts
from graphc.net_shapes import NetShapes
from graphc.phase import TEST, Phase
from graphc.plan.budget import Memory
from graphc.runtime.turn import Turn, one_at_a_time, one_thread_at_a_time

if TYPE_CHECKING:
    from graphc.summary import Summary


_INSTEAD = (
    "make a Net for each thread; with net.share_with(other) they have the same weights in the same"
    " memory"
)


class Net:
    """A Caffe net, compiled when it is first run.

    Args:
        source: a path of a prototxt, or its text (which holds a newline or `{`).
        weights: a .caffemodel or .h5 path, a dict layer -> arrays, `"random:SEED"`, or None for the
            definition's fillers.
        phase: graphc.TRAIN or graphc.TEST.
        level, stages: the net state that include and exclude rules ask for.
        keep: blobs that stay readable after a call (`conv5`, `conv5.diff`).
        threads: threads of a call; None: all usable cores.
        fuse: whether softmax and loss become one operator.
        blockwise_loss: whether an InnerProduct or 1x1 Convolution and the softmax loss behind it
            work in blocks of classes, which never holds all scores and computes them twice.
        memory: "reuse" shares memory between blobs, "all" gives each its own; a number of bytes or
            a text such as "200MiB" is a budget for what a call needs beside the user's arrays: some
            values are then computed twice, with the same results; the loss may go in blocks, as
            blockwise_loss does, which rounds otherwise. BudgetError, at a call, where it cannot
            be met.
        dtype: "float32" or "float64".
        seed: of the fillers and of dropout.
        masks: Dropout layers whose 0/1 mask is an extra input `mask/LAYER`.
        infogain_input: "probabilities" for nets that put a Softmax before an InfogainLoss, as Caffe
            had it before 2017; since then the loss takes "scores".
        shapes: shapes of net inputs, in place of the definition's.
        target: what runs the net: "cpu", "cuda" (a GPU, by pycuda), or "cuda-emulator" (the CUDA
            program on the CPU, slow, to test it).
        exact: convolutions are direct sums; else those of 3x3 and 5x5 windows are Winograd's with
            tiles of 2x2 where that is faster, whose rounding error is no larger.
        fast_math: "winograd4" allows F(4x4, 3x3), faster still, with errors of some 2e-5; "tf32"
            lets a GPU's tensor cores round what they multiply to 10 bits after the point.
        libraries: whether a GPU's products and convolutions may be calls of cuBLASLt and cuDNN,
            where these are installed: "auto" where they are measured faster, "on" wherever they
            can, "off" never.
    A net runs one call at a time: another thread's, or one made by the net's own Python layer, is
    refused with NetError. Threads have a net each; see `share_with`.

    Attributes:
        blobs: all blobs by name; `.data` and `.diff` are arrays of their shape.
        params: layer name -> its parameters, each with `.data` and `.diff`.
        threads: how many a call uses; may be set between calls.
        definition: what the text says.
        feeds: what data layers serve.
        compilations: what was compiled, by signature.
    Raises:
        NetError: with everything that is wrong in the definition, or for a wrong argument.
        BudgetError: a NetError, at the first call that a budget for `memory` is too small for.
    """

    @explained
    def __init__(
        self,
        source: str | Path | NetDefinition,
        weights: Any = None,
        phase: Phase = TEST,
        level: int = 0,
        stages: Sequence[str] = (),
        keep: Iterable[str] = (),
        threads: int | None = None,
        fuse: bool = True,
        blockwise_loss: bool = False,
        memory: Memory | str = "reuse",
        dtype: str = "float32",
        seed: int = 0,
        masks: Sequence[str] = (),
        infogain_input: str = "scores",
        shapes: Mapping[str, Sequence[int]] | None = None,
        target: str = "cpu",
        exact: bool = False,
        fast_math: Sequence[str] = (),
        libraries: str = "auto",
    ):
        base = checked_signature(
            phase=phase,
            keep=keep,
            threads=threads,
            fuse=fuse,
            blockwise_loss=blockwise_loss,
            memory=memory,
            dtype=dtype,
            masks=masks,
            infogain_input=infogain_input,
            target=target,
            exact=exact,
            fast_math=fast_math,
            libraries=libraries,
        )
        need(
            is_whole(seed) and 0 <= seed < 2**32,
            f"seed is a whole number from 0 to 4294967295, not {seed!r}",
        )
        need(is_whole(level), f"level is a whole number, not {level!r}")
        need(
            isinstance(source, (str, PathLike, NetDefinition)),
            f"a net is a path or a text, not {type(source).__name__}",
        )
        stages = as_names(stages, "stages")
        self.definition: NetDefinition = (
            source
            if isinstance(source, NetDefinition)
            else read_net(source, phase=phase, level=level, stages=stages, layer_types=LAYERS)
        )
        self._turn = Turn("Net", _INSTEAD)
        self.compilations = Compilations(self.definition, base, shapes or {})
        self._custom: Signature | None = None  # what was asked for last, where that is special
        front = self.front()
        self.arrays = NetArrays(front, dtype, int(seed), back_end(target).arrays)
        self._calls = NetCalls(self.arrays, base.threads)
        self._values = BlobValues(self.compilations, self.arrays, self._calls)
        self._parts = NetParts(self.compilations, self.arrays, self._calls, self._values)
        self._shapes = NetShapes(self.compilations, self.arrays, self._calls, self._parts)
        self._inputs = NetInputs(self.definition, front, self.arrays, self._calls, int(seed))
        self._parameters = NetParameters(self.compilations, self.arrays, self._calls)
        self.feeds = self._inputs.feeds
        names = self._values.names
        self.blobs = Named("blob", {n: Blob(n, self._values, self._shapes) for n in names})
        self.params = self._parameters.by_layer()
        self._need_names(shapes or (), base.keep)
        self._parameters.start(int(seed), weights)
        for warning in (*self.warnings, *self._parameters.warnings(weights)):
            warnings.warn(warning, NetWarning, stacklevel=3)

    def _need_names(self, shaped: Iterable[str], kept: Iterable[str]) -> None:
        """Raise NetError where `shapes` or `keep` name what the net does not have."""
        for name in shaped:
            need(name in self.arrays.inputs, unknown("net input", name, self.arrays.inputs))
        for name in kept:
            known = name.removesuffix(".diff") in self.front().graph.blobs
            need(known, f"keep: {unknown('blob', name, self.blobs)}")

    # -- what the user sees -----------------------------------------------------------------

    @property
    def name(self) -> str:
        """The net's name."""
        return self.definition.name

    @property
    def threads(self) -> int:
        """How many threads a call uses, 1 to 256; None sets all usable cores.

        Setting another number raises NetError.
        """
        return self._calls.threads

    @threads.setter
    def threads(self, count: int | None) -> None:
        self._calls.threads = thread_count(count)

    @property
    def inputs(self) -> list[str]:
        """Names of the net inputs."""
        return list(self.front().inputs)

    @property
    def outputs(self) -> list[str]:
        """Names of the net outputs, the blobs that no layer reads."""
        return list(self.front().graph.outputs)

    @property
    def warnings(self) -> list[str]:
        """What looked wrong in the definition and was accepted."""
        return [str(d) for d in self.front().warnings]

    @property
    def loss(self) -> float:
        """The last forward pass's losses, each times its loss weight, added up; 0.0 without any.

        Raises NetError before a forward pass.
        """
        outputs = self.arrays.outputs
        losses = self._calls.ran_forward("the loss").losses
        parts = (weight * float(np.add.reduce(outputs[n], axis=None)) for n, weight in losses)
        return sum(parts, 0.0)

    @one_thread_at_a_time
    def set_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Copy arrays into net inputs, by name. Shapes must agree up to trailing ones.

        Raises NetError, and copies none, for an unknown name, another shape, or no real numbers.
        """
        self._inputs.put(inputs)

    @one_thread_at_a_time
    def set_input_arrays(self, data: Any, labels: Any) -> None:
        """What the net's MemoryData layer serves: one batch after another, again from the start.

        Args:
            data: images [N, C, H, W]; N is a multiple of the layer's batch size.
            labels: N numbers.
        Raises:
            NetError: where the net has no such layer, or the shapes are others.
        """
        self._inputs.serve_images(data, labels)

    @one_at_a_time
    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **inputs: Any,
    ) -> dict[str, np.ndarray]:
        """Run the net, or its layers `start` to `end`.

        Args:
            blobs: further blobs to return.
            start, end: the first and the last layer to run; None: those of the net. A part of the
                net reads the blobs that come from outside of it as they were left by the last
                call; other values for them may be given like inputs. After a part that begins at
                the net's inputs, backward may follow.
            inputs: arrays by name, shaped as their blobs up to trailing ones; the others stay.
        Returns:
            name -> value: of the outputs, or of the part's, and of `blobs`.
        Raises:
            NetError: for an unknown name, an array of another shape or without real numbers, a nan
                among the inputs, and a label that is no class.
            BudgetError: a NetError, where the budget for `memory` cannot be met.
        """
        wanted = as_names(() if blobs is None else blobs, "blobs")
        for name in wanted:
            need(name in self.blobs, unknown("blob", name, self.blobs))
        if start is not None or end is not None:
            if start is None:
                self._inputs.fill(inputs)
            self._follow_shapes()
            return self._parts.forward(start, end, wanted, inputs)
        self._follow_shapes()
        self._inputs.put(inputs)
        self._inputs.fill()
        self._count_selected()
        signature = self._accumulating(self._custom or self.compilations.default())
        self._calls.forward(self.compilations.compiled(keeping(signature, wanted)))
        return {name: self._values.left(name) for name in driver.names([*self.outputs, *wanted])}

    @one_at_a_time
    def backward(
        self,
        diffs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        wrt: Sequence[str] | None = None,
        **gradients: Any,
    ) -> dict[str, np.ndarray]:
        """Gradients, after a forward pass.

        Args:
            diffs: further blobs whose gradients are wanted.
            start: the layer to start from: its tops' `.diff` is given, or what `gradients` has for
                them, as the layer leaves them. The layers behind it take no part, nor do their
                losses.
            end: the layer to stop at: the gradients of its bottoms are wanted.
            wrt: inputs, blobs and parameters (`conv1/0`) to differentiate for; None: the net
                inputs, by Caffe's rule, and all learned parameters into their `.diff`.
            gradients: arrays by blob name. A gradient given for an inner blob is added to what
                arrives there from losses above (Caffe and MatConvNet overwrite it).
        Returns:
            name -> gradient, in the shape of what it is the gradient of: of `wrt` and `diffs`, or
            of the net inputs.
        Raises:
            NetError: before a forward pass, or after a part of the net was run on values given
                for its inside; for an unknown blob, parameter or layer, for a gradient of another
                shape than its blob's, up to trailing ones, and for a nan in one.
            BudgetError: a NetError, where the budget for `memory` cannot be met.
        Asking for other gradients than last time compiles once and runs forward again, from the
        held inputs and with the same random numbers.
        """
        begun = gradients if start is None else self._values.leaving(start, gradients)
        signature, returned = self.compilations.backward(
            begun, diffs=diffs, start=start, end=end, wrt=wrt
        )
        self._values.give({**gradients, **begun})
        if not signature.wrt:
            return {}
        need(self._calls.active is not None, "backward needs a forward pass first")
        if self._calls.began_inside:
            raise NetError(
                f"the last forward pass began at layer '{self._calls.began_inside}' with values"
                " given for what it reads; backward needs one that begins at the inputs"
            )
        signature = self._accumulating(signature)
        made = self._calls.serving(signature) or self.compilations.compiled(signature)
        self._calls.backward(made)
        return self._gradients(made, returned)

    @explained
    @one_at_a_time
    def forward_backward(
        self,
        inputs: Mapping[str, Any] | None = None,
        gradients: Mapping[str, Any] | None = None,
        wrt: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Both in one native call.

        Args:
            inputs: as those of `forward`, by name.
            gradients, wrt: as those of `backward`.
        Returns:
            What `backward` returns; `results` has the outputs.
        Raises:
            NetError: as `forward` and `backward` do.
        """
        self._follow_shapes()
        given = dict(gradients or {})
        signature, returned = self.compilations.backward(given, wrt=wrt)
        self._inputs.put(inputs or {})
        self._inputs.fill()
        if self._count_selected():
            signature = driver.with_shapes(signature, self.compilations.shapes)
        self._values.give(given)
        made = self.compilations.compiled(self._accumulating(signature))
        self._calls.both(made)
        return self._gradients(made, returned)

    def results(self) -> dict[str, np.ndarray]:
        """The outputs by name, as the last call left them. Raises NetError before a call."""
        return {name: self._values.left(name) for name in self.outputs}

    @one_thread_at_a_time
    def reshape(self) -> None:
        """Adopt the shapes given to inputs; refused shapes raise NetError here."""
        self._follow_shapes()

    def _follow_shapes(self) -> None:
        if self._shapes.follow():
            self._custom = None

    @one_thread_at_a_time
    def clear_param_diffs(self) -> None:
        """Start parameter gradients afresh: the next backward overwrites them."""
        self.arrays.clear_parameter_diffs()

    @one_thread_at_a_time
    def copy_from(self, weights: Any) -> None:
        """Load weights by layer name: a .caffemodel(.h5) path, a dict, or `"random:SEED"`.

        A dict has a layer's arrays by its name: {"conv1": [filters, biases]}. Layers that the
        source does not have keep theirs. Raises NetError, and loads nothing, where it cannot be
        read, has none of the net's layers, or a layer's arrays are not as many, or not of the
        shapes, that the net needs.
        """
        self._parameters.load(weights)

    def values(self) -> dict[str, np.ndarray]:
        """All that lasts from call to call, as programs name it: parameters, `conv1/0`, and states
        (dropout's counter, recurrent states, a solver's history). Arrays are not copied.
        """
        return {**self.arrays.parameters, **self.arrays.states}

    @one_thread_at_a_time
    def share_with(self, other: Net) -> None:
        """Use the parameters of another net from now on, by layer name, in the same memory.

        Raises NetError where the nets have another dtype, or a layer's parameters other shapes.
        """
        self._parameters.share(other._parameters)

    @one_thread_at_a_time
    def save(self, path: str | Path) -> None:
        """Write a .caffemodel (HDF5 where the path ends in .h5), whole or not at all.

        Raises NetError where it cannot be written.
        """
        self._parameters.save(path)

    @one_at_a_time
    def prepare(self, wrt: Sequence[str] | None = None, given: Sequence[str] = ()) -> Compilation:
        """Compile for calls with these gradients, ahead of the first of them.

        wrt as in `backward`; `()` makes forward calls that keep nothing for a backward pass.
        given: the blobs whose gradients will be given.
        Raises NetError for an unknown name, and BudgetError where `memory` cannot be met.
        """
        names = as_names(given, "given")
        signature, _ = self.compilations.backward(dict.fromkeys(names), wrt=wrt)
        if not signature.wrt:
            signature = replace(signature, given=())
        self._custom = signature
        return self.compilations.compiled(self._accumulating(signature))

    def front(self) -> CaffeNet:
        """The net as the front end built it: its forward graph, and who gets gradients."""
        return self.compilations.front()

    def compilation(self) -> Compilation:
        """What the last call ran, or the next one will run: for looking inside.

        Raises BudgetError where the budget for `memory` cannot be met.
        """
        return self._calls.active or self.compilations.compiled(self.compilations.default())

    def summary(self) -> Summary:
        """The table of layers: type, shape, parameters, operations, memory. It prints."""
        from graphc.lowered import of_compilation
        from graphc.summary import summarise

        planned = self._calls.active or self.compilations.planned(self.compilations.default())
        return summarise(of_compilation(planned))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise NetError(
            "a net cannot be copied or pickled: make another one, and load what this one saves, or"
            " share_with it"
        )

    def _repr_svg_(self) -> str:
        """The layers as a picture, in a notebook."""
        from graphc.report.graph_picture import layers_picture

        return layers_picture(self.front().graph)

    # -- signatures -------------------------------------------------------------------------

    def _accumulating(self, signature: Signature) -> Signature:
        """Add to the parameter gradients unless all that this call touches were cleared."""
        touched = {name for name in signature.wrt if name in self.arrays.parameters}
        return accumulating(signature, bool(touched - self.arrays.cleared))

    def _gradients(self, made: Compilation, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Those of these names after this backward pass, which is the one to prepare from now."""
        self._custom = accumulating(made.signature, False)
        return {name: self._values.gradient(name) for name in names}

    def _count_selected(self) -> bool:
        """Follow what Filter layers let pass; whether that has changed."""
        changed = self._shapes.count_selected()
        if changed and self._custom is not None:
            self._custom = driver.with_shapes(self._custom, self.compilations.shapes)
        return changed
