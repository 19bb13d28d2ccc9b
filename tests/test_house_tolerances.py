"""How near two numbers must be that should be equal is written in one table, tests/tolerances.py, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
COMPARISONS = {"approx", "allclose", "assert_close", "assert_allclose", "isclose"}


def is_small(node: ast.expr) -> bool:
    """A number too small to have a meaning of its own, such as a size, a share or a step of 8 bits."""
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < node.value < 0.005


def bounds(tree: ast.AST) -> Iterator[int]:
    """The lines with a tolerance of their own: in a comparison's arguments, or as what an error must stay below."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [*node.args[2:], *(keyword.value for keyword in node.keywords)]
            if name in COMPARISONS and any(is_small(part) for value in given for part in ast.walk(value)):  # type: ignore[arg-type]
                yield node.lineno
        elif isinstance(node, ast.Compare):
            below = [right for operator, right in zip(node.ops, node.comparators, strict=True)
                     if isinstance(operator, ast.Lt | ast.LtE)]  # fmt: skip
            if any(is_small(part) for value in below for part in ast.walk(value)):  # type: ignore[arg-type]
                yield node.lineno


def test_no_test_has_a_tolerance_of_its_own() -> None:
    own = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("test_*.py"))
        for line in bounds(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not own, f"tolerances.py has names for them: {own}"


@pytest.mark.parametrize("text, found", [
    ("assert_close(a, b, 1e-4)", 1), ("x == pytest.approx(3, rel=2 * 1e-4)", 1), ("assert error < 1e-3 * scale", 1),
    ("assert error <= 0.0004", 1), ("assert_close(a, b, NETWORK)", 0), ("assert change > 1e-3", 0),
    ("assert drift < 0.02", 0), ("x == approx(0.9, abs=0.02)", 0), ("train(rate=1e-4)", 0),
])  # fmt: skip
def test_the_rule_sees_what_it_should(text: str, found: int) -> None:
    assert len(list(bounds(ast.parse(text)))) == found
