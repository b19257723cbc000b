"""The helps of forty lines: what a new user needs, and where the rest is. Without torch, whose import takes seconds."""

import textwrap
from collections.abc import Sequence

from rl_lightning.cli.help.subcommands import SUBCOMMANDS

FLAGS = ("-h", "--help")
FIT = """\
usage: rl-lightning fit -c CONFIG [-c CONFIG ...] [--KEY=VALUE ...]

Train, then evaluate the final policy. Makes a folder for the run, with its
config, metrics, checkpoints and offline W&B run.

  -c CONFIG                       settings, by name (rl-lightning configs) or as
                                  a YAML file; of several the later ones win
  --data.env_id=ID                the environment, by its Gymnasium id
  --data.total_env_steps=N        how long the run is, in environment steps
  --data.num_envs=N               environments that are stepped together
  --model.gamma=X                 the discount of later rewards
  --model.network.hidden_sizes=[256,256]
                                  units of each hidden layer
  --model.policy_optimizer.lr=X   learning rate; learners of Q have q_optimizer
  --seed_everything=N             seeds all random numbers; true draws a seed
  --seeds=0..4                    a run for each seed, side by side; --jobs=N so
                                  many at once
  --trainer.accelerator=cpu       or gpu, or auto for what there is
  --trainer.logger=false          leave W&B out
  --trainer.default_root_dir=DIR  where run folders are made: runs by default

Every key of a config is a flag, and flags win over configs.

examples:
  rl-lightning fit -c sac/pendulum
  rl-lightning fit -c sac/pendulum --model.gamma=0.98 --data.num_envs=4
  rl-lightning fit -c ppo/mujoco --data.env_id=Hopper-v5  # a new environment
  rl-lightning fit -c sac/pendulum --init_from=RUN        # networks of a run

the rest:
  rl-lightning fit --help=all                      every setting
  rl-lightning fit --model.help=SAC                what those of a learner mean
  rl-lightning fit --data.help=ReplayDataModule    likewise, of its data
  rl-lightning fit -c CONFIG --print_config        all settings as a file"""
EPISODES = {  # of the commands that look at a checkpoint: the setting that counts them, and what they are
    "validate": ("eval_episodes", "episodes, as during training"),
    "test": ("test_episodes", "episodes, as at the end of fit"),
    "predict": ("eval_episodes", "episodes to record"),
}
RESUME = """\
usage: rl-lightning resume RUN [--KEY=VALUE ...]

Go on with a run, in its own folder and with its own settings, from its last
checkpoint: metrics.csv and the W&B run go on too. A flag wins over the run's
setting, and one that cannot is refused. A finished run goes on with more
environment steps; schedules follow the new length. A folder of several seeds
goes on as one.

  RUN                          the folder of a run, as fit prints it
  --data.total_env_steps=N     a new length, in environment steps

examples:
  rl-lightning resume RUN
  rl-lightning resume RUN --data.total_env_steps=40000

Settings are those of fit: rl-lightning fit --help"""


def short_help(args: Sequence[str]) -> str | None:
    """The help that the command line asks for; None where it asks for none of these.

    Args:
        args: without the program's name.
    """
    if not set(FLAGS) & {*args}:
        return None
    if args[0] in FLAGS:
        return _program()
    helps = {"fit": FIT, "resume": RESUME, **{name: _of_a_checkpoint(name, *of) for name, of in EPISODES.items()}}
    return helps.get(args[0])


def _program() -> str:
    return f"""\
usage: rl-lightning COMMAND [...]

Reinforcement learning under PyTorch Lightning.

{_listed()}

examples:
  rl-lightning configs                   # settings by name, and what they reach
  rl-lightning fit -c sac/pendulum       # train
  rl-lightning resume RUN                # go on, where it ended
  rl-lightning test -c RUN/config.yaml --ckpt_path=best
  rl-lightning report RUN                # what has it learned?

the rest:
  rl-lightning COMMAND --help            what a command takes
  rl-lightning fit --help=all            every setting
  rl-lightning fit --model.help=SAC      what those of a learner mean"""


def _of_a_checkpoint(name: str, setting: str, which: str) -> str:
    count = f"--data.{setting}=N"
    films = "\n  --video                     mp4 films too" if name == "predict" else ""
    return f"""\
usage: rl-lightning {name} -c CONFIG --ckpt_path=FILE [--KEY=VALUE ...]

{SUBCOMMANDS[name]}

  -c RUN/config.yaml          settings of the run whose checkpoint it is
  --ckpt_path=best            best or last of that run; or a file, URL or folder
  {count:26}  {which}{films}

examples:
  rl-lightning {name} -c RUN/config.yaml --ckpt_path=best
  rl-lightning {name} -c sac/pendulum --ckpt_path=some.ckpt

Settings are those of fit: rl-lightning fit --help; with all of the trainer's:
rl-lightning {name} --help=all"""


def _listed() -> str:
    width = max(map(len, SUBCOMMANDS))
    gap = " " * (width + 4)
    lines = [
        textwrap.fill(text, 80, initial_indent=f"  {name:{width}}  ", subsequent_indent=gap)
        for name, text in SUBCOMMANDS.items()
    ]
    return "\n".join(lines)
