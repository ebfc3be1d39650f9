"""Makes `schemas.json` from npm's packages of the providers' bindings.

Call it as `python -m tests.fakes.terraform.extract FOLDER`, with every new type of resource in infra/.
FOLDER holds the unpacked package, as `npm pack @cdktf/provider-google` and `tar xzf` leave it: `google/`.
The bindings are generated from the provider's own schema. Two things they do not tell, and are left out here: how many
blocks a list takes beyond none, one and many; which optional arguments the provider fills in by itself (taken: `id` and
`project`).
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
INFRA = HERE.parents[2] / "infra"
CLASS = re.compile(r"^class (\w+) extends cdktf\.(\w+) \{(.*?)^\}", re.DOTALL | re.MULTILINE)
COMPUTED = re.compile(r"// (\w+) - computed: true, optional: false, required: false\n(.*?);\n", re.DOTALL)
NESTED = re.compile(r"= new (\w+)\(this, \"\w+\"(?:, (true|false))?\)")
TABLE = re.compile(
    r"^ +(\w+): \{\n +value: .*\n +isBlock: (true|false),\n +type: \"(\w+)\",\n +storageClassType: \"(\w+)\"",
    re.MULTILINE,
)
INTERFACE = re.compile(r"^export interface (\w+) (?:extends [\w.]+ )?\{(.*?)^\}", re.DOTALL | re.MULTILINE)
ARGUMENT = re.compile(r"#(\w+) \w+#\w+\}\n.*?readonly \w+(\??):", re.DOTALL)
SIMPLE = {"string": "string", "number": "number", "boolean": "bool"}
GETTERS = {
    "getStringAttribute": "string",
    "getNumberAttribute": "number",
    "getBooleanAttribute": "bool",
    "getListAttribute": ["list", "string"],
    "getStringMapAttribute": ["map", "string"],
}
FILLED = {"id", "project"}


def used() -> dict[str, set[str]]:
    """The types of resources and data sources in the Terraform of this repository, by provider."""
    text = "\n".join(path.read_text() for path in INFRA.rglob("*.tf"))
    found: dict[str, set[str]] = {"google": set()}
    for kind, name in re.findall(r'^(resource|data) "(\w+)"', text, re.MULTILINE):
        if name.partition("_")[0] in found:
            found[name.partition("_")[0]].add(name if kind == "resource" else f"data_{name}")
    return found


def provider(folder: Path, name: str, types: set[str]) -> dict[str, Any]:
    """The schemas of one provider."""
    version = re.search(r"provider version (\S+)", (folder / "README.md").read_text())
    found: dict[str, Any] = {"version": version and version[1], "resources": {}, "data": {}}
    found["provider"] = Bindings.of(folder / "lib" / "provider").schema()
    for each in sorted(types):
        is_data = each.startswith("data_")
        short = each.removeprefix("data_").removeprefix(f"{name}_").replace("_", "-")
        bindings = Bindings.of(folder / "lib" / (f"data-{name}-{short}" if is_data else short))
        found["data" if is_data else "resources"][each.removeprefix("data_")] = bindings.schema()
    return found


@dataclass(frozen=True)
class Bindings:
    """The generated code of one resource, data source or provider."""

    code: str
    types: str

    @classmethod
    def of(cls, folder: Path) -> Bindings:
        """The bindings in that folder."""
        return cls((folder / "index.js").read_text(), (folder / "index.d.ts").read_text())

    @cached_property
    def _classes(self) -> dict[str, tuple[str, str]]:
        return {name: (base, body) for name, base, body in CLASS.findall(self.code)}

    @cached_property
    def _required(self) -> dict[str, set[str]]:
        """The required arguments of each interface."""
        found = INTERFACE.findall(self.types)
        return {name: {argument for argument, mark in ARGUMENT.findall(body) if not mark} for name, body in found}

    def schema(self) -> dict[str, Any]:
        """Its schema."""
        tops = {"TerraformResource", "TerraformDataSource", "TerraformProvider"}
        (top,) = [name for name, (base, _) in self._classes.items() if base in tops]
        return self._block(top, self._classes[top][1].partition("synthesizeHclAttributes")[2], f"{top}Config", top)

    def _nested(self, struct: str) -> dict[str, Any]:
        function = struct[0].lower() + struct[1:] + "ToHclTerraform"
        table = re.search(rf"^function {function}\(.*?^\}}", self.code, re.DOTALL | re.MULTILINE)
        return self._block(struct, table[0] if table else "", struct, f"{struct}OutputReference")

    def _block(self, struct: str, table: str, interface: str, reader: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        blocks: dict[str, Any] = {}
        required = self._required.get(interface, set())
        for name, is_block, kind, storage in TABLE.findall(table):
            if is_block == "false":
                flags = "r" if name in required else "oc" if name in FILLED else "o"
                attributes[name] = [_type(kind, storage), flags]
                continue
            inner = storage.removesuffix("List")
            many = self._classes.get(f"{inner}List", ("", ""))[0] == "ComplexList"
            nesting = {"struct": "single"}.get(kind, kind)
            most = 0 if many or nesting == "single" else 1
            blocks[name] = {"nesting": nesting, "min": int(name in required), "max": most, **self._nested(inner)}
        body = self._classes[reader][1] if reader in self._classes else ""
        for name, code in COMPUTED.findall(body):
            attributes[name] = [self._computed(code), "c"]
        return {"attributes": attributes, "blocks": blocks}

    def _computed(self, code: str) -> Any:
        nested = NESTED.search(code)
        if nested is not None:
            inner = self._nested(nested[1].removesuffix("List").removesuffix("OutputReference"))
            fields = {name: each[0] for name, each in inner["attributes"].items()}
            return ["set" if nested[2] == "true" else "list", ["object", fields]]
        if "cdktf.StringMap" in code:
            return ["map", "string"]
        getter = re.search(r"this\.(get\w+Attribute)\(", code)
        if getter is None:
            raise ValueError(f"no type in {code!r}")
        found = GETTERS[getter[1]]
        return ["set", found[1]] if "Fn.tolist" in code else found


def _type(kind: str, storage: str) -> Any:
    if kind == "simple":
        return SIMPLE[storage]
    return [kind, SIMPLE[storage.removesuffix("List").removesuffix("Map")]]


def main(folder: Path) -> None:
    """Write `schemas.json`."""
    found = {name: provider(folder / name, name, types) for name, types in used().items()}
    (HERE / "schemas.json").write_text(json.dumps(found, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
