"""What a newcomer reads is true: its code runs, its links lead somewhere, its algorithms are all there are."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import rl_lightning
from rl_lightning import Algorithm, UsageError, export_policy
from rl_lightning.cli import shipped
from rl_lightning.fast import switch

ROOT = Path(__file__).parents[1]
MIGRATION = (ROOT / "docs/from_stable_baselines3.md").read_text()
PAGES = [
    "README.md",
    "docs/getting_started.md",
    "docs/concepts.md",
    "docs/from_stable_baselines3.md",
    "docs/algorithms/index.md",
]
INDEX = (ROOT / "docs/algorithms/index.md").read_text()


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def shorter(code: str) -> str:
    """With fewer steps, so that a test takes seconds."""
    return re.sub(r"=5_000\b", "=500", re.sub(r"=\d{2,}_000\b", "=1_200", code))


@pytest.fixture
def plain_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing is compiled, and files go to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(switch.VARIABLE, "0")
    switch.is_on.cache_clear()
    yield
    monkeypatch.undo()
    switch.is_on.cache_clear()


@pytest.mark.parametrize("code", blocks(MIGRATION), ids=lambda code: code.splitlines()[0].removeprefix("# "))
def test_the_code_of_both_libraries_runs(code: str, plain_ways: None) -> None:
    if code.startswith("# Stable-Baselines3"):
        pytest.importorskip("stable_baselines3")
    exec(compile(shorter(code), "docs/from_stable_baselines3.md", "exec"), {"__name__": "page"})


def test_every_code_of_one_library_stands_before_the_same_of_the_other() -> None:
    first = [code.splitlines()[0] for code in blocks(MIGRATION)]
    assert first == ["# Stable-Baselines3", "# rl_lightning"] * (len(first) // 2)


def test_the_readme_trains_and_its_policy_acts(plain_ways: None) -> None:
    train, act = blocks((ROOT / "README.md").read_text())
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(shorter(train), namespace)
    export_policy(namespace["model"], to="POLICY")
    namespace["obs"] = namespace["data"].observation_space.sample()
    exec(act, namespace)
    assert namespace["action"].shape == (1,)


def test_getting_started_trains_exports_and_acts(plain_ways: None) -> None:
    act, train = blocks((ROOT / "docs/getting_started.md").read_text())
    exec(shorter(train), {"__name__": "page"})
    exec(act.replace('"cartpole"', '"cartpole_from_python"'), {"__name__": "page"})


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_its_heading(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text())
    assert len(links) > 5
    for link in links:
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target
        assert target.startswith("https://") or target.startswith("http://") or path.exists(), link
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings], link


@pytest.mark.parametrize("page", ["README.md", "docs/algorithms/index.md"])
def test_every_learner_is_listed(page: str) -> None:
    listed = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| .*", (ROOT / page).read_text(), re.MULTILINE))))
    learners = {name for name in rl_lightning.__all__ if issubclass(of(name), Algorithm) and of(name) is not Algorithm}
    assert learners <= listed


def of(name: str) -> type:
    found = getattr(rl_lightning, name)
    return found if isinstance(found, type) else object


def test_the_index_of_algorithms_lists_the_shipped_configs_as_the_program_does() -> None:
    printed = [re.split(r"\s{2,}", line) for line in shipped.table().splitlines()[1:]]
    rows = [
        f"| [{name}](../../configs/{name}.yaml) | {result} | {env_id} | {steps} |"
        for name, env_id, steps, result in printed
    ]
    assert re.findall(r"^\| \[.*/configs/.*", INDEX, re.MULTILINE) == rows


def test_pypi_shows_absolute_links_or_none() -> None:
    for_pypi = runpy.run_path(str(ROOT / "setup.py"))["for_pypi"]
    text = (
        "A [page](docs/a.md#b), ![a [picture]](docs/p.svg) and [there](https://a.b/c), [here](#top).\n\n"
        "![p](p.png)\n\nEnd"
    )
    assert for_pypi(text, None) == "A page,  and [there](https://a.b/c), [here](#top).\n\nEnd"
    assert for_pypi(text, "https://git.example/we/it/") == (
        "A [page](https://git.example/we/it/blob/HEAD/docs/a.md#b), "
        "![a [picture]](https://git.example/we/it/raw/HEAD/docs/p.svg) and [there](https://a.b/c), [here](#top).\n\n"
        "![p](https://git.example/we/it/raw/HEAD/p.png)\n\nEnd"
    )
    readme = (ROOT / "README.md").read_text()
    for left in re.findall(r"\]\(([^)]*)\)", for_pypi(readme, None)):
        assert left.startswith("https://")
    assert "![" not in for_pypi(readme, None)


SPACES = {
    "Box": gym.spaces.Box(-1.0, 1.0, (2,)),
    "Discrete": gym.spaces.Discrete(3),
    "MultiDiscrete": gym.spaces.MultiDiscrete([2, 3]),
    "MultiBinary": gym.spaces.MultiBinary(2),
    "Dict": gym.spaces.Dict(small_image=gym.spaces.Box(0, 255, (7, 7, 3), np.uint8), choice=gym.spaces.Discrete(2)),
}


@pytest.mark.parametrize("page", sorted((ROOT / "docs/algorithms").glob("*.md")), ids=lambda page: page.stem)
def test_the_spaces_on_a_learners_page_are_those_that_it_takes(page: Path) -> None:
    name, table = (
        re.match(r"# (\w+)", page.read_text()),
        re.findall(r"^\| `(\w+)`.*? \| (.*) \| (.*) \|$", page.read_text(), re.M),
    )
    learner = getattr(rl_lightning, name[1], None) if name else None
    if learner is None:
        pytest.skip("of no single learner")
    said = {space: cells for space, *cells in table if space in SPACES}
    assert said.keys() == SPACES.keys()

    def takes(observations: gym.Space[Any], actions: gym.Space[Any]) -> bool:
        try:
            learner(observations, actions)
        except UsageError:
            return False
        return True

    acted = {name: takes(SPACES["Box"], space) for name, space in SPACES.items()}
    assert {name: actions != "no" for name, (_, actions) in said.items()} == acted
    some = next(SPACES[name] for name, is_taken in acted.items() if is_taken)
    assert {name: seen != "no" for name, (seen, _) in said.items()} == {
        name: takes(space, some) for name, space in SPACES.items()
    }
