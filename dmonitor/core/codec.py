"""Values to JSON and back: so the state keeps them, and so greetings carry them.

Pure. The types say it all: a field that has its default is left out, a key that nobody knows does no harm, and what is
not of its field's type is a ValueError; so is what is not of the grammar that the type names, unless it is our own.
"""

from __future__ import annotations

import enum
import functools
import json
import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

TimeShift = Callable[[float], float]

_UNIONS = (Union, types.UnionType)  # `X | None` is either, as X is made; Python 3.14 has but one

_NEEDED: Any = object()  # in place of the default of a field that has none

AGE = 1e9  # seconds, which is 31 years, that a peer may say something is old, or far

Time = Annotated[
    float, "time"
]  # on the clock of whoever has the value, which moves it on the way; other floats are seconds


def rule(is_proper: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return what an Annotated type says to its values: the value again, or ValueError unless it IS_PROPER."""

    def check(value: Any) -> Any:
        if not is_proper(value):
            raise ValueError(f"improper {value!r:.80}")
        return value

    return check


def write(kind: Any, value: Any, clock: TimeShift = float) -> str:
    """Return VALUE, a KIND, as JSON in ASCII; CLOCK moves its times."""
    return json.dumps(_dumper(kind)(value, clock), separators=(",", ":"), allow_nan=False)


def read(kind: Any, text: str | bytes, clock: TimeShift = float, *, trusted: bool = False) -> Any:
    """Return the KIND that TEXT holds, its times moved by CLOCK; ValueError if it holds none. TRUSTED text is our own, and no grammar is asked of it."""
    try:
        return _loader(kind)(json.loads(text), clock, trusted)
    except RecursionError:
        raise ValueError("too deep") from None


def shift_times(value: Any, clock: TimeShift) -> Any:
    """Return the NamedTuple VALUE with all its times moved by CLOCK."""
    kind: Any = type(value)
    return _loader(kind)(_dumper(kind)(value, clock), float, True)


def _fields(kind: Any) -> list[tuple[str, Any, Any]]:
    """Return name, type and default of each field of a NamedTuple."""
    return [
        (name, kind.__annotations__[name], kind._field_defaults.get(name, _NEEDED))
        for name in kind._fields
    ]


@functools.cache
def _dumper(kind: Any) -> Callable[[Any, TimeShift], Any]:
    """Return what makes JSON's own types of a KIND."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Time:
        return lambda value, clock: clock(value)
    if origin is Annotated or origin in _UNIONS:
        plain = _dumper(inner[0])
        return lambda value, clock: None if value is None else plain(value, clock)
    if origin is tuple:
        return _tuple_dumper(inner)
    if hasattr(kind, "_fields"):
        fields = [(name, _dumper(each), default) for name, each, default in _fields(kind)]
        return lambda value, clock: {
            name: dump(one, clock)
            for name, dump, default in fields
            if (one := getattr(value, name)) != default
        }
    return (
        (lambda value, _: value.value)
        if isinstance(kind, enum.EnumType)
        else (lambda value, _: value)
    )


def _tuple_dumper(inner: tuple[Any, ...]) -> Callable[[Any, TimeShift], Any]:
    if inner[-1] is Ellipsis:
        dump = _dumper(inner[0])
        return lambda value, clock: [dump(one, clock) for one in value]
    dumps = list(map(_dumper, inner))
    return lambda value, clock: [dump(one, clock) for dump, one in zip(dumps, value, strict=True)]


@functools.cache
def _loader(kind: Any) -> Callable[[Any, TimeShift, bool], Any]:
    """Return what makes a KIND of JSON's own types."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Time:
        return lambda data, clock, trusted: clock(_number(data) if trusted else _number(data, AGE))
    if origin is Annotated:
        plain = _loader(inner[0])
        return lambda data, clock, trusted: (
            plain(data, clock, trusted) if trusted else inner[1](plain(data, clock, trusted))
        )
    if origin in _UNIONS:
        some = _loader(inner[0])
        return lambda data, clock, trusted: None if data is None else some(data, clock, trusted)
    if origin is tuple:
        return _tuple_loader(inner)
    if hasattr(kind, "_fields"):
        return _record_loader(kind)
    if isinstance(kind, enum.EnumType):
        return lambda data, *_: kind(data)
    proper = {
        float: lambda data: _number(data) >= 0,
        int: lambda data: type(data) is int and 0 <= data < 1e9,
        bool: lambda data: type(data) is bool,
        str: lambda data: type(data) is str,
    }[kind]
    check = rule(proper)
    return lambda data, *_: check(data)


def _tuple_loader(inner: tuple[Any, ...]) -> Callable[[Any, TimeShift, bool], Any]:
    is_list = rule(lambda data: isinstance(data, list))
    if inner[-1] is Ellipsis:
        load = _loader(inner[0])
        return lambda data, clock, trusted: tuple(
            [load(one, clock, trusted) for one in is_list(data)]
        )
    loads = list(map(_loader, inner))
    return lambda data, clock, trusted: tuple(
        [load(one, clock, trusted) for load, one in zip(loads, is_list(data), strict=True)]
    )


def _record_loader(kind: Any) -> Callable[[Any, TimeShift, bool], Any]:
    loads = [(name, _loader(each)) for name, each, _ in _fields(kind)]
    needed = {name for name, _, default in _fields(kind) if default is _NEEDED}
    is_whole = rule(lambda data: isinstance(data, dict) and needed <= data.keys())

    def load(data: Any, clock: TimeShift, trusted: bool) -> Any:
        is_whole(data)
        return kind(
            **{name: each(data[name], clock, trusted) for name, each in loads if name in data}
        )

    return load


def _number(data: Any, limit: float = 1e11) -> float:
    if type(data) not in (int, float) or not abs(data) < limit:  # nor is what is no number at all
        raise ValueError(f"no number: {data!r:.80}")
    return float(data)
