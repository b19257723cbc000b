"""The state inside of simulators: MuJoCo's numbers, the emulator of Atari games. Imports neither."""

import hashlib
import math
import re
import sys
from typing import Any

import numpy as np

SHOWN = ("mesh_", "tex_", "hfield_", "skin_", "key_")  # what a model only shows, or is made from
MOST_REPEATS = 16  # frames that are looked at: if so many repeat an action, they tell it


def mujoco_data(data: Any) -> dict[str, Any]:
    """Of a `mujoco.MjData`: what its next step is computed from, and what the last step left for rewards to read.

    Numbers of contacts and constraints come anew with each step. Whole numbers are left out: they are indices that
    MuJoCo follows without a look, so none may come out of a file.
    """
    mujoco = sys.modules["mujoco"]
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(data.model, kind))
    mujoco.mj_getState(data.model, data, state, kind)
    blank = mujoco.MjData(data.model)  # arrays that grow with contacts are empty in it
    names = [name for name in float_arrays(blank) if getattr(data, name).shape == getattr(blank, name).shape]
    return {"state": state, "arrays": {name: np.array(getattr(data, name)) for name in names}}


def set_mujoco_data(data: Any, saved: dict[str, Any]) -> None:
    """Write what `mujoco_data` has read into the data of the same model.

    Raises:
        ValueError: another model's.
    """
    mujoco = sys.modules["mujoco"]
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    if saved["state"].shape != (mujoco.mj_stateSize(data.model, kind),):
        raise ValueError("the state is of another MuJoCo model")
    mujoco.mj_setState(data.model, data, saved["state"], kind)
    write_arrays(data, saved["arrays"])


def mujoco_model(model: Any) -> dict[str, Any]:
    """Of a `mujoco.MjModel`: masses, frictions and the like, which some environments draw anew for each episode."""
    names = [name for name in float_arrays(model) if not name.startswith(SHOWN)]
    options = {name: getattr(model.opt, name) for name in dir(model.opt) if not name.startswith("_")}
    return {
        "arrays": {name: np.array(getattr(model, name)) for name in names},
        "option arrays": {name: np.array(value) for name, value in options.items() if isinstance(value, np.ndarray)},
        "options": {name: value for name, value in options.items() if isinstance(value, float)},
    }


def set_mujoco_model(model: Any, saved: dict[str, Any]) -> None:
    """Write what `mujoco_model` has read into a model of the same file."""
    write_arrays(model, saved["arrays"])
    write_arrays(model.opt, saved["option arrays"])
    for name, value in saved["options"].items():
        if isinstance(getattr(model.opt, name), float):
            setattr(model.opt, name, float(value))


def float_arrays(owner: Any) -> list[str]:
    """Names of the arrays of 64-bit floats that are not empty."""
    arrays = {name: getattr(owner, name) for name in dir(owner) if not name.startswith("_")}
    return [
        name
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.dtype == np.float64 and array.size
    ]


def write_arrays(owner: Any, arrays: dict[str, Any]) -> None:
    """Copy into arrays of the same name and shape."""
    allowed = set(float_arrays(owner))
    for name, array in arrays.items():
        if name not in allowed or getattr(owner, name).shape != array.shape:
            raise ValueError(f"MuJoCo's {name} is not of shape {array.shape} here")
        getattr(owner, name)[...] = array


def ale_state(ale: Any) -> dict[str, Any]:
    """Of an `ale_py.ALEInterface`: the emulator with its random numbers, and frames that tell which action sticks.

    That action is no part of the emulator's own state. It matters only where the next frames repeat it, which the
    random numbers decide. Those frames are played ahead, which leaves no trace, since they take no other action.

    Raises:
        ValueError: this version of ale-py writes its state in another form.
    """
    state = ale.cloneSystemState()
    ahead = frames_ahead(ale, repeats_ahead(ale, state.serialize()))
    if ahead:
        ale.restoreSystemState(state)
    return {"state": state.serialize(), "ahead": ahead}


def repeats_ahead(ale: Any, serialized: bytes) -> int:
    """How many of the next frames repeat the action that sticks, whatever is given; 16 at most.

    The emulator draws two numbers for each frame, the first for its first player. Its generator is at the end of what
    it writes, before two numbers of four bytes.
    """
    sticks = ale.getFloat("repeat_action_probability")
    if sticks == 0.0:
        return 0
    before, *numbers = serialized[:-8].rsplit(b" ", 624)
    first = re.search(rb"\d+\Z", before[-10:])
    if first is None or len(numbers) != 624 or not b"".join(numbers).isdigit():
        raise ValueError("this version of ale-py writes the emulator's random numbers in another form")
    *key, position = map(int, [first[0], *numbers])
    generator = np.random.MT19937()
    generator.state = {"bit_generator": "MT19937", "state": {"key": np.array(key, np.uint32), "pos": position}}
    draws = generator.random_raw(2 * MOST_REPEATS)[::2] / 2.0**32
    return int(np.argmin([*(draws < sticks), False]))


def set_ale_state(ale: Any, saved: dict[str, Any]) -> None:
    """Go on as another emulator of the same game would.

    Raises:
        ValueError: another game's state, or no action leads to the frames that were seen.
    """
    import ale_py

    try:
        state = ale_py.ALEState(saved["state"])
        ale.restoreSystemState(state)
    except SystemError as error:  # the emulator's, without a message
        raise ValueError("the emulator refuses the state: it is damaged or of another game") from error
    ahead = saved["ahead"][:MOST_REPEATS]
    if ahead and not any(leads_there(ale, state, action, ahead) for action in range(18)):
        raise ValueError("no action that sticks leads to the frames that were seen when the state was saved")
    ale.restoreSystemState(state)


def frames_ahead(ale: Any, count: int) -> list[str]:
    """A digest of the emulator after each of the next frames, in which no button is pressed."""
    digests = []
    for _ in range(count):
        ale.act(0)
        digests.append(hashlib.sha256(ale.cloneSystemState().serialize()).hexdigest())
    return digests


def leads_there(ale: Any, state: Any, action: int, ahead: list[str]) -> bool:
    """Whether the next frames are those that were seen, after `action` has been made the one that sticks."""
    hold_down(ale, action)
    ale.restoreSystemState(state)
    return frames_ahead(ale, len(ahead)) == ahead


def hold_down(ale: Any, action: int) -> None:
    """Act until the action is the one that sticks, but for a chance of 1e-9; as it is if all actions always stick."""
    sticks = ale.getFloat("repeat_action_probability")
    for _ in range(min(500, math.ceil(-20.7 / math.log(sticks))) if sticks < 1.0 else 0):
        if ale.game_over():
            ale.reset_game()
        ale.act(action)
