"""Why jsonargparse refused something: the innermost reason in a message of its, and where it applies.

It wraps the reason in a dozen lines: a key, in it a class, in it a key, in it the types that were tried.
"""

import ast
import inspect
import re
from dataclasses import dataclass, replace

SPEC_KEYS = ("class_path", "init_args", "dict_kwargs")  # how a config file describes an object
UNION = re.compile(
    r"Does not validate .* Union subtypes\nSubtypes: \[(.*?)\]\nErrors:\n(.*)\nGiven value type: .*?\nGiven value:(.*)",
    re.S,
)


@dataclass(frozen=True)
class Cause:
    """The innermost reason for a refusal, and its place.

    Attributes:
        text: in jsonargparse's words; empty where `value` just is none of the `types`.
        key: of the setting, as it is typed.
        value: that was given.
        class_path: of the object whose setting it is; empty for the program's own.
        types: that were tried, as Python prints them.
        dashes: ``--`` for what is known to be a flag.
    """

    text: str
    key: str = ""
    value: str = ""
    class_path: str = ""
    types: str = ""
    dashes: str = ""


def find_cause(message: str, place: Cause | None = None) -> Cause:
    """Go down from jsonargparse's `message` to the cause, noting keys, classes, types and values on the way."""
    text, place = inspect.cleandoc(message), place or Cause("")
    if match := re.match(r'Parser key "([^"]+)"(?: element \d+)?:(.*)', text, re.S):
        key = f"{place.key}.{match[1]}".lstrip(".")
        return find_cause(match[2], replace(place, key=key, types=""))
    if match := re.match(r"- Expected a path but (.*?) either not accessible or invalid\n- (.*)", text, re.S):
        return find_cause(match[2], replace(place, value=match[1]))
    if match := re.match(r"Problem with given class_path '(.+?)':\n(.*)", text, re.S):
        return find_cause(match[2], replace(place, class_path=match[1], value=match[1]))
    if match := re.match(r"Type (.*?) expects a function or a callable class: (.*)", text, re.S):
        inner, _, value = match[2].rpartition(". Got value: ")
        if not value.startswith(("Namespace(", "{")):  # the value of a cause further down
            inner, value = match[2], place.value
        return find_cause(inner, replace(_with_value(place, value), types=match[1]))
    if match := UNION.match(text):
        return _cause_in_union(match[1], match[2], match[3].strip(), place)
    if match := re.match(r"Expected an? (?!import path)(.*?)\. Got value: ?(.*)", text, re.S):
        return replace(place, types=match[1], value=match[2])
    named = re.search(r"import path string: (.+)|Import path (\S+) does not|Got value: ([^\n]*)", text)
    return replace(place, text=text, value=named[1] or named[2] or named[3] if named else place.value)


def _cause_in_union(types: str, errors: str, value: str, place: Cause) -> Cause:
    """The alternative that says more than which type it is not, or all `types`."""
    place = replace(_with_value(place, value), types=types)
    nested, abstract = re.match(r"NestedArg\(key='(.*?)'", value), re.search(r"but (\S+) is abstract", errors)
    if nested and abstract:
        return replace(place, text=f"Option '{nested[1]}' has no class", class_path=abstract[1])
    if stray := _key_beside_class_path(value):
        return replace(place, text="beside class_path", key=f"{place.key}.{stray}")
    alternatives = re.split(r"^- ", inspect.cleandoc("\n" + errors), flags=re.M)[1:]
    is_scalar = re.search(r"<class '(int|float|bool|str|dict)'>|Literal", types)
    dull = r"Expected (an? )?(<class|typing" + (r"|dot import)|Not a valid subclass" if is_scalar else ")")
    telling = [alternative for alternative in alternatives if not re.match(dull, alternative)]
    return find_cause(min(telling, key=lambda text: text.startswith("Not a valid")), place) if telling else place


def _key_beside_class_path(value: str) -> str | None:
    try:
        given = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return None  # no dict of a config file
    specs = [spec for spec in (given if isinstance(given, list) else [given]) if isinstance(spec, dict)]
    return next((key for spec in specs if "class_path" in spec for key in spec if key not in SPEC_KEYS), None)


def _with_value(place: Cause, value: str) -> Cause:
    if match := re.match(r"NestedArg\(key='.*?', val='?(.*?)'?\)$", value, re.S):
        return replace(place, value=match[1], dashes="--")
    if match := re.search(r"class_path'?[=:] ?'(.+?)'", value):
        return replace(place, value=match[1], class_path=match[1])
    return replace(place, value=value)
