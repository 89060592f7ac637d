"""Validators of configuration values, and the units that they are given in."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import attrs

from wingsd.util.addresses import parse_network
from wingsd.util.serialization import InvalidField
from wingsd.util.text import host_and_port, origin

__all__ = [
    "Bytes",
    "BytesPerSecond",
    "Days",
    "MiB",
    "MiBPerSecond",
    "Milliseconds",
    "Seconds",
    "absolute",
    "absolute_or_empty",
    "at_most",
    "console_line",
    "header_text",
    "host_and_port_or_empty",
    "ip_addresses",
    "is_uuid",
    "keyed_by_memory",
    "networks",
    "nice_value",
    "not_empty",
    "not_negative",
    "one_of",
    "part_of_one",
    "path_field",
    "port",
    "positive",
    "url",
    "url_or_empty",
]

Bytes = Annotated[int, "bytes"]
BytesPerSecond = Annotated[int, "bytes a second"]
Days = Annotated[int, "days"]
MiB = Annotated[int, "MiB"]
MiBPerSecond = Annotated[int, "MiB/s"]
Seconds = Annotated[int, "seconds"]
Milliseconds = Annotated[int, "milliseconds"]


_MAX_PORT = 65535
_MAX_NICE = 19


def not_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Non-empty."""
    if not value:
        raise InvalidField(attribute.name, "must not be empty")


def port(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    """A TCP port, from 1 to 65535."""
    if not 0 < value <= _MAX_PORT:
        raise InvalidField(attribute.name, f"expected a port from 1 to {_MAX_PORT}, found {value}")


def positive(_: object, attribute: attrs.Attribute[int], value: float) -> None:
    """A number above 0."""
    if value <= 0:
        raise InvalidField(attribute.name, f"expected a number above 0, found {value}")


def ip_addresses(_: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    """IPv4 or IPv6 addresses."""
    for text in value:
        try:
            ip_address(text)
        except ValueError:
            what = f"expected IP addresses, found {text!r}"
            raise InvalidField(attribute.name, what) from None


def not_negative(_: object, attribute: attrs.Attribute[int], value: float) -> None:
    """0 or more."""
    if value < 0:
        raise InvalidField(attribute.name, f"expected 0 or more, found {value}")


def part_of_one(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """A number above 0, and at most 1."""
    if not 0 < value <= 1:
        what = f"expected a number above 0 and at most 1, found {value}"
        raise InvalidField(attribute.name, what)


def nice_value(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    """A nice value that asks for no privilege, from 0 to 19."""
    if not 0 <= value <= _MAX_NICE:
        what = f"expected a nice value from 0 to {_MAX_NICE}, found {value}"
        raise InvalidField(attribute.name, what)


def absolute(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """An absolute path."""
    if not value.startswith("/"):
        raise InvalidField(attribute.name, f"expected an absolute path, found {value!r}")


def absolute_or_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """An absolute path, or an empty text."""
    if value:
        absolute(_, attribute, value)


def header_text(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """A text that can be sent as a header, or an empty one."""
    if not (value.isascii() and value.isprintable() and value == value.strip()):
        what = f"expected printable ASCII without spaces at the ends, found {value!r}"
        raise InvalidField(attribute.name, what)


def console_line(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """One line that can be typed into a console, or an empty text."""
    if value and not (value.isprintable() and value.strip()):
        raise InvalidField(attribute.name, f"expected one printable line, found {value!r}")


#: Characters of an address; a header has to hold it.
_MAX_URL = 2000


def url(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """An address of HTTP(S)."""
    is_usual = value.isprintable() and " " not in value and len(value) <= _MAX_URL
    if not (is_usual and value.startswith(("http://", "https://")) and _has_host(value)):
        what = f"expected an http:// or https:// address, found {value!r}"
        raise InvalidField(attribute.name, what)


def _has_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def url_or_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """An address of HTTP(S) with nothing behind host and port, or an empty text."""
    if value and not isinstance(origin(value), tuple):
        what = f"expected an address such as https://node.example.com:8080, found {value!r}"
        raise InvalidField(attribute.name, what)
    if value:
        url(_, attribute, value)


def host_and_port_or_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """A host and a port to listen at, or an empty text."""
    try:
        if value:
            host_and_port(value)
    except ValueError:
        what = f"expected an address such as 127.0.0.1:9101 or [::1]:9101, found {value!r}"
        raise InvalidField(attribute.name, what) from None


def networks(_: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    """Addresses, or networks such as 192.0.2.0/24."""
    for text in value:
        try:
            parse_network(text)
        except ValueError:
            what = f"expected addresses, or networks such as 192.0.2.0/24, found {text!r}"
            raise InvalidField(attribute.name, what) from None


def keyed_by_memory(_: object, attribute: attrs.Attribute[Any], value: dict[str, float]) -> None:
    """A map whose keys are whole numbers of MB."""
    for key in value:
        if not (key.isascii() and key.isdigit()):
            raise InvalidField(
                attribute.name, f"expected whole numbers of MB as keys, found {key!r}"
            )


def at_most(most: int) -> Any:
    """Return the check that a number is from 1 to `most`."""

    def check(_: object, attribute: attrs.Attribute[int], value: int) -> None:
        if not 0 < value <= most:
            raise InvalidField(
                attribute.name, f"expected a number from 1 to {most}, found {value}"
            )

    check.__doc__ = f"A number from 1 to {most}."
    return check


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID, as a Panel writes it."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def one_of(*words: str) -> Any:
    """Return the check that a text is one of `words`."""

    def check(_: object, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in words:
            raise InvalidField(
                attribute.name, f"expected one of {', '.join(words)}, found {value!r}"
            )

    check.__doc__ = f"One of {', '.join(words)}."
    return check


def path_field(default: str) -> Any:
    """Return the field of an absolute path."""
    return attrs.field(default=default, validator=absolute)
