"""What the editor is told of the nodes: search aliases, plain names and folded settings where this host knows them."""

from __future__ import annotations

import pytest
from comfy_api.latest import io
from steadyedit import nodes
from steadyedit.nodes.schema import words_of
from steadyedit.nodes.words import BY_INPUT

NODES = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}
NEW = hasattr(io.Schema("x"), "search_aliases")


@pytest.mark.parametrize("node_id", sorted(NODES))
def test_object_info_says_it(node_id):
    info, said = NODES[node_id].GET_NODE_INFO_V1(), words_of(NODES[node_id], node_id)
    given = {id: options for part in info["input"].values() for id, (_, *rest) in part.items()
             for options in [rest[0] if rest else {}]}  # fmt: skip
    for id in given:
        if named := said.names.get(id, BY_INPUT.get(id)):
            assert given[id]["display_name"] == named
        assert bool(given[id].get("advanced")) == (NEW and id in said.advanced)
    assert info.get("search_aliases") == (list(said.aliases) if NEW else None)
    assert info.get("essentials_category") == (said.essentials if NEW else None)
