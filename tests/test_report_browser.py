"""The report in a real browser: nothing goes wrong, nothing is fetched, the keyboard is enough."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from deep_nets import resnet
from inception import googlenet
from test_report import HOSTILE_NET, LENET, LSTM, lowered, lstm

from graphc.report.facts import collect
from graphc.report.page import page

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]
PARTS = (
    *("overview", "graph", "passes", "memory"),
    *("kernels", "gradients", "decisions", "provenance"),
)


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "lenet.html"
    file.write_text(page(collect(lowered(LENET), {}, [LENET])))
    return file


def open_part(window: Browser, file: Path, part: str) -> None:
    """Also where the file is open already: then only its address changes, and the part later."""
    window.open(file, f"#part/{part}")
    window.wait(f"document.getElementById('{part}').offsetHeight")


def focused(window: Browser, what: str) -> object:
    return window.run(f"return document.activeElement.{what}")


def open_parts(window: Browser) -> list[str]:
    script = "return [...document.querySelectorAll('section')].filter(s => s.offsetHeight)"
    return window.run(script + ".map(s => s.id)")


def test_nothing_is_fetched_and_nothing_fails(window: Browser, lenet: Path) -> None:
    window.logs("performance")
    window.logs("browser")
    for part in PARTS:
        open_part(window, lenet, part)
        assert open_parts(window) == [part]
    window.wait("document.title.includes('LeNet')")
    requests = [
        entry["message"]
        for entry in window.logs("performance")
        if "Network.requestWillBeSent" in entry["message"]
    ]
    assert requests  # the file itself: the log works
    assert not [r for r in requests if lenet.as_uri() not in r]
    assert window.run("return performance.getEntriesByType('resource').length") == 0
    assert window.logs("browser") == []


def test_tabs_by_keyboard(window: Browser, lenet: Path) -> None:
    open_part(window, lenet, "overview")
    window.run("document.body.focus()")
    window.press("Tab")
    assert focused(window, "className") == "skip"
    window.press("Tab", "Tab")
    assert focused(window, "id") == "tab-overview"
    for part in PARTS[1:]:
        window.press("Right")
        assert focused(window, "id") == f"tab-{part}"
        window.wait(f"document.getElementById('{part}').offsetHeight")
        assert focused(window, "getAttribute('aria-selected')") == "true"
        assert open_parts(window) == [part]
    window.press("Home")
    assert focused(window, "id") == "tab-overview"
    window.press("Left")
    assert focused(window, "id") == "tab-provenance"
    stops = window.run("return document.querySelectorAll('[role=tab][tabindex=\"0\"]').length")
    assert stops == 1


def test_from_a_box_to_its_line_and_back(window: Browser, lenet: Path) -> None:
    open_part(window, lenet, "graph")
    window.wait("document.querySelector('.net a[tabindex=\"0\"]')")
    window.run("document.querySelector('.net a[tabindex=\"0\"]').focus()")
    assert focused(window, "dataset.box") == "input-0"
    window.press("Down")
    conv1 = focused(window, "dataset.box")
    assert focused(window, "getAttribute('aria-label')").startswith("conv1, Convolution")
    window.press("Enter")
    window.wait("document.querySelector('#box h3')?.textContent === 'conv1'")
    assert focused(window, "dataset.box") == conv1
    links = "[...document.querySelectorAll('#box a')]"
    window.run(f"{links}.find(a => a.hash.startsWith('#ir/')).focus()")
    window.press("Enter")
    window.wait("document.activeElement.dataset.value === 'conv1.1'")
    assert open_parts(window) == ["passes"]
    window.run("document.activeElement.querySelector('a').focus()")
    window.press("Enter")
    window.wait(f"document.activeElement.dataset.box === '{conv1}'")
    window.run(f"{links}.find(a => a.hash.startsWith('#kernel-')).focus()")
    window.press("Enter")
    window.wait("document.querySelectorAll('.panes pre').length === 4")
    assert open_parts(window) == ["kernels"]
    texts = window.run(
        "return [...document.querySelectorAll('.panes pre')].map(p => p.textContent)"
    )
    assert texts[0].startswith("kernel conv+add_bias(")
    assert texts[1].startswith("define internal void")
    window.run("history.back()")
    window.wait("document.activeElement.dataset.box")
    window.run(f"{links}.find(a => a.hash.startsWith('#buffer/')).focus()")
    window.press("Enter")
    window.wait("document.activeElement.dataset.key?.startsWith('buffer/')")
    assert open_parts(window) == ["memory"]


def test_a_table_sorts_and_tells_how(window: Browser, lenet: Path) -> None:
    open_part(window, lenet, "kernels")
    window.wait("document.getElementById('steps').offsetHeight")
    heads = "[...document.querySelectorAll('#steps thead button')]"
    window.run(f"{heads}.find(b => b.textContent === 'Operations').focus()")
    column = (
        "return [...document.querySelectorAll('#steps tbody tr')]"
        ".map(r => Number(r.cells[4].dataset.value))"
    )
    before = window.run(column)
    window.press("Enter")
    assert window.run(column) == sorted(before, reverse=True)
    assert focused(window, "parentElement.getAttribute('aria-sort')") == "descending"
    window.press("Enter")
    assert window.run(column) == sorted(before)
    search = "document.querySelector('[data-rows=steps]')"
    window.run(f"{search}.focus()")
    window.press(*"max_pool_g")
    rows = "[...document.querySelectorAll('#steps tbody tr')].filter(r => r.offsetHeight)"
    assert window.run(f"return {rows}.length") == 2


def test_passes_show_what_changed(window: Browser, lenet: Path) -> None:
    open_part(window, lenet, "passes")
    window.wait("document.querySelector('#ir').children.length > 20")
    window.run("document.querySelector('[data-pass=\"5\"]').click()")
    window.wait("document.querySelectorAll('#ir ins').length > 20")
    window.run("document.getElementById('changes').click()")
    window.wait("document.querySelector('#ir .gap')")
    kinds = "return [...new Set([...document.querySelector('#ir').children].map(c => c.tagName))]"
    assert sorted(window.run(kinds)) == ["INS", "SPAN"]


def test_light_and_dark(window: Browser, lenet: Path) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    window.prefer("dark")
    open_part(window, lenet, "overview")
    dark = window.run(paper)
    window.prefer("light")
    light = window.run(paper)
    assert dark != light
    window.run("document.getElementById('theme').click()")
    assert window.run(paper) == dark
    assert window.run("return document.getElementById('theme').ariaPressed") == "true"
    window.run("document.getElementById('theme').click()")
    assert window.run(paper) == light


def test_everything_has_a_name_for_screen_readers(window: Browser, lenet: Path) -> None:
    open_part(window, lenet, "graph")
    nameless = """
        return [...document.querySelectorAll('a, button, input, [role=region], svg[role]')]
          .filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
          .map(e => e.outerHTML.slice(0, 80))"""
    assert window.run(nameless) == []
    assert window.run("return document.querySelectorAll('main, header, nav').length") == 3
    assert window.run("return document.querySelectorAll('h1').length") == 1


def test_hostile_names_run_nothing(window: Browser, tmp_path: Path) -> None:
    file = tmp_path / "hostile.html"
    file.write_text(page(collect(lowered(HOSTILE_NET, "TEST"), code=False)))
    window.logs("browser")
    for part in PARTS:
        open_part(window, file, part)
    window.wait("document.querySelectorAll('.net a[data-box]').length > 1")
    keys = "return [...document.querySelectorAll('[data-box]')].map(b => b.dataset.box)"
    for key in window.run(keys):
        window.open(file, f"#{key}")
        window.wait("document.querySelector('#box h3')")
    window.open(file, "#buffer/%3Cimg%20src=x%3E")
    assert window.run("return document.images.length") == 0
    assert window.logs("browser") == []


@pytest.mark.parametrize(("net", "boxes"), [("googlenet", 300), ("resnet", 300), ("lstm", 10)])
def test_a_large_net_is_small_and_opens_at_once(
    window: Browser, tmp_path: Path, net: str, boxes: int
) -> None:
    texts = {"googlenet": googlenet, "resnet": resnet, "lstm": lambda: lstm(100)}
    file = tmp_path / f"{net}.html"
    file.write_text(page(collect(lowered(texts[net]()))))
    window.logs("browser")
    assert 1_500_000 * (net != "lstm") < file.stat().st_size < 3_000_000  # the room is used
    spent = []
    for _ in range(5):
        window.open(file, "#part/overview")
        window.run("location.reload()")
        time.sleep(0.3)
        window.wait("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
        spent.append(
            window.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        )
    assert min(spent) < 1000
    open_part(window, file, "graph")
    window.wait(f"document.querySelectorAll('.net a[data-box]').length > {boxes}")
    assert window.logs("browser") == []


def test_an_unrolled_layer_leads_to_its_steps_and_back(window: Browser, tmp_path: Path) -> None:
    file = tmp_path / "lstm.html"
    made = collect(lowered(LSTM))
    file.write_text(page(made))
    (box,) = (b for b in made.boxes.boxes if b.title == "lstm" and len(b.steps) > 1)
    window.open(file, f"#{box.key}")
    window.wait("document.querySelector('#box h3')?.textContent === 'lstm'")
    steps = "[...document.querySelectorAll('#box a')].filter(a => a.hash.startsWith('#run-'))"
    window.run(f"{steps}[0].focus()")
    window.press("Enter")
    window.wait(f"document.activeElement.dataset.key === 'run-{box.steps[0]}'")
    assert open_parts(window) == ["kernels"]
    window.run("document.activeElement.querySelector('a[href^=\"#step-\"]').focus()")
    window.press("Enter")
    window.wait(f"document.activeElement.dataset.box === '{box.key}'")
    assert open_parts(window) == ["graph"]
