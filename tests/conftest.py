"""What all tests share: where the reference cases lie, golden texts, .mat nets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden texts that differ"
    )


def cases_folder() -> Path:
    """The reference cases: all of them where GRAPHC_CASES says, else the small set kept here."""
    return Path(os.environ.get("GRAPHC_CASES") or HERE / "cases")


class Golden:
    """Compares a whole text with the file it is kept in."""

    def __init__(self, update: bool):
        self.update = update

    def check(self, name: str, text: str) -> None:
        path = HERE / "golden" / name
        if self.update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden text {name}; run pytest --update-golden"
        assert text == path.read_text()


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    """The .mat file of a SimpleNN net."""
    from mat_nets import chain

    return chain(tmp_path / "chain.mat")


@pytest.fixture
def dag(tmp_path: Path) -> Path:
    """The .mat file of a DagNN net."""
    from mat_nets import dag_net

    return dag_net(tmp_path / "dag.mat")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(bool(request.config.getoption("--update-golden")))
