"""W&B as the logger of a run: no login that nobody may be there for, and one W&B run for one folder."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from jsonargparse import Namespace

from rl_lightning.cli.runs import NAME
from rl_lightning.errors import UsageError


def prepare_wandb(logger: Namespace, run_dir: Path) -> None:
    """Give a WandbLogger's settings the id of this run, and keep W&B from asking for a login; leave other loggers.

    The id is the folder's name, and stays in its `config.yaml`: what resumes it goes on with the same W&B run.

    Raises:
        UsageError: an online run without credentials.
    """
    if logger.class_path.rsplit(".", 1)[-1] != "WandbLogger":
        return
    known = logger.init_args.id
    if known is None or (NAME.fullmatch(known) and not run_dir.exists()):  # of the run whose config this one started by
        logger.init_args.id = run_dir.name
    if logger.init_args.offline:
        os.environ.setdefault("WANDB_SILENT", "true")  # it would print how to sync; so does the report
    elif os.environ.get("WANDB_MODE", "online") == "online" and not _has_credentials():
        raise UsageError(
            "trainer.logger.offline=False is not allowed without W&B credentials: run `wandb login` first or set "
            "WANDB_API_KEY, or leave it offline and `wandb sync` the run later"
        )


def _has_credentials() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
