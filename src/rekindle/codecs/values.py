"""Immutable plain values as JSON, without loss: each is itself, or an object with one `$tag`.

Owns the tags of `docs/format.md`, "Plain data", for everything that holds no other value. Values
that hold others (lists, records, objects) belong to `rekindle.graph`.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import fractions
import math
import pathlib
import struct
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import numpy as np

from rekindle.codecs import dtypes
from rekindle.errors import FormatError

_LARGEST_JSON_INTEGER = 2**53 - 1
"""Every JSON reader keeps integers up to here exactly."""


def _bytes(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def encode_int(value: int) -> Any:
    """An integer; beyond 53 bits as hexadecimal text."""
    if -_LARGEST_JSON_INTEGER <= value <= _LARGEST_JSON_INTEGER:
        return value
    return {"$int": hex(value)}


def encode_float(value: float) -> Any:
    """A float; NaN (with its payload) and infinities as text."""
    if math.isfinite(value):
        return value
    if value != value:
        bits = struct.pack(">d", value).hex()
        return {"$float": "nan" if bits == "7ff8000000000000" else f"nan:{bits}"}
    return {"$float": "inf" if value > 0 else "-inf"}


def encode_str(value: str) -> Any:
    """Text; with lone surrogates, which UTF-8 cannot hold, as base64."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"$str": _bytes(value.encode("utf-8", "surrogatepass"))}
    return value


def _encode_moment(value: datetime.datetime | datetime.time) -> Any:
    """A date and time, or a time of day: ISO 8601, and what that cannot say of the zone."""
    tag = "$datetime" if isinstance(value, datetime.datetime) else "$time"
    zone = value.tzinfo
    if zone is None or _is_offset(zone):
        node: dict[str, Any] = {tag: value.isoformat()}
    else:
        node = {tag: value.replace(tzinfo=None).isoformat(), "zone": _encode_zone(zone)}
    return node | {"fold": 1} if value.fold else node


def _is_offset(zone: datetime.tzinfo) -> bool:
    """Whether a zone is an offset with no name of its own."""
    if type(zone) is not datetime.timezone:
        return False
    return zone.tzname(None) == datetime.timezone(zone.utcoffset(None)).tzname(None)


def _encode_zone(zone: datetime.tzinfo) -> Any:
    """The name of a zone of the tz database, or the node of a fixed offset with a name."""
    if type(zone) is datetime.timezone:
        return _encode_timezone(zone)
    if type(zone) is not zoneinfo.ZoneInfo or zone.key is None:
        raise TypeError(f"a time zone of type {type(zone).__name__} that has no name to find it by")
    return zone.key


def _decode_moment(node: dict[str, Any], value: Any) -> Any:
    zone = node.get("zone")
    if zone is not None:
        tzinfo = zoneinfo.ZoneInfo(zone) if isinstance(zone, str) else _decode_timezone(zone)
        value = value.replace(tzinfo=tzinfo)
    return value.replace(fold=1) if node.get("fold") else value


def _decode_datetime(node: dict[str, Any]) -> datetime.datetime:
    return _decode_moment(node, datetime.datetime.fromisoformat(node["$datetime"]))


def _decode_time(node: dict[str, Any]) -> datetime.time:
    return _decode_moment(node, datetime.time.fromisoformat(node["$time"]))


def _encode_timezone(value: datetime.timezone) -> Any:
    seconds = value.utcoffset(None).total_seconds()
    return {"$timezone": [seconds, encode_str(value.tzname(None))]}


def encode_scalar(value: np.generic) -> Any:
    """A numpy scalar: its dtype, and its value or its bytes."""
    kind = value.dtype.kind
    if kind == "b":
        return {"$scalar": "|b1", "value": bool(value)}
    if kind in "iu":
        return {"$scalar": value.dtype.str, "value": encode_int(int(value))}
    if kind == "f" and value.dtype.itemsize <= 8 and math.isfinite(float(value)):
        return {"$scalar": value.dtype.str, "value": float(value)}
    described = dtypes.describe(value.dtype)
    return {"$scalar": described, "bytes": _bytes(dtypes.without_padding(value).tobytes())}


def _encode_dtype(value: np.dtype[Any]) -> Any:
    # As a value only: the dtype of no stored array, whose bytes would be taken for addresses.
    if value.name in dtypes.EXTENDED:
        return {"$dtype": value.name}
    return {"$dtype": "|O" if value.kind == "O" else dtypes.describe(value)}


def _decode_dtype(node: dict[str, Any]) -> np.dtype[Any]:
    name = node["$dtype"]
    if isinstance(name, str) and name in dtypes.EXTENDED:
        return dtypes.extended(name)
    return np.dtype(object) if name == "|O" else dtypes.build(name)


def _decode_scalar(node: dict[str, Any]) -> Any:
    dtype = dtypes.build(node["$scalar"])
    if "bytes" in node:
        raw = base64.b64decode(node["bytes"], validate=True)
        if dtype.itemsize == 0:
            return np.zeros((), dtype)[()]
        return np.frombuffer(raw, dtype, 1)[0]
    return dtype.type(decode(node["value"]))


_PATHS = {
    pathlib.PosixPath: "path",
    pathlib.WindowsPath: "path",
    pathlib.PurePosixPath: "pure-posix",
    pathlib.PureWindowsPath: "pure-windows",
}


def _encode_path(value: pathlib.PurePath) -> Any:
    return {"$path": encode_str(str(value)), "kind": _PATHS[type(value)]}


def _decode_path(node: dict[str, Any]) -> pathlib.PurePath:
    kinds: dict[str, type[pathlib.PurePath]] = {
        "path": pathlib.Path,
        "pure-posix": pathlib.PurePosixPath,
        "pure-windows": pathlib.PureWindowsPath,
    }
    return kinds[node["kind"]](decode(node["$path"]))


_SINGLETONS = {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}

ENCODERS: dict[type, Callable[[Any], Any]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    int: encode_int,
    float: encode_float,
    str: encode_str,
    complex: lambda value: {"$complex": [encode_float(value.real), encode_float(value.imag)]},
    bytes: lambda value: {"$bytes": _bytes(value)},
    range: lambda value: {"$range": [encode_int(n) for n in (value.start, value.stop, value.step)]},
    datetime.datetime: _encode_moment,
    datetime.date: lambda value: {"$date": value.isoformat()},
    datetime.time: _encode_moment,
    datetime.timedelta: lambda value: {
        "$timedelta": [value.days, value.seconds, value.microseconds]
    },
    datetime.timezone: _encode_timezone,
    zoneinfo.ZoneInfo: lambda value: {"$zone": _encode_zone(value)},
    decimal.Decimal: lambda value: {"$decimal": str(value)},
    fractions.Fraction: lambda value: {
        "$fraction": [encode_int(value.numerator), encode_int(value.denominator)]
    },
    uuid.UUID: lambda value: {"$uuid": str(value)},
    type(Ellipsis): lambda _: {"$singleton": "Ellipsis"},
    type(NotImplemented): lambda _: {"$singleton": "NotImplemented"},
    **dict.fromkeys(_PATHS, _encode_path),
}
"""How each plain immutable type is written. numpy scalars and dtypes are told by their base."""


def _decode_float(node: dict[str, Any]) -> float:
    text = node["$float"]
    if text.startswith("nan:"):
        return struct.unpack(">d", bytes.fromhex(text[4:]))[0]
    if text not in ("nan", "inf", "-inf"):
        raise ValueError(f"{text!r} is no special float")
    return float(text)


def _decode_complex(node: dict[str, Any]) -> complex:
    real, imaginary = node["$complex"]
    return complex(decode(real), decode(imaginary))


def _decode_int(node: dict[str, Any]) -> int:
    return int(node["$int"], 16)


def _decode_timezone(node: dict[str, Any]) -> datetime.timezone:
    seconds, text = node["$timezone"]
    name = decode(text)
    offset = datetime.timedelta(seconds=seconds)
    plain = datetime.timezone(offset)
    return plain if plain.tzname(None) == name else datetime.timezone(offset, name)


def _decode_decimal(node: dict[str, Any]) -> decimal.Decimal:
    return decimal.Decimal(node["$decimal"])


DECODERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "$int": _decode_int,
    "$float": _decode_float,
    "$str": lambda node: base64.b64decode(node["$str"], validate=True).decode(
        "utf-8", "surrogatepass"
    ),
    "$complex": _decode_complex,
    "$bytes": lambda node: base64.b64decode(node["$bytes"], validate=True),
    "$range": lambda node: range(*(decode(part) for part in node["$range"])),
    "$datetime": _decode_datetime,
    "$date": lambda node: datetime.date.fromisoformat(node["$date"]),
    "$time": _decode_time,
    "$timedelta": lambda node: datetime.timedelta(*node["$timedelta"]),
    "$timezone": _decode_timezone,
    "$zone": lambda node: zoneinfo.ZoneInfo(node["$zone"]),
    "$decimal": _decode_decimal,
    "$fraction": lambda node: fractions.Fraction(*(decode(part) for part in node["$fraction"])),
    "$uuid": lambda node: uuid.UUID(node["$uuid"]),
    "$singleton": lambda node: _SINGLETONS[node["$singleton"]],
    "$path": _decode_path,
    "$scalar": _decode_scalar,
    "$dtype": _decode_dtype,
}
"""How each tag is read back. Building any of them runs no code but this table's."""


def encoder_for(cls: type) -> Callable[[Any], Any] | None:
    """The encoder of a plain immutable type, or None."""
    found = ENCODERS.get(cls)
    if found is not None:
        return found
    if issubclass(cls, np.generic) and cls.__module__ == "numpy" and cls is not np.object_:
        return encode_scalar
    if issubclass(cls, np.dtype):
        return _encode_dtype
    return None


def decode(node: Any) -> Any:
    """Read back what an encoder of this module wrote.

    Raises:
        FormatError: The node is malformed, or its tag is not one of a plain immutable value.
    """
    if not isinstance(node, dict):
        return node
    tag = next(iter(node), None)
    decoder = DECODERS.get(tag) if isinstance(tag, str) else None
    if decoder is None:
        raise FormatError(
            f"expected a plain value, found {str(node)[:80]}. The document is malformed."
        )
    try:
        return decoder(node)
    except FormatError:
        raise
    except (
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error,
    ) as error:  # fmt: skip
        raise FormatError(
            f"expected a value tagged {tag}, found {str(node)[:80]} ({error}). "
            "The document is malformed."
        ) from error
