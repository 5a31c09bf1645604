"""The command line itself: usage, exit codes, errors and warnings, how quickly it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graphc.cli import app

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
REGRESSION = str(SAMPLES / "regression.prototxt")
VERBS = ["run", "grad", "show", "plan", "explain", "check"]
SHARED = [
    *("--phase", "--level", "--stage", "--weights", "--shape", "--mode", "--diff", "--wrt"),
    *("--keep", "--memory", "--threads", "--no-fuse", "--dtype", "--seed", "--infogain-input"),
]


def graphc(*arguments: object) -> object:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_the_shared_options(verb: str) -> None:
    result = graphc(verb, "--help")
    assert result.exit_code == 0
    missing = [option for option in [*SHARED, "--json"] if option not in result.stdout]
    assert not missing


@pytest.mark.parametrize(
    "arguments",
    [
        ("frob",),
        ("run",),
        ("plan", REGRESSION, "--phase", "LEARN"),
        ("plan", REGRESSION, "--shape", "x=3x4"),
        ("plan", REGRESSION, "--shape", "x"),
        ("plan", REGRESSION, "--shape", "x=1,4", "--shape", "x=2,4"),
        ("plan", REGRESSION, "--threads", "0"),
        ("plan", REGRESSION, "--mode", "infer", "--wrt", "x"),
        ("show", REGRESSION, "--after", "fuse", "--diff-passes", "start", "fuse"),
        ("show", REGRESSION, "--as", "fortran"),
        ("run", REGRESSION, "--input", "x=what", "--input", "target=fill:0"),
        ("run", REGRESSION, "--input", "x=fill:much", "--input", "target=fill:0"),
        ("grad", REGRESSION, "--mode", "infer"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    result = graphc(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "absent.prototxt"), "absent.prototxt"),
        (("plan", REGRESSION, "--shape", "y=1,4"), "there is no net input 'y'"),
        (("plan", REGRESSION, "--shape", "x=1,2,3,4", "--shape", "target=9,9"), "target"),
        (("plan", REGRESSION, "--wrt", "hiden/0"), "did you mean 'hidden/0'?"),
        (("plan", REGRESSION, "--keep", "hiden"), "did you mean 'hidden'?"),
        (("run", REGRESSION, "--input", "x=fill:1"), "no value is given for input 'target'"),
        (("run", REGRESSION, "--input", "z=fill:1"), "there is no net input 'z'"),
        (("run", REGRESSION, "--weights", "no.caffemodel"), "no.caffemodel"),
        (("run", REGRESSION, "--weights", "random:x"), "whole number"),
    ],
)
def test_bad_input_ends_with_3(arguments: tuple[str, ...], said: str) -> None:
    result = graphc(*arguments)
    assert result.exit_code == 3, result.output
    assert result.stdout == ""
    assert said in result.stderr
    as_json = graphc(*arguments, "--json")
    assert as_json.exit_code == 3
    error = json.loads(as_json.stderr)
    assert said in error["error"]
    assert error["diagnostics"][0]["severity"] == "error"


def test_an_error_in_the_definition_has_its_place(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text('input: "a"\ninput_dim: 1\nlayer {\n  name: "r" type: "ReLU" botom: "a"\n}\n')
    result = graphc("plan", net, "--json")
    assert result.exit_code == 3
    places = [(d["line"], d["file"]) for d in json.loads(result.stderr)["diagnostics"]]
    assert (4, str(net)) in places


def test_a_warning_is_printed_once_and_not_on_stdout(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(
        'input: "a" input_shape { dim: 2 dim: 3 }\n'
        'layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip"'
        " inner_product_param { num_output: 2 } }\n"
    )
    result = graphc("run", net, "--input", "a=fill:1", "--json")
    assert result.exit_code == 0, result.output
    (warning,) = json.loads(result.stderr)["notes"]
    assert warning.count("all its weights are zero") == 1
    assert graphc("run", net, "--input", "a=fill:1").stderr == warning + "\n"
    assert json.loads(result.stdout)["outputs"]["ip"]["max"] == 0


@pytest.mark.parametrize(
    "words",
    [
        "frob --json",
        "run --json",
        "bench --json net",
        f"plan {REGRESSION} --threads 0 --json",
        f"run {REGRESSION} --input x=what --input target=fill:0 --json",
        f"show {REGRESSION} --json --as fortran",
    ],
)
def test_wrong_usage_is_json_where_asked_for(words: str) -> None:
    result = graphc(*words.split())
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert json.loads(result.stderr)["error"]


def test_an_error_in_json_holds_the_warnings_before_it(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(
        'input: "a" input_shape { dim: 2 dim: 3 }\n'
        'layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip"'
        " inner_product_param { num_output: 2 } }\n"
    )
    result = graphc("run", net, "--json")
    assert result.exit_code == 3
    told = json.loads(result.stderr)
    assert "no value is given for input 'a'" in told["error"]
    assert len(told["notes"]) == 1
    assert "all its weights are zero" in told["notes"][0]


def test_help_does_not_load_the_compiler() -> None:
    code = (
        "import sys, graphc.cli\n"
        "heavy = {'numpy', 'llvmlite', 'networkx', 'google.protobuf', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_as_a_module_and_its_exit_code() -> None:
    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "graphc", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    version = python("--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, "graphc")
    refused = python("plan", "absent.prototxt")
    assert refused.returncode == 3
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "words",
    [
        ("summary", REGRESSION),
        ("summary", REGRESSION, "--json"),
        ("--help",),
        ("--version",),
        ("show", "--help"),
        ("bench", "--help"),
        ("bench", "loss", "--help"),
    ],
)
def test_a_result_that_cannot_be_printed(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "graphc", *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    said = "cannot write the result: No space left on device"
    if "--json" in words:
        assert json.loads(done.stderr)["error"] == said
    else:
        assert done.stderr == f"error: {said}\n"
    left = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert left.stdout is not None
    left.stdout.close()
    _, said = left.communicate()
    assert (left.returncode, said) == (141, "")


def test_an_error_that_cannot_be_printed_has_its_code() -> None:
    command = [sys.executable, "-m", "graphc", "summary", "absent.prototxt"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=False)
    assert (done.returncode, done.stdout) == (3, b"")


def test_a_fault_of_ours_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    import graphc.cli as cli
    import graphc.plan.explain as explain

    def broken(*given: object) -> str:
        raise KeyError("gone")

    monkeypatch.setattr(explain, "memory_table", broken)
    monkeypatch.setattr(sys, "argv", ["graphc", "plan", REGRESSION])
    monkeypatch.delenv("GRAPHC_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == cli.INTERNAL_ERROR
    said = capsys.readouterr().err
    assert "internal error: KeyError" in said
    assert "Traceback" not in said
