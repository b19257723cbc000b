"""What the project says about itself is the same everywhere."""

import tomllib
import warnings
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement

import rl_lightning

ROOT = Path(__file__).parents[1]


def test_package_citation_and_code_have_one_version_and_one_license():
    installed = metadata("rl_lightning")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert installed["Version"] == citation["version"] == rl_lightning.__version__
    assert installed["License-Expression"] == citation["license"] == "Apache-2.0"
    assert installed.get_all("License-File") == ["LICENSE"]
    assert "Copyright 2026 The rl_lightning authors" in (ROOT / "LICENSE").read_text()


def test_the_version_is_not_written_a_second_time_for_packaging():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version", "readme"]


def test_torch_is_allowed_up_to_the_minor_version_that_the_tests_run_with():
    [allowed] = [r.specifier for r in map(Requirement, requires("rl_lightning")) if r.name == "torch"]
    major, minor = map(int, torch.__version__.split(".")[:2])
    assert torch.__version__ in allowed
    assert f"{major}.{minor + 1}.0" not in allowed
    assert f"torch=={torch.__version__.split('+')[0]}" in (ROOT / "constraints.txt").read_text().split()


@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_a_deprecated_call_of_ours_is_an_error_and_one_of_others_is_not_shown(kind):
    for ours in ["rl_lightning", "rl_lightning.algorithms.sac", "benchmarks.speed", "test_sac", "toys", "conftest"]:
        with pytest.raises(kind, match="gone in the next version"):
            warnings.warn_explicit("gone in the next version", kind, "some.py", 1, module=ours)
    with warnings.catch_warnings(record=True) as shown:
        for theirs in ["torch.optim.adam", "lightning.pytorch", "linear_operator"]:
            warnings.warn_explicit("gone in the next version", kind, "some.py", 1, module=theirs)
    assert not shown
