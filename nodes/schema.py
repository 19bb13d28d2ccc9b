"""What only newer hosts know of a schema, given where this host knows it: the one place that decides.

The oldest host (0.8.0) has neither search aliases nor advanced inputs; to pass them there is a TypeError.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from .words import BY_INPUT, BY_NODE, Words


@cache
def with_words(node: Any) -> Any:
    """The node, its schema completed by its ``Words`` each time the host asks for it."""
    define = node.define_schema

    def define_schema(cls: type) -> Any:
        schema = define()
        return complete_schema(schema, words_of(node, schema.node_id))

    node.define_schema = classmethod(define_schema)
    return node


def words_of(node: Any, node_id: str) -> Words:
    """A node's ``Words``: its own, else what the common list says of its id."""
    return getattr(node, "WORDS", None) or BY_NODE.get(node_id, Words())


def complete_schema(schema: Any, words: Words) -> Any:
    """The schema with search aliases, names of its settings in plain words, and the rarely used ones folded away.

    What the schema says itself stays. Ids never change, so saved graphs and API graphs stay readable.
    """
    set_missing(schema, search_aliases=list(words.aliases), essentials_category=words.essentials)
    for given in schema.inputs or ():
        set_missing(given, display_name=words.names.get(given.id, BY_INPUT.get(given.id)))
        set_missing(given, advanced=given.id in words.advanced or None)
    return schema


def set_missing(part: Any, **fields: Any) -> None:
    """Set the fields that this host's ``part`` has and nobody has set."""
    for name, value in fields.items():
        if value and hasattr(part, name) and not getattr(part, name):
            setattr(part, name, value)


def known(make: Any, *values: Any, **fields: Any) -> Any:
    """``make(*values, **fields)``, without the fields that this host's signature lacks.

    For a schema or an input, such as ``known(io.Int.Input, "steps", default=4, advanced=True)``.
    """
    from inspect import Parameter, signature

    accepted = signature(make).parameters
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in accepted.values()):
        return make(*values, **fields)
    return make(*values, **{name: value for name, value in fields.items() if name in accepted})


def growing(io: Any, name: str, part: Any, prefix: str, *, tooltip: str, most: int = 8) -> list[Any]:
    """An optional input that shows one more socket for each link; none where this host has no such inputs.

    Their ids are ``name.prefix0``, ``name.prefix1``, ...; ``execute`` has a dict of those that are linked, or None.

    Args:
        io: the host's, as the node's module has it.
        part: an input of the sockets' type.
    """
    if not hasattr(io, "Autogrow"):
        return []
    template = io.Autogrow.TemplatePrefix(input=part, prefix=prefix, min=0, max=most)
    return [io.Autogrow.Input(name, template=template, optional=True, tooltip=tooltip)]


def grown(values: dict[str, Any] | None) -> list[Any]:
    """What is linked to a growing input, from the first socket to the last."""
    values = values or {}
    return [values[name] for name in sorted(values, key=_place) if values[name] is not None]


def _place(socket: str) -> int:
    digits = re.search(r"\d+$", socket)
    return int(digits[0]) if digits else 0
