"""The kinds of error that are the user's to mend, each one line long."""

from collections.abc import Sequence
from inspect import unwrap


def one_line(value: object) -> str:
    """Its text without line breaks, for messages."""
    return " ".join(str(value).split())


def reason_of(error: BaseException, when: str = "") -> str:
    """An error on one line: its kind, when it came, and what it says, if it says anything.

    >>> reason_of(ValueError("no wheels"), "in reset")
    'ValueError in reset: no wheels'
    """
    place, text = f"{type(error).__name__} {when}".rstrip(), one_line(error)
    return f"{place}: {text}" if text else place


class UsageError(ValueError):
    """Refused input: the message names the key or object, its value, what is allowed and the fix."""


class EnvironmentFault(RuntimeError):
    """An environment that broke its contract during a run: which one, at which step, and how."""


class Divergence(RuntimeError):
    """Losses or weights that are not finite any more: of which network, at which environment step."""


class EndedBySignal(SystemExit):
    """The end that a signal asks for, with its exit code, whatever the process is doing: no environment's own exit."""


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Refuse `value` for the setting `key` unless `condition` holds.

    Args:
        condition: what must be true of the value.
        key: the setting as the user spells it, e.g. ``gamma``.
        value: what was given.
        allowed: what is accepted, and the fix where it is not the same thing.

    Raises:
        UsageError: where `condition` is false.
    """
    if not condition:
        raise UsageError(f"{key}={value!r} is not allowed: {allowed}")


def check_overrides(kind: type, base: type, methods: Sequence[str]) -> None:
    """Refuse a class that overrides what its base does in a method, and does not call it.

    Args:
        kind: the class.
        base: itself or its ancestor, from which on the methods are ours.
        methods: their names.

    Raises:
        UsageError: naming the method.
    """
    kinds = kind.__mro__
    for each in kinds[: kinds.index(base)]:
        for method in methods:
            code = getattr(unwrap(vars(each).get(method)), "__code__", None)  # type: ignore[arg-type]
            if code is not None and method not in code.co_names:
                raise UsageError(
                    f"{each.__name__}.{method} takes the place of what {base.__name__} does there: "
                    f"call super().{method} in it, with the same arguments"
                )
