"""The contract comments of the public functions say what a caller may repeat after a lost answer."""

import re

import pytest

from local.install_sql import functions
from tests.support.access_table import FUNCTIONS

FUNCTION = re.compile(r"((?:^-- ?.*\n)*)^create or replace function public\.(\w+)", re.MULTILINE)
CONTRACTS = {
    name: " ".join(line.removeprefix("--").strip() for line in comment.splitlines())
    for part in functions()
    for comment, name in FUNCTION.findall(part.read_text())
}
REPETITION = re.compile(r"(?:Safe to repeat(?: with a key)?|Not repeated by the worker): (\w[^.]*)\.")


def test_every_function_has_a_contract() -> None:
    """Every function that is called from outside has one."""
    assert CONTRACTS.keys() >= FUNCTIONS.keys()


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_the_contract_tells_of_repetition(name: str) -> None:
    """Each says why it may be repeated, or what a repetition would cost; never only that it may."""
    said = REPETITION.search(CONTRACTS[name])
    assert said, CONTRACTS[name]
    assert len(said[1].split()) >= 2, said[0]
