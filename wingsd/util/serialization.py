"""Strict conversion of plain data (YAML, JSON) to attrs values and back, with cattrs.

No type is converted to another, PHP's `[]` is an empty map, a null is an absent key, and each
fault has the path of its key. On the way back, fields with their default are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, TypeVar

import attrs
from cattrs import BaseValidationError, ClassValidationError, Converter, transform_error
from cattrs.gen import make_dict_structure_fn

from wingsd.errors import InvalidData

T = TypeVar("T")

_WORDS = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "a text",
    dict: "a map of keys and values",
    list: "a list",
}


class InvalidField(ValueError):
    """Raised by a class's own validators: the value of the field `name` is not as expected."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(what)
        self.name = name


@attrs.frozen(init=False)
class Keywords:
    """Keywords of JSON Schema for a value, to be put in `Annotated`.

    They are documentation: nothing here checks them.
    """

    words: tuple[tuple[str, object], ...]

    def __init__(self, **words: object) -> None:
        self.__attrs_init__(tuple(words.items()))


Amount = Annotated[int, Keywords(minimum=0)]


class Span(str):
    """A time: a number of seconds, or one with a unit, as a text."""

    __slots__ = ()


class _WrongKind(ValueError):
    """A value of the wrong type. The message does not contain the value: it may be a secret."""

    def __init__(self, expected: str, found: object) -> None:
        kind = "nothing" if found is None else _WORDS.get(type(found), "something else")
        super().__init__(f"expected {expected}, found {kind}")


def _scalar(value: object, kind: type) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # bool is a subclass of int, but `port: true` is wrong.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _WrongKind(_WORDS[kind], value)
    return value


def _span(value: object, _: object) -> Span:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return Span(value if is_number else _scalar(value, str))


def _as_map(value: object) -> Mapping[str, Any]:
    if value == []:
        return {}
    if not isinstance(value, Mapping):
        raise _WrongKind(_WORDS[dict], value)
    return {str(key): item for key, item in value.items() if item is not None}


@cache
def _filler(cls: type) -> Callable[[Any, Any], Any]:
    """Return what makes an instance of a class; cattrs compiles it, in half a millisecond."""
    return make_dict_structure_fn(cls, _converter)


def _class_hook(cls: type) -> Callable[[Any, Any], Any]:
    # Made with the first value: most files have few of the sections.
    def hook(value: object, _: object) -> object:
        data = _as_map(value)
        try:
            return _filler(cls)(data, cls)
        except ClassValidationError as error:
            kinds = [each for each in error.exceptions if not isinstance(each, InvalidField)]
            faults = [*kinds, *_invalid_fields(data, cls)]
            raise ClassValidationError(error.message, faults, cls) from None

    return hook


def _invalid_fields(data: Mapping[str, Any], cls: type) -> Iterator[InvalidField]:
    """Yield the errors of all validators for values of the right types.

    attrs calls validators only if all values are of the right types, and stops at the first error.
    """
    for field in attrs.fields(attrs.resolve_types(cls)):
        if field.validator is not None and field.name in data:
            try:
                field.validator(None, field, _converter.structure(data[field.name], field.type))
            except InvalidField as error:
                yield error
            except (BaseValidationError, ValueError):
                continue  # reported already


def _list_hook(kind: Any) -> Callable[[Any, Any], Any]:
    (item, _ellipsis) = kind.__args__
    # A list: a tuple would call this hook again.
    kind = GenericAlias(list, (item,))

    def hook(value: object, _: object) -> object:
        if not isinstance(value, list):
            raise _WrongKind(_WORDS[list], value)
        return tuple(_converter.structure(value, kind))

    return hook


def _map_hook(kind: Any) -> Callable[[Any, Any], Any]:
    # A Mapping: a dict would call this hook again.
    kind = GenericAlias(Mapping, kind.__args__)

    def hook(value: object, _: object) -> object:
        return _converter.structure(_as_map(value), kind)

    return hook


_converter = Converter(omit_if_default=True)
for _kind in (bool, float, int, str):
    _converter.register_structure_hook(_kind, _scalar)
_converter.register_structure_hook(Span, _span)
_converter.register_structure_hook_factory(attrs.has, _class_hook)
_converter.register_structure_hook_factory(
    lambda kind: getattr(kind, "__origin__", None) is tuple, _list_hook
)
_converter.register_structure_hook_factory(
    lambda kind: getattr(kind, "__origin__", None) is dict, _map_hook
)


def _describe(error: BaseException, _: type | None) -> str:
    if isinstance(error, KeyError):
        return ": is missing and has no default"
    if isinstance(error, InvalidField):
        return f".{error.name}: {error}"
    return f": {error}"


def structure(data: object, cls: type[T]) -> T:
    """Return `data` as an instance of the attrs class `cls`.

    Raises `InvalidData` with one line per fault, `path.of.key: what is wrong`.
    """
    try:
        return _converter.structure(data, cls)
    except BaseValidationError as error:
        faults = []
        for line in transform_error(error, path="", format_exception=_describe):
            what, _, path = line.rpartition(" @ ")
            faults.append(f"{path}{what}".lstrip(".: "))
        raise InvalidData("\n".join(faults)) from error
    except _WrongKind as error:
        raise InvalidData(str(error)) from error


def unstructure(value: object) -> Any:
    """Return `value`, an attrs value or lists and maps of some, as plain data for JSON."""
    return _converter.unstructure(value)


def unknown_keys(data: object, cls: type[Any], path: str = "") -> dict[str, object]:
    """Return the values in `data` for which `cls` has no field, by their paths, in order."""
    if not isinstance(data, Mapping):
        return {}
    fields = attrs.fields_dict(attrs.resolve_types(cls))
    unknown: dict[str, object] = {}
    for key, value in data.items():
        here = f"{path}.{key}" if path else str(key)
        field = fields.get(str(key))
        if field is None:
            unknown[here] = value
        elif isinstance(field.type, type) and attrs.has(field.type):
            unknown |= unknown_keys(value, field.type, here)
    return unknown
