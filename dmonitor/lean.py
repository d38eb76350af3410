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
else:
    from collections import _tuplegetter
    from types import GenericAlias

    Any, Protocol = object, object

    class Annotated:
        def __class_getitem__(cls, said: tuple[Any, ...]) -> GenericAlias:
            return GenericAlias(cls, said)

    class _Fields(type):
        """Makes a tuple with names of a class that says `name: type` or `name: type = default`."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            more = {field: _tuplegetter(place, "") for place, field in enumerate(fields)}
            more |= {"__slots__": (), "__match_args__": fields, "_fields": fields, "_field_defaults": defaults}
            return super().__new__(cls, name, bases, body | more)

    class NamedTuple(tuple, metaclass=_Fields):
        def __new__(cls, *values: Any, **named: Any) -> Any:
            if len(values) != len(cls._fields):
                known, left = cls._field_defaults, cls._fields[len(values) :]
                try:
                    values += tuple([named.pop(field) if field in named else known[field] for field in left])
                except KeyError as error:
                    raise TypeError(f"{cls.__name__} without {error}") from None
            if named or len(values) != len(cls._fields):
                raise TypeError(f"{cls.__name__} has no {', '.join(named) or 'more fields'}")
            return tuple.__new__(cls, values)

        def _replace(self, **changes: Any) -> Any:
            return type(self)(**{**dict(zip(self._fields, self, strict=True)), **changes})

        def __repr__(self) -> str:
            return f"{type(self).__name__}({', '.join(f'{field}={getattr(self, field)!r}' for field in self._fields)})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)
