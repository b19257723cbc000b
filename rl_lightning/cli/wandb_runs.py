"""W&B as the logger of a run: no login that nobody may be there for, and one W&B run for one folder."""

import hashlib
import netrc
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jsonargparse import Namespace
from lightning.pytorch.loggers import WandbLogger

from rl_lightning.cli.changes import HARMLESS, flat
from rl_lightning.cli.runs import NAME, task_of
from rl_lightning.cli.several.group import GROUP
from rl_lightning.errors import UsageError
from rl_lightning.fast.settings import settings_of_wandb

LONGEST_TAG = 64  # that W&B takes


def prepare_wandb(logger: Namespace, run_dir: Path, is_new: bool) -> None:
    """Give a WandbLogger's settings the id of this run, and keep W&B from asking for a login; leave other loggers.

    The id is the folder's name, and stays in its `config.yaml`: what resumes it goes on with the same W&B run.

    Args:
        logger: how a config describes it.
        run_dir: the run's folder.
        is_new: whether the run begins, maybe with the config of another.

    Raises:
        UsageError: an online run without credentials.
    """
    if not is_wandb(logger):
        return
    known = logger.init_args.id or os.environ.get("WANDB_RUN_ID")  # which W&B's agents give
    if known is None or (NAME.search(known) and is_new):  # of the run whose config this one started by
        known = _name(run_dir)
    logger.init_args.id = known
    if logger.init_args.offline:
        os.environ.setdefault("WANDB_SILENT", "true")  # it would print how to sync; so does the report
    elif os.environ.get("WANDB_MODE", "online") == "online" and not _has_credentials():
        raise UsageError(
            "trainer.logger.offline=False is not allowed without W&B credentials: run `wandb login` first or set "
            "WANDB_API_KEY, or leave it offline and `wandb sync` the run later"
        )


def is_wandb(logger: Namespace) -> bool:
    """Whether a config describes a logger of W&B."""
    return logger.class_path.rsplit(".", 1)[-1] in ("WandbLogger", "WandbRun")


def name_runs(loggers: Iterable[Any], run_dir: Path, config: Namespace) -> None:
    """Name the runs of those loggers that are W&B's, as `name_run` does."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            name_run(logger, run_dir, config)


def name_run(logger: WandbLogger, run_dir: Path, config: Namespace) -> None:
    """Name a W&B run as its folder, and let it stand with the other seeds of the same settings; the user's names win.

    Args:
        logger: whose W&B run has not begun.
        run_dir: the run's folder.
        config: the run's settings.
    """
    algorithm = config.model.class_path.rsplit(".", 1)[-1]
    env_id = config.data.init_args.get("env_id")
    names: dict[str, tuple[str, Any]] = {  # each with the variable that W&B would take it from
        "name": ("WANDB_NAME", _name(run_dir)),
        "group": ("WANDB_RUN_GROUP", f"{task_of(config)}-{_hash_without_seed(config)}"),
        "tags": ("WANDB_TAGS", [str(tag)[:LONGEST_TAG] for tag in (algorithm, env_id) if tag]),
    }
    settings = settings_of_wandb(logger)
    settings.pop("anonymous", None)  # W&B warns of it, whatever its value
    if "WANDB_SWEEP_ID" in os.environ:  # its agent has said where the run belongs, and W&B warns of what others say
        for key in ("id", "project", "entity"):
            settings.pop(key, None)
    for key, (variable, name) in names.items():
        if settings.get(key) is None and variable not in os.environ:
            settings[key] = name


def _name(run_dir: Path) -> str:
    """Its folder's, behind the name of the folder that it has in common with other runs, if there is one."""
    parts = run_dir.absolute().parts
    made = [place for place, part in enumerate(parts) if NAME.search(part)]
    of_group = (run_dir.parent / GROUP).is_file()  # in a folder whose name the user chose
    return "-".join(parts[made[-1] if made else -2 if of_group else -1 :])


def _hash_without_seed(config: Namespace) -> str:
    """Six hexadecimal digits that runs share whose results differ by chance alone."""
    told = {key: value for key, value in flat(config).items() if not key.startswith((*HARMLESS, "seed_everything"))}
    return hashlib.sha256(repr(sorted(told.items())).encode()).hexdigest()[:6]


def _has_credentials() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
