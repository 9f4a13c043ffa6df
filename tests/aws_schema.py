"""The current schema of Terraform's AWS provider, read out of a package that is generated from it: the provider itself
need not be downloaded to ask Terraform whether a configuration fits it.

The package is cdktf-cdktf-provider-aws: for each resource a JavaScript class, whose ``synthesizeHclAttributes`` names
every attribute and block with its type, and a declaration, which says what is required. What they do not say is which
values an attribute accepts.

usage: python tests/aws_schema.py PACKAGE.tgz OUT.json aws_vpc data.aws_region …
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Block = dict[str, Any]
"""``attributes``: name → type, required, optional, computed; ``blocks``: name → nesting, min, max, block."""

_SIMPLE = {"string": "string", "number": "number", "boolean": "bool", "any": "string"}
_MANY = {f"{name}{end}": shape for name, shape in _SIMPLE.items() for end in ("List", "Map")}
_COMPUTED: dict[str, Any] = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "Any": "string",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
    "NumberMap": ["map", "number"],
    "BooleanMap": ["map", "bool"],
    "AnyMap": ["map", "string"],
}

_INTERFACE = re.compile(r"^export interface (\w+)(?: extends [\w.]+)? \{\n(.*?)^\}", re.S | re.M)
_PROPERTY = re.compile(r"#(\w+) \w+#\w+\}(?:(?!\*/).)*\*/\s+readonly \w+(\?)?: ", re.S)
_ENTRY = re.compile(
    r"^\s+(\w+): \{\n\s+value: (.*),\n\s+isBlock: (true|false),\n\s+type: \"(\w+)\",\n\s+storageClassType: \"(\w+)\",",
    re.M,
)
_FUNCTION = re.compile(r"^function (\w+)ToHclTerraform\(struct\) \{\n(.*?)^\}", re.S | re.M)
_CLASS = re.compile(r"^class (\w+) extends cdktf\.(\w+) \{\n(.*?)^\}", re.S | re.M)
_GETTER = re.compile(r"return (cdktf\.Fn\.tolist\()?this\.get(\w+?)Attribute\('(\w+)'\)")
_MEMBER = re.compile(r"this\._\w+ = new (\w+?)(List|OutputReference|Map)\(this, \"(\w+)\"(?:, (true|false))?\)")
_NAMED = re.compile(r"terraformResourceType: ['\"](\w+)['\"]")
_BODY = re.compile(r"synthesizeHclAttributes\(\) \{(.*)", re.S)
_VERSION = re.compile(r"providerVersion: '([\d.]+)'")


@dataclass(frozen=True)
class Module:
    """One resource of the package, taken apart."""

    required: dict[str, dict[str, bool]]  # by the name of a block's declaration: attribute → whether it must be there
    functions: dict[str, str]
    classes: dict[str, tuple[str, str]]

    @staticmethod
    def parsed(script: str, declarations: str) -> Module:
        return Module(
            {
                name: {attribute: not optional for attribute, optional in _PROPERTY.findall(body)}
                for name, body in _INTERFACE.findall(declarations)
            },
            {name[0].upper() + name[1:]: body for name, body in _FUNCTION.findall(script)},
            {name: (kind, body) for name, kind, body in _CLASS.findall(script)},
        )

    def described(self, kind: str) -> tuple[str, Block]:
        """The Terraform name and the schema of the class that extends ``kind``."""
        for name, (extends, body) in self.classes.items():
            if extends == kind:
                named, synthesis = _NAMED.search(body), _BODY.search(body)
                assert synthesis, name
                block = self._block(self.required.get(f"{name}Config", {}), synthesis[1], body)
                return (named[1] if named else name), block
        raise LookupError(f"no class extends {kind}")

    def _block(self, required: dict[str, bool], synthesis: str, body: str) -> Block:
        attributes: dict[str, Any] = {}
        blocks: dict[str, Any] = {}
        for name, value, is_block, shape, storage in _ENTRY.findall(synthesis):
            needed = required.get(name, False)
            if storage in _SIMPLE or storage in _MANY:
                scalar = _SIMPLE.get(storage) or _MANY[storage]
                attributes[name] = _attribute(scalar if shape == "simple" else [shape, scalar], needed)
                continue
            base = _struct_of(value)
            inner = self._block(
                self.required.get(base, {}),
                self.functions.get(base, ""),
                self.classes.get(f"{base}OutputReference", ("", ""))[1],
            )
            many = "listMapperHcl" in value
            if is_block == "false" or re.search(r"ToHclTerraform, false\)", value):
                its = _object(inner)
                collection = shape if shape in ("list", "set", "map") else "list"
                attributes[name] = _attribute([collection, its] if many else its, needed)
            else:
                nesting = {"struct": "single", "set": "set"}.get(shape, "list")
                most = 0 if many or nesting == "single" else 1
                blocks[name] = {"nesting": nesting, "min": int(needed), "max": most, "block": inner}
        for name, its in self._computed(body).items():
            if name not in attributes and name not in blocks:
                attributes[name] = {"type": its, "required": False, "optional": False, "computed": True}
        return {"attributes": attributes, "blocks": blocks}

    def _computed(self, body: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            name: ["set", "string"] if as_set else _COMPUTED[kind]
            for as_set, kind, name in _GETTER.findall(body)
            if as_set or kind in _COMPUTED
        }
        for base, kind, name, as_set in _MEMBER.findall(body):
            its = ["object", self._computed(self.classes.get(f"{base}OutputReference", ("", ""))[1])]
            collection = "map" if kind == "Map" else "set" if as_set == "true" else "list"
            found[name] = its if kind == "OutputReference" else [collection, its]
        return found


def _attribute(shape: Any, required: bool) -> dict[str, Any]:
    return {"type": shape, "required": required, "optional": not required, "computed": not required}


def _struct_of(value: str) -> str:
    found = re.search(r"(\w+)ToHclTerraform", value)
    assert found, value
    return found[1][0].upper() + found[1][1:]


def _object(block: Block) -> Any:
    attributes = {name: attribute["type"] for name, attribute in block["attributes"].items()}
    return ["object", attributes | {name: [b["nesting"], _object(b["block"])] for name, b in block["blocks"].items()}]


def read(package: Path, wanted: Collection[str]) -> dict[str, Any]:
    """The schema of the provider, and of the ``wanted`` resources and ``data.`` sources that it has."""
    folders = {"provider": ("provider", "TerraformProvider")}
    for name in wanted:
        kind = "TerraformDataSource" if name.startswith("data.") else "TerraformResource"
        folders[name.replace("data.aws_", "data-aws-").removeprefix("aws_").replace("_", "-")] = (name, kind)
    texts: dict[str, dict[str, str]] = {}
    with tarfile.open(package) as archive:
        for entry in archive:
            _, _, rest = entry.name.partition("/lib/")
            folder, _, file = rest.partition("/")
            if folder in folders and file in ("index.js", "index.d.ts"):
                content = archive.extractfile(entry)
                assert content
                texts.setdefault(folder, {})[file] = content.read().decode()
    schema: dict[str, Any] = {"resources": {}, "data": {}}
    for folder, files in texts.items():
        named, kind = folders[folder]
        found, block = Module.parsed(files["index.js"], files["index.d.ts"]).described(kind)
        if kind == "TerraformProvider":
            block["attributes"].pop("alias")  # Terraform's own word, not the provider's
            schema["provider"] = block
            continue
        assert found == named.removeprefix("data."), (found, named)
        schema["data" if kind == "TerraformDataSource" else "resources"][found] = block
        version = _VERSION.search(files["index.js"])
        schema["version"] = version[1] if version else schema["version"]
    return schema


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(read(Path(sys.argv[1]), sys.argv[3:])), encoding="utf-8")
