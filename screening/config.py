"""Settings from a TOML file and `key=value` overrides: checked as a whole, every wrong key named.

A schema is a tree of `Settings`. What is read from a file is written back resolved, every default spelled out, so that
the file in a run's folder says what ran.
"""

import difflib
import math
import re
import shlex
import tomllib
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from screening.errors import InputError

# Enough of TOML to tell the line of a plain key in a plain table.
TABLE = re.compile(r"\s*\[([^\[\]]+)\]")
PAIR = re.compile(r"\s*([\w-]+|'[^']+'|\"[^\"]+\")\s*=")

# What pydantic calls the fault of a value that is no list.
LISTS = ("tuple_type", "list_type")


class Settings(BaseModel):
    """A table of a configuration: immutable, finite numbers only, no key that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)


def load(schema: type[S], path: Path | str | None, *, overrides: Sequence[str] = ()) -> S:
    """Read settings from a TOML file, then apply overrides such as `training.epochs=3`, then check everything.

    Without a file, all settings are their defaults or overridden.
    """
    values, text = ({}, "") if path is None else _read(Path(path))
    for override in overrides:
        _apply(schema, values, override)
    origin = "the settings" if path is None else str(path)
    return validated(schema, values, origin=origin, text=text, overrides=overrides)


def _read(file: Path) -> tuple[dict[str, Any], str]:
    try:
        text = file.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error}); name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is not TOML: {error}") from error


def validated(
    schema: type[S], values: Mapping[str, Any], *, origin: str, text: str = "", overrides: Sequence[str] = ()
) -> S:
    """Check a table against a schema; the error names every wrong key as it is written in `origin`.

    With the `text` that the table was read from, it tells the line too; of what `overrides` put there, it names these.
    """
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        found: list[dict[str, Any]] = [dict(details) for details in error.errors(include_url=False)]
    told: dict[str, list[str]] = {}
    for one in found:
        keys = [str(key) for key in _written(schema, one["loc"])]
        override = _overriding(keys, overrides, text)
        source = origin if override is None else f"override {override!r}"
        place = _place(text, list(one["loc"])) if override is None else ""
        told.setdefault(source, []).append(_line(schema, one, in_shell=override is not None) + place)
    raise InputError("; ".join(f"{source}: {'; '.join(lines)}" for source, lines in told.items()))


def _overriding(keys: Sequence[str], overrides: Sequence[str], text: str) -> str | None:
    """The override that a key has its value of, if it is not the `text` of a file."""
    for override in reversed(overrides):
        own = _split(override)[0]
        depth = min(len(own), len(keys))
        if own[:depth] == keys[:depth] and (len(own) == depth or not _has(tomllib.loads(text), keys)):
            return override
    return None


def _has(table: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(table, Mapping) or key not in table:
            return False
        table = table[key]
    return True


def _place(text: str, keys: Sequence[str | int]) -> str:
    """Where a key is set, in words; empty where that cannot be told."""
    wanted = [str(key) for key in keys]
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if header := TABLE.match(line):
            table = header[1].replace(" ", "").split(".")
        elif (pair := PAIR.match(line)) and wanted[: len(table) + 1] == [*table, pair[1].strip("'\"")]:
            return f" (line {number})"
    return ""


def setting(key: str, value: Any) -> str:
    """Write an override of a key, as `load` takes it: text in quotes, so that a model named 7 stays text."""
    return f"{key}={_literal(value)}"


def to_toml(settings: BaseModel) -> str:
    """Write settings as TOML, defaults included; keys without a value are left out, which means the same."""
    return "\n".join(_tables(settings.model_dump(mode="json"), ())) + "\n"


def differences(before: str, now: str, *, but: Collection[str] = ()) -> list[str]:
    """Say of two texts of settings in which keys they differ, and what each has there; not of the tables `but`."""
    there, here = (
        _leaves({key: value for key, value in tomllib.loads(text).items() if key not in but}, ())
        for text in (before, now)
    )
    pairs = {key: (there.get(key, "none"), here.get(key, "none")) for key in there | here}
    found = [f"{key} there {old}, now {new}" for key, (old, new) in pairs.items() if old != new]
    return found or ([] if list(there) == list(here) else ["in another order"])


def _leaves(table: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in table.items():
        own = (*path, _key(key))
        found |= _leaves(value, own) if isinstance(value, Mapping) else {".".join(own): _literal(value)}
    return found


def _apply(schema: type[BaseModel], values: dict[str, Any], override: str) -> None:
    keys, text = _split(override)
    table = values
    for depth, key in enumerate(keys[:-1]):
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise InputError(f"override {override!r}: {'.'.join(keys[: depth + 1])} is a value and holds no keys")
    value = _value(text)
    # A file is what people mean who give one where files are wanted; [a.h5] is a list whose quotes the shell ate.
    alone = isinstance(value, str) and not value.startswith("[") and _is_texts(_annotation_at(schema, keys))
    table[keys[-1]] = [value] if alone else value


def _split(override: str) -> tuple[list[str], str]:
    """The keys that an override names, and the text that it gives."""
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise InputError(f"override {override!r}: expected key=value, such as training.epochs=3")
    return keys, text.strip()


def _value(text: str) -> Any:
    """Read a TOML value; a bare word is a string, so that names need no quotes on a command line."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _line(schema: type[BaseModel], details: Mapping[str, Any], *, in_shell: bool) -> str:
    place = details["loc"]
    where = ".".join(map(str, _written(schema, place)))
    if details["type"] == "extra_forbidden":
        return f"{where} is unknown; {_suggestion(str(place[-1]), _keys_at(schema, place[:-1]))}"
    if details["type"] == "missing":
        return f"{where} is missing"
    got = "" if isinstance(details["input"], Mapping) else f", got {details['input']!r}"
    said = _list_wanted(details["input"], in_shell=in_shell) if details["type"] in LISTS else details["msg"]
    return f"{where}{': ' if where else ''}{said.removeprefix('Value error, ')}{got}"


def _list_wanted(value: Any, *, in_shell: bool) -> str:
    if not isinstance(value, str | int | float):
        return "expected a list"
    inside = [text.strip() for text in value.strip("[]").split(",")] if isinstance(value, str) else [value]
    example = _literal(inside)
    return f"expected a list such as {shlex.quote(example) if in_shell else example}"


def _written(schema: type[BaseModel], place: Sequence[str | int]) -> list[str | int]:
    """The keys of a place, without the names that a choice of several types gives these."""
    return [key for depth, key in enumerate(place) if not (depth and _is_choice(_annotation_at(schema, place[:depth])))]


def _is_choice(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType) and _model_in(annotation) is None


def _is_texts(annotation: Any) -> bool:
    """Whether a list of texts or paths is wanted."""
    if get_origin(annotation) not in (tuple, list):
        return False
    item = get_args(annotation)[0]
    return (get_args(item)[0] if get_origin(item) is Annotated else item) in (str, Path)


def _suggestion(key: str, valid: Iterable[str]) -> str:
    known = sorted(valid)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"known here: {', '.join(known)}" if known else "nothing is known here"


def _keys_at(schema: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    model = _model_in(_annotation_at(schema, place))
    return list(model.model_fields) if model is not None else []


def _annotation_at(schema: type[BaseModel], place: Sequence[str | int]) -> Any:
    found: Any = schema
    for key in place:
        model = _model_in(found)
        if model is not None and key in model.model_fields:
            found = model.model_fields[str(key)].annotation
        elif get_args(found):
            found = get_args(found)[-1] if get_origin(found) is dict else get_args(found)[0]
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next((m for m in map(_model_in, get_args(annotation)) if m is not None), None)
    return None


def _tables(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[str]:
    plain = {key: value for key, value in table.items() if value is not None and not isinstance(value, Mapping)}
    nested = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    if path and (plain or not nested):
        yield f"\n[{'.'.join(map(_key, path))}]"
    yield from (f"{_key(key)} = {_literal(value)}" for key, value in plain.items())
    for key, value in nested.items():
        yield from _tables(value, (*path, key))


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "_").isidentifier()
    return key if bare else _literal(key)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_literal, value))}]"
    raise TypeError(f"a {type(value).__name__} cannot be written as TOML")
