"""The wheel works away from the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
OF_THE_CHECKOUT = ("PYTHONPATH", "PIP_CONSTRAINT")  # the second by a relative path
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in OF_THE_CHECKOUT}


def out(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def left_by_builds() -> dict[Path, int]:
    """What building leaves beside the sources, which git ignores, and when it was last written."""
    folders = [ROOT / "build", ROOT / "dist", *ROOT.glob("*.egg-info")]
    paths = [path for folder in folders for path in (folder, *folder.rglob("*")) if path.exists()]
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only git knows which files are the project's")
def test_the_wheel_brings_the_packages_and_the_program_and_leaves_the_checkout_as_it_was(tmp_path: Path) -> None:
    status = ["git", "--no-optional-locks", "status", "--porcelain"]
    before = out(*status, cwd=ROOT), left_by_builds()
    tracked = out("git", "ls-files", "-z", cwd=ROOT).rstrip("\0").split("\0")
    for name in tracked:
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / "copy" / name, follow_symlinks=False)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    out(*build, "-w", tmp_path, tmp_path / "copy", cwd=tmp_path)
    assert (out(*status, cwd=ROOT), left_by_builds()) == before

    [wheel] = tmp_path.glob("*.whl")
    packaged = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {name for name in tracked if name.startswith("rl_lightning/") and Path(name).suffix}
    callbacks = {f"rl_lightning/{name}" for name in tracked if name.startswith("callbacks/")}
    configs = {f"rl_lightning/cli/run_report/{name}" for name in tracked if name.startswith("configs/")}
    assert packaged == modules | callbacks | configs

    venv.create(tmp_path / "empty")
    python = tmp_path / "empty/bin/python"
    out(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    [site] = (tmp_path / "empty/lib").glob("python*/site-packages")
    # what it depends on comes from here; a .pth does not bring this checkout's editable install along
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    show = "import rl_lightning.callbacks as c; print(c.__file__, c.PolyakAveraging.__name__)"
    where = out(python, "-c", show, cwd=tmp_path)
    assert where.split() == [str(site / "rl_lightning/callbacks/__init__.py"), "PolyakAveraging"]
    assert not (site / "callbacks").exists()
    assert "fit" in out(tmp_path / "empty/bin/rl-lightning", "--help", cwd=tmp_path)
