"""docs/architecture.md is true: its figure is the contract of the imports, its functions exist and run in order."""

import re
import sys
import tomllib
from importlib import import_module

import pytest

from mirasol.cli import main


@pytest.fixture(scope="module")
def page(repository) -> str:
    return (repository / "docs" / "architecture.md").read_text()


def functions(text: str) -> list[tuple[str, str]]:
    """The (module, qualified name) of every `room/file.py:name`."""
    found = re.findall(r"`([\w/]+)\.py:([\w.]+)`", text)
    return [(f"mirasol.{path.replace('/', '.')}", name) for path, name in found]


def test_the_figure_is_the_contract_of_the_imports(page, repository):
    (figure,) = re.findall(r"^```layers\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    drawn = [re.split(r"\s{2,}", line)[0] for line in figure.splitlines()]
    linter = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (each for each in linter["contracts"] if each["type"] == "layers")
    assert drawn == [layer.replace("mirasol.", "") for layer in contract["layers"]]


def test_every_folder_of_the_package_is_a_room_of_the_figure(page, repository):
    rooms = {path.parent.name for path in (repository / "src" / "mirasol").glob("*/__init__.py")}
    (figure,) = re.findall(r"^```layers\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    drawn = {room for line in figure.splitlines() for room in re.split(r"\s{2,}", line)[0].split(" | ")}
    assert rooms == drawn | {"model"}


def test_every_function_on_the_page_exists(page):
    found = functions(page)
    assert len(found) > 45
    for module, name in found:
        value = import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
        assert callable(value) and value.__module__ == module, f"{module}:{name}"


def test_an_answer_calls_the_functions_of_its_walk_in_their_order(page, untrained, grid_root):
    table = page.partition("## From a file")[2].partition("`mirasol evaluate`")[0]
    walk = functions(table)
    files = {import_module(module).__file__ for module, _ in walk}
    called: list[tuple[str, str]] = []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename in files:
            called.append((frame.f_globals["__name__"], frame.f_code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        code = main(["ask", str(grid_root / "clips" / "bbaf4p.mp4"), "what is said?", "--checkpoint", str(untrained)])
    finally:
        sys.setprofile(before)
    assert code == 0
    assert set(walk) <= set(called), set(walk) - set(called)
    order = [each for each in dict.fromkeys(called) if each in walk]
    assert order == walk, "\n".join(f"{module}:{name}" for module, name in order)
