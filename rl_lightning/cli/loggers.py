"""Loggers of a run keep their files in its folder, whatever names they are given."""

from importlib.util import find_spec
from pathlib import Path, PureWindowsPath

from jsonargparse import Namespace

from rl_lightning.cli.wandb_runs import is_wandb
from rl_lightning.errors import require

PATHS = ("name", "version", "sub_dir", "id")  # settings that loggers make folders of
PACKAGES = {"TensorBoardLogger": "tensorboard", "MLFlowLogger": "mlflow"}  # which loggers need
NOT_OF_WANDB = "/\\#?%:"  # which its servers refuse in the names of projects and ids


def keep_inside(logger: Namespace, run_dir: Path) -> None:
    """Have a logger's settings lead into the run folder, also where the config is another run's.

    Args:
        logger: how a config describes it.
        run_dir: the run's folder.

    Raises:
        UsageError: a name that leads out of it, or one that W&B refuses; a package that is not installed.
    """
    settings, of_wandb, kind = logger.init_args, is_wandb(logger), logger.class_path.rsplit(".", 1)[-1]
    if package := PACKAGES.get(kind):
        advice = f"it needs {package}, which is not installed: pip install {package}"
        require(find_spec(package) is not None, "trainer.logger", kind, advice)
    for key in PATHS:
        given = settings.get(key)
        if given is None or (of_wandb and key == "name"):  # there it is a label
            continue
        for path in (Path(str(given)), PureWindowsPath(str(given))):
            leads_out = path.is_absolute() or ".." in path.parts
            advice = "it leads out of the run folder; give a name without .. or a leading slash"
            require(not leads_out, f"trainer.logger.{key}", given, advice)
    for key in ("project", "id", "version") if of_wandb else ():
        given = settings.get(key)
        advice = f"W&B takes none of {NOT_OF_WANDB} in it; give a plain name"
        require(not given or not set(NOT_OF_WANDB) & set(given), f"trainer.logger.{key}", given, advice)
    if "save_dir" in settings:
        # MLflow's has a folder for each experiment
        settings.save_dir = str(run_dir / "mlruns" if kind == "MLFlowLogger" else run_dir)
