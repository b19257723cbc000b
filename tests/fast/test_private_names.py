"""Private names of torch and Lightning, which change without notice, stay in one room."""

import ast
import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path
from textwrap import dedent

import rl_lightning

ROOT = Path(rl_lightning.__file__).parent
FILES = [*ROOT.rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]  # a link, which rglob may not follow
OUTSIDE = {path: ast.parse(path.read_text()) for path in FILES if "fast" not in path.relative_to(ROOT).parts}
LIBRARIES = ("torch", "lightning", "torchmetrics")
OF_NAMED_TUPLES = {"_asdict", "_replace"}  # public in spite of their names
OF_ARGPARSE = {"_actions", "_option_string_actions", "_subcommands_action"}  # and jsonargparse, in cli/


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def names_given(tree):
    """Private names that a file makes itself: of functions, classes and variables, and of attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            yield node.attr


def is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


OURS = {name for tree in OUTSIDE.values() for name in names_given(tree) if is_private(name)}


def private_names_used(tree):
    """Those of others, with the line that they are in."""
    for node in sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0)):
        if isinstance(node, ast.ImportFrom):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            names = parts if parts[0] in LIBRARIES else []
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Attribute):
            foreign = ast.unparse(node).split(".")[0] in LIBRARIES or node.attr not in OURS
            names = [node.attr] if foreign and node.attr not in OF_NAMED_TUPLES | OF_ARGPARSE else []
        else:
            continue
        yield from ((name, f"line {node.lineno}: {ast.unparse(node)}") for name in names if is_private(name))


def test_private_names_of_torch_and_lightning_are_used_in_the_fast_room_alone():
    assert len(OUTSIDE) > 50
    found = {str(path.relative_to(ROOT)): list(private_names_used(tree)) for path, tree in OUTSIDE.items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_this_test_finds_them():
    source = """
import torch._dynamo
from torch.optim.optimizer import _global_optimizer_pre_hooks, Optimizer
from lightning.pytorch.utilities._pytree import tree_map
torch.ops.mkldnn._is_mkldnn_bf16_supported()
optimizer._on_before_step()
self.trainer._checkpoint_connector
self._fabric
module.weight, self.__class__, _
"""
    assert [name for name, _ in private_names_used(ast.parse(source))] == [
        "_dynamo", "_global_optimizer_pre_hooks", "_pytree", "_is_mkldnn_bf16_supported", "_on_before_step",
        "_checkpoint_connector", "_fabric",
    ]  # fmt: skip


def own_classes():
    for found in pkgutil.walk_packages(rl_lightning.__path__, "rl_lightning."):
        if not found.name.endswith("__main__"):
            for value in vars(importlib.import_module(found.name)).values():
                if inspect.isclass(value) and value.__module__ == found.name:
                    yield value


@cache
def private_attributes(cls):
    """Of its own, without those of its bases."""
    return {name for name in names_given(ast.parse(dedent(inspect.getsource(cls)))) if is_private(name)}


def test_no_private_attribute_of_ours_has_the_name_of_one_in_torch_or_lightning():
    classes = [cls for cls in own_classes() if ".fast." not in cls.__module__]
    assert len(classes) > 40
    for cls in classes:
        for base in cls.__mro__[1:]:
            if base.__module__.split(".")[0] in LIBRARIES:
                assert private_attributes(cls) & private_attributes(base) == set(), (cls, base)
