"""Convert the values of `model` to JSON and back, for the state and for greetings.

Pure. The annotated types alone say how. A field that has its default value is left out, and an
unknown key is ignored. Data that does not fit its type is a ValueError, and so is text that breaks
the grammar of its type, whoever wrote it.
"""

from __future__ import annotations

import enum
import functools
import json
import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

TimeShift = Callable[[float], float]  # moves a time from one node's clock to another's
_Dump = Callable[[Any, TimeShift], Any]  # makes JSON's own types of a value
# Makes a value of JSON's own types; the number is the limit of times.
_Load = Callable[[Any, TimeShift, float], Any]

# `X | None` has one of these two origins before Python 3.14, and the same one since.
_UNIONS = (Union, types.UnionType)
_NO_DEFAULT: Any = object()  # stands for the default of a field that must be there

AGE_LIMIT = 1e9  # seconds, about 31 years; a peer may not state a time that is further away
TIME_LIMIT = 1e11  # seconds since the epoch, about 3,000 years; the state holds no later time
_NUMBER_LIMIT = 1e11
_INTEGER_LIMIT = 1e9

# A time on the clock of the node that has the value; it is moved on the way. Any other float is a
# duration in seconds.
Time = Annotated[float, "time"]


def must_be(is_proper: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return a check for an Annotated type.

    The check returns its value, or raises ValueError if `is_proper` does not accept the value.
    """

    def check(value: Any) -> Any:
        if not is_proper(value):
            raise ValueError(f"improper {value!r:.80}")
        return value

    return check


def write(kind: Any, value: Any, shift: TimeShift = float) -> str:
    """Return `value`, which is of the type `kind`, as JSON in ASCII; `shift` moves its times."""
    data = _dumper(kind)(value, shift)
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def read(
    kind: Any, text: str | bytes, shift: TimeShift = float, *, limit: float = AGE_LIMIT
) -> Any:
    """Return the value of the type `kind` that `text` holds; raise ValueError if it holds none.

    `shift` moves its times. A time that is further away than `limit` is no time.
    """
    return load(kind, parse(text), shift, limit=limit)


def parse(text: Any) -> Any:
    """Return what the JSON `text` holds; raise ValueError if it is no JSON."""
    if not isinstance(text, str | bytes):
        raise ValueError(f"no text: {text!r:.80}")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None


def load(kind: Any, data: Any, shift: TimeShift = float, *, limit: float = TIME_LIMIT) -> Any:
    """Return the value of the type `kind` that JSON's own types make; raise ValueError as `read`.

    A tuple is as good as a list.
    """
    try:
        return _loader(kind)(data, shift, limit)
    except RecursionError:
        raise ValueError("too deep") from None


def shift_times(value: Any, shift: TimeShift) -> Any:
    """Return the NamedTuple `value` with all its times moved by `shift`."""
    kind: Any = type(value)
    return load(kind, _dumper(kind)(value, shift))


def _fields(kind: Any) -> list[tuple[str, Any, Any]]:
    """Return the name, the type and the default of each field of a NamedTuple."""
    fields = []
    for name in kind._fields:
        default = kind._field_defaults.get(name, _NO_DEFAULT)
        fields.append((name, kind.__annotations__[name], default))
    return fields


# From a value to JSON's own types.


@functools.cache
def _dumper(kind: Any) -> _Dump:
    origin = get_origin(kind)
    inner = get_args(kind)
    if kind is Time:
        return _dump_time
    if origin is Annotated or origin in _UNIONS:
        return _optional_dumper(inner[0])
    if origin is tuple:
        return _tuple_dumper(inner)
    if hasattr(kind, "_fields"):
        return _record_dumper(kind)
    if isinstance(kind, enum.EnumType):
        return _dump_enum
    return _dump_plain


def _dump_time(value: float, shift: TimeShift) -> float:
    return shift(value)


def _dump_enum(value: enum.Enum, _: TimeShift) -> Any:
    return value.value


def _dump_plain(value: Any, _: TimeShift) -> Any:
    return value


def _optional_dumper(inner: Any) -> _Dump:
    dump_inner = _dumper(inner)

    def dump(value: Any, shift: TimeShift) -> Any:
        if value is None:
            return None
        return dump_inner(value, shift)

    return dump


def _tuple_dumper(inner: tuple[Any, ...]) -> _Dump:
    if inner[-1] is Ellipsis:
        dump_item = _dumper(inner[0])
        return lambda value, shift: [dump_item(item, shift) for item in value]
    dumpers = [_dumper(kind) for kind in inner]

    def dump(value: tuple[Any, ...], shift: TimeShift) -> Any:
        return [dumper(item, shift) for dumper, item in zip(dumpers, value, strict=True)]

    return dump


def _record_dumper(kind: Any) -> _Dump:
    fields = [(name, _dumper(field_kind), default) for name, field_kind, default in _fields(kind)]

    def dump(value: Any, shift: TimeShift) -> Any:
        data = {}
        for name, dump_field, default in fields:
            field = getattr(value, name)
            if field != default:
                data[name] = dump_field(field, shift)
        return data

    return dump


# From JSON's own types to a value.


@functools.cache
def _loader(kind: Any) -> _Load:
    origin = get_origin(kind)
    inner = get_args(kind)
    if kind is Time:
        return _load_time
    if origin is Annotated:
        return _checked_loader(inner[0], inner[1])
    if origin in _UNIONS:
        return _optional_loader(inner[0])
    if origin is tuple:
        return _tuple_loader(inner)
    if origin is dict:
        return _dict_loader(inner)
    if hasattr(kind, "_fields"):
        return _record_loader(kind)
    if isinstance(kind, enum.EnumType):
        return lambda data, *_: kind(data)
    check = must_be(_IS_PLAIN[kind])
    return lambda data, *_: check(data)


def _load_time(data: Any, shift: TimeShift, limit: float) -> float:
    return shift(_number(data, limit))


def _checked_loader(inner: Any, check: Callable[[Any], Any]) -> _Load:
    """Return a loader for an Annotated type."""
    load_inner = _loader(inner)

    def load(data: Any, shift: TimeShift, limit: float) -> Any:
        return check(load_inner(data, shift, limit))

    return load


def _optional_loader(inner: Any) -> _Load:
    load_inner = _loader(inner)

    def load(data: Any, shift: TimeShift, limit: float) -> Any:
        if data is None:
            return None
        return load_inner(data, shift, limit)

    return load


def _tuple_loader(inner: tuple[Any, ...]) -> _Load:
    if inner[-1] is Ellipsis:
        return _list_loader(inner[0])
    loaders = [_loader(kind) for kind in inner]

    def load(data: Any, shift: TimeShift, limit: float) -> Any:
        pairs = zip(loaders, _check_list(data), strict=True)
        return tuple([loader(item, shift, limit) for loader, item in pairs])

    return load


def _list_loader(inner: Any) -> _Load:
    load_item = _loader(inner)

    def load(data: Any, shift: TimeShift, limit: float) -> Any:
        return tuple([load_item(item, shift, limit) for item in _check_list(data)])

    return load


def _dict_loader(inner: tuple[Any, ...]) -> _Load:
    load_key, load_value = map(_loader, inner)

    def load(data: Any, shift: TimeShift, limit: float) -> Any:
        values = {}
        for key, value in _check_dict(data).items():
            values[load_key(key, shift, limit)] = load_value(value, shift, limit)
        return values

    return load


def _record_loader(kind: Any) -> _Load:
    loaders = []
    needed = set()
    for name, field_kind, default in _fields(kind):
        loaders.append((name, _loader(field_kind)))
        if default is _NO_DEFAULT:
            needed.add(name)

    def is_whole(data: Any) -> bool:
        return isinstance(data, dict) and needed <= data.keys()

    check_whole = must_be(is_whole)

    def load(data: Any, shift: TimeShift, limit: float) -> Any:
        check_whole(data)
        fields = {}
        for name, load_field in loaders:
            if name in data:
                fields[name] = load_field(data[name], shift, limit)
        return kind(**fields)

    return load


def _number(data: Any, limit: float = _NUMBER_LIMIT) -> float:
    # NaN is no number here: it is not below the limit.
    if type(data) not in (int, float) or not abs(data) < limit:
        raise ValueError(f"no number: {data!r:.80}")
    return float(data)


def _is_not_negative(data: Any) -> bool:
    return _number(data) >= 0


def _is_natural(data: Any) -> bool:
    return type(data) is int and 0 <= data < _INTEGER_LIMIT


def _is_list(data: Any) -> bool:
    return isinstance(data, list | tuple)


def _is_dict(data: Any) -> bool:
    return isinstance(data, dict)


_check_list = must_be(_is_list)
_check_dict = must_be(_is_dict)

_IS_PLAIN: dict[Any, Callable[[Any], bool]] = {
    float: _is_not_negative,
    int: _is_natural,
    bool: lambda data: type(data) is bool,
    str: lambda data: type(data) is str,
}
