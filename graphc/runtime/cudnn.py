"""Convolutions by cuDNN 9. Its reference: https://docs.nvidia.com/deeplearning/cudnn/.

Of its algorithms only direct sums are taken, and of these the ones that add up in the same order
each time: their results stay those of the generated kernels, but for rounding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from graphc.runtime.library_call import CUDNN, Convolution, Four
from graphc.runtime.shared_library import LibraryAtWork


class DataType(IntEnum):
    """cudnnDataType_t."""

    CUDNN_DATA_FLOAT = 0


class Format(IntEnum):
    """cudnnTensorFormat_t."""

    CUDNN_TENSOR_NHWC = 1


class Mode(IntEnum):
    """cudnnConvolutionMode_t."""

    CUDNN_CROSS_CORRELATION = 1


class Math(IntEnum):
    """cudnnMathType_t. The default lets float32 be rounded to tf32."""

    CUDNN_DEFAULT_MATH = 0
    CUDNN_FMA_MATH = 3


class Forward(IntEnum):
    """cudnnConvolutionFwdAlgo_t."""

    CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM = 1
    CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM = 0


class DataGradient(IntEnum):
    """cudnnConvolutionBwdDataAlgo_t."""

    CUDNN_CONVOLUTION_BWD_DATA_ALGO_1 = 1


class WeightGradient(IntEnum):
    """cudnnConvolutionBwdFilterAlgo_t."""

    CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1 = 1


ENUMERATIONS = (DataType, Format, Mode, Math, Forward, DataGradient, WeightGradient)

_RUN = (*[c_void_p] * 7, c_int, c_void_p, c_size_t, *[c_void_p] * 3)
_SIZE = (*[c_void_p] * 5, c_int, POINTER(c_size_t))
FUNCTIONS = {
    "cudnnCreate": (POINTER(c_void_p),),
    "cudnnDestroy": (c_void_p,),
    "cudnnSetStream": (c_void_p, c_void_p),
    "cudnnCreateTensorDescriptor": (POINTER(c_void_p),),
    "cudnnSetTensor4dDescriptorEx": (c_void_p, *[c_int] * 9),
    "cudnnDestroyTensorDescriptor": (c_void_p,),
    "cudnnCreateFilterDescriptor": (POINTER(c_void_p),),
    "cudnnSetFilter4dDescriptor": (c_void_p, *[c_int] * 6),
    "cudnnDestroyFilterDescriptor": (c_void_p,),
    "cudnnCreateConvolutionDescriptor": (POINTER(c_void_p),),
    "cudnnSetConvolution2dDescriptor": (c_void_p, *[c_int] * 8),
    "cudnnSetConvolutionGroupCount": (c_void_p, c_int),
    "cudnnSetConvolutionMathType": (c_void_p, c_int),
    "cudnnDestroyConvolutionDescriptor": (c_void_p,),
    "cudnnGetConvolutionForwardWorkspaceSize": _SIZE,
    "cudnnGetConvolutionBackwardDataWorkspaceSize": _SIZE,
    "cudnnGetConvolutionBackwardFilterWorkspaceSize": _SIZE,
    "cudnnConvolutionForward": _RUN,
    "cudnnConvolutionBackwardData": _RUN,
    "cudnnConvolutionBackwardFilter": _RUN,
}


@dataclass(frozen=True)
class Way:
    """One of the three: what its functions are called, its algorithms, the order of operands.

    order: the descriptors of what is read, and of what is written, by `_Operation`'s names.
    """

    name: str
    algorithms: type[IntEnum]
    order: tuple[str, str, str]


WAYS = {
    "forward": Way("Forward", Forward, ("data", "weights", "result")),
    "data gradient": Way("BackwardData", DataGradient, ("weights", "result", "data")),
    "weight gradient": Way("BackwardFilter", WeightGradient, ("data", "result", "weights")),
}


class Cudnn(LibraryAtWork):
    """The library at work."""

    def __init__(self, loaded: ctypes.CDLL):
        super().__init__(CUDNN, loaded, FUNCTIONS)

    def candidates(
        self, call: Convolution, alignments: Sequence[int], room: int
    ) -> list[PreparedConvolution]:
        """Ways to run it; none where the library has none within `room` bytes of workspace."""
        operation = _Operation(self, call)
        found = []
        for algorithm in operation.way.algorithms:
            size = operation.workspace(algorithm)
            if size is not None and size <= room:
                found.append(PreparedConvolution(operation, algorithm, size))
        return found


class _Operation:
    """A call's descriptors; the library's until this goes."""

    def __init__(self, library: Cudnn, call: Convolution):
        self.library, self.call = library, call
        self.way = WAYS[call.way]
        self.descriptors = {
            "data": self._tensor(call.data, call.data_strides),
            "weights": self._filter(call.weights),
            "result": self._tensor(call.result, call.result_strides),
        }
        self.convolution = self._made("Convolution")
        library.ask(
            "cudnnSetConvolution2dDescriptor",
            self.convolution,
            *call.pads,
            *call.strides,
            *call.dilations,
            Mode.CUDNN_CROSS_CORRELATION,
            DataType.CUDNN_DATA_FLOAT,
        )
        library.ask("cudnnSetConvolutionGroupCount", self.convolution, call.groups)
        math = Math.CUDNN_DEFAULT_MATH if call.tf32 else Math.CUDNN_FMA_MATH
        library.ask("cudnnSetConvolutionMathType", self.convolution, math)

    def _made(self, kind: str) -> c_void_p:
        names = f"cudnnCreate{kind}Descriptor", f"cudnnDestroy{kind}Descriptor"
        return self.library.owned(self, *names)

    def _tensor(self, shape: Four, strides: Four) -> c_void_p:
        made = self._made("Tensor")
        kind = DataType.CUDNN_DATA_FLOAT
        self.library.ask("cudnnSetTensor4dDescriptorEx", made, kind, *shape, *strides)
        return made

    def _filter(self, shape: Four) -> c_void_p:
        made = self._made("Filter")
        kind, form = DataType.CUDNN_DATA_FLOAT, Format.CUDNN_TENSOR_NHWC
        self.library.ask("cudnnSetFilter4dDescriptor", made, kind, form, *shape)
        return made

    def workspace(self, algorithm: int) -> int | None:
        """Bytes that an algorithm needs; None where it does not suit."""
        first, second, third = (self.descriptors[name] for name in self.way.order)
        size = c_size_t(0)
        refused = self.library.refuses(
            f"cudnnGetConvolution{self.way.name}WorkspaceSize",
            self.library.handle,
            first,
            second,
            self.convolution,
            third,
            algorithm,
            ctypes.byref(size),
        )
        return None if refused else size.value


class PreparedConvolution:
    """One algorithm for a convolution. number: the library's. workspace_bytes: it needs."""

    def __init__(self, operation: _Operation, algorithm: int, size: int):
        self._operation = operation
        self.number = int(algorithm)
        self.workspace_bytes = size

    def run(self, pointers: Sequence[int], workspace: int, stream: int) -> None:
        """Put it on a stream. pointers: the operands, in the call's order."""
        operation, library = self._operation, self._operation.library
        one, none = c_float(1), c_float(0)
        first, second, third = (operation.descriptors[name] for name in operation.way.order)
        left, right, result = pointers
        if operation.call.way == "data gradient":
            left, right = right, left  # there the weights come first
        arguments: tuple[Any, ...] = (first, left, second, right)
        library.ask("cudnnSetStream", library.handle, stream)
        library.ask(
            f"cudnnConvolution{operation.way.name}",
            library.handle,
            ctypes.byref(one),
            *arguments,
            operation.convolution,
            self.number,
            workspace if self.workspace_bytes else None,
            self.workspace_bytes,
            ctypes.byref(none),
            third,
            result,
        )
