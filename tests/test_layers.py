"""Imports go one way: functions → lib, emulator → functions and lib; within lib, inwards."""

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = {"lib.model", "lib.errors", "lib.version"}
ALLOWED = {
    "lib/errors.py": {"lib.version"},
    "lib/version.py": set(),
    "lib/model": BASE,
    "lib/store": BASE | {"lib.store"},
    "lib/sophos": BASE | {"lib.sophos"},
    "lib/grpc_stream": {"lib.grpc_stream"},
    "lib/utmstack": BASE | {"lib.utmstack", "lib.grpc_stream"},
    "lib/state": BASE | {"lib.state", "lib.store.base"},
    "lib/pipeline": BASE | {"lib.pipeline", "lib.state", "lib.store.base"},
    "lib/telemetry.py": BASE | {"lib.config.environment"},
    "lib/tasks.py": BASE,
    "lib/http": BASE | {"lib.http", "lib.telemetry"},
    "lib/config": BASE | {"lib.config", "lib.http.access", "lib.store.gcs"},
    "lib/parts.py": {"lib"},
    "lib/app.py": {"lib"},
    "lib/current.py": {"lib"},
    "lib/answers.py": BASE | {"lib.pipeline"},
    "functions": {"lib"},
    "emulator": {"lib", "functions", "emulator"},
}
PURE = ("lib/model", "lib/errors.py", "lib/version.py")
HEAVY = {"google", "sentry_sdk", "grpc", "h2", "requests"}
"""Not to be imported by loading an entry point: they are imported where they are used."""


def imports(file: Path) -> Iterator[str]:
    return imported(ast.parse(file.read_text()), file)


def imported(tree: ast.Module, file: Path) -> Iterator[str]:
    for node in ast.walk(tree):
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
    assert users == {"lib/utmstack/call.py", "emulator/utmstack/settings.py", "emulator/engine.py"}


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
    assert ROOT / "lib/app.py" in seen


MODULES = {
    str(file.relative_to(ROOT)).removesuffix(".py").removesuffix("/__init__").replace("/", "."): file
    for place in ("lib", "functions", "emulator")
    for file in sources(place)
}


def run_time_imports(file: Path) -> set[str]:
    """The modules of ours that the file imports, when it is loaded or later; those for types alone are left out."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return {name for name in imported(tree, file) if name in MODULES}


def test_no_circle_of_imports() -> None:
    below = {name: run_time_imports(file) for name, file in MODULES.items()}
    while leaves := {name for name, others in below.items() if not others & below.keys() - {name}}:
        below = {name: others for name, others in below.items() if name not in leaves}
    assert not below, f"circles among {sorted(below)}"


def test_only_the_configuration_reads_the_environment() -> None:
    readers = {
        str(file.relative_to(ROOT))
        for file in sources("lib")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    }
    # The store of Google's sets what that client library reads, which has no other switch.
    assert readers == {"lib/config/environment.py", "lib/store/gcs.py"}


def test_no_file_of_lib_is_long() -> None:
    assert {str(file): lines for file in sources("lib") if (lines := file.read_text().count("\n")) > 450} == {}


AS_IN_A_FILE = {
    "lib.config.settings: Config",
    "lib.config.settings: IntegrationConfig",
    "lib.model.integration: IntegrationSettings",
    "emulator.central.faults: Fault",
}
"""Each field is a key that people write, at the level at which they write it: groups would be a second structure."""


def test_no_constructor_takes_more_than_twelve_arguments() -> None:
    """Written by hand or made by `dataclass`, `NamedTuple` or msgspec; inherited fields count."""
    wide = set()
    for name in MODULES.keys() - {"emulator.__main__"}:
        for made in vars(importlib.import_module(name)).values():
            if inspect.isclass(made) and made.__module__ == name and takes(made) > 12:
                wide.add(f"{name}: {made.__qualname__}")
    assert wide == AS_IN_A_FILE


def takes(made: type) -> int:
    """The number of arguments; 0 if a class of a library's takes them."""
    if issubclass(made, msgspec.Struct):
        return len(made.__struct_fields__)
    maker = next(base for base in made.__mro__ if {"__init__", "__new__"} & vars(base).keys())
    return len(inspect.signature(made).parameters) if maker.__module__ in MODULES else 0


FRAMEWORKS = {"Meta"}
"""Names that a library asks for."""
VAGUE = {"told", "found", "known", "each", "one", "heed", "lift", "heard", "tell"}


def parsed() -> Iterator[tuple[Path, ast.Module]]:
    for place in ("lib", "emulator", "functions", "infra", "package"):
        yield from ((file, ast.parse(file.read_text())) for file in sources(place))


def test_a_class_name_stands_for_one_class() -> None:
    places: dict[str, list[str]] = {}
    for file, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name.lstrip("_"), []).append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in FRAMEWORKS} == {}


def named(node: ast.AST) -> str | None:
    """The name that the node defines."""
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.id if isinstance(node, ast.Name) else node.attr
    if isinstance(node, ast.arg):
        return node.arg
    return node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else None


def test_a_name_says_what_it_holds() -> None:
    vague = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {name}"  # type: ignore[attr-defined] # a node with a name has a line
        for file, tree in parsed()
        for node in ast.walk(tree)
        if (name := named(node)) is not None and name.strip("_") in VAGUE
    ]
    assert vague == []


def names_in(node: ast.AST) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def test_json_that_is_nested_too_deep_is_caught_where_other_broken_json_is() -> None:
    found = []
    for file in sources("lib") + sources("emulator") + sources("functions"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Try | ast.With):
                continue
            read = any(isinstance(each, ast.Attribute) and each.attr == "loads" for each in ast.walk(node.body[0]))
            guards = [each.context_expr for each in node.items] if isinstance(node, ast.With) else node.handlers
            caught = set().union(*map(names_in, guards))
            if read and "ValueError" in caught and "RecursionError" not in caught:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert found == []
