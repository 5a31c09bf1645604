"""The timeline, what holds the peak, and the comparison of modes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from plan_nets import caffenet, small_net
from random_nets import DeepNet
from typer.testing import CliRunner

from graphc.cli import app
from graphc.cli.compare_memory import Mode, joined
from graphc.plan.budget import BudgetError
from graphc.plan.explain import memory_rows, memory_table
from graphc.plan.peak import SMALLEST_NAMED, boxes, live_bytes, peak_holders, peak_text
from graphc.plan.planner import plan
from graphc.plan.program import Program
from graphc.plan.refused import refusal_text, refusals, refused_rows
from graphc.plan.share import KERNEL, NEEDED, PART_NEEDED, USERS
from graphc.plan.timeline import LEFT, RIGHT, WIDTH, timeline_svg

SVG = "{http://www.w3.org/2000/svg}"
SAMPLES = Path(__file__).parent.parent / "samples"
LENET = str(SAMPLES / "lenet_train.prototxt")


@pytest.fixture(scope="module")
def program() -> Program:
    net = small_net()
    graph = net.gradients(["data", *net.parameters], ["fc"], net.parameters, keep=["conv2"])
    return plan(graph, keep=["conv2"])


def test_every_box_is_drawn_and_says_what_it_is(program: Program) -> None:
    root = ElementTree.fromstring(timeline_svg(program))
    drawn = [group.findtext(f"{SVG}title") or "" for group in root.iter(f"{SVG}g")]
    found = boxes(program)
    assert len(drawn) == len(found) > 5
    for box, title in zip(found, drawn, strict=True):
        assert title.startswith(f"{box.name}: {box.dtype}[")
        assert f"calls {box.first}..{box.last}, made by {box.maker}" in title
    rects = [rect for rect in root.iter(f"{SVG}rect") if "box " in rect.attrib["class"]]
    call = (WIDTH - LEFT - RIGHT) / len(program.steps)
    for box, rect in zip(found, rects, strict=True):
        assert float(rect.attrib["x"]) == pytest.approx(LEFT + box.first * call, abs=0.1)
        assert float(rect.attrib["width"]) == pytest.approx(
            (box.last + 1 - box.first) * call, abs=0.1
        )
    height = float(root.attrib["height"])
    for rect in root.iter(f"{SVG}rect"):
        if "y" in rect.attrib:
            top = float(rect.attrib["y"])
            assert 0 <= top <= top + float(rect.attrib["height"]) <= height


def test_boxes_cover_what_steps_use(program: Program) -> None:
    found = boxes(program)
    for place, step in enumerate(program.steps):
        for name in step.arguments:
            buffer = program.buffers[name]
            if buffer.slot or not buffer.span_bytes:
                continue
            assert any(
                box.first <= place <= box.last
                and box.offset <= buffer.offset
                and buffer.offset + buffer.span_bytes <= box.offset + box.bytes
                for box in found
            ), (place, name)


def test_the_peak_is_the_bound_of_the_order() -> None:
    net = caffenet(4)
    program = plan(net.gradients(net.parameters, ["fc8"]))
    assert max(live_bytes(program)) == pytest.approx(program.memory.bound_of_order, rel=1e-3)
    step, holders = peak_holders(program)
    assert sum(h.box.bytes for h in holders) >= live_bytes(program)[step]
    text = peak_text(program)
    assert f"call {step}" in text
    total = sum(holder.box.bytes for holder in holders)
    named = [holder for holder in holders if holder.box.bytes >= SMALLEST_NAMED * total]
    assert named and all(f"  {holder.box.name} " in text for holder in named)
    assert f"{len(holders) - len(named)} smaller ones" in text


def test_what_is_kept_and_made_again_is_told_apart(program: Program) -> None:
    assert {box.kind for box in boxes(program)} >= {"forward", "backward", "copy"}
    graph, keep = DeepNet(5).graph(18)
    try:
        small = plan(graph, keep=keep, memory=0)
    except BudgetError as error:
        small = plan(graph, keep=keep, memory=error.smallest)
    assert "again" in {box.kind for box in boxes(small)}
    kept = plan(small_net().graph, keep=["conv1"])
    assert "kept" in {box.kind for box in boxes(kept)}


def test_refusals_name_the_reason(program: Program) -> None:
    said = refusals(program)
    assert any("conv2 is not overwritten by" in sentence for sentence in said)
    assert all(": " in sentence for sentence in said)


def test_refusals_are_counted_by_reason() -> None:
    graph, keep = DeepNet(6).graph(18)
    program = plan(graph, keep=keep)
    said, rows = refusals(program), refused_rows(program)
    assert sum(row.count for row in rows) == len(said) == len(set(said))
    assert {row.reason for row in rows} >= {NEEDED, PART_NEEDED, USERS, KERNEL}
    assert [row.bytes for row in rows] == sorted((row.bytes for row in rows), reverse=True)
    for row in rows:
        assert 1 <= len(row.largest) <= row.count
        name, _ = row.largest[0]
        assert any(one.startswith(f"{name} is not overwritten by") for one in said)
        assert sum(size for _, size in row.largest) <= row.bytes
    users = next(row for row in rows if row.reason == USERS)
    assert users.count == sum(one.endswith(USERS) for one in said)
    part = next(row for row in rows if row.reason == PART_NEEDED)
    assert part.count == sum("a part of" in one for one in said)
    text, every = refusal_text(program), refusal_text(program, everything=True)
    assert all(row.reason in text for row in rows)
    assert not any(one in text for one in said)
    assert all(one in every for one in said)


def test_a_long_table_is_cut_down_to_the_largest() -> None:
    program = plan(caffenet(4).graph, memory="all")
    rows = sorted(memory_rows(program), key=lambda row: -row.bytes)
    short, whole = memory_table(program, 5), memory_table(program)
    assert f"and {len(rows) - 5} buffers of at most" in short
    assert short.splitlines()[-4:] == whole.splitlines()[-4:]
    listed = [line.split()[0] for line in short.splitlines()[2:7]]
    assert sorted(listed) == sorted(row.name for row in rows[:5])
    assert "--all" not in whole and "--all" not in memory_table(program, len(rows))


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["plan", LENET, "--mode", "train", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_plan_prints_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "lenet.svg"
    text = run("--svg", str(picture))
    for part in ("bound of any order", "what holds the peak: call", "refused sharing"):
        assert part in text
    assert ElementTree.parse(picture).getroot().tag == f"{SVG}svg"
    assert len(run("--all").splitlines()) > len(text.splitlines())
    made = json.loads(run("--json"))
    assert len(made["refused"]) == sum(row["count"] for row in made["refused_by_reason"])
    assert made["peak"]["holders"][0]["box"]["bytes"] > 0


def test_the_step_of_a_solver_is_planned_with_its_update(tmp_path: Path) -> None:
    words = ("plan", str(SAMPLES / "digits_train.prototxt"))
    solver = str(SAMPLES / "digits_solver.prototxt")

    def planned(*more: str) -> Any:
        result = CliRunner().invoke(app, [*words, "--json", *more])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["memory"]

    step, passes = planned("--solver", solver), planned("--mode", "train")
    learned = passes["slots"]["parameter"]
    # The gradients are used up where they are made; parameters and histories are written in place.
    assert passes["slots"]["output"] - step["slots"]["output"] == learned
    assert step["slots"]["state"] == 2 * learned
    assert step["peak"] <= passes["peak"]
    assert "a gradient used up by its update" in {row["choice"] for row in step["saved"]}
    for wrong in (["--mode", "grad"], ["--diff", "score"], ["--compare"]):
        assert CliRunner().invoke(app, [*words, "--solver", solver, *wrong]).exit_code == 2


def test_compare_puts_all_modes_side_by_side() -> None:
    made = json.loads(run("--compare", "--json"))
    sizes = {mode["memory"]: mode["bytes"] for mode in made["modes"]}
    rivals = {rival["name"]: rival["bytes"] for rival in made["rivals"]}
    assert sizes["reuse"] < sizes["all"]
    assert sizes["reuse"] < rivals["MatConvNet, conserveMemory"] < rivals["MatConvNet"]
    text = run("--compare")
    assert "MatConvNet, conserveMemory" in text
    assert "of reuse" in text


def test_compare_names_budgets_that_one_plan_meets_in_one_row() -> None:
    rows = joined([Mode("8 KiB", 6000, 9, 1), Mode("7 KiB", 6000, 9, 1), Mode("least", 5, 12, 4)])
    assert rows == [Mode("8 KiB; 7 KiB", 6000, 9, 1), Mode("least", 5, 12, 4)]


def test_a_budget_is_an_option(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", LENET, "--mode", "train", "--memory", "1KiB"])
    assert result.exit_code == 3
    result = CliRunner().invoke(app, ["plan", LENET, "--svg", str(tmp_path / "no" / "x.svg")])
    assert result.exit_code == 3
