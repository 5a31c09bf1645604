"""`graphc check`: gradients of a net, or of operators, against finite differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphc.cli.names import Known, need_known
from graphc.cli.options import InputOptions, NetOptions
from graphc.cli.report import CHECK_FAILED, print_json, progress, say, table
from graphc.cli.session import (
    definition_of,
    forward_signature,
    is_mat,
    pairs,
    warn,
)

if TYPE_CHECKING:
    from graphc.finite_difference import Finding, Sampling
    from graphc.gradient_check import Progress


def check(
    options: NetOptions,
    inputs: InputOptions,
    samples: Annotated[int, typer.Option(min=1, help="Elements of each array to compare.")] = 12,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Relative error that is right.")] = 1e-5,
) -> None:
    """Compare gradients with differences.

    They are finite differences in float64, of each layer alone, then of the whole net.

    What is not given is random: the inputs (in a batch of 2), the weights, the gradients of the
    outputs. The exit code is 1 if something is wrong. NET may be a file of operators, a .py, too.
    """
    from graphc.finite_difference import Sampling
    from graphc.runtime.cpu import usable_cores

    sampling = Sampling(samples, tolerance, options.seed, options.threads or usable_cores())
    with progress("checking") as step:
        if Path(options.net).suffix == ".py":
            findings = _operators(options, sampling)
        elif is_mat(options):
            findings = _mat(options, inputs, sampling, step)
        else:
            findings = _caffe(options, inputs, sampling, step)
    _print(findings, options.json)
    if any(finding.failed for finding in findings):
        raise typer.Exit(CHECK_FAILED)


def _operators(options: NetOptions, sampling: Sampling) -> list[Finding]:
    """The operators that a Python file defines, on their examples."""
    from graphc.checking import check_operator, operators_in

    operators = operators_in(Path(options.net))
    return [finding for cls in operators for finding in check_operator(cls, None, sampling)]


def _mat(
    options: NetOptions, inputs: InputOptions, sampling: Sampling, step: Progress
) -> list[Finding]:
    """A MatConvNet net."""
    from graphc.cli.mat_session import MatSession
    from graphc.cli.values import read_inputs
    from graphc.mat_check import check_model

    sources = pairs("--input", inputs.input)
    net = MatSession(options, sources)
    arrays, _ = read_inputs(net.graph, sources, inputs, net.axes)
    return check_model(net.model, arrays, net.mode, sampling, net.sizes, step)


def _caffe(
    options: NetOptions, inputs: InputOptions, sampling: Sampling, step: Progress
) -> list[Finding]:
    """A Caffe net."""
    from dataclasses import replace

    from graphc import driver
    from graphc.cli.values import read_diffs, read_inputs
    from graphc.gradient_check import check_net, small_shapes

    definition = definition_of(options)
    signature = replace(forward_signature(options), dtype="float64")
    if not options.shape and not inputs.input and not options.diff:
        signature = small_shapes(definition, signature)
    front = driver.front(definition, signature)
    sources = pairs("--input", inputs.input)
    need_known(Known.of_caffe(front), options, sources)
    warn(front)
    arrays, _ = read_inputs(front.graph, sources, inputs)
    diffs = read_diffs(front.graph, pairs("--diff", options.diff))
    return check_net(
        definition,
        signature,
        weights=options.weights,
        inputs=arrays,
        gradients=diffs or None,
        wrt=options.wrt or (),
        sampling=sampling,
        progress=step,
    )


def _print(findings: list[Finding], as_json: bool) -> None:
    from dataclasses import asdict

    wrong = [finding for finding in findings if finding.failed]
    if as_json:
        print_json({"right": not wrong, "findings": [asdict(finding) for finding in findings]})
        return
    rows = [
        (
            finding.layer,
            finding.name if finding.what == "gradient" else f"{finding.name} (value)",
            " x ".join(map(str, finding.shape)) or "scalar",
            f"{finding.checked} + {finding.rough}" if finding.rough else str(finding.checked),
            f"{finding.error:.1e}" if finding.checked else "",
            finding.status,
        )
        for finding in findings
    ]
    head = ("layer", "gradient of", "shape", "compared", "worst error", "")
    say(table(head, rows, numbers=(3, 4)))
    for finding in wrong:
        say(str(finding))
    rough = sum(finding.rough for finding in findings)
    if rough:
        say(f"left out because a kink is near (the + in `compared`): {rough}")
    say(
        f"{len(findings) - len(wrong)} of {len(findings)} gradients are right"
        if wrong
        else f"nothing is wrong among {len(findings)} gradients"
    )
