"""The page on extending is true: its files run, as it says, from the command line and from Python."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
QUICK = [
    "--data.total_env_steps=300",
    "--data.learning_starts=200",
    "--data.env_steps_per_epoch=50",
    "--data.env_steps_per_batch=1",
    "--data.batch_size=8",
    "--data.eval_episodes=1",
    "--data.test_episodes=2",
    "--model.compile=false",
    "--trainer.logger=false",
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("users")
    for name, code in re.findall(r'```python title="(\w+\.py)"\n(.*?)```', PAGE, flags=re.DOTALL):
        (folder / name).write_text(code)
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def run(workplace: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=workplace, capture_output=True, text=True, timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_command_of_the_page_runs_with_the_users_own_files(workplace: Path) -> None:
    commands = re.findall(r"^    rl-lightning (fit .*)$", PAGE, flags=re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        out = run(workplace, str(Path(sys.executable).parent / "rl-lightning"), *command.split(), *QUICK)
        assert "over 2 episodes of the final policy, after " in out


def test_the_python_example_solves_its_environment(workplace: Path) -> None:
    out = run(workplace, sys.executable, "my_run.py")
    steps = int(re.search(r"solved at (\d+) environment steps", out)[1])  # type: ignore[index]
    assert steps < 3_000
    assert float(re.search(r"'test/return_mean': (-?[\d.e-]+)", out)[1]) > -0.05  # type: ignore[index]
