"""What a newcomer reads is true: its code runs, its links lead somewhere, its algorithms are all there are."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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
SHORTER = {  # numbers of the pages' code, in which it learns something, and of a test's
    r"total_env_steps=[\d_]+": "total_env_steps=300",
    r"total_timesteps=[\d_]+": "total_timesteps=300",
    r"learning_starts=[\d_]+": "learning_starts=290",
    r'ReplayDataModule\((".*?")': r"ReplayDataModule(\1, learning_starts=290",
    r"(eval_freq|env_steps_per_epoch)=[\d_]+": r"\1=150",
    r"n_eval_episodes=100": "n_eval_episodes=2",
    r"DataModule\((?=\")": "DataModule(test_episodes=2, env_id=",
}


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def plain_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing is compiled, and files go to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(switch.VARIABLE, "0")
    switch.is_on.cache_clear()
    yield
    monkeypatch.undo()
    switch.is_on.cache_clear()
