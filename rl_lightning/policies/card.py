"""The card of an exported policy, `README.md`, with the front matter of a Hugging Face model card."""

import yaml

from rl_lightning.types import State

TEXT = """
# {algorithm} in {environment}

A policy trained with rl_lightning, without the training that made it.
{trained}

## Use

```python
from rl_lightning import load_policy

policy = load_policy(".")  # this folder
action = policy(obs)  # one observation of the environment, or a batch; deterministic=False samples
```

In its environment:

```python
import gymnasium as gym

{environment_made}{wrappers}
obs, _ = env.reset(seed=0)
done, total = False, 0.0
while not done:
    obs, reward, terminated, truncated, _ = env.step(policy(obs))
    done, total = terminated or truncated, total + reward
```

## Files

- `{file}`: the weights, SHA-256 `{sha256}`
- `policy.json`: algorithm, spaces, network, normalizer, versions and training, as data

Nothing in this folder is code, and nothing in it is run when it is loaded.
"""


def card(description: State) -> str:
    """The text of the card.

    Args:
        description: what `policy.json` says.
    """
    algorithm, env_id = _inline(description["algorithm"]), _inline(str(description["env_id"]))
    evaluation = description["training"]["evaluation"] or {}
    front: State = {
        "library_name": "rl_lightning",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "rl_lightning", "gymnasium", algorithm, env_id],
    }
    trained = f"It took {description['training']['env_steps']:,} environment steps."
    if "val/return_mean" in evaluation:
        score = f"{evaluation['val/return_mean']:.2f} ± {evaluation.get('val/return_std', 0.0):.2f}"
        trained += f" Its last evaluation gave a return of {score}."
        metric = {"type": "mean_reward", "name": "mean_reward", "value": score, "verified": False}
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        result = {"task": task, "dataset": {"name": env_id, "type": env_id}, "metrics": [metric]}
        front["model-index"] = [{"name": algorithm, "results": [result]}]
    text = TEXT.format(
        algorithm=algorithm,
        environment=env_id,
        trained=trained,
        environment_made=_made(str(description["env_id"]), description["env_kwargs"]),
        wrappers="".join(map(_put_around, description.get("wrappers", []))),
        file=description["weights"]["file"],
        sha256=description["weights"]["sha256"],
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{text}"


def _made(env_id: str, env_kwargs: State) -> str:
    """Lines of Python that make an environment as `env`."""
    if "id" not in env_kwargs:
        return f"env = gym.make({env_id!r}{f', **{env_kwargs!r}' if env_kwargs else ''})"
    # gym.make has an argument of that name too
    module, _, name = env_id.rpartition(":")
    imported = f"import {_inline(module)}\n" if module else ""
    made = f"spec = gym.spec({name!r})\nenv = gym.make(replace(spec, kwargs=spec.kwargs | {env_kwargs!r}))"
    return f"from dataclasses import replace\n\n{imported}{made}"


def _put_around(wrapper: State) -> str:
    """Lines of Python that put a wrapper around `env`."""
    module, _, name = _inline(wrapper["class_path"]).rpartition(".")
    settings = "".join(f", {_inline(key)}={value!r}" for key, value in wrapper["init_args"].items())
    return f"\n\nfrom {module} import {name}\n\nenv = {name}(env{settings})"


def _inline(text: str) -> str:
    """On one line, without Markdown's own signs."""
    return "".join(letter if letter.isalnum() or letter in " -_./:" else "?" for letter in text)
