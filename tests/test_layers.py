"""The package's layers hold: no circle of imports, nothing imports a later step, nothing general knows yesman.

Imports count wherever they stand: in functions and under TYPE_CHECKING too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "spt_lens"
MOST_LINES_OF_A_FILE = 300
MOST_LINES = 35_000

# Lowest first. A room is a folder or a module of the package's root; those in one line do not know of one another.
LAYERS = (
    {"checking", "files"},
    {"saving", "statistics"},
    {"chat"},
    {"model"},
    {"heads"},
    {"view"},
    {"data"},
    {"scores"},
    {"behaviours"},
    {"patching"},
    {"measure"},
    {"picker"},
    {"tune"},
    {"rivals"},
    {"evaluate"},
    {"export"},
    {"study", "support"},
    {"yesman"},
    {"cli"},
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
MAY_KNOW_YESMAN = {"yesman", "cli"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.AST, module: str, known: dict[str, Path]) -> Iterator[str]:
    """The package's own modules that a module's code imports; a folder that it names stands for its `__init__`."""
    package = module if known[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in known else base for name in names]
        else:
            continue
        yield from (name for name in names if name in known and name != module)


@cache
def imports() -> dict[str, frozenset[str]]:
    return {
        module: frozenset(imported(ast.parse(path.read_text(encoding="utf-8")), module, MODULES))
        for module, path in MODULES.items()
    }


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def room_of(module: str) -> str | None:
    """None: the package's own `__init__`, which names all that is public and is imported by nobody."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def test_every_room_has_its_place():
    rooms = {room_of(module) for module in MODULES} - {None}
    assert rooms <= set(RANK), rooms - set(RANK)


def test_no_circle():
    try:
        tuple(TopologicalSorter(imports()).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_nothing_imports_a_later_room():
    later = {
        (module, other)
        for module, found in imports().items()
        for other in found
        if (one := room_of(module)) and (two := room_of(other)) and one != two and RANK[two] >= RANK[one]
    }
    assert not later


def test_nothing_imports_the_package_as_a_whole():
    """It would import everything, later rooms too."""
    assert not [module for module, found in imports().items() if "spt_lens" in found and "cli" not in module]


def test_nothing_general_imports_yesman():
    knowing = {
        (module, other)
        for module, found in imports().items()
        for other in found
        if room_of(other) == "yesman" and room_of(module) not in MAY_KNOW_YESMAN
    }
    assert not knowing


def test_a_file_can_be_read_at_one_sitting():
    long = {path.relative_to(PACKAGE).as_posix() for path in MODULES.values() if lines_of(path) > MOST_LINES_OF_A_FILE}
    assert not long


def test_the_package_stays_small():
    lines = sum(map(lines_of, MODULES.values()))
    assert lines <= MOST_LINES


def test_imports_are_seen_wherever_they_stand():
    known = {name: Path(name.replace(".", "/") + ".py") for name in ("spt_lens.a.b", "spt_lens.a.c", "spt_lens.d")}
    code = (
        "import spt_lens.d\nfrom spt_lens.a import b\n"
        "if TYPE_CHECKING:\n    from spt_lens.a.c import name\ndef f():\n    from . import c\n    import json\n"
    )
    assert sorted(imported(ast.parse(code), "spt_lens.a.b", known)) == ["spt_lens.a.c", "spt_lens.a.c", "spt_lens.d"]
    by_name = {name for name, path in MODULES.items() if "import_module" in path.read_text(encoding="utf-8")}
    assert by_name == {"spt_lens"}  # whose names are imported under TYPE_CHECKING too: tests/test_imports.py
