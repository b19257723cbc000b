"""The callbacks: everything that happens at some moment of training."""

from rl_lightning.callbacks.checkpoints import Checkpoints
from rl_lightning.callbacks.environment_interaction import EnvironmentInteraction
from rl_lightning.callbacks.freezing import Freeze
from rl_lightning.callbacks.metrics_csv import MetricsCSV
from rl_lightning.callbacks.polyak_averaging import PolyakAveraging
from rl_lightning.callbacks.products import Products
from rl_lightning.callbacks.progress_bar import EnvStepsProgressBar
from rl_lightning.callbacks.signals import Signals
from rl_lightning.callbacks.video_recorder import VideoRecorder
from rl_lightning.callbacks.wandb_run import WandbRun

__all__ = [
    "Checkpoints",
    "EnvStepsProgressBar",
    "EnvironmentInteraction",
    "Freeze",
    "MetricsCSV",
    "PolyakAveraging",
    "Products",
    "Signals",
    "VideoRecorder",
    "WandbRun",
]
