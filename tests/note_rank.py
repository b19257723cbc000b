"""A callback that writes down what each process of a run ends with."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class NoteRank(Callback):
    """Saves weights and counters of this process, and how often it exchanged tensors while learning, as RANK.pt."""

    def __init__(self, folder: str) -> None:
        self.folder, self.exchanged = Path(folder), []

    def on_train_start(self, *args: Any) -> None:
        self.all_reduce, torch.distributed.all_reduce = torch.distributed.all_reduce, self.count

    def count(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.exchanged.append(tensor.numel())
        return self.all_reduce(tensor, *args, **kwargs)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = {
            "weights": pl_module.state_dict(),
            "optimizers": [optimizer.state_dict()["state"] for optimizer in trainer.optimizers],
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad),
            "env_steps": pl_module.env_steps,
            "gradient_steps": pl_module.gradient_steps,
            "exchanged": self.exchanged,
        }
        torch.save(found, self.folder / f"{trainer.global_rank}.pt")
