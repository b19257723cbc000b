"""The logger of a run on W&B, offline or as it happens."""

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger


class WandbRun(WandbLogger):
    """Lightning's WandbLogger with the settings of a run by name, which keeps checkpoints of offline runs too.

    On the command line a name, group or tags that are not given are those of the run: its folder's name; algorithm,
    environment and a short hash of all settings but the seed and the lengths; algorithm and environment.

    Args:
        project: of W&B.
        name: of the run.
        group: of runs that belong together.
        tags: of the run.
        entity: user or team.
        notes: on the run.
        offline: write the run into the folder, for `wandb sync` to upload it later.
        log_model: checkpoints as artifacts: ``False`` for none, ``True`` for the newest and the best at the end of the
            run, ``all`` for each that is saved.
        id: of the run; one that is there already goes on.
        save_dir: where it is written to.
    """

    def __init__(
        self,
        project: str = "rl_lightning",
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
        entity: str | None = None,
        notes: str | None = None,
        offline: bool = True,
        log_model: Literal["all"] | bool = False,
        id: str | None = None,
        save_dir: str = ".",
    ) -> None:
        mode: dict[str, Any] = {"mode": "offline"} if offline else {}  # Lightning's own offline mode refuses artifacts
        super().__init__(
            name=name,
            save_dir=save_dir,
            id=id,
            project=project,
            log_model=log_model,
            group=group,
            tags=None if tags is None else list(tags),
            entity=entity,
            notes=notes,
            **mode,
        )
