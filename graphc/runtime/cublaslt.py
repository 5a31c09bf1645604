"""Matrix products by cuBLASLt. Its reference: https://docs.nvidia.com/cuda/cublas/."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from enum import IntEnum
from typing import Any

from graphc.runtime.library_call import CUBLASLT, Matrix, MatrixProduct
from graphc.runtime.shared_library import LibraryAtWork

MOST_ALGORITHMS = 4  # that are tried for a shape


class DataType(IntEnum):
    """cudaDataType_t."""

    CUDA_R_32F = 0
    CUDA_R_64F = 1


class ComputeType(IntEnum):
    """cublasComputeType_t."""

    CUBLAS_COMPUTE_32F = 68
    CUBLAS_COMPUTE_64F = 70
    CUBLAS_COMPUTE_32F_FAST_TF32 = 77


class Operation(IntEnum):
    """cublasOperation_t."""

    CUBLAS_OP_N = 0
    CUBLAS_OP_T = 1


class Description(IntEnum):
    """cublasLtMatmulDescAttributes_t."""

    CUBLASLT_MATMUL_DESC_TRANSA = 3
    CUBLASLT_MATMUL_DESC_TRANSB = 4
    CUBLASLT_MATMUL_DESC_EPILOGUE = 7
    CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8


class Epilogue(IntEnum):
    """cublasLtEpilogue_t."""

    CUBLASLT_EPILOGUE_DEFAULT = 1
    CUBLASLT_EPILOGUE_RELU = 2
    CUBLASLT_EPILOGUE_BIAS = 4
    CUBLASLT_EPILOGUE_RELU_BIAS = 6


class Layout(IntEnum):
    """cublasLtMatrixLayoutAttribute_t."""

    CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT = 5
    CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET = 6


class Preference(IntEnum):
    """cublasLtMatmulPreferenceAttributes_t."""

    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1
    CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8


class Reduction(IntEnum):
    """cublasLtReductionScheme_t: how parts of a sum meet. In place their order may vary."""

    CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2
    CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE = 4


ENUMERATIONS = (
    DataType, ComputeType, Operation, Description, Epilogue, Layout, Preference, Reduction,
)  # fmt: skip


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t; an algorithm is 64 bytes that only the library reads."""

    _fields_ = (
        ("algo", c_uint64 * 8),
        ("workspaceSize", c_size_t),
        ("state", c_int),
        ("wavesCount", c_float),
        ("reserved", c_int * 4),
    )


_ATTRIBUTE = (c_void_p, c_int, c_void_p, c_size_t)
FUNCTIONS = {
    "cublasLtCreate": (POINTER(c_void_p),),
    "cublasLtDestroy": (c_void_p,),
    "cublasLtMatmulDescCreate": (POINTER(c_void_p), c_int, c_int),
    "cublasLtMatmulDescSetAttribute": _ATTRIBUTE,
    "cublasLtMatmulDescDestroy": (c_void_p,),
    "cublasLtMatrixLayoutCreate": (POINTER(c_void_p), c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutSetAttribute": _ATTRIBUTE,
    "cublasLtMatrixLayoutDestroy": (c_void_p,),
    "cublasLtMatmulPreferenceCreate": (POINTER(c_void_p),),
    "cublasLtMatmulPreferenceSetAttribute": _ATTRIBUTE,
    "cublasLtMatmulPreferenceDestroy": (c_void_p,),
    "cublasLtMatmulAlgoGetHeuristic": (
        *[c_void_p] * 7,
        c_int,
        POINTER(Heuristic),
        POINTER(c_int),
    ),
    # handle, description, alpha, A, its layout, B, its layout, beta, C, its layout, D, its layout,
    # algorithm, workspace, its size, stream
    "cublasLtMatmul": (*[c_void_p] * 14, c_size_t, c_void_p),
}

_TYPES = {
    ("float32", False): (ComputeType.CUBLAS_COMPUTE_32F, DataType.CUDA_R_32F),
    ("float32", True): (ComputeType.CUBLAS_COMPUTE_32F_FAST_TF32, DataType.CUDA_R_32F),
    ("float64", False): (ComputeType.CUBLAS_COMPUTE_64F, DataType.CUDA_R_64F),
}
_EPILOGUES = {
    "": Epilogue.CUBLASLT_EPILOGUE_DEFAULT,
    "add": Epilogue.CUBLASLT_EPILOGUE_DEFAULT,
    "relu": Epilogue.CUBLASLT_EPILOGUE_RELU,
    "bias": Epilogue.CUBLASLT_EPILOGUE_BIAS,
    "bias+relu": Epilogue.CUBLASLT_EPILOGUE_RELU_BIAS,
}


class CublasLt(LibraryAtWork):
    """The library at work."""

    def __init__(self, loaded: ctypes.CDLL):
        super().__init__(CUBLASLT, loaded, FUNCTIONS)

    def candidates(
        self, call: MatrixProduct, alignments: Sequence[int], room: int
    ) -> list[PreparedProduct]:
        """Ways to run it, what the library thinks best first; none where it has none.

        alignments: of its operands, bytes. room: bytes of workspace that there may be.
        """
        operation = _Operation(self, call)
        return [
            PreparedProduct(operation, number, found)
            for number, found in enumerate(operation.heuristics(alignments, room))
            if found.state == 0 and found.workspaceSize <= room
        ]


class _Operation:
    """A call's descriptors; the library's until this goes."""

    def __init__(self, library: CublasLt, call: MatrixProduct):
        self.library, self.call = library, call
        compute, kind = _TYPES[call.dtype, call.tf32]
        self.number = c_float if call.dtype == "float32" else ctypes.c_double
        self.description = self._made("MatmulDesc", compute, kind)
        for name, is_transposed in zip("AB", call.transposed, strict=True):
            attribute = Description[f"CUBLASLT_MATMUL_DESC_TRANS{name}"]
            self.set_attribute("MatmulDesc", self.description, attribute, c_int32(is_transposed))
        epilogue = c_uint32(_EPILOGUES[call.ending])
        attribute = Description.CUBLASLT_MATMUL_DESC_EPILOGUE
        self.set_attribute("MatmulDesc", self.description, attribute, epilogue)
        self.layouts = [self._layout(matrix, kind) for matrix in (call.a, call.b, call.d)]

    def _made(self, kind: str, *arguments: Any) -> c_void_p:
        names = f"cublasLt{kind}Create", f"cublasLt{kind}Destroy"
        return self.library.owned(self, *names, *arguments)

    def set_attribute(self, kind: str, handle: c_void_p, attribute: int, value: Any) -> None:
        """Set one of a descriptor."""
        size = ctypes.sizeof(value)
        function = f"cublasLt{kind}SetAttribute"
        self.library.ask(function, handle, attribute, ctypes.byref(value), size)

    def _layout(self, matrix: Matrix, kind: int) -> c_void_p:
        made = self._made("MatrixLayout", kind, matrix.rows, matrix.columns, matrix.leading)
        if self.call.count > 1:
            count, step = c_int32(self.call.count), c_int64(matrix.batch)
            self.set_attribute(
                "MatrixLayout", made, Layout.CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count
            )
            attribute = Layout.CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET
            self.set_attribute("MatrixLayout", made, attribute, step)
        return made

    def heuristics(self, alignments: Sequence[int], room: int) -> list[Heuristic]:
        """Algorithms that add up in an order that does not vary."""
        wish = self._made("MatmulPreference")
        a, b, d, *more = alignments
        c = more[0] if self.call.ending == "add" else d
        ordered = (
            Reduction.CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
            | Reduction.CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE
        )
        wishes: list[tuple[Preference, Any]] = [
            (Preference.CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, c_uint64(room)),
            (Preference.CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, c_uint32(ordered)),
        ]
        for name, alignment in zip("ABCD", (a, b, c, d), strict=True):
            attribute = Preference[f"CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{name}_BYTES"]
            wishes.append((attribute, c_uint32(alignment)))
        for attribute, value in wishes:
            self.set_attribute("MatmulPreference", wish, attribute, value)
        found = (Heuristic * MOST_ALGORITHMS)()
        count = c_int(0)
        first, second, third = self.layouts
        layouts = (first, second, third, third)
        refused = self.library.refuses(
            "cublasLtMatmulAlgoGetHeuristic",
            self.library.handle,
            self.description,
            *layouts,
            wish,
            MOST_ALGORITHMS,
            found,
            ctypes.byref(count),
        )
        return [] if refused else list(found[: count.value])


class PreparedProduct:
    """One algorithm for a product. number: among the candidates. workspace_bytes: it needs."""

    def __init__(self, operation: _Operation, number: int, heuristic: Heuristic):
        self._operation = operation
        self._heuristic = heuristic
        self.number = number
        self.workspace_bytes = int(heuristic.workspaceSize)

    def run(self, pointers: Sequence[int], workspace: int, stream: int) -> None:
        """Put it on a stream. pointers: the operands, in the call's order."""
        operation, library = self._operation, self._operation.library
        a, b, d, *more = pointers
        ending = operation.call.ending
        if ending.startswith("bias"):
            attribute = Description.CUBLASLT_MATMUL_DESC_BIAS_POINTER
            operation.set_attribute(
                "MatmulDesc", operation.description, attribute, c_void_p(more[0])
            )
        one, beta = operation.number(1), operation.number(ending == "add")
        first, second, third = operation.layouts
        library.ask(
            "cublasLtMatmul",
            library.handle,
            operation.description,
            ctypes.byref(one),
            a,
            first,
            b,
            second,
            ctypes.byref(beta),
            more[0] if ending == "add" else d,
            third,
            d,
            third,
            ctypes.byref(self._heuristic.algo),
            workspace if self.workspace_bytes else None,
            self.workspace_bytes,
            stream,
        )
