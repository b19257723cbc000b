"""The rooms of the package, as docs/design.md has them: arrows go one way, and the map is complete."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rl_lightning"


def module_of(path: Path) -> str:
    """The name that a file is imported by; callbacks/ is rl_lightning.callbacks."""
    inside = path.relative_to(ROOT).with_suffix("")
    parts = inside.parts if inside.parts[0] == "rl_lightning" else ("rl_lightning", *inside.parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_of(path): path
    for folder in (PACKAGE, ROOT / "callbacks")
    for path in folder.rglob("*.py")
    if "rl_lightning/callbacks" not in str(path)  # a link to callbacks/
}


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports, for types only too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in FILES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} imports by a relative path"
    return found & FILES.keys()


def room_of(module: str) -> str:
    """The folder, or the file that lies in the package's root."""
    return ".".join(module.split(".")[:2])


GRAPH = {module: imports_of(path) for module, path in FILES.items()}
PUBLIC = {"rl_lightning", "rl_lightning.__main__"}


def test_no_file_is_imported_in_a_circle():
    order = [*TopologicalSorter(GRAPH).static_order()]  # raises CycleError, which names the circle
    assert len(order) == len(FILES) > 60


def test_no_room_is_imported_in_a_circle():
    rooms: dict[str, set[str]] = {}
    for module, imported in GRAPH.items():
        rooms.setdefault(room_of(module), set()).update(room_of(other) for other in imported)
    arrows = {room: others - {room} for room, others in rooms.items()}
    order = [*TopologicalSorter(arrows).static_order()]
    assert order.index("rl_lightning.errors") < order.index("rl_lightning.data") < order.index("rl_lightning.callbacks")
    assert order.index("rl_lightning.callbacks") < order.index("rl_lightning.algorithms")


def test_the_rooms_are_few_and_each_stands_in_the_map():
    rooms = {room_of(module) for module in FILES} - PUBLIC
    assert len(rooms) <= 20
    design = (ROOT / "docs/design.md").read_text()
    for room in rooms:
        name = room.removeprefix("rl_lightning.")
        assert f"`{name}/`" in design or f"`{name}.py`" in design, f"{name} has no line in docs/design.md"


def test_the_exact_room_needs_the_equations_and_errors_and_nothing_else_of_ours():
    others = {room_of(name) for module in GRAPH if room_of(module) == "rl_lightning.exact" for name in GRAPH[module]}
    assert others - {"rl_lightning.exact"} <= {"rl_lightning.functional", "rl_lightning.errors"}


def test_the_room_of_equations_knows_nothing_of_lightning():
    for name in ("functional", "spaces", "types", "schedules", "errors"):
        assert "lightning.pytorch" not in (PACKAGE / f"{name}.py").read_text()
