"""The C interface under pressure: wrong calls, memory, threads, sanitizers, other machines."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from c_programs import (
    COMPILER,
    COMPILERS,
    SAMPLES,
    STRICT,
    Library,
    compiled,
    needs_compiler,
    run,
)

import graphc
from graphc import driver
from graphc.artifact import Contents, save
from graphc.codegen.llvm.target import Target
from graphc.driver import Signature
from graphc.error import NetError

RELU_NET = """
name: "relus"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 5 } } }
layer { name: "n" type: "Power" bottom: "x" top: "y" power_param { scale: 3 } }
layer { name: "r" type: "ReLU" bottom: "y" top: "z" }
"""
FILTER_NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 5 dim: 3 } } }
layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 5 } } }
layer { name: "chosen" type: "Filter" bottom: "x" bottom: "s" top: "y" }
"""
PYTHON_NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 5 dim: 3 } } }
layer { name: "mine" type: "Python" bottom: "x" top: "y"
  python_param { module: "double_layer" layer: "Double" } }
"""
PYTHON_LAYER = """
class Double:
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data
    def backward(self, top, propagate_down, bottom): pass
"""


def lowered(source: str | Path, **signature):
    net = graphc.Net(source, seed=3, phase=signature.get("phase", graphc.TEST))
    return net, driver.lower(net.definition, Signature(**signature))


def build(source: str | Path, path: Path, form, **signature) -> graphc.Net:
    target = signature.pop("target", None)
    net, made = lowered(source, **signature)
    save(made, {**net.arrays.parameters, **net.arrays.states}, path, form, target)
    return net


def lenet(**options) -> graphc.Solver:
    """LeNet, and a solver of it in whose step everything happens."""
    text = (SAMPLES / "lenet_train.prototxt").read_text()
    settings = (
        'type: "SGD" base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "inv"'
        " gamma: 0.0001 power: 0.75 random_seed: 1 max_iter: 20 clip_gradients: 5"
    )
    shapes = {"data": (8, 1, 28, 28), "label": (8,)}
    return graphc.Solver(f"net_param {{ {text} }}\n{settings}\n", shapes=shapes, **options)


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["so", "exe", "bundle", "llvm"])
def test_nets_that_need_python_are_refused(tmp_path: Path, form):
    (tmp_path / "double_layer.py").write_text(PYTHON_LAYER)
    (tmp_path / "net.prototxt").write_text(PYTHON_NET)
    with pytest.raises(NetError, match="layer 'mine' is Python code, which a compiled file"):
        build(tmp_path / "net.prototxt", tmp_path / "out", form)
    with pytest.raises(NetError, match="layer 'chosen' \\(Filter\\) lets as many items pass"):
        build(FILTER_NET, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


# -- gradients that are given and asked for --------------------------------------------------


@needs_compiler
def test_the_gradient_of_a_blob_whose_gradient_is_given(tmp_path: Path):
    """What is given is part of what arrives: here both blobs on the way are given one."""
    asked = {"given": ("z", "y"), "wrt": ("y", "x")}
    build(RELU_NET, tmp_path / "librelus.so", "so", **asked)
    library = Library(tmp_path / "librelus.so", "relus")
    net = library.create(None, None)
    library.arrays(net, "input")["x"][...] = [1, -1, 2, -2, 3]
    given = library.arrays(net, "given")
    given["z"][...] = [1, 2, 3, 4, 5]
    given["y"][...] = 10
    assert library.forward(net, 1) == 0
    assert library.backward(net, 1) == 0
    gradients = library.arrays(net, "gradient")
    np.testing.assert_array_equal(gradients["y"], [[11, 10, 13, 10, 15]])
    np.testing.assert_array_equal(gradients["x"], [[33, 30, 39, 30, 45]])
    np.testing.assert_array_equal(given["y"], np.full((1, 5), 10))
    library.destroy(net)


# -- lives of nets ---------------------------------------------------------------------------


@needs_compiler
def test_a_destroyed_net_is_refused(tmp_path: Path):
    build(RELU_NET, tmp_path / "librelus.so", "so", given=("z",), wrt=("x",))
    library = Library(tmp_path / "librelus.so", "relus")
    net, other = library.create(None, None), library.create(None, None)
    library.destroy(net)
    for code in (library.forward(net, 1), library.backward(net, 1)):
        assert b"was destroyed" in library.error_text(code)
    assert library.input(net, 0) is None
    assert library.loss(net) == 0
    library.destroy(net)
    assert library.forward(other, 1) == 0
    library.destroy(other)


TWO_THREADS = """
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "LeNet.h"
enum { STEPS = 4 };
typedef struct { unsigned seed; float weights[500]; double loss; int wrong; } work;
static float next(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 16777216.0f;
}
static void *train(void *argument) {
    work *mine = argument;
    LeNet_net *net = LeNet_create(NULL, NULL);
    unsigned state = mine->seed;
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < LeNet_input_size(0); i++) LeNet_input(net, 0)[i] = next(&state);
        for (int i = 0; i < LeNet_input_size(1); i++) LeNet_input(net, 1)[i] = (float)(i % 10);
        mine->wrong |= LeNet_step(net, 1);
    }
    mine->loss = LeNet_loss(net);
    memcpy(mine->weights, LeNet_parameter(net, 0), sizeof mine->weights);
    LeNet_destroy(net);
    return NULL;
}
int main(void) {
    static work alone[2], together[2];
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++) alone[i].seed = together[i].seed = i + 1;
    for (int i = 0; i < 2; i++) train(&alone[i]);
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, train, &together[i]);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    int differ = memcmp(alone, together, sizeof alone) != 0;
    int same = memcmp(alone[0].weights, alone[1].weights, sizeof alone[0].weights) == 0;
    printf("%d %d %d %d\\n", alone[0].wrong, together[1].wrong, differ, same);
    return 0;
}
"""

COUNTING = """
#include <stdio.h>
#include <stdlib.h>
#include "LeNet.h"
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
static int calls;
void *malloc(size_t size) { calls++; return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { calls++; return __libc_calloc(count, size); }
void *realloc(void *place, size_t size) { calls++; return __libc_realloc(place, size); }
int main(void) {
    LeNet_net *net = LeNet_create(NULL, NULL);
    int at_create = calls, wrong = 0;
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < LeNet_input_size(0); i++) LeNet_input(net, 0)[i] = (float)(i % 7);
        wrong |= LeNet_step(net, 1) | LeNet_forward(net, 1);
        LeNet_input(net, 1)[0] = 77;
        wrong |= LeNet_step(net, 1) <= 0;
        LeNet_input(net, 1)[0] = 1;
    }
    wrong |= LeNet_save(net, "saved.weights");
    int after = calls;
    printf("%d %d %d\\n", wrong, at_create > 0, after - at_create);
    LeNet_destroy(net);
    return 0;
}
"""


@pytest.fixture(scope="module")
def lenet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet.o and LeNet.h with steps of training."""
    place = tmp_path_factory.mktemp("lenet")
    solver = lenet()
    save(Contents.of_training(solver), solver.net.values(), place / "LeNet.o", "obj")
    return place


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
def test_two_nets_in_two_threads(lenet_folder: Path, compiler: str):
    (lenet_folder / "two.c").write_text(TWO_THREADS)
    flags = [*STRICT, "-std=c99", "two.c", "LeNet.o", "-o", "two", "-pthread", "-lm"]
    compiled(lenet_folder, *flags, compiler=compiler)
    assert run(lenet_folder / "two").stdout == "0 0 0 0\n"


@needs_compiler
def test_nothing_is_allocated_after_create(lenet_folder: Path):
    (lenet_folder / "count.c").write_text(COUNTING)
    flags = [*STRICT, "-std=c99", "count.c", "LeNet.o", "-o", "count", "-pthread", "-lm"]
    compiled(lenet_folder, *flags)
    assert run(lenet_folder / "count").stdout == "0 1 0\n"


MAPS = """
#include <stdio.h>
#include <string.h>
#include "digits.h"
int main(void) {
    char line[4096];
    digits_net *net = digits_create("digits.weights", NULL);
    if (net == NULL || digits_forward(net, 1) != 0) return 1;
    unsigned long place = (unsigned long)digits_parameter(net, 0), first, last;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps) != NULL)
        if (sscanf(line, "%lx-%lx", &first, &last) == 2 && first <= place && place < last)
            fputs(line, stdout);
    digits_destroy(net);
    return fclose(maps);
}
"""


@needs_compiler
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no /proc/self/maps")
def test_weights_beside_are_mapped_read_only(tmp_path: Path):
    net, made = lowered(SAMPLES / "digits.prototxt")
    save(made, net.arrays.parameters, tmp_path / "digits.o", "obj", None, True)
    (tmp_path / "maps.c").write_text(MAPS)
    flags = [*STRICT, "-std=c99", "maps.c", "digits.o", "-o", "maps", "-pthread", "-lm"]
    compiled(tmp_path, *flags)
    line = run(tmp_path / "maps").stdout
    assert re.search(r"^\S+ r--p .*digits\.weights$", line), line


# -- size and start --------------------------------------------------------------------------


@needs_compiler
@pytest.mark.long
def test_caffenet_is_small_and_starts_at_once(tmp_path: Path):
    """Less than 2 MB of code, and a process that takes less than 20 ms beside its forward pass."""
    net, made = lowered(SAMPLES / "caffenet.prototxt")
    save(made, net.arrays.parameters, tmp_path / "net", "exe")
    assert (tmp_path / "net").stat().st_size < 2e6
    assert (tmp_path / "net.weights").stat().st_size > 200e6, "beside, being large"
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        run(tmp_path / "net", "--help")
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.02
    (tmp_path / "start.c").write_text(STARTING)
    save(made, net.arrays.parameters, tmp_path / "CaffeNet.o", "obj", None, True)
    flags = [*STRICT, "-std=gnu11", "start.c", "CaffeNet.o", "-o", "start", "-pthread", "-lm"]
    compiled(tmp_path, *flags)
    assert min(float(run(tmp_path / "start").stdout) for _ in range(5)) < 0.02


STARTING = """
#include <stdio.h>
#include <time.h>
#include "CaffeNet.h"
int main(void) {
    struct timespec first, last;
    clock_gettime(CLOCK_MONOTONIC, &first);
    CaffeNet_net *net = CaffeNet_create("CaffeNet.weights", NULL);
    clock_gettime(CLOCK_MONOTONIC, &last);
    double whole = (double)(last.tv_sec - first.tv_sec);
    printf("%g", whole + 1e-9 * (double)(last.tv_nsec - first.tv_nsec));
    CaffeNet_destroy(net);
    return net == NULL;
}
"""


# -- without a linker ------------------------------------------------------------------------


def test_with_an_empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The object is there, and one line says what to install and what to run."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    solver = graphc.Solver(
        f"net_param {{ {(SAMPLES / 'digits_train.prototxt').read_text()} }} base_lr: 1 iter_size: 2"
        ' lr_policy: "fixed"'
    )
    with pytest.raises(NetError, match=r"there is no C compiler .*apt install gcc;") as info:
        save(Contents.of_training(solver), solver.net.values(), tmp_path / "net", "exe")
    assert "\n" not in str(info.value)
    left = {"net.o", "net.pass.o", "net.weights", "net.c", "net.h"}
    assert {path.name for path in tmp_path.iterdir()} == left | {"net_main.c"}
    if COMPILER is None:
        return
    monkeypatch.undo()
    compiled(tmp_path, *str(info.value).split("run: cc ")[1].split())
    assert "by SGD" in run(tmp_path / "net", "--help").stdout


# -- pictures and bare numbers ---------------------------------------------------------------

COLOURS = """
name: "colours"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 2 dim: 4 } } }
layer { name: "n" type: "Power" bottom: "x" top: "y" power_param { scale: 1 } }
"""


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("colours")
    build(COLOURS, place / "colours", "exe")
    return place / "colours"


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 3)).astype(np.uint8)


@needs_compiler
def test_program_reads_pictures_and_bare_numbers(colours: Path):
    place = colours.parent
    (place / "in.ppm").write_bytes(b"P6 # by hand\n# 9 9\n4 2\n255\n" + PIXELS.tobytes())
    run(colours, "x=in.ppm", "-o", "y=y.npy")
    planes = PIXELS.transpose(2, 0, 1)[None].astype(np.float32)
    np.testing.assert_array_equal(np.load(place / "y.npy"), planes[:, ::-1])
    words = ["--channels", "rgb", "--mean", "1,2,3", "--scale", 0.5]
    run(colours, "x=in.ppm", "-o", "y=y.npy", *words)
    wanted = (planes - np.array([1, 2, 3], np.float32)[:, None, None]) / 2
    np.testing.assert_array_equal(np.load(place / "y.npy"), wanted)
    (place / "in.raw").write_bytes(wanted.tobytes())
    run(colours, "x=in.raw", "-o", "y=raw.npy")
    np.testing.assert_array_equal(np.load(place / "raw.npy"), wanted)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("short.ppm", b"P6 4 2 255\n" + bytes(23), "is cut short"),
        ("long.ppm", b"P6 4 2 255\n" + bytes(25), "is longer than its header says"),
        ("words.ppm", b"P6 four 2 255\n", "has a damaged header"),
        ("end.ppm", b"P6 4 # to the end", "is cut short"),
        ("deep.ppm", b"P6 4 2 65535\n" + bytes(48), "has 65535 shades"),
        ("dark.ppm", b"P6 4 2 0\n" + bytes(24), "has 0 shades"),
        (
            "size.ppm",
            b"P6 2 4 255\n" + bytes(24),
            "has 3 channels of 4 x 2, 'x' needs [1, 3, 2, 4]",
        ),
        ("grey.pgm", b"P5 4 2 255\n" + bytes(8), "has 1 channel of 2 x 4, 'x' needs [1, 3, 2, 4]"),
        ("huge.ppm", b"P6 99999999999999999999 2 255\n", "has "),
        ("bright.ppm", b"P6 4 2 200\n" + 24 * b"\xc9", "has a pixel 201, its white is 200"),
        ("plain.ppm", b"P3 4 2 255\n" + 23 * b" 7", "is cut short"),
        ("word.ppm", b"P3 4 2 255\n" + 23 * b" 7" + b" x", "has a damaged pixel"),
        ("less.ppm", b"P3 4 2 255\n" + 23 * b" 7" + b" -7", "has a damaged pixel"),
        ("more.ppm", b"P3 4 2 255\n" + 25 * b" 7", "is longer than its header says"),
        ("light.ppm", b"P3 4 2 9\n" + 24 * b" 70", "has a pixel 70, its white is 9"),
        ("short.raw", bytes(95), "does not have 96 bytes, 24 numbers float32 for 'x'"),
        ("long.raw", bytes(97), "does not have 96 bytes"),
        ("nan.raw", np.full(24, np.nan, np.float32).tobytes(), "holds nan"),
        (
            "photo.jpg",
            b"\xff\xd8\xff\xe0" + bytes(99),
            "is not a .npy file, a picture (P2, P3, P5, P6) or",
        ),
    ],
)
def test_program_refuses_bad_pictures(colours: Path, name: str, content: bytes, said: str):
    (colours.parent / name).write_bytes(content)
    done = run(colours, f"x={name}", code=3)
    assert f"'{name}' {said}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@needs_compiler
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mean", "1,2"], "--mean needs a number, or three"),
        (["--mean", "1,2,3,4"], "--mean needs a number, or three"),
        (["--mean", "grey"], "--mean needs a number, or three"),
        (["--mean"], "--mean needs a number, or three"),
        (["--scale", "nan"], "--scale needs a number"),
        (["--channels", "gbr"], "--channels is bgr or rgb"),
    ],
)
def test_program_used_wrongly(colours: Path, words: list[str], said: str):
    assert said in run(colours, "x=in.ppm", *words, code=2).stderr


# -- sanitizers ------------------------------------------------------------------------------

CALLS = """
#include <stdio.h>
#include <string.h>
#include "images.h"
static int wrong(int code, const char *word) {
    if (code != 0 && strstr(images_error_text(code), word) != NULL) return 0;
    printf("'%s' was expected, not '%s'\\n", word, images_error_text(code));
    return 1;
}
static int batch(images_net *net, float label) {
    for (int i = 0; i < images_input_size(0); i++) images_input(net, 0)[i] = (float)(i % 13) - 6;
    for (int i = 0; i < images_input_size(1); i++) images_input(net, 1)[i] = label;
    return images_step(net, 2);
}
int main(int count, char **files) {
    int bad = 0, code;
    float zero = 0;
    for (int i = 2; i < count; i++) {
        bad += images_create(files[i], &code) != NULL;
        bad += code >= 0;
    }
    images_net *net = images_create(files[1], &code), *other = images_create(files[1], NULL);
    for (int pass = 0; pass < 3 * images_ITER_SIZE; pass++) bad += batch(net, 1) != 0;
    bad += batch(other, 0) != 0;
    bad += wrong(batch(net, 4), "label") + wrong(batch(net, -1), "label");
    bad += wrong(batch(net, 1e30f), "label") + wrong(batch(net, zero / zero), "nan");
    bad += images_iteration(net) != 3 || images_iteration(other) != 0;
    bad += images_save(net, "saved.weights") != 0;
    bad += wrong(images_save(net, "/none/saved.weights"), "written");
    bad += wrong(images_save(net, NULL), "NULL") + wrong(images_step(NULL, 1), "NULL");
    bad += wrong(images_step(net, 0), "threads") + wrong(images_forward(net, -1), "threads");
    bad += wrong(images_set_iteration(net, INT64_MIN), "below 0");
    bad += images_parameter(net, 99) != NULL || images_history(net, -1) != NULL;
    bad += images_parameter_index("fc/0") < 0 || images_parameter_index("fc/9") != -1;
    images_net *again = images_create("saved.weights", &code);
    bad += images_iteration(again) != 3;
    for (int i = 0; i < images_parameter_count(); i++)
        bad += memcmp(images_parameter(net, i), images_parameter(again, i),
                      (size_t)images_parameter_size(i) * sizeof(images_real)) != 0;
    images_destroy(again);
    bad += wrong(images_step(again, 1), "destroyed") + wrong(images_save(again, "x"), "destroyed");
    images_destroy(again);
    images_destroy(other);
    images_destroy(net);
    return bad;
}
"""


def need_sanitizers(folder: Path, compiler: str) -> None:
    """Skip where a compiler came without the libraries of its sanitizers."""
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    command = [compiler, "-fsanitize=address,undefined", "empty.c", "-o", "empty"]
    if subprocess.run(command, cwd=folder, capture_output=True).returncode != 0:
        pytest.skip(f"{compiler} has no sanitizers here")


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize("compiler", COMPILERS)
def test_training_under_sanitizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str):
    from test_compile_train import make

    need_sanitizers(tmp_path, compiler)
    monkeypatch.setenv("CC", "no-such-compiler")
    solver = make("Adam")
    contents, place = Contents.of_training(solver), tmp_path / "net"
    with pytest.raises(NetError, match="no C compiler"):
        save(contents, solver.net.values(), place, "exe", name="images")
    monkeypatch.delenv("CC")
    sanitizers = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = [*STRICT, "-std=c11", *sanitizers, "images.c", "net.o", "net.pass.o"]
    (tmp_path / "calls.c").write_text(CALLS)
    libraries = ["-pthread", "-lm"]
    compiled(tmp_path, *flags, "calls.c", "-o", "calls", *libraries, compiler=compiler)
    compiled(tmp_path, *flags, "images_main.c", "-o", "net", *libraries, compiler=compiler)
    whole = (tmp_path / "net.weights").read_bytes()
    broken = {"short": whole[:-1], "tiny": whole[:33], "empty": b"", "old": b"x" + whole[1:]}
    # An iteration that nobody can have reached.
    broken["late"] = whole[:32] + b"\xff" * 8 + whole[40:]
    for name, data in broken.items():
        (tmp_path / f"{name}.weights").write_bytes(data)
    bad = [f"{name}.weights" for name in (*broken, "missing")]
    done = run(tmp_path / "calls", "net.weights", *bad, ".")
    assert done.stdout + done.stderr == ""
    rng = np.random.default_rng(1)
    np.save(tmp_path / "x.npy", rng.standard_normal((7, 4, 9, 8)).astype(np.float32))
    np.save(tmp_path / "t.npy", rng.integers(0, 4, 7).astype(np.float32))
    good = (tmp_path / "x.npy").read_bytes()
    for name, data in {
        "cut": good[:-1],
        "head": good[:50],
        "long": good + b"\0",
        "many": good.replace(b"(7, 4,", b"(7999999999999999999, 4,"),
        "minus": good.replace(b"(7, 4,", b"(-7, 4,"),
    }.items():
        (tmp_path / f"{name}.npy").write_bytes(data)
        words = [f"x={name}.npy", "t=t.npy", "--steps", 1, "--save", "out.weights"]
        done = run(tmp_path / "net", *words, code=3)
        assert len(done.stderr.splitlines()) == 1, done.stderr
    words = ["x=x.npy", "t=t.npy", "--steps", 3, "--save", "out.weights", "-o", "fc/0=fc.npy"]
    run(tmp_path / "net", *words)
    run(tmp_path / "net", "--bench", 2)
    run(tmp_path / "net", "--help")


@needs_compiler
@pytest.mark.long
def test_pictures_under_sanitizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(NetError, match="no C compiler"):
        build(COLOURS, tmp_path / "net", "exe")
    monkeypatch.delenv("CC")
    sanitizers = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = [*STRICT, "-std=c11", *sanitizers, "net.c", "net_main.c", "net.o"]
    compiled(tmp_path, *flags, "-o", "net", "-pthread", "-lm")
    whole = b"P6 4 2 255\n" + PIXELS.tobytes()
    (tmp_path / "good.ppm").write_bytes(whole)
    run(tmp_path / "net", "x=good.ppm", "--mean", "1,2,3")
    rng = np.random.default_rng(2)
    for number in range(40):
        content = bytearray(whole[: rng.integers(len(whole))] if number % 2 else whole)
        for _ in range(3):
            if content:
                content[rng.integers(min(len(content), 12))] = rng.integers(256)
        (tmp_path / "bad.ppm").write_bytes(bytes(content))
        command = [tmp_path / "net", "x=bad.ppm"]
        done = subprocess.run(command, capture_output=True, text=True, env={}, cwd=tmp_path)
        assert done.returncode in (0, 3)
        assert "Sanitizer" not in done.stderr


# -- another machine -------------------------------------------------------------------------

QEMU = shutil.which("qemu-aarch64")
CROSS = shutil.which("aarch64-linux-gnu-gcc")


def emulated(program: Path, *words: object) -> str:
    """Run a program for aarch64."""
    assert QEMU is not None
    libraries = ["-L", "/usr/aarch64-linux-gnu"]
    command = [QEMU, "-cpu", "neoverse-n1", *libraries, str(program), *map(str, words)]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.skipif(QEMU is None, reason="qemu-aarch64 is not installed (Debian: qemu-user)")
@pytest.mark.skipif(CROSS is None, reason="aarch64-linux-gnu-gcc is not installed")
@pytest.mark.parametrize("threads", [1, 2])
def test_lenet_on_aarch64(tmp_path: Path, threads: int):
    """Forward, backward and training, beside the same on this machine."""
    target = Target.named("neoverse-n1")
    rng = np.random.default_rng(4)
    x = rng.random((16, 1, 28, 28), np.float32)
    label = rng.integers(0, 10, 16).astype(np.float32)
    np.save(tmp_path / "x8.npy", x[:8])
    np.save(tmp_path / "l8.npy", label[:8])
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "label.npy", label)

    solver = lenet()
    wanted = solver.net.forward_backward(
        {"data": x[:8], "label": label[:8]}, wrt=["data", "conv1/0"]
    )
    wanted = {name: array.copy() for name, array in wanted.items()} | {
        "loss": np.array(solver.net.loss)
    }
    shapes = (("data", (8, 1, 28, 28)), ("label", (8,)))
    asked = Signature(phase=graphc.TRAIN, wrt=("data", "conv1/0"), shapes=shapes)
    made = driver.lower(solver.net.definition, asked)
    save(made, solver.net.arrays.parameters, tmp_path / "grad", "exe", target)
    words = ["data=x8.npy", "label=l8.npy", "-o", "loss=loss.npy", "-o", "data.diff=data.npy"]
    emulated(tmp_path / "grad", *words, "-o", "conv1/0.diff=conv1.npy", "--threads", threads)
    for name, file in {"loss": "loss", "data": "data", "conv1/0": "conv1"}.items():
        found = np.load(tmp_path / f"{file}.npy")
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(found, wanted[name], rtol=1e-4, atol=1e-5 * scale)

    save(Contents.of_training(lenet()), lenet().net.values(), tmp_path / "train", "exe", target)
    words = ["data=x.npy", "label=label.npy", "--steps", 4, "--save", "four.weights"]
    emulated(tmp_path / "train", *words, "--threads", threads)
    there, here = lenet(), lenet()
    there.restore(tmp_path / "four.weights")
    half = [slice(0, 8), slice(8, 16)] * 2
    batches = iter([{"data": x[rows], "label": label[rows]} for rows in half])
    here.step(4, feed=lambda: next(batches))
    assert there.iter == here.iter == 4
    for name, array in here.net.values().items():
        scale = np.abs(array).max()
        found = there.net.values()[name]
        np.testing.assert_allclose(found, array, rtol=1e-3, atol=1e-5 * scale, err_msg=name)


@needs_compiler
@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3"])
def test_an_older_processor_computes_nearly_the_same(tmp_path: Path, name: str):
    machine = Target.named("host")
    if not machine.triple.startswith("x86_64") or not machine.has_fma:
        pytest.skip("this machine is no x86-64-v3")
    net = build(SAMPLES / "digits.prototxt", tmp_path / "net", "exe", target=Target.named(name))
    picture = np.random.default_rng(5).random((1, 1, 8, 8), np.float32)
    np.save(tmp_path / "in.npy", picture)
    run(tmp_path / "net", "data=in.npy", "-o", "score=out.npy")
    wanted = net.forward(data=picture)["score"]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, rtol=1e-4, atol=1e-5)
