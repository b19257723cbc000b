"""The wheel works away from the repository."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_brings_the_callbacks_and_the_program(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    [wheel] = tmp_path.glob("*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    [site] = (tmp_path / "empty/lib").glob("python*/site-packages")
    # what it depends on comes from here; a .pth does not bring this checkout's editable install along
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def out(*command: str | Path) -> str:
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    where = out(python, "-c", "import rl_lightning.callbacks as c; print(c.__file__, c.PolyakAveraging.__name__)")
    assert where.split() == [str(site / "rl_lightning/callbacks/__init__.py"), "PolyakAveraging"]
    assert not (site / "callbacks").exists()
    assert "fit" in out(tmp_path / "empty/bin/rl-lightning", "--help")
