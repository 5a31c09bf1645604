"""The inline functions against numpy in a wider format; -s prints the table of largest errors."""

from __future__ import annotations

import ctypes
import functools
import re

import llvmlite.binding as llvm
import numpy as np
import pytest

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.arithmetic import reshaped
from graphc.codegen.llvm.math import FUNCTIONS, VectorMath
from graphc.codegen.llvm.philox import random_bits, random_row, round_keys
from graphc.codegen.llvm.target import Target
from graphc.error import NetError
from graphc.kernel import philox

LANES = (1, 4, 8, 16)
REAL = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
WIDER = {"float32": np.float64, "float64": np.longdouble}
INT64 = ir.IntType(64)

# name -> (reference, largest error allowed in units in the last place).
UNARY = {
    "exp": (np.exp, 2),
    "expm1": (np.expm1, 2),
    "log": (np.log, 2),
    "log1p": (np.log1p, 2),
    "tanh": (np.tanh, 2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 2),
    "sqrt": (np.sqrt, 0.5),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2),
    "abs": (np.abs, 0),
    "floor": (np.floor, 0),
    "round": (np.rint, 0),
    "sign": (lambda x: np.copysign(np.sign(x), x), 0),
}
# In ulp. float64 is held to a relative error of 1e-13, which is reached at the ends of the range.
POWER_ALLOWED = {"float32": 4, "float64": 1e-13 / np.finfo(np.float64).eps}
EXPONENTS = (
    0,
    1,
    2,
    3,
    4,
    -1,
    -2,
    -3,
    0.5,
    -0.5,
    0.75,
    1.75,
    -0.75,
    -0.25,
    -1.25,
    -1.75,
    0.1,
    7,
    -6,
    2.7,
    41.3,
    -120.5,
)
EXPONENTS += (float("inf"), float("-inf"))


# -- running --


def vector(dtype: str, lanes: int) -> ir.Type:
    return REAL[dtype] if lanes == 1 else ir.VectorType(REAL[dtype], lanes)


def emit_map(module, target, name, type_, result, body):
    """name(x, y, out, n): out[i] = body(x[i], y[i]) for blocks of lanes; n a multiple of lanes."""
    pointer = ir.PointerType()
    signature = ir.FunctionType(ir.VoidType(), [pointer, pointer, pointer, INT64])
    function = ir.Function(module, signature, name)
    x, y, out, n = function.args
    entry, loop, end = (function.append_basic_block() for _ in range(3))
    b = ir.IRBuilder(entry)
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(INT64)
    lanes = getattr(type_, "count", 1)
    lane = getattr(type_, "element", type_)
    size = 4 if lane == ir.FloatType() else 8
    values = [b.load(b.gep(p, [i], source_etype=lane), typ=type_, align=size) for p in (x, y)]
    got = body(VectorMath(b, module, target), *values)
    result_lane = getattr(result, "element", result)
    b.store(got, b.gep(out, [i], source_etype=result_lane), align=4)
    after = b.add(i, ir.Constant(INT64, lanes))
    i.add_incoming(ir.Constant(INT64, 0), entry)
    i.add_incoming(after, loop)
    b.cbranch(b.icmp_signed("<", after, n), loop, end)
    b.position_at_end(end)
    b.ret_void()


SURE = 2.0**-60  # what `at_least` promises in the test of it


def bodies():
    """Every function that is tested, by name."""
    table = {name: (lambda m, x, y, f=FUNCTIONS[name]: f(m, x)) for name in UNARY}
    for name in ("pow", "max", "min"):
        table[name] = lambda m, x, y, f=FUNCTIONS[name]: f(m, x, y)
    table["fma"] = lambda m, x, y: m.fma(x, y, m.like(x, 1.0))
    for place, exponent in enumerate(EXPONENTS):
        table[f"pow{place}"] = lambda m, x, y, e=exponent: m.pow(x, m.like(x, e))
        table[f"large pow{place}"] = lambda m, x, y, e=exponent: m.pow(x, e, at_least=SURE)
    return table


def module_of(target: Target, dtype: str, lanes: int) -> ir.Module:
    module, type_ = ir.Module(), vector(dtype, lanes)
    module.triple = target.triple
    for name, body in bodies().items():
        emit_map(module, target, name, type_, type_, body)
    return module


def engine_of(module: ir.Module, target: Target):
    """Straight to machine code, without optimisation passes, as programs are compiled."""
    machine = target.machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    return engine


class Compiled:
    """All functions for one target, type and number of lanes."""

    def __init__(self, target: Target, dtype: str, lanes: int):
        self.dtype, self.lanes = dtype, lanes
        self.engine = engine_of(module_of(target, dtype, lanes), target)

    def __call__(self, name: str, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        return call(self.engine, name, x, x if y is None else y, np.empty_like(x))


def call(engine, name, x, y, out):
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)
    assert x.size == y.size == out.size and x.size % 16 == 0
    function(engine.get_function_address(name))(
        x.ctypes.data, y.ctypes.data, out.ctypes.data, x.size
    )
    return out


@functools.cache
def compiled(name: str, dtype: str, lanes: int) -> Compiled:
    return Compiled(Target.named(name), dtype, lanes)


def runnable() -> list[str]:
    """Named targets whose instructions this machine has."""
    needs = {"scalar": None, "x86-64-v2": "sse4.1", "x86-64-v3": "avx2", "x86-64-v4": "avx512vl"}
    has = llvm.get_host_cpu_features()
    return [name for name, feature in needs.items() if feature is None or has.get(feature)]


VARIANTS = (
    [("host", lanes) for lanes in LANES]
    + [(name, max(4, Target.named(name).lanes("float32"))) for name in runnable()]
    + [("scalar", 1)]
)


# -- data and measure --


@functools.cache
def points(dtype: str) -> np.ndarray:
    """Numbers of every exponent, dense ones where functions bend, and every special value."""
    rng, info = np.random.default_rng(1), np.finfo(dtype)
    word = {"float32": np.uint32, "float64": np.uint64}[dtype]
    any_bits = rng.integers(0, np.iinfo(word).max, 12000, dtype=word, endpoint=True).view(dtype)
    limit = float(np.log(info.max)) * 1.2
    parts = [
        any_bits[~np.isnan(any_bits)],
        rng.uniform(-1, 1, 6000),
        rng.uniform(0.5, 2, 6000),
        rng.uniform(-limit, limit, 6000),
        rng.uniform(-12, 12, 6000),
        10 ** rng.uniform(-9, 1, 4000) * rng.choice([-1, 1], 4000),
        1 + rng.uniform(-1, 1, 1000) * 1e-6,
        np.arange(-8, 8.5, 0.5),
        [0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, -info.tiny],
        [info.smallest_subnormal, -info.smallest_subnormal, info.tiny / 8, np.log(info.max)],
        np.log(float(info.max)) + np.linspace(-1, 1, 101) * 1e-5,
        [float(np.log(info.tiny)), float(np.log(info.tiny)) - 8, 2 / info.eps, -2 / info.eps],
        np.nextafter(np.array([1, -1, 0.5, 2, 0.6, -0.6, 1e-3], dtype), np.array(9, dtype)),
    ]
    x = np.concatenate([np.asarray(part).astype(dtype) for part in parts])
    return rng.permutation(np.resize(x, -(-x.size // 16) * 16))


@functools.cache
def special(dtype: str) -> np.ndarray:
    info = np.finfo(dtype)
    small = [
        0,
        1,
        0.5,
        2,
        3,
        1.5,
        np.inf,
        info.max,
        info.tiny,
        info.smallest_subnormal,
        1e10,
        1e-10,
    ]
    near = [1 + info.eps, 1 - info.eps / 2, 2 / info.eps, 2 / info.eps - 1, 0.999, 17, 1e20, 7e-5]
    values = np.array([*small, *near], dtype)
    return np.array([*values, *-values, np.nan], dtype)


def worst_ulp(got: np.ndarray, want: np.ndarray, dtype: str) -> float:
    """The largest error in units in the last place of `want`, which is in the wider format.

    Nans must agree, zeros with their sign. An infinity counts as the next power of two, so that a
    result may overflow where the exact one lies within the error of doing so.
    """
    info = np.finfo(dtype)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    zero = want == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))
    got, want = got[~np.isnan(want)].astype(want.dtype), want[~np.isnan(want)]
    top = np.ldexp(want.dtype.type(1), info.maxexp)
    got, want = np.clip(got, -top, top), np.clip(want, -top, top)
    exponent = np.frexp(np.clip(np.abs(want), info.tiny, info.max))[1] - 1
    unit = np.ldexp(np.ones_like(want), exponent - info.nmant)
    return float(np.max(np.where(got == want, 0, np.abs(got - want)) / unit, initial=0))


ERRORS: dict[str, dict[str, float]] = {}


def record(name: str, dtype: str, error: float) -> None:
    row = ERRORS.setdefault(name, {})
    row[dtype] = max(row.get(dtype, 0), error)


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print("\nlargest errors in ulp\n" + " " * 14 + "".join(f"{d:>9}" for d in REAL))
    for name, row in ERRORS.items():
        print(f"{name:14}" + "".join(f"{row.get(dtype, np.nan):9.2f}" for dtype in REAL))


@pytest.fixture(autouse=True)
def quiet():
    with np.errstate(all="ignore"):
        yield


# -- accuracy --


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("target, lanes", VARIANTS)
def test_functions_of_one_number(target, lanes, dtype):
    run, x = compiled(target, dtype, lanes), points(dtype)
    too_large = {}
    for name, (reference, allowed) in UNARY.items():
        error = worst_ulp(run(name, x), reference(x.astype(WIDER[dtype])), dtype)
        record(name, dtype, error)
        if error > allowed:
            too_large[name] = error
    assert not too_large


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("target, lanes", VARIANTS)
def test_power_with_constant_exponent(target, lanes, dtype):
    run, x = compiled(target, dtype, lanes), points(dtype)
    too_large = {}
    for place, exponent in enumerate(EXPONENTS):
        # An array of exponents: numpy takes other ways, with other special values, for a number.
        exponents = np.full_like(x, exponent).astype(WIDER[dtype])
        want = np.power(x.astype(WIDER[dtype]), exponents)
        error = worst_ulp(run(f"pow{place}", x), want, dtype)
        record(f"pow {exponent}", dtype, error)
        if error > (POWER_ALLOWED[dtype] if abs(exponent) > 8 else 4):
            too_large[exponent] = error
        large = ~(x < SURE)
        promised = worst_ulp(run(f"large pow{place}", x)[large], want[large], dtype)
        assert promised <= max(error, 4), f"{exponent} of at least {SURE}: {promised} ulp"
    assert not too_large


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("target, lanes", VARIANTS)
def test_power(target, lanes, dtype):
    run, x, wider = compiled(target, dtype, lanes), points(dtype), WIDER[dtype]
    rng = np.random.default_rng(2)
    # Exponents that bring most results near the ends of the range, where errors are largest.
    end = np.log(float(np.finfo(dtype).max)) * rng.uniform(-1.1, 1.1, x.size)
    y = (end / np.log(np.abs(x).astype(np.float64))).astype(dtype)
    pairs = [(x, y), (x, np.rint(y)), (np.abs(x), rng.permutation(x))]
    grid = np.meshgrid(special(dtype), special(dtype))
    size = -(-grid[0].size // 16) * 16
    pairs.append(tuple(np.resize(side, size) for side in grid))
    for base, exponent in pairs:
        got = run("pow", base, exponent)
        error = worst_ulp(got, np.power(base.astype(wider), exponent.astype(wider)), dtype)
        record("pow", dtype, error)
        assert error <= POWER_ALLOWED[dtype]


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("target, lanes", VARIANTS)
def test_fma_adds_to_the_product(target, lanes, dtype):
    run, x = compiled(target, dtype, lanes), points(dtype)
    y = np.roll(x, 1)
    twice = x * y + np.dtype(dtype).type(1)
    if not Target.named(target).has_fma:
        np.testing.assert_array_equal(run("fma", x, y), twice)
        return
    keep = np.isfinite(twice) & (np.abs(x * y) > np.finfo(dtype).tiny)
    keep &= (x.astype(WIDER[dtype]) * y + 1) != 0
    if dtype == "float32":  # float64 holds the product exactly and, near 1, the sum
        keep &= (np.abs(x * y) > 1e-6) & (np.abs(x * y) < 1e6)
        want = x.astype(np.float64) * y + 1
        assert worst_ulp(run("fma", x, y)[keep], want[keep], dtype) <= 0.5
    else:
        np.testing.assert_allclose(run("fma", x, y)[keep], twice[keep], rtol=1e-15, atol=3e-16)


@pytest.mark.parametrize("dtype", REAL)
def test_max_and_min_keep_a_nan_on_the_left(dtype):
    x = np.resize(np.array([1, 2, np.nan, 3, np.inf, -np.inf, 0], dtype), 112)
    y = np.resize(np.array([2, 1, 5, np.nan, np.nan, 4, 0], dtype), 112)
    for lanes in LANES:
        run = compiled("host", dtype, lanes)
        np.testing.assert_array_equal(run("max", x, y)[:7], [2, 2, np.nan, 3, np.inf, 4, 0])
        np.testing.assert_array_equal(run("min", x, y)[:7], [1, 1, np.nan, 3, np.inf, -np.inf, 0])


@pytest.mark.parametrize("lanes", LANES)
def test_integers_have_magnitude_sign_and_order(lanes):
    type_ = INT64 if lanes == 1 else ir.VectorType(INT64, lanes)
    target, module = Target.host(), ir.Module()
    table = {
        "max": lambda m, x, y: m.max(x, y),
        "min": lambda m, x, y: m.min(x, y),
        "abs": lambda m, x, y: m.abs(x),
        "sign": lambda m, x, y: m.sign(x),
    }
    for name, body in table.items():
        emit_map(module, target, name, type_, type_, body)
    engine = engine_of(module, target)
    x, y = np.random.default_rng(3).integers(-(2**40), 2**40, (2, 64))
    x[:3] = 0
    want = {"max": np.maximum(x, y), "min": np.minimum(x, y), "abs": np.abs(x), "sign": np.sign(x)}
    for name, values in want.items():
        np.testing.assert_array_equal(call(engine, name, x, y, np.empty_like(x)), values)


def test_lanes_agree_bit_for_bit():
    """A tail computed in narrower vectors must give what the full vector gives."""
    for dtype in REAL:
        x = points(dtype)
        for name in UNARY:
            first = compiled("host", dtype, 16)(name, x)
            for lanes in (1, 4, 8):
                again = compiled("host", dtype, lanes)(name, x)
                np.testing.assert_array_equal(again, first, err_msg=f"{name} {dtype} {lanes}")


def calls_in(module: ir.Module, target: Target) -> list[str]:
    """The call instructions of a module's assembly."""
    text = target.machine().emit_assembly(llvm.parse_assembly(str(module)))
    return re.findall(r"^\s+(?:callq?|blr?)\s.*", text, re.M)


@pytest.mark.parametrize(
    "name", ["scalar", "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "znver4", "neoverse-n1"]
)
def test_no_library_is_called(name):
    target = Target.named(name)
    for dtype in REAL:
        assert calls_in(module_of(target, dtype, target.lanes(dtype)), target) == []
    module, type_ = ir.Module(), REAL["float32"]
    module.triple = target.triple
    emit_map(module, target, "f", type_, type_, lambda m, x, y: m.overloaded("exp", x))
    assert len(calls_in(module, target)) == 1  # so this is how one would look


# -- random bits --


@pytest.mark.parametrize(
    "counter, key, want",
    [
        ((0, 0), 0, (0xFF1DAE59, 0x6CD10DF2)),
        ((0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF, (0x2C3F628B, 0xAB4FD7AD)),
        ((0x243F6A88, 0x85A308D3), 0x13198A2E, (0xDD7CE038, 0xF62A4C12)),
    ],
)
def test_philox_gives_the_published_answers(counter, key, want):
    first, second = (np.array([word], np.uint64) for word in counter)
    got = philox.philox(first, second, key)
    assert (int(got[0][0]), int(got[1][0])) == want


def random_map(module, target, name, lanes, stream, row):
    """name(counters, keys, bits): a row of counters from lane 0's on, or each lane's own."""
    type_ = INT64 if lanes == 1 else ir.VectorType(INT64, lanes)

    def body(m, x, y):
        first = ir.Constant(ir.IntType(32), 0)
        key = y if lanes == 1 else m.builder.extract_element(y, first)
        if row:
            keys = round_keys(m, key, stream, lanes // philox.DRAWS)
            return random_row(m, keys, m.builder.extract_element(x, first))
        return random_bits(m, round_keys(m, key, stream, lanes if lanes > 1 else 0), x)

    emit_map(module, target, name, type_, reshaped(type_, ir.IntType(16)), body)


@pytest.mark.parametrize("lanes", LANES)
def test_random_bits_equal_the_numpy_ones(lanes):
    streams = (0, 1, 7, 123456789, 2**33 + 5)
    keys = (0, 1, 0x13198A2E03707344, -3)
    target, module = Target.host(), ir.Module()
    for stream in streams:
        random_map(module, target, f"stream{stream}", lanes, stream, row=False)
    engine = engine_of(module, target)
    counters = np.random.default_rng(4).integers(-(2**63), 2**63, 256)
    counters[:100] = np.arange(100)
    for stream in streams:
        for key in keys:
            got = np.empty(counters.size, np.uint16)
            call(engine, f"stream{stream}", counters, np.full_like(counters, key), got)
            np.testing.assert_array_equal(got, philox.random_bits(key, stream, counters))


@pytest.mark.parametrize("lanes", [4, 8, 32])
def test_a_row_of_random_bits_shares_blocks_and_changes_nothing(lanes):
    target, module = Target.host(), ir.Module()
    random_map(module, target, "row", lanes, 3, row=True)
    engine = engine_of(module, target)
    for start in (0, 4, 2**34 - 128, -256):
        counters = np.arange(start, start + 8 * lanes)
        got = np.empty(counters.size, np.uint16)
        call(engine, "row", counters, np.full_like(counters, 7), got)
        np.testing.assert_array_equal(got, philox.random_bits(7, 3, counters))


def test_random_bits_are_uniform_and_streams_unrelated():
    n = 1 << 16
    counters = np.arange(n, dtype=np.uint64).reshape(256, -1)
    rows = [
        philox.random_bits(key, stream, counters) for key in (0, 5, 5 << 32) for stream in (0, 1)
    ]
    for bits in rows:
        assert bits.dtype == np.uint16 and bits.shape == counters.shape
        for shift in (0, 8):
            counts = np.bincount((bits.ravel() >> np.uint32(shift)) & 255, minlength=256)
            chi = float(((counts - n / 256) ** 2 / (n / 256)).sum())
            assert 150 < chi < 380  # 255 degrees of freedom: mean 255, deviation 22.6
    uniform = np.array([bits.ravel() / 2.0**16 - 0.5 for bits in rows])
    related = np.corrcoef(np.vstack([uniform, np.roll(uniform, 1, axis=1)]))
    assert np.abs(related - np.eye(len(related))).max() < 5 / np.sqrt(n)


# -- targets --


def test_lanes_of_named_targets():
    widths = {"scalar": 1, "x86-64": 4, "x86-64-v3": 8, "x86-64-v4": 16, "neoverse-n1": 4}
    for name, lanes in widths.items():
        target = Target.named(name)
        assert target.lanes("float32") == lanes
        assert target.lanes("float64") == target.lanes("int64") == max(1, lanes // 2)


def test_the_host_is_overridden_by_the_environment(monkeypatch):
    monkeypatch.delenv("GRAPHC_TARGET", raising=False)
    here = Target.host()
    assert here == Target.named("host") and here.name == "host"
    assert here.l1_bytes >= 8192 and here.l2_bytes > here.l1_bytes
    monkeypatch.setenv("GRAPHC_TARGET", "scalar")
    assert Target.host() == Target.named("scalar") != here
    monkeypatch.setenv("GRAPHC_TARGET", "znver")
    with pytest.raises(NetError, match=r"no target is named 'znver'.*did you mean 'znver"):
        Target.host()
