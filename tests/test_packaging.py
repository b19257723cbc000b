"""The wheel works away from the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_brings_every_module_and_the_program(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    source = tmp_path / "source"  # building beside an older build would take what that left behind
    for part in ("rl_lightning", "callbacks"):
        shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    run = subprocess.run([sys.executable, "-m", *build], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    [wheel] = tmp_path.glob("*.whl")
    venv.create(tmp_path / "empty")
    python = tmp_path / "empty/bin/python"
    install = ["pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run([sys.executable, "-m", *install], check=True, env=environment)
    [site] = (tmp_path / "empty/lib").glob("python*/site-packages")
    modules, installed = (
        # walked by hand: rglob does not follow the link to the callbacks
        {
            os.path.relpath(os.path.join(folder, name), root)
            for folder, _, names in os.walk(root / "rl_lightning", followlinks=True)
            for name in names
            if name.endswith((".py", ".typed"))
        }
        for root in (ROOT, site)
    )
    assert installed == modules
    assert not (site / "callbacks").exists()
    # what it depends on comes from here; a .pth does not bring this checkout's editable install along
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def out(*command: str | Path) -> str:
        run = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, env=environment)
        return run.stdout

    where = out(python, "-c", "import rl_lightning.callbacks as c; print(c.__file__, c.PolyakAveraging.__name__)")
    assert where.split() == [str(site / "rl_lightning/callbacks/__init__.py"), "PolyakAveraging"]
    assert "fit" in out(tmp_path / "empty/bin/rl-lightning", "--help")
