"""Settings that are changed where a run goes on: which win, which cannot, and which make it another run."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from rl_lightning.errors import UsageError

CARRIED = {  # by the checkpoint, whatever a flag says; and why
    "seed_everything": "its random numbers go on where they were",
    "init_from": "its networks go on where they were",
    "init_parts": "its networks go on where they were",
    "model.class_path": "its checkpoint is that learner's",
    "data.class_path": "its checkpoint is that datamodule's",
    "data.num_envs": "so many environments are under way in it",
}
HARMLESS = (  # what is learned does not depend on them
    "data.total_env_steps",
    "data.eval_",
    "data.test_episodes",
    "data.save_buffer",
    "checkpoint",
    "ckpt_path",
    "config",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.default_root_dir",
    "trainer.enable_",
    "trainer.max_time",
)
Change = tuple[Any, Any]


def changes(old: Namespace, new: Namespace) -> dict[str, Change]:
    """Settings that differ, (old, new) by the key that they are typed by; `<unset>` where one has no such setting."""
    before, after = flat(old), flat(new)
    keys = dict.fromkeys([*before, *after])
    found = {key: (before.get(key, "<unset>"), after.get(key, "<unset>")) for key in keys}
    return {key: change for key, change in found.items() if change[0] != change[1]}


def check_changes(changed: Mapping[str, Change]) -> str | None:
    """What to say of settings that win over the run's own and make it differ from one that was not interrupted.

    Raises:
        UsageError: a setting that cannot win, with both values.
    """
    for key, why in CARRIED.items():
        if key in changed:
            old, new = changed[key]
            raise UsageError(
                f"{key}={new} is not allowed where a run goes on that has {old}: {why}; give that, or begin a new run, "
                "with init_from for its networks"
            )
    telling = [f"{key}={new} (was {old})" for key, (old, new) in changed.items() if not key.startswith(HARMLESS)]
    if not telling:
        return None
    return f"goes on with {', '.join(telling)}: from here on it differs from a run that was not interrupted"


def flat(config: Namespace) -> dict[str, Any]:
    """Settings by the keys that they are typed by."""
    return {key.replace(".init_args", ""): value for key, value in vars(config.clone().as_flat()).items()}
