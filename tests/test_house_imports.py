"""Who may import whom (the picture is in CONTRIBUTING.md), read off the syntax trees of the pack."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "steadyedit"

HOST = {
    "app", "comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras",
    "execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "server",
}  # fmt: skip
DIFFUSERS = {"accelerate", "diffusers", "peft", "transformers"}

# What each part may import of the pack. A part is the longest of these names that a module's path starts with.
INNER = {
    "files": {"files"},
    "kernels": {"kernels"},
    "diffusion": {"diffusion"},
    "methods": {"methods", "kernels", "diffusion", "files"},
    "backends": {"backends", "backends/comfy_native", "backends/diffusers", "methods", "diffusion"},
    "backends/comfy_native": {"backends/comfy_native", "backends", "methods", "diffusion", "toyworld"},
    "backends/diffusers": {"backends/diffusers", "backends", "methods", "diffusion", "toyworld"},
    "vision": {"vision", "files"},
    "video": {"video", "files"},
    "study": {"study", "video", "files"},
    "streaming": {"streaming", "methods", "diffusion", "video", "files"},
    "curation": {"curation", "video", "vision", "files"},
    "toyworld": {"toyworld", "diffusion", "vision"},
    "nodes": {
        "nodes", "streaming", "kernels", "diffusion", "methods", "backends", "vision", "video", "toyworld", "files",
    },
    "standalone": {
        "standalone", "nodes", "streaming", "kernels", "diffusion", "methods", "backends", "backends/diffusers",
        "vision", "video", "toyworld", "benchmarks", "files", "study", "curation",
    },
    "standalone/host_meter": {"standalone/host_meter"},
    "benchmarks": {
        "benchmarks", "kernels", "diffusion", "methods", "backends", "backends/diffusers", "vision",
        "video", "toyworld", "files", "curation",
    },
    "benchmarks/peers": {
        "benchmarks/peers", "benchmarks", "methods", "backends", "backends/comfy_native", "backends/diffusers",
        "vision", "video",
    },
    "benchmarks/lora_edit_host": {
        "benchmarks/lora_edit_host", "benchmarks", "benchmarks/peers", "methods", "backends/comfy_native",
    },
    "": {"nodes", "standalone"},
}  # fmt: skip

# What the lower parts may import from outside, beside the standard library. Parts not named here: anything but
# the host (only nodes and backends/comfy_native name it).
OUTER = {
    "files": set(),
    "kernels": {"torch", "einops"},
    "diffusion": {"torch", "numpy"},
    "methods": {"torch", "einops", "numpy", "safetensors", "PIL", "kornia", "scipy", "filelock"},
    "backends": {"torch", "numpy", "safetensors"},
    "": set(),
}
# The meter is a pack by itself, which a host imports; two benchmarks measure the pack in the host's Python.
NAMES_THE_HOST = {"nodes", "backends/comfy_native", "standalone/host_meter", "benchmarks/peers",
                  "benchmarks/lora_edit_host"}
NAMES_DIFFUSERS = {"backends/diffusers", "toyworld", "standalone", "benchmarks", "benchmarks/peers"}
# Networks that look at pictures come from transformers; vision has no use for the rest.
NAMES_TRANSFORMERS = NAMES_DIFFUSERS | {"vision"}


CHOOSES_THE_HOST = "backends/__init__.py"


@dataclass(frozen=True)
class Import:
    """One import statement's target: ``name`` is a folder path inside the pack, else a top-level module."""

    file: str
    line: int
    name: str
    inside: bool
    typing_only: bool

    @property
    def part(self) -> str:
        return part_of(self.file)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


def part_of(path: str) -> str:
    """The longest name in INNER that ``path`` (with slashes, from the root) lies in; "" is the root itself."""
    steps = path.split("/")
    return next(part for n in (2, 1, 0) if (part := "/".join(steps[:n])) in INNER)


def sources() -> list[Path]:
    """Python files that git would carry, without the tests and the build script."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True
    )
    paths = [ROOT / line for line in listed.stdout.splitlines()] if listed.returncode == 0 else ROOT.rglob("*.py")
    hidden = {"tests", "setup.py", ".venv", "build"}
    return sorted(p for p in paths if p.exists() and p.relative_to(ROOT).parts[0] not in hidden)


def is_typing_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(tree: ast.AST, typing_only: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Import statements at any depth, each with whether it stands under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, typing_only
        else:
            yield from statements(node, typing_only or is_typing_guard(node))


def imports_of(path: Path) -> Iterator[Import]:
    here = path.relative_to(ROOT)
    for node, typing_only in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [(alias.name.split(".")[0], False) for alias in node.names]
        elif node.level == 0:
            targets = [((node.module or "").split(".")[0], False)]
        else:
            # level 1 is the file's own folder, each further dot one folder up
            base = list(here.parent.parts)
            base = base[: len(base) - (node.level - 1)] if node.level > 1 else base
            stem = base + (node.module.split(".") if node.module else [])
            targets = [("/".join([*stem, alias.name]), True) for alias in node.names]
        for name, inside in targets:
            yield Import(here.as_posix(), node.lineno, name, inside, typing_only)


@lru_cache
def every_import() -> tuple[Import, ...]:
    return tuple(found for path in sources() for found in imports_of(path))


def module_of(path: str) -> str:
    """``a/b.py`` -> ``a/b``, ``a/__init__.py`` -> ``a``."""
    return path.removesuffix(".py").removesuffix("/__init__")


def modules_graph() -> dict[str, set[str]]:
    """Module -> the pack's modules that it imports; a name of a module counts as that module."""
    graph: dict[str, set[str]] = {module_of(path.relative_to(ROOT).as_posix()): set() for path in sources()}
    for found in every_import():
        if found.inside:
            target = found.name if found.name in graph else found.name.rpartition("/")[0]
            graph[module_of(found.file)] |= {target} & graph.keys()
    return graph


def circles_of(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of two or more nodes that all reach each other, in the order of their first names."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        ahead = list(graph[start])
        while ahead:
            if (node := ahead.pop()) not in seen:
                seen.add(node)
                ahead += graph[node]
        reach[start] = seen
    circles = {frozenset(other for other in reach[node] if node in reach[other]) for node in graph}
    return sorted((set(circle) for circle in circles if len(circle) > 1), key=min)


def report(broken: list[Import], rule: str) -> str:
    return rule + ":\n" + "\n".join(f"  {found}" for found in broken)


def test_the_pack_imports_itself_relatively():
    """An absolute import would find another copy, or none, where the host loads the folder under its own name."""
    broken = [found for found in every_import() if not found.inside and found.name == PACKAGE]
    assert not broken, report(broken, "relative imports only")


@pytest.mark.parametrize("part", INNER)
def test_who_may_import_whom(part):
    allowed = INNER[part]
    broken = [
        found
        for found in every_import()
        if found.inside and found.part == part and part_of(found.name) not in allowed
        # The types of the protocol may be named by those whom a backend is handed to.
        and not (found.typing_only and found.name.startswith("backends/protocol"))
        and not (part == "" and part_of(found.name) == "" and found.name.count("/") == 0)
    ]
    assert not broken, report(broken, f"'{part or 'root'}' may import {sorted(allowed)} of the pack")


@pytest.mark.parametrize("part", OUTER)
def test_what_the_lower_parts_need_from_outside(part):
    allowed = OUTER[part] | sys.stdlib_module_names
    broken = [
        found
        for found in every_import()
        if not found.inside and found.part == part and found.name not in allowed
    ]
    assert not broken, report(broken, f"'{part or 'root'}' may import the standard library and {sorted(OUTER[part])}")


def test_only_nodes_and_the_native_backend_name_the_host():
    broken = [
        found
        for found in every_import()
        if not found.inside and found.name in HOST and found.part not in NAMES_THE_HOST
    ]
    assert not broken, report(broken, f"only {sorted(NAMES_THE_HOST)} may import the host")


def test_only_its_backend_and_the_toy_world_name_diffusers():
    broken = [
        found
        for found in every_import()
        if not found.inside and found.name in DIFFUSERS
        and found.part not in (NAMES_TRANSFORMERS if found.name == "transformers" else NAMES_DIFFUSERS)
    ]  # fmt: skip
    assert not broken, report(broken, f"only {sorted(NAMES_DIFFUSERS)} may import diffusers and its kin")


def test_no_module_imports_itself_by_way_of_others():
    """Imports for types and those inside functions count: a circle is a design that cannot be read in any order."""
    circles = circles_of(modules_graph())
    assert not circles, f"modules that import each other in a circle: {[sorted(circle) for circle in circles]}"


def test_no_part_imports_itself_by_way_of_others():
    """The same of the parts in the picture; the protocol's types do not count, as above."""
    graph: dict[str, set[str]] = {part: set() for part in INNER}
    for found in every_import():
        other = part_of(found.name) if found.inside else found.part
        # backends/__init__.py asks a host's folder for its backend when it is needed: the one way down.
        if other != found.part and not found.name.startswith("backends/protocol") and found.file != CHOOSES_THE_HOST:
            graph[found.part].add(other)
    circles = circles_of(graph)
    assert not circles, f"parts that import each other in a circle: {[sorted(circle) for circle in circles]}"


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f", "a"}}
    assert circles_of(graph) == [{"a", "b", "c"}]


def test_the_rules_see_the_pack():
    """A rule over no files would pass: every part is there and imports something."""
    seen = {found.part for found in every_import()}
    assert set(INNER) - seen == set(), "parts without a single import: is the reader of imports broken?"


def test_a_broken_rule_is_seen(tmp_path, monkeypatch):
    """The reader resolves relative imports at every depth, in functions and under TYPE_CHECKING."""
    (tmp_path / "kernels" / "op").mkdir(parents=True)
    code = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ...methods import ei2\n"
    code += "def late():\n    from ..norm import reference\n    import comfy.utils\n"
    (tmp_path / "kernels" / "op" / "sdpa.py").write_text(code)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    found = [(i.name, i.inside, i.typing_only) for i in imports_of(tmp_path / "kernels" / "op" / "sdpa.py")]
    assert found == [
        ("typing", False, False),
        ("methods/ei2", True, True),
        ("kernels/norm/reference", True, False),
        ("comfy", False, False),
    ]


def test_importing_the_pack_loads_nothing_heavy():
    """Counted in loaded modules, which a busy machine does not change, unlike seconds."""
    loaded = loaded_by("import steadyedit")
    assert PACKAGE in loaded
    assert loaded - {PACKAGE} <= set(sys.stdlib_module_names), "the entry may load the standard library only"


def test_the_list_of_nodes_loads_only_what_a_host_has_loaded():
    """torch, with what it loads itself: the rest waits until a node runs."""
    loaded = loaded_by("from steadyedit.standalone import host_api\n"
                       "with host_api.installed(): from steadyedit.nodes import node_list; node_list()")
    assert PACKAGE in loaded
    theirs = {"torch", "torchgen", "numpy", "tqdm", "typing_extensions", "__mp_main__"}
    assert loaded - {PACKAGE} - theirs <= set(sys.stdlib_module_names)


def test_a_host_s_start_loads_nodes_and_lists_alone():
    """The host asks for every schema, pickers of files included: no method, backend or network is loaded for that."""
    loaded = loaded_by("from steadyedit.standalone import host_api\n"
                       "with host_api.installed():\n"
                       "    from steadyedit.nodes import node_list\n"
                       "    [node.GET_SCHEMA() for node in node_list()]", whole=True)
    ours = {name.removeprefix(f"{PACKAGE}.") for name in loaded if name.startswith(f"{PACKAGE}.")}
    heavy = ("backends.diffusers.backend", "methods.registry", "methods.tuning", "toyworld.models", "toyworld.world",
             "vision.segmentation", "vision.grounding", "kernels", "diffusion")  # fmt: skip
    assert not [name for name in ours if name.startswith(heavy)]
    assert "diffusers" not in loaded and "transformers" not in loaded and len(ours) < 75


def loaded_by(code, whole=False):
    """Modules that a fresh Python loads for it: their top-level names, or their whole ones."""
    name = "name" if whole else "name.split('.')[0]"
    told = f"\nprint(json.dumps(sorted({{{name} for name in set(sys.modules) - before}})))"
    call = [sys.executable, "-c", f"import sys, json; before = set(sys.modules)\n{code}{told}"]
    done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT / "tests")
    return set(json.loads(done.stdout))
