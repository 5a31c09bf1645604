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
from typing import Any

import numpy as np

from graphc import driver
from graphc.arrays import assign, checked
from graphc.blob import Blob, Named, ParameterBlob
from graphc.call_arguments import explained
from graphc.compilations import Compilations, checked_signature, is_whole
from graphc.driver import Compilation, Signature
from graphc.error import NetError, NetWarning, need
from graphc.frontends.caffe.definition import NetDefinition, read_net
from graphc.frontends.caffe.layer import LAYERS
from graphc.frontends.caffe.network import CaffeNet
from graphc.gradient_request import as_names, unknown
from graphc.lowered import of_compilation
from graphc.net_arrays import NetArrays
from graphc.phase import TEST, Phase
from graphc.plan.budget import Memory
from graphc.report.graph_picture import layers_picture
from graphc.runtime.cpu import aligned_zeros, refuse_nan
from graphc.runtime.host_arrays import Arrays
from graphc.sources.feeds import Feeds
from graphc.sources.memory import image_rows
from graphc.summary import Summary, summarise
from graphc.weights import fill_parameters, load_weights, save_weights, share_parameters


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
        exact: convolutions are direct sums; else 3x3 ones are Winograd's F(2x2, 3x3) where that is
            faster, whose rounding error is no larger.
        fast_math: "winograd4" allows F(4x4, 3x3), faster still, with errors of some 2e-5; "tf32"
            lets a GPU's tensor cores round what they multiply to 10 bits after the point.
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
        self.threads = base.threads
        self.definition: NetDefinition = (
            source
            if isinstance(source, NetDefinition)
            else read_net(source, phase=phase, level=level, stages=stages, layer_types=LAYERS)
        )
        self.compilations = Compilations(self.definition, base, shapes or {})
        self._active: Compilation | None = None
        self._forward_is_current = False
        self._arena_is_spent = False  # backward has overwritten what forward left for it
        self._began_inside = ""  # the layer that a forward pass began at, with given blobs
        self._backward_made: Compilation | None = None
        self._known_diffs: set[str] = set()
        self._custom: Signature | None = None
        front = self.front()
        self.arrays = NetArrays(front, dtype, int(seed), driver.BACK_ENDS[target].arrays)
        self._keep_shapes()
        self._diffs_are_clear = set(self.arrays.parameters)
        self.feeds = Feeds(front.data_layers, int(seed))
        blobs = [name for name in front.graph.blobs if ":" not in name]
        self.blobs = Named("blob", {name: Blob(self, name) for name in blobs})
        self.params = self._parameter_lists(front)
        for name in shapes or ():
            need(name in self.arrays.inputs, unknown("net input", name, self.arrays.inputs))
        for name in base.keep:
            known = name.removesuffix(".diff") in front.graph.blobs
            need(known, f"keep: {unknown('blob', name, self.blobs)}")
        fill_parameters(self.front(), self.arrays.parameters, seed)
        if weights is not None:
            load_weights(self.front(), self.arrays.parameters, weights)
        self._warn_about_zeros(weights)

    # -- what the user sees -----------------------------------------------------------------

    @property
    def name(self) -> str:
        """The net's name."""
        return self.definition.name

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
        """The weighted sum of all losses of the last forward pass."""
        graph = self._need_forward("the loss").caffe.graph
        return sum(
            weight * float(self.arrays.outputs[name].sum())
            for name, (_, weight) in zip(driver.loss_outputs(graph), graph.losses, strict=True)
        )

    def set_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Copy arrays into net inputs. Shapes must agree up to trailing ones."""
        known = self.inputs
        numbers = {}
        for name, array in inputs.items():
            if name not in known:
                raise NetError(unknown("net input", name, known))
            numbers[name] = checked(array, self.arrays.inputs[name].shape, f"input '{name}'")
        for name, array in numbers.items():
            self.arrays.inputs[name][...] = array
        if inputs:
            self._forward_is_current = False
            self.feeds.note_given(inputs)

    def set_input_arrays(self, data: Any, labels: Any) -> None:
        """What the net's MemoryData layer serves: one batch after another, again from the start.

        Args:
            data: images [N, C, H, W]; N is a multiple of the layer's batch size.
            labels: N numbers.
        """
        layer = next((d for d in self.definition.layers if d.type == "MemoryData"), None)
        if layer is None:
            raise NetError("the net has no MemoryData layer")
        shape = self.arrays.inputs[layer.tops[0]].shape
        self.feeds.put(layer.tops, image_rows(layer.name, shape, data, labels))

    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **inputs: Any,
    ) -> dict[str, np.ndarray]:
        """Run the net, or its layers `start` to `end`.

        Returns the outputs (and the blobs named in `blobs`). A part of the net reads the blobs
        that come from outside of it as they were left by the last call; other values for them may
        be given like inputs. After a part that begins at the net's inputs, backward may follow.
        """
        wanted = as_names(blobs or (), "blobs")
        for name in wanted:
            need(name in self.blobs, unknown("blob", name, self.blobs))
        if start is not None or end is not None:
            if start is None:
                self._fill_inputs(inputs)
            return self._forward_part(start, end, wanted, inputs)
        self._follow_reshape()
        self.set_inputs(inputs)
        self._fill_inputs()
        self._count_selected()
        signature = self._accumulating(self._custom or self.compilations.default())
        self._run_forward(self.compilations.compiled(_keeping(signature, wanted)))
        return {name: self._blob_data(name) for name in driver.names([*self.outputs, *wanted])}

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
            start: the layer to start from: its tops' `.diff` is given.
            end: the layer to stop at: the gradients of its bottoms are wanted.
            wrt: inputs, blobs and parameters (`conv1/0`) to differentiate for; None: the net
                inputs, by Caffe's rule, and all learned parameters into their `.diff`.
            gradients: arrays by blob name. A gradient given for an inner blob is added to what
                arrives there from losses above (Caffe and MatConvNet overwrite it).
        Returns:
            name -> gradient: of `wrt` and `diffs`, or of the net inputs.
        Asking for other gradients than last time compiles once and runs forward again, from the
        held inputs and with the same random numbers.
        """
        signature, returned = self.compilations.backward(
            gradients, diffs=diffs, start=start, end=end, wrt=wrt
        )
        self._give(gradients)
        if not signature.wrt:
            return {}
        need(self._active is not None, "backward needs a forward pass first")
        if self._began_inside:
            raise NetError(
                f"the last forward pass began at layer '{self._began_inside}' with values given for"
                " what it reads; backward needs one that begins at the inputs"
            )
        made = self._made_for(self._accumulating(signature))
        if made is not self._active or not self._forward_is_current or self._arena_is_spent:
            if self._forward_is_current:
                self.arrays.restore_states()
            self._run_forward(made)
        self._arena_is_spent = made.signature.memory != "all"
        self._call(made, "backward")
        return self._after_backward(made, returned)

    def forward_backward(
        self,
        inputs: Mapping[str, Any] | None = None,
        gradients: Mapping[str, Any] | None = None,
        wrt: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Both in one native call; returns what `backward` returns."""
        self._follow_reshape()
        given = dict(gradients or {})
        signature, returned = self.compilations.backward(given, wrt=wrt)
        self.set_inputs(inputs or {})
        self._fill_inputs()
        if self._count_selected():
            signature = driver.with_shapes(signature, self.compilations.shapes)
        self._give(given)
        made = self.compilations.compiled(self._accumulating(signature))
        self._run_forward(made, "both")
        self._arena_is_spent = made.signature.memory != "all"
        return self._after_backward(made, returned)

    def reshape(self) -> None:
        """Adopt the shapes given to inputs; refused shapes raise NetError here."""
        self._follow_reshape()

    def clear_param_diffs(self) -> None:
        """Start parameter gradients afresh: the next backward overwrites them."""
        self._diffs_are_clear = set(self.arrays.parameters)
        for name in self.arrays.parameter_diffs:
            self.arrays.parameter_diffs.zero(name)

    def copy_from(self, weights: Any) -> None:
        """Load weights by layer name: a .caffemodel(.h5) path, a dict, or `"random:SEED"`."""
        load_weights(self.front(), self.arrays.parameters, weights)
        self._forward_is_current = False

    def values(self) -> dict[str, np.ndarray]:
        """All that lasts from call to call, as programs name it: parameters, `conv1/0`, and states
        (dropout's counter, recurrent states, a solver's history). Arrays are not copied.
        """
        return {**self.arrays.parameters, **self.arrays.states}

    def share_with(self, other: Net) -> None:
        """Use the parameters of another net from now on, by layer name, in the same memory.

        Raises NetError where the nets have another dtype, or a layer's parameters other shapes.
        """
        need(
            self.arrays.dtype == other.arrays.dtype,
            f"a net of {self.arrays.dtype} cannot share with one of {other.arrays.dtype}",
        )
        share_parameters(
            self.front(), self.arrays.parameters, other.front(), other.arrays.parameters
        )
        self._forward_is_current = False

    def save(self, path: str | Path) -> None:
        """Write a .caffemodel (HDF5 where the path ends in .h5), whole or not at all."""
        save_weights(self.front(), self.arrays.parameters, path)

    def prepare(self, wrt: Sequence[str] | None = None, given: Sequence[str] = ()) -> Compilation:
        """Compile for calls with these gradients, ahead of the first of them.

        wrt as in `backward`; `()` makes forward calls that keep nothing for a backward pass.
        given: the blobs whose gradients will be given.
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
        """What the last call ran, or the next one will run: for looking inside."""
        return self._active or self.compilations.compiled(self.compilations.default())

    def summary(self) -> Summary:
        """The table of layers: type, shape, parameters, operations, memory. It prints."""
        planned = self._active or self.compilations.planned(self.compilations.default())
        return summarise(of_compilation(planned))

    def _repr_svg_(self) -> str:
        """The layers as a picture, in a notebook."""
        return layers_picture(self.front().graph)

    # -- signatures -------------------------------------------------------------------------

    def _parameter_lists(self, front: CaffeNet) -> dict[str, list[ParameterBlob]]:
        lists: dict[str, list[ParameterBlob]] = Named("layer with parameters", {})
        for key, owner in front.owners.items():
            lists.setdefault(key.rpartition("/")[0], []).append(ParameterBlob(self, owner))
        return lists

    def _accumulating(self, signature: Signature) -> Signature:
        """Add to the parameter gradients unless all that this call touches were cleared."""
        touched = {name for name in signature.wrt if name in self.arrays.parameters}
        return replace(signature, accumulate=bool(touched - self._diffs_are_clear))

    def _give(self, gradients: Mapping[str, Any]) -> None:
        """Copy arrays into the gradients of blobs, all of them or none."""
        numbers = {
            name: checked(array, self._diff(name).shape, f"the gradient of '{name}'")
            for name, array in gradients.items()
        }
        for name, array in numbers.items():
            self._diff(name)[...] = array

    def _after_backward(self, made: Compilation, returned: Iterable[str]) -> dict[str, np.ndarray]:
        """Note what this call has renewed; the gradients to return."""
        signature = made.signature
        self._backward_made = made
        self._known_diffs = {*signature.wrt, *signature.given}
        self._custom = replace(signature, accumulate=False)
        self._diffs_are_clear -= set(signature.wrt)
        for name in made.signature.given:  # was also asked for, in an array of its own
            if f"{name}.diff~out" in self.arrays.outputs and name in signature.wrt:
                self._diff(name)[...] = self.arrays.outputs[f"{name}.diff~out"]
        return {name: self._gradient(name) for name in returned}

    def _made_for(self, signature: Signature) -> Compilation:
        """What ran last, where it serves this signature and only keeps more blobs; else its own."""
        made = self._active
        if made is None or not set(signature.keep) <= set(made.signature.keep):
            return self.compilations.compiled(signature)
        same = replace(made.signature, keep=signature.keep) == signature
        return made if same else self.compilations.compiled(signature)

    def _fill_inputs(self, given: Iterable[str] = ()) -> None:
        """Let the data layers serve the next batch."""
        self.feeds.note_given(given)
        self.feeds.fill(self.arrays.inputs)

    # -- running ----------------------------------------------------------------------------

    def _run_forward(self, made: Compilation, which: str = "forward") -> None:
        refuse_nan(self.arrays.inputs)
        self._forward_is_current = False
        self._backward_made = None
        self.arrays.note_states(made)
        try:
            self._call(made, which)
        except NetError:
            self.arrays.restore_states()
            if made is not self._active:
                self._active = None  # what it left has been overwritten
            raise
        self._active = made
        self._forward_is_current = True
        self._arena_is_spent = False
        self._began_inside = ""

    def _call(self, made: Compilation, which: str, inputs: Arrays | None = None) -> None:
        """One native call on the net's arrays; `inputs` stand in for those of the net."""
        executable = made.executable
        assert executable is not None
        own = self.arrays.inputs if inputs is None else inputs
        slots = [slot for slot in executable.bundle.slots if slot.role != "arena"]
        executable.bind({slot.name: self.arrays.of(slot, made, own) for slot in slots})
        executable.call(which, self.threads)

    def _forward_part(
        self,
        start: str | None,
        end: str | None,
        blobs: Sequence[str],
        inputs: Mapping[str, Any],
    ) -> dict[str, np.ndarray]:
        """Layers start..end as a net of their own, on the blobs as they are now."""
        self._follow_reshape()
        whole = self.front()
        shapes = {name: value.shape for name, value in whole.graph.blobs.items() if ":" not in name}
        signature = replace(driver.with_shapes(self.compilations.base, shapes), only=(start, end))
        made = self.compilations.compiled(_keeping(signature, blobs))
        for name in inputs:
            need(name in made.caffe.inputs, unknown("input of this part", name, made.caffe.inputs))
        part = self.arrays.table()
        dtype = self.arrays.dtype
        part.update({name: aligned_zeros(shapes[name], dtype) for name in made.caffe.inputs})
        for name, target in part.items():
            given = inputs[name] if name in inputs else self._blob_data(name)
            assign(target, given, f"blob '{name}'")
        refuse_nan(part)
        self._run_part(made, part)
        replaced = set(inputs) - set(self.arrays.inputs)
        if (
            start is None
        ):  # backward can run the whole net again from its inputs, to the same values
            self._active = made
            self._forward_is_current = True
            self._backward_made = None
            self._began_inside = ""
        elif replaced:
            self._began_inside = start
        last = list(made.caffe.layer_tops)[-1]
        wanted = [*made.caffe.graph.outputs, *made.caffe.layer_tops[last], *blobs]
        return {name: self._read(made, name) for name in driver.names(wanted)}

    def _run_part(self, made: Compilation, part: Arrays) -> None:
        """Run a part of the net on these inputs. The loss stays that of the last whole pass."""
        arrays = self.arrays
        noted = arrays.noted()
        whole = made.signature.only[0] is None
        hidden = () if whole else [name for name in arrays.outputs if name not in self.blobs]
        losses = {name: arrays.outputs.pop(name) for name in hidden}
        arrays.note_states(made)
        try:
            self._call(made, "forward", part)
        except NetError:
            arrays.restore_states()
            raise
        finally:
            arrays.outputs.update(losses)
            if not whole:
                arrays.note_again(noted)
        for name in set(part) & set(arrays.inputs):
            arrays.inputs[name][...] = part[name]

    # -- blobs ------------------------------------------------------------------------------

    def _shape_of(self, name: str) -> tuple[int, ...]:
        return self.compilations.shapes.get(name) or self.front().graph.blobs[name].shape

    def _blob_data(self, name: str) -> np.ndarray:
        if name in self.arrays.inputs:
            return self.arrays.inputs[name]
        if name not in self.front().graph.blobs:
            raise NetError(unknown("blob", name, self.blobs))
        made = self._need_forward(f"blob '{name}'")
        return self.arrays.outputs[name] if name in self.arrays.outputs else self._read(made, name)

    def _blob_diff(self, name: str) -> np.ndarray:
        """The one gradient array of a blob: what backward left there, or what the user writes."""
        made = self._backward_made
        inner = f"{name}.diff"
        if made is None or name in self._known_diffs or inner not in made.graph.blobs:
            return self._diff(name)
        assert made.executable is not None
        if inner in made.program.readable:
            self._diff(name)[...] = made.executable.read(inner)
            self._known_diffs.add(name)
        elif name not in self.arrays.diffs:
            raise NetError(f"{_gone(made, inner)}; backward({name}=...) gives one")
        return self._diff(name)

    def _diff(self, name: str) -> np.ndarray:
        """The gradient array of a blob; zeros until somebody writes there."""
        blobs = self.front().graph.blobs
        if name not in blobs:
            raise NetError(unknown("blob", name, self.blobs))
        return self.arrays.diff(name, blobs[name].shape)

    def _gradient(self, name: str) -> np.ndarray:
        owner = self.front().owners.get(name, name)
        if owner in self.arrays.parameters:
            return self.arrays.parameter_diff(owner)
        return self._diff(name)

    def _read(self, made: Compilation, name: str) -> np.ndarray:
        """A copy of an inner blob from where the program left it."""
        program = made.program
        if name in self.arrays.outputs and name in made.graph.outputs:
            return self.arrays.outputs[name]
        if name in made.caffe.inputs:
            return self.arrays.inputs[name]
        executable = made.executable
        assert executable is not None
        early = executable.only_forward
        if name not in (program.readable_forward if early else program.readable):
            raise NetError(_gone(made, name))
        copy = executable.read(name)
        copy.flags.writeable = False
        return copy

    def _need_forward(self, what: str) -> Compilation:
        if self._active is None:
            raise NetError(f"{what} is known after a forward pass")
        return self._active

    # -- shapes -----------------------------------------------------------------------------

    def _reshape_input(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self.arrays.inputs:
            raise NetError(f"'{name}' is not a net input; only inputs can be reshaped")
        need(
            all(isinstance(e, (int, np.integer)) and e >= 0 for e in shape),
            f"a shape is made of whole numbers of at least 0, not {shape}",
        )
        self.compilations.shapes[name] = tuple(int(e) for e in shape)

    def _keep_shapes(self) -> None:
        """Those of the arrays there are."""
        shapes = {name: array.shape for name, array in self.arrays.inputs.items()}
        self.compilations.shapes = shapes

    def _follow_reshape(self) -> None:
        """Bring arrays to the shapes asked for. On a refusal the old shapes stay."""
        if all(a.shape == self.compilations.shapes[name] for name, a in self.arrays.inputs.items()):
            return
        try:
            self.arrays.check_parameters(self.front())
            self.arrays.reshape(self.compilations.shapes)
        except NetError:
            self._keep_shapes()
            raise
        self._active = None
        self._backward_made = None
        self._custom = None
        self._forward_is_current = False

    def _count_selected(self) -> bool:
        """Give the tops of Filter layers as many items as their selectors let pass; any change?"""
        changed = False
        for place in range(len(self.front().selections)):
            selection = self.front().selections[place]
            count = int(np.count_nonzero(self._selector(selection.selector)))
            for top in selection.tops:
                shape = self.front().graph.blobs[top].shape
                if shape[0] != count:
                    self.compilations.shapes[top] = (count, *shape[1:])
                    changed = True
        if changed:
            self.arrays.check_parameters(self.front())
            self._active = None
            self._forward_is_current = False
            if self._custom is not None:
                self._custom = driver.with_shapes(self._custom, self.compilations.shapes)
        return changed

    def _selector(self, name: str) -> np.ndarray:
        """A blob that a Filter layer reads, for the inputs as they are."""
        if name in self.arrays.inputs:
            return self.arrays.inputs[name]
        makers = [layer for layer, tops in self.front().layer_tops.items() if name in tops]
        value = np.array(self._forward_part(None, makers[-1], (name,), {})[name])
        self.arrays.restore_states()
        return value

    def _warn_about_zeros(self, weights: Any) -> None:
        for warning in self.front().warnings:
            warnings.warn(str(warning), NetWarning, stacklevel=3)
        for layer, blobs in self.params.items():
            first = blobs[0].data
            if first.ndim > 1 and first.size and not first.any():
                where = (
                    "as loaded" if weights is not None else "by Caffe's default filler, constant 0"
                )
                warnings.warn(
                    f"layer '{layer}': all its weights are zero ({where})", NetWarning, stacklevel=3
                )


def _keeping(signature: Signature, blobs: Sequence[str]) -> Signature:
    """The signature, with more blobs to be read after the call."""
    return replace(signature, keep=driver.names([*signature.keep, *blobs]))


def _gone(made: Compilation, name: str) -> str:
    """Why a blob cannot be read after a call, and what would keep it."""
    said = [
        r.sentence for r in made.remarks if r.subject == f"blob:{name}" and "keep=" in r.sentence
    ]
    why = made.program.overwritten.get(name) or (said[-1] if said else "")
    return why or f"'{name}' is not computed by this call; keep='{name}' computes it"
