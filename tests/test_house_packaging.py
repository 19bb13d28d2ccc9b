"""What users and the registry are given: metadata, requirements, help pages and workflows agree with the code."""

from __future__ import annotations

import ast
import json
import re
import sys
from functools import lru_cache
from pathlib import Path

import cards
import pytest
from folded_graphs import unfolded
from forms import editor_form, editor_forms
from PIL import Image
from test_house_imports import HOST, every_import, sources

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it where Python has none
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted(editor_forms())
PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md", "docs/nodes.md", "docs/command_line.md",
         "docs/papers.md", "docs/real_models.md", "docs/install.md", "toyworld/README.md")  # fmt: skip
API_FORMS = sorted(path.stem for path in (ROOT / "workflows" / "api").glob("*.json"))

NEVER_REQUIRED = {"torch", "torchvision", "torchaudio", "xformers", "triton"}
ONLY_EXTRAS = {"groundingdino-py", "groundingdino"}
# Where a distribution is not imported under its own name.
MODULE = {"pillow": "PIL", "scikit-image": "skimage", "opencv-python": "cv2"}
# Asked of the host or, outside of it, of `make`; imported only by the module named beside it.
# transformers brings tokenizers along; the meter answers through the host's own server.
NOT_OURS_TO_REQUIRE = {"torch", "tokenizers", "aiohttp"}
# Used where it is installed: an extra, since it builds from source, serves one command alone, or reads rare files.
OPTIONAL = {"accelerate", "groundingdino", "peft", "OpenEXR", "scenedetect"}


@lru_cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [re.split(r"[<>=~!;\[ ]", line)[0].lower() for line in lines if line.strip() and not line.startswith("#")]


@lru_cache
def node_ids() -> tuple[str, ...]:
    """Every ``node_id="..."`` in nodes/."""
    found = []
    for path in sources():
        if path.relative_to(ROOT).parts[0] == "nodes":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.keyword) and node.arg == "node_id" and isinstance(node.value, ast.Constant):
                    found.append(node.value.value)
    return tuple(sorted(found))


def looked_up() -> set[str]:
    """Packages whose files are used without an import: ``find_spec("...")``."""
    nodes = (node for path in sources() for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    calls = (node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("find_spec"))
    return {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}


def load(*steps: str) -> dict:
    return json.loads(ROOT.joinpath("workflows", *steps).read_text(encoding="utf-8"))


def editor(name: str) -> dict:
    return json.loads(editor_form(name).read_text(encoding="utf-8"))


def test_torch_is_never_required():
    """A requirement on torch makes pip replace the host's build."""
    extras = [name for group in project()["project"]["optional-dependencies"].values() for name in group]
    assert not NEVER_REQUIRED & set(requirements())
    assert not NEVER_REQUIRED & {re.split(r"[<>=~!;\[ ]", name)[0].lower() for name in extras}
    assert not ONLY_EXTRAS & set(requirements())


def test_requirements_are_what_the_pack_imports():
    """Both ways: nothing is imported that is not asked for, and nothing is asked for that is not imported."""
    asked = {MODULE.get(name, name.replace("-", "_")) for name in requirements()}
    imported = {found.name for found in every_import() if not found.inside} - set(sys.stdlib_module_names) - HOST
    assert (imported - NOT_OURS_TO_REQUIRE | looked_up()) - OPTIONAL == asked


def test_registry_metadata():
    meta, comfy = project()["project"], project()["tool"]["comfy"]
    assert "comfyui" not in meta["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", meta["version"])
    assert meta["license"] == "Apache-2.0" and "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert comfy["PublisherId"] and comfy["DisplayName"] and comfy["requires-comfyui"].startswith(">=")
    assert (ROOT / comfy["Icon"]).is_file()


def test_the_version_is_the_changelogs_newest():
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == project()["project"]["version"]


def test_every_folder_with_code_is_a_package():
    """Setup finds packages by their ``__init__.py``: a folder without one would be missing in the wheel."""
    folders = {path.parent for path in sources() if path.parent != ROOT}
    assert not [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()]


def test_node_ids_carry_the_prefix_and_are_unique():
    assert node_ids() and len(set(node_ids())) == len(node_ids())
    assert all(re.fullmatch(r"SteadyEdit[A-Z]\w*", name) for name in node_ids())


def test_every_node_has_a_help_page_and_a_row_in_the_table():
    pages = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))
    assert pages == list(node_ids())
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == list(node_ids())


def test_every_help_page_has_a_small_picture_of_its_node():
    """Drawn by ``python tests/host/help_pictures.py NODE_ID``; the editor looks for it beside the page."""
    folder = ROOT / "web" / "docs"
    for name in node_ids():
        assert f"](pictures/{name}.webp)" in (folder / f"{name}.md").read_text(encoding="utf-8"), name
        picture = (folder / "pictures" / f"{name}.webp").read_bytes()
        assert picture[8:12] == b"WEBP" and len(picture) <= 15_000, name
    pictures = list((folder / "pictures").iterdir())
    assert sorted(path.stem for path in pictures) == list(node_ids())
    assert sum(path.stat().st_size for path in pictures) <= 1_000_000


def test_the_readme_is_short_and_names_every_graph():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.split()) <= 1500
    assert not [name for name in WORKFLOWS if f"`{name}`" not in readme]


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert not [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]


def test_every_workflow_has_both_forms_and_a_title():
    """What the template browser shows is the file's name: words of a user, and the name that README uses."""
    assert WORKFLOWS and WORKFLOWS == API_FORMS
    for name, path in editor_forms().items():
        # Whatever a web address or Windows has a use for would not open; a card shows some thirty letters.
        assert re.fullmatch(rf"[\w ',.-]{{10,30}} \({name}\)", path.stem), f"{path.name}: TITLE ({name}).json"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_note_of_a_graph_is_the_editors(name):
    note = (ROOT / "workflows" / "api" / f"{name}.md").read_text(encoding="utf-8")
    (shown,) = [node for node in editor(name)["nodes"] if node["type"] == "MarkdownNote"]
    assert shown["widgets_values"][0].strip() == note.strip()
    assert "`" not in note, "Nodes 2.0 draws it in blue on blue: *slanted* is readable."


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_a_thumbnail(name):
    thumbnail = editor_form(name).with_suffix(".jpg").read_bytes()
    assert thumbnail[:3] == b"\xff\xd8\xff" and len(thumbnail) < 200_000


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_graph_opens_at_its_first_group_with_its_note_beside_it(name):
    """On a screen of 1280x720, whatever stands above them."""
    graph = editor(name)
    (x, top, *_), (left, above), scale = (
        graph["groups"][0]["bounding"], graph["extra"]["ds"]["offset"], graph["extra"]["ds"]["scale"])
    assert 0 < (x + left) * scale < 640 and 0 < (top + above) * scale < 180
    (note,) = [node["pos"] for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    assert 0 < (note[0] + left) * scale < x * scale and top <= note[1] < top + 60


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if not name.startswith("toy_")])
def test_the_thumbnail_of_a_graph_for_real_models_shows_its_steps(name):
    """Where a group or a node has another title now: ``python tests/cards.py NAME``."""
    with Image.open(editor_form(name).with_suffix(".jpg")) as picture:
        assert picture.info["comment"].decode() == cards.words_of(name)


@pytest.mark.parametrize("name", API_FORMS)
def test_a_workflow_uses_nodes_that_exist(name):
    ours = {node["class_type"] for node in load("api", f"{name}.json").values() if "SteadyEdit" in node["class_type"]}
    assert ours and ours <= set(node_ids())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_both_forms_of_a_workflow_are_the_same_graph(name):
    """Nodes, links and widget values. When values differ: ``python tests/host/frontend.py NAME --values``."""
    graph, api = unfolded(editor(name)), load("api", f"{name}.json")
    notes = {"Note", "MarkdownNote"}
    nodes = {str(node["id"]): node for node in graph["nodes"] if node["type"] not in notes}
    assert {key: node["type"] for key, node in nodes.items()} == {key: node["class_type"] for key, node in api.items()}
    assert {key: node["title"] for key, node in nodes.items()} == {
        key: node["_meta"]["title"] for key, node in api.items()
    }

    links = {
        (str(target), nodes[str(target)]["inputs"][slot]["name"]): [str(origin), output]
        for _, origin, output, target, slot, _ in graph["links"]
    }
    inputs = {(key, field): value for key, node in api.items() for field, value in node["inputs"].items()}
    assert links == {place: value for place, value in inputs.items() if isinstance(value, list)}

    shown = {
        (key, field): value
        for key, node in nodes.items()
        for field, value in node.get("widgets_values_named", {}).items()
        # What only the frontend has, and widgets that a link overrides.
        if field not in {"upload", "control_after_generate"} and (key, field) not in links
    }
    set_here = {place: value for place, value in inputs.items() if not isinstance(value, list)}
    assert {place: shown.get(place) for place in set_here} == set_here
    # Newer hosts give core nodes more widgets than older ones know; ours must be listed in full.
    assert not [(key, field) for key, field in set(shown) - set(set_here) if "SteadyEdit" in nodes[key]["type"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_shipped_graph_repeats_itself(name):
    widgets = [node.get("widgets_values_named", {}) for node in unfolded(editor(name))["nodes"]]
    assert {values.get("control_after_generate", "fixed") for values in widgets} == {"fixed"}


def test_settings_of_help_pages_stand_in_lines_of_their_own():
    """The editor joins single newlines: settings under each other would be one paragraph."""
    for page in sorted((ROOT / "web" / "docs").glob("*.md")):
        lines = page.read_text(encoding="utf-8").splitlines()
        joined = [b for a, b in zip(lines, lines[1:]) if a.startswith("**") and b.startswith("**")]
        assert not joined, f"{page.name}: make a list of {joined[0][:40]}"


def test_files_that_are_begun_first_are_there():
    from work_order import LONG

    names = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(LONG) <= names
