"""A compiled net runs in a thread that has hardly any stack, whatever its kernels work in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from c_programs import STRICT, compiled, needs_compiler, run
from compiled_nets import Sample

from graphc.codegen.llvm.object import emit_program, kernel_keys
from graphc.codegen.llvm.target import Target

STACK_KIB = 64
# Strips of a softmax over maps, and a long row of one.
NET = """
name: "wide"
force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 1900 dim: 8 dim: 16 } } }
layer { name: "probabilities" type: "Softmax" bottom: "x" top: "p" }
layer { name: "row" type: "Flatten" bottom: "p" top: "r" flatten_param { axis: 1 } }
layer { name: "shares" type: "Softmax" bottom: "r" top: "s" }
"""
PROGRAM = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include "wide.h"

static wide_net *net;
static int threads;

static void *calls(void *unused) {
    int code = wide_forward(net, threads);
    if (!code) code = wide_backward(net, threads);
    return code ? &net : unused;
}

int main(int count, char **words) {
    pthread_attr_t attributes;
    pthread_t thread;
    void *failed = &net;
    threads = count > 1 ? atoi(words[1]) : 1;
    net = wide_create(NULL, NULL);
    if (net == NULL) return 1;
    for (int i = 0; i < wide_input_size(0); i++) wide_input(net, 0)[i] = (float)(i % 7);
    for (int i = 0; i < wide_given_size(0); i++) wide_given(net, 0)[i] = (float)(i % 5);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, @STACK@);
    if (pthread_create(&thread, &attributes, calls, NULL)) return 1;
    pthread_join(thread, &failed);
    for (int i = 0; i < 4; i++) printf("%.9g\\n", wide_gradient(net, 0)[i * 1000]);
    wide_destroy(net);
    return failed != NULL;
}
"""


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample(NET, given=["s"], wrt=["x"])


@needs_compiler
def test_a_call_needs_little_stack(sample: Sample, tmp_path: Path):
    sample.save(tmp_path / "wide.o", "obj")
    (tmp_path / "calls.c").write_text(PROGRAM.replace("@STACK@", str(STACK_KIB << 10)))
    flags = [*STRICT, "-std=c99", "-D_POSIX_C_SOURCE=200809L"]
    compiled(tmp_path, *flags, "calls.c", "wide.o", "-o", "calls", "-pthread", "-lm")
    x = np.arange(2 * 1900 * 8 * 16).reshape(2, 1900, 8, 16) % 7
    given = np.arange(2 * 1900 * 8 * 16).reshape(2, -1) % 5
    inputs = {"x": x.astype(np.float32)}
    wanted = sample.gradients(inputs, {"s": given.astype(np.float32)})["x"].reshape(-1)
    for threads in (1, 3):
        shown = run(tmp_path / "calls", threads).stdout.split()
        np.testing.assert_allclose(np.array(shown, np.float32), wanted[:4000:1000], rtol=1e-4)


def test_what_kernels_work_in_would_not_fit_a_small_stack(sample: Sample):
    program = sample.lowered().program
    emitted = emit_program(program, Target.named("x86-64-v4"), kernel_keys(program))
    assert emitted.scratch_bytes > STACK_KIB << 10
