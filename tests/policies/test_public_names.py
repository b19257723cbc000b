"""The package's names come when they are asked for, all of them, and nothing more than that has changed."""

import ast
from pathlib import Path

import pytest

import rl_lightning


def test_every_public_name_is_there_and_is_what_the_type_checker_takes_it_for() -> None:
    tree = ast.parse(Path(rl_lightning.__file__).read_text())
    [checked] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        (node.module.removeprefix("rl_lightning."), tuple(alias.name for alias in node.names))
        for node in checked.body
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert imported == {*(rl_lightning.LIGHT | rl_lightning.HOMES).items()}
    names = [name for _, group in imported for name in group]
    assert sorted(names) == sorted(rl_lightning.__all__)
    assert {*rl_lightning.__all__, "__version__"} <= {*dir(rl_lightning)}
    for name in rl_lightning.__all__:
        assert getattr(rl_lightning, name).__name__ == name


def test_star_import_gives_all_of_them() -> None:
    names: dict[str, object] = {}
    exec("from rl_lightning import *", names)
    assert {*rl_lightning.__all__} <= names.keys()


def test_a_room_is_an_attribute_and_what_is_none_is_refused_as_pythons_own() -> None:
    assert rl_lightning.functional.__name__ == "rl_lightning.functional"
    with pytest.raises(AttributeError, match="module 'rl_lightning' has no attribute 'nope'"):
        _ = rl_lightning.nope
