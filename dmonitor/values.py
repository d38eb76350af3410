"""Values to JSON and back: so the state keeps them, and so greetings carry them.

Pure. The types say it all: a field that has its default is left out, a key that nobody knows does no harm, and what is
not of its field's type is a ValueError; so is what is not of the grammar that the type names, unless it is our own.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
from collections.abc import Callable, Hashable
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

Clock = Callable[[float], float]

Time = Annotated[float, "time"]  # on the clock of whoever has the value, which moves it on the way; other floats are seconds


def rule(is_proper: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return what an Annotated type says to its values: the value again, or ValueError unless it IS_PROPER."""

    def check(value: Any) -> Any:
        if not is_proper(value):
            raise ValueError(f"improper {value!r:.80}")
        return value

    return check


def write(kind: Any, value: Any, clock: Clock = float) -> str:
    """Return VALUE, a KIND, as JSON in ASCII; CLOCK moves its times."""
    return json.dumps(_dump(kind, value, clock), separators=(",", ":"), allow_nan=False)


def read(kind: Any, text: str | bytes, clock: Clock = float, *, own: bool = False) -> Any:
    """Return the KIND that TEXT holds, its times moved by CLOCK; ValueError if it holds none. OWN text is of our own grammar."""
    try:
        return _load(kind, json.loads(text), clock, own)
    except RecursionError:
        raise ValueError("too deep") from None


def moved(value: Any, clock: Clock) -> Any:
    """Return the dataclass VALUE with all its times moved by CLOCK."""
    return _load(type(value), _dump(type(value), value, clock), float, True)


@functools.cache
def _fields(kind: Hashable) -> tuple[tuple[str, Any, Any], ...]:
    """Return name, type and default of each field of a dataclass."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple((field.name, hints[field.name], field.default) for field in dataclasses.fields(kind))  # type: ignore[arg-type]


def _kinds(inner: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Return the types of a tuple's COUNT elements."""
    return inner[:1] * count if inner[-1] is Ellipsis else inner


def _dump(kind: Any, value: Any, clock: Clock) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Time:
        return clock(value)
    if origin is Annotated or origin in (Union, types.UnionType):
        return None if value is None else _dump(inner[0], value, clock)
    if origin is tuple:
        return [_dump(each, one, clock) for each, one in zip(_kinds(inner, len(value)), value, strict=True)]
    if _is_dataclass(kind):
        rows = ((name, each, getattr(value, name), default) for name, each, default in _fields(kind))
        return {name: _dump(each, one, clock) for name, each, one, default in rows if one != default}
    return value.value if isinstance(value, enum.Enum) else value


def _load(kind: Any, data: Any, clock: Clock, own: bool) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Time:
        return clock(_number(data))
    if origin is Annotated:
        value = _load(inner[0], data, clock, own)
        return value if own else inner[1](value)
    if origin in (Union, types.UnionType):
        return None if data is None else _load(inner[0], data, clock, own)
    if origin is tuple and isinstance(data, list):
        return tuple(_load(each, one, clock, own) for each, one in zip(_kinds(inner, len(data)), data, strict=True))
    if _is_dataclass(kind) and isinstance(data, dict):
        found = {name: _load(each, data[name], clock, own) for name, each, _ in _fields(kind) if name in data}
        if missing := [name for name, _, default in _fields(kind) if default is dataclasses.MISSING and name not in found]:
            raise ValueError(f"no {missing[0]}")
        return kind(**found)
    if isinstance(kind, enum.EnumType):
        return kind(data)
    if kind is float and _number(data) >= 0:
        return float(data)
    if type(data) is not kind or (kind is int and not 0 <= data < 1e9):
        raise ValueError(f"improper {data!r:.80}")
    return data


def _is_dataclass(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def _number(data: Any) -> float:
    if type(data) not in (int, float) or not math.isfinite(data) or abs(data) >= 1e11:
        raise ValueError(f"no number: {data!r:.80}")
    return float(data)
