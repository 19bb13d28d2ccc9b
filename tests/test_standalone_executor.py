"""The small executor: order, checks in one sentence, and graphs that are changed before they run."""

from __future__ import annotations

import copy
import json
import random
import sys

import pytest
from steadyedit.files import places
from steadyedit.nodes.schema import growing, grown
from steadyedit.standalone import host_api
from steadyedit.standalone.cli import main
from steadyedit.standalone.executor import execute, order_of
from steadyedit.standalone.graph import GRAPHS, GraphError, check_links, find_node, put_video, read_graph, set_input
from steadyedit.standalone.host_api import ComfyNode, Input, NodeOutput, Output, Schema

LOG = []


class Number(ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [Input("INT", "value", min=0, max=9), Input("COMBO", "kind", options=["odd", "even"], optional=True)]
        return Schema("Number", inputs, [Output("INT"), Output("STRING")])

    @classmethod
    def execute(cls, value, kind="odd"):
        LOG.append(cls.hidden.unique_id)
        return NodeOutput(value, kind)


class Add(ComfyNode):
    @classmethod
    def define_schema(cls):
        return Schema("Add", [Input("INT", "a"), Input("INT", "b")], [Output("INT")], is_output_node=True)

    @classmethod
    async def execute(cls, a, b):
        if a == 7:
            raise ValueError("a: seven is refused here.")
        return NodeOutput(a + b)


class Even(ComfyNode):
    @classmethod
    def define_schema(cls):
        return Schema("Even", [Input("INT", "n", max=4)], [Output("*")], is_output_node=True)

    @classmethod
    def validate_inputs(cls, n):
        return n % 2 == 0 or "n must be even."

    @classmethod
    def execute(cls, n):
        return NodeOutput(n)


class Sum(ComfyNode):
    @classmethod
    def define_schema(cls):
        from comfy_api.latest import io

        more = growing(io, "more", Input("INT", "one"), "one_", tooltip="", most=3)
        return Schema("Sum", [Input("INT", "first"), *more], [Output("INT")], is_output_node=True)

    @classmethod
    def execute(cls, first, more=None):
        return NodeOutput((first, *grown(more)))


NODES = {"Number": Number, "Add": Add, "Even": Even, "Sum": Sum}
GRAPH = {
    "3": {"class_type": "Add", "inputs": {"a": ["1", 0], "b": ["2", 0]}, "_meta": {"title": "Sum"}},
    "1": {"class_type": "Number", "inputs": {"value": 4}},
    "2": {"class_type": "Number", "inputs": {"value": 5, "kind": "even"}, "_meta": {"title": "Five"}},
    "9": {"class_type": "Number", "inputs": {"value": 0}, "_meta": {"title": "unused"}},
}


def graph_with(key, **inputs):
    graph = copy.deepcopy(GRAPH)
    graph[key]["inputs"].update(inputs)
    return graph


def test_runs_what_the_outputs_need_and_once():
    LOG.clear()
    seen = []
    run = execute(GRAPH, NODES, lambda key, seconds: seen.append(key))
    assert run.results["3"] == (9,) and LOG == ["1", "2"] and seen == ["1", "2", "3"]
    assert "9" not in run.results


def test_a_growing_input_takes_its_links_in_order_and_names_what_it_has():
    numbers = {key: {"class_type": "Number", "inputs": {"value": int(key)}} for key in "123"}
    links = {"first": ["1", 0], "more.one_1": ["3", 0], "more.one_0": ["2", 0]}
    with host_api.installed():
        assert execute({**numbers, "sum": {"class_type": "Sum", "inputs": links}}, NODES).results["sum"] == ((1, 2, 3),)
        assert execute({"1": numbers["1"], "sum": {"class_type": "Sum", "inputs": {"first": ["1", 0]}}},
                       NODES).results["sum"] == ((1,),)  # fmt: skip
        wrong = {**numbers, "sum": {"class_type": "Sum", "inputs": {"first": ["1", 0], "more.one_3": ["2", 0]}}}
        with pytest.raises(GraphError, match="has no input 'more.one_3'; it has first, more.one_0, more.one_1"):
            execute(wrong, NODES)


def test_one_source_for_two_inputs_runs_once():
    LOG.clear()
    assert execute(graph_with("3", b=["1", 0]), NODES).results["3"] == (8,)
    assert LOG == ["1"]


def test_validate_inputs_replaces_the_built_in_check():
    assert execute({"1": {"class_type": "Even", "inputs": {"n": 6}}}, NODES).results["1"] == (6,)
    with pytest.raises(GraphError, match='node 1 "Even": n must be even'):
        execute({"1": {"class_type": "Even", "inputs": {"n": 3}}}, NODES)


@pytest.mark.parametrize(("graph", "sentence"), [
    (graph_with("2", value=10), 'node 2 "Five": input \'value\' is 10; it takes 9 or less'),
    (graph_with("2", value="x"), "takes a value of type INT, but has 'x'"),
    (graph_with("2", value=True), "takes a value of type INT, but has True"),
    (graph_with("2", kind="prime"), "is 'prime'; it takes odd, even"),
    (graph_with("2", size=1), "\"Five\" has no input 'size'; it has value, kind"),
    (graph_with("3", a=["1", 1]), "input 'a' takes INT, but node 1 \"Number\" gives STRING"),
    (graph_with("3", a=["1", 2]), "asks for output 2 of node 1 \"Number\", which has 2"),
    (graph_with("3", a=["8", 0]), "input 'a' is linked to node 8, which is not there"),
    (graph_with("3", a=["3", 0]), "lead back to itself"),
    (graph_with("3", a=7), 'node 3 "Sum": a: seven is refused here'),
    ({"1": {"class_type": "Add", "inputs": {"a": 1}}}, "input 'b' is missing"),
    ({"1": {"class_type": "Magic", "inputs": {}}}, "does not know Magic; use --host comfy"),
    ({"1": GRAPH["1"]}, "no output node"),
])  # fmt: skip
def test_every_mistake_is_one_sentence(graph, sentence):
    with pytest.raises(GraphError) as caught:
        execute(graph, NODES)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_setting_inputs_by_id_and_title():
    graph = copy.deepcopy(GRAPH)
    assert set_input(graph, "Five.value=3") == ("2", "value")
    assert set_input(graph, "3.a=1.5") == ("3", "a")
    set_input(graph, "1.kind=a = b")
    assert (graph["2"]["inputs"]["value"], graph["3"]["inputs"]["a"]) == (3, 1.5)
    assert graph["1"]["inputs"]["kind"] == "a = b"
    for wrong in ("Five=3", "Five.=3", "value=3", "Five.value"):
        with pytest.raises(GraphError, match="expected NODE.INPUT=VALUE"):
            set_input(graph, wrong)
    with pytest.raises(GraphError, match="no node is called 'Six'; there are 3 'Sum'"):
        find_node(graph, "Six")
    graph["1"]["_meta"] = {"title": "Five"}
    with pytest.raises(GraphError, match="2 nodes are called 'Five' .ids 1, 2."):
        find_node(graph, "Five")


def test_a_file_takes_the_clips_place():
    graph = {
        "2": {"class_type": "SteadyEditToyClip", "inputs": {"seed": 0, "frames": 6, "size": 64}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": ["2", 1]}},
        "6": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0]}},
        "7": {"class_type": "CreateVideo", "inputs": {"images": ["6", 0], "fps": ["2", 5]}},
    }
    put_video(graph, "clip.mp4")
    frames = next(key for key, node in graph.items() if node["class_type"] == "SteadyEditLoadFrames")
    assert graph["6"]["inputs"]["pixels"] == [frames, 0]
    assert graph["7"]["inputs"] == {"images": ["6", 0], "fps": [frames, 2], "audio": [frames, 1]}
    assert graph["3"]["inputs"]["text"] == ["2", 1]
    assert graph[frames]["inputs"]["count"] == 6 and graph[frames]["inputs"]["size"] == 64
    assert graph[graph[frames]["inputs"]["video"][0]]["inputs"] == {"file": "clip.mp4"}


def test_a_file_takes_a_loaded_videos_place():
    graph = {"1": {"class_type": "LoadVideo", "inputs": {"file": "old.mp4"}}}
    put_video(graph, "new.mp4")
    assert graph == {"1": {"class_type": "LoadVideo", "inputs": {"file": "new.mp4"}}}
    with pytest.raises(GraphError, match="--video needs one LoadVideo"):
        put_video({"1": {"class_type": "Other", "inputs": {}}}, "new.mp4")


@pytest.mark.parametrize(("text", "sentence"), [
    ("{", "is no JSON"), ('{"nodes": []}', "the editor's format"), ("{}", "holds no nodes"),
    ('{"1": {}}', "node 1 names no class_type"),
])  # fmt: skip
def test_files_that_are_no_graph(tmp_path, text, sentence):
    path = tmp_path / "graph.json"
    path.write_text(text)
    with pytest.raises(GraphError, match=sentence):
        read_graph(path)
    with pytest.raises(GraphError, match="cannot be read"):
        read_graph(tmp_path / "none.json")


def test_stand_ins_are_there_only_inside():
    if "comfy_api" in sys.modules:
        pytest.skip("a host is loaded in this process")
    with host_api.installed() as latest:
        import comfy_api.latest

        assert comfy_api.latest is latest and latest.io.Int.Input("steps", default=1).io_type == "INT"
    assert "comfy_api" not in sys.modules and "comfy_api.latest" not in sys.modules


def test_stand_ins_never_hide_a_host(monkeypatch):
    monkeypatch.setitem(sys.modules, "comfy_api", json)
    with pytest.raises(RuntimeError, match="use --host comfy"), host_api.installed():
        pass
    assert sys.modules["comfy_api"] is json


def test_output_files_are_counted_and_stay_inside(tmp_path):
    place = places.Folders(tmp_path, tmp_path / "out")
    first = place.free_path("a/clip", ".mp4")
    assert first == tmp_path / "out" / "a" / "clip_00001_.mp4"
    first.parent.mkdir(parents=True)
    first.touch()
    assert place.free_path("a/clip", ".mp4").name == "clip_00002_.mp4"
    with pytest.raises(ValueError, match="leaves the folder"):
        place.free_path("../clip", ".mp4")
    with pytest.raises(FileNotFoundError, match="'no.mp4' is not here"):
        place.find("no.mp4")


@pytest.mark.parametrize("graph", [
    [], 7, "graph", None, {"1": 7}, {"1": []}, {"1": {"class_type": ["Add"]}}, {"1": {"class_type": None}},
    {"1": {"class_type": "Add", "inputs": []}}, {"1": {"class_type": "Add", "inputs": None}},
    {"1": {"class_type": "Add", "_meta": "x"}}, {"1": {"class_type": "Add", "_meta": {"title": 3}}},
    {"1": {"class_type": "Add", "inputs": {"a": float("nan")}}}, {"prompt": {"1": {"class_type": "Add"}}},
])  # fmt: skip
def test_malformed_files_are_one_sentence(tmp_path, graph, capsys):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph))
    assert main(["run", str(path), "--output", str(tmp_path / "out"), "--host", "standalone"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("steadyedit: ") and said.count("\n") == 1 and "Traceback" not in said


def test_bytes_that_are_no_text_and_json_too_deep(tmp_path):
    path = tmp_path / "graph.json"
    for data in (b"\xff\xfe\x00{", b"[" * 200000):
        path.write_bytes(data)
        with pytest.raises(GraphError, match="is no JSON"):
            read_graph(path)


def mangled(draw: random.Random) -> dict:
    """The graph of two numbers and their sum with one or two of its values replaced by what fits nowhere."""
    values = [None, True, 1e308, -1, "x", "", [], ["1"], ["1", True], ["1", -1], ["8", 0], [1, 0], {}, {"a": 1},
              ["1", 0, 0], [["1", 0], 0], 10**400, float("inf"), "\ud800"]  # fmt: skip
    graph = copy.deepcopy(GRAPH)
    for _ in range(draw.randint(1, 2)):
        node = graph[draw.choice(sorted(graph))]
        place = draw.choice(["inputs", "inputs", "inputs", "class_type", "new"])
        if place == "inputs" and node["inputs"]:
            node["inputs"][draw.choice(sorted(node["inputs"]))] = draw.choice(values)
        elif place == "new":
            node["inputs"][draw.choice(["b", "size", ""])] = draw.choice(values)
        else:
            node["class_type"] = draw.choice(["Even", "Add", "", "Magic"])
    return graph


def test_any_malformed_graph_is_one_sentence():
    draw, refused = random.Random(0), 0
    for _ in range(400):
        graph = mangled(draw)
        try:
            check_links(graph)
            execute(graph, NODES)
        except GraphError as error:
            assert "\n" not in str(error) and len(str(error)) < 1500, graph
            refused += 1
    assert refused > 200


def test_a_long_chain_is_no_circle():
    graph = {str(i): {"class_type": "Add", "inputs": {"a": [str(i - 1), 0], "b": 1}} for i in range(1, 3000)}
    graph["0"] = {"class_type": "Number", "inputs": {"value": 1}}
    for i in range(1, 8):
        graph[str(i)]["inputs"]["b"] = 100
    check_links(graph)
    assert len(order_of(graph, NODES)) == 3000
    graph["0"] = {"class_type": "Add", "inputs": {"a": ["2999", 0], "b": 1}}
    for check in (check_links, lambda g: order_of(g, NODES)):
        with pytest.raises(GraphError, match="lead back to itself"):
            check(graph)


def test_shipped_graphs_by_name_and_listed(capsys):
    names = [path.stem for path in sorted(GRAPHS.glob("*.json"))]
    assert main(["run", "--list"]) == 0
    toys, real = capsys.readouterr().out.split("Graphs for real models")
    listed = [[line.split(maxsplit=1) for line in part.splitlines() if line.startswith("  ")] for part in (toys, real)]
    assert [name for part in listed for name, _ in part] == sorted(names, key=lambda name: (name[:4] != "toy_", name))
    assert all(name.startswith("toy_") for name, _ in listed[0])
    said = [line for part in listed for _, line in part]
    assert all(10 < len(line) < 140 and line.endswith(".") and "Press Run" not in line for line in said)
    assert len(set(said)) == len(said)
    assert "Run one: python -m steadyedit run" in real
    assert read_graph("toy_ei2") == read_graph(GRAPHS / "toy_ei2.json")
    assert main(["run"]) == 1 and "run --list" in capsys.readouterr().err
    assert main(["run", "toy_ei3"]) == 1
    assert "cannot be read (No such file or directory); `run --list` shows" in capsys.readouterr().err
