"""Fixtures of the shared modules: once loaded a module stays so, and the later of two equal names wins."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def shared() -> set[str]:
    """The modules that tests name as plugins, and conftest."""
    named = {"tests.conftest"}
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytest_plugins":
                names = [str(name) for name in ast.literal_eval(node.value)]
                named |= {name for name in names if name.startswith("tests.")}
    return named


def fixtures(module: str) -> list[str]:
    """The names of a module's fixtures."""
    nodes = ast.walk(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text()))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [f.name for f in functions if any("fixture" in ast.unparse(mark) for mark in f.decorator_list)]


def test_no_two_shared_modules_have_a_fixture_of_the_same_name() -> None:
    """No two shared modules have a fixture of the same name."""
    counts = Counter(name for module in shared() for name in fixtures(module))
    assert len(counts) > 20
    assert [name for name, count in counts.items() if count > 1] == []
