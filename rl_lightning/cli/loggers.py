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
    if kind == "MLFlowLogger":
        _keep_mlflow_inside(settings, run_dir)
    elif "save_dir" in settings:
        settings.save_dir = str(run_dir)


def _keep_mlflow_inside(settings: Namespace, run_dir: Path) -> None:
    """Without a server MLflow 3 needs a database: it writes no folders of files anymore."""
    address = settings.tracking_uri  # also MLFLOW_TRACKING_URI
    its = Path(address.removeprefix("sqlite:///")).parent if address else None
    is_of_a_run = its is not None and (its / "metrics.csv").exists()  # whose config this is
    if settings.run_name is None or (is_of_a_run and its and settings.run_name == its.name):
        settings.run_name = run_dir.name
    if its is None or is_of_a_run:
        settings.tracking_uri = f"sqlite:///{run_dir / 'mlflow.db'}"
        settings.artifact_location = (run_dir / "mlruns").absolute().as_uri()
