"""Settings of a trainer that it does not show."""

from lightning.pytorch import Trainer


def hidden_settings(trainer: Trainer) -> dict[str, bool]:
    """By the names that `Trainer` takes them by."""
    connector = trainer._accelerator_connector
    return {
        "detect_anomaly": trainer._detect_anomaly,
        "sync_batchnorm": connector._layer_sync is not None,
        "use_distributed_sampler": connector.use_distributed_sampler,
    }
