"""What typing gives, for programs that start every minute: a type checker sees typing's own, and no round pays for that.

To import typing and make our classes with its NamedTuple takes as long as `python3 -c pass`, with dataclasses three times that.
Of a NamedTuple there are here the fields, their defaults, `_replace`, `_fields` and `_field_defaults`; of Annotated what `values`
needs: the alias's arguments are the type, and what is said of it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # to a type checker it is true, by its name

if TYPE_CHECKING:
    from typing import Annotated as Annotated
    from typing import Any as Any
    from typing import NamedTuple as NamedTuple
    from typing import Protocol as Protocol
    from typing import TypeVar as TypeVar
else:
    from collections import _tuplegetter
    from types import GenericAlias

    Any, Protocol, TypeVar = object, object, str

    class Annotated:
        def __class_getitem__(cls, said: tuple[Any, ...]) -> GenericAlias:
            return GenericAlias(cls, said)

    class _Fields(type):
        """Makes a tuple with names of a class that says `name: type` or `name: type = default`."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            fields = tuple(body.get("__annotations__", ()))
            if "__annotate_func__" in body or any(getattr(base, "_fields", ()) for base in bases):
                raise TypeError(f"{name}: no fields can be added to another's, and none are found in Python 3.14")
            defaults = {field: body.pop(field) for field in fields if field in body}
            size, tail, make = len(fields), tuple(defaults.values()), tuple.__new__

            def fill(kind: type, /, *values: Any, **named: Any) -> Any:
                if named or len(values) != size:
                    values = values if size - len(tail) <= len(values) <= size and not named else _match(kind, values, named)
                    values += tail[len(values) - size :] if len(values) < size else ()
                return make(kind, values)

            more = {field: _tuplegetter(place, "") for place, field in enumerate(fields)}
            more |= {"__slots__": (), "__match_args__": fields, "_fields": fields, "_field_defaults": defaults, "__new__": fill}
            return super().__new__(cls, name, bases, body | more)

    def _match(kind: Any, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """Return the VALUES of KIND's fields with those NAMED, and the defaults of the others."""
        left = dict(kind._field_defaults) | named
        every = values + tuple([left[field] for field in kind._fields[len(values) :] if field in left])
        if len(every) != len(kind._fields) or named.keys() - set(kind._fields[len(values) :]):
            raise TypeError(f"{kind.__name__} has the fields {', '.join(kind._fields)}")
        return every

    class NamedTuple(tuple, metaclass=_Fields):
        def _replace(self, **changes: Any) -> Any:
            return type(self)(**{**dict(zip(self._fields, self, strict=True)), **changes})

        def __repr__(self) -> str:
            return f"{type(self).__name__}({', '.join(f'{field}={getattr(self, field)!r}' for field in self._fields)})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)
