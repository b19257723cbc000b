"""Variables of the environment: three switches of ours, and none that are settings."""

from collections.abc import Iterable

from rl_lightning.cli.runs import FOLDER
from rl_lightning.errors import UsageError

SWITCHES = ("RL_LIGHTNING_CUDA_GRAPHS", "RL_LIGHTNING_FAST", "RL_LIGHTNING_PRODUCTS")
OF_TESTS = ("RL_LIGHTNING_GPU_TESTS_ON",)
# by which a LightningCLI and a Trainer of Python code take settings; here they would do nothing
SETTINGS = ("PL_FIT__", "PL_VALIDATE__", "PL_TEST__", "PL_PREDICT__", "PL_TRAINER_", "PL_CONFIG")


def check_environment_variables(names: Iterable[str]) -> None:
    """Refuse variables that look like settings: they would not be read.

    Args:
        names: of the variables that are set.

    Raises:
        UsageError: naming the first such variable.
    """
    for name in sorted(names):
        if name.startswith("RL_LIGHTNING_") and name not in (*SWITCHES, *OF_TESTS, FOLDER):
            raise UsageError(
                f"the environment variable {name} would do nothing: {', '.join(SWITCHES)} are read; unset it"
            )
        if name.startswith(SETTINGS):
            raise UsageError(
                f"the environment variable {name} would do nothing: settings are flags and config files, in which "
                "${oc.env:NAME} takes a variable; unset it"
            )
