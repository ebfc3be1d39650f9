"""Imports go one way: functions → lib, emulator → functions and lib; within lib, inwards."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = {"lib.model", "lib.errors"}
ALLOWED = {
    "lib/errors.py": set(),
    "lib/model": BASE,
    "lib/store": BASE | {"lib.store"},
    "lib/sophos": BASE | {"lib.sophos"},
    "lib/grpc_stream": {"lib.grpc_stream"},
    "lib/utmstack": BASE | {"lib.utmstack", "lib.grpc_stream"},
    "lib/pipeline": BASE | {"lib.pipeline", "lib.store.base"},
    "lib/telemetry.py": BASE,
    "lib/secrets.py": BASE,
    "lib/access.py": BASE,
    "lib/tasks.py": BASE,
    "lib/config.py": BASE | {"lib.access", "lib.secrets", "lib.store.gcs"},
    "lib/live.py": BASE | {"lib.config", "lib.secrets"},
    "lib/boundary.py": BASE | {"lib.access", "lib.telemetry"},
    "lib/wiring.py": {"lib"},
    "functions": {"lib"},
    "emulator": {"lib", "functions", "emulator"},
}
PURE = ("lib/model", "lib/errors.py")
HEAVY = {"google", "sentry_sdk", "grpc", "h2", "requests"}
"""Not to be imported by loading an entry point: they are imported where they are used."""


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = (ROOT / (name.replace(".", "/") + ".py")).exists() or (
                    ROOT / name.replace(".", "/")
                ).is_dir()
                yield name if is_module else str(node.module)


def sources(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.suffix else [file for file in path.rglob("*.py") if "/pb/" not in str(file)]


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("place", ALLOWED)
def test_a_layer_imports_only_what_lies_below_it(place: str) -> None:
    files = sources(place)
    assert files
    for file in files:
        ours = {name for name in imports(file) if within(name, {"lib", "functions", "emulator", "tests"})}
        wrong = {name for name in ours if not within(name, ALLOWED[place])}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("place", PURE)
def test_the_model_needs_the_standard_library_only_and_no_input_or_output(place: str) -> None:
    for file in sources(place):
        names = {name.partition(".")[0] for name in imports(file)}
        assert names <= {*sys.stdlib_module_names, "lib"}, file
        assert not names & {"os", "io", "socket", "time", "pathlib", "subprocess", "random", "threading"}, file


def test_every_part_of_lib_has_its_rule() -> None:
    parts = {f"lib/{path.name}" for path in (ROOT / "lib").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"lib/__init__.py", "lib/__pycache__"} == {place for place in ALLOWED if place.startswith("lib/")}


def test_generated_code_is_used_in_few_places() -> None:
    users = {
        str(file.relative_to(ROOT))
        for place in ("lib", "functions", "emulator")
        for file in sources(place)
        if any("pb" in name.split(".") for name in imports(file))
    }
    assert users == {"lib/utmstack/call.py", "lib/utmstack/settings.py", "emulator/engine.py"}


def top_level_imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("function", ["fetch_page", "forward_batch", "test_connection"])
def test_an_entry_point_loads_no_heavy_client(function: str) -> None:
    todo, seen = [ROOT / "functions" / function / "main.py"], set()
    while todo:
        for name in top_level_imports(todo.pop()):
            assert name.partition(".")[0] not in HEAVY, f"{function} loads {name}"
            module = ROOT / (name.replace(".", "/") + ".py")
            if name.startswith("lib") and module.exists() and module not in seen:
                seen.add(module)
                todo.append(module)
    assert ROOT / "lib/wiring.py" in seen
