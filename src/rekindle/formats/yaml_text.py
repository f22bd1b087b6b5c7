"""The YAML that `yaml.dump` writes of plain values, read and written without a YAML library.

Block mappings and sequences of scalars, empty ones in brackets, quoted text and folded lines: this
is all that configurations and metadata of training runs are made of. Tags, anchors and aliases are
refused, so nothing is constructed and nothing grows. Source: YAML 1.1, and PyYAML 6, `resolver.py`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from rekindle.errors import FormatError, UnsafeError, UnsupportedError

_MAX_DEPTH = 50
_TRUE = ("yes", "true", "on")
_FALSE = ("no", "false", "off")
_NULL = ("", "~", "null", "Null", "NULL")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)", re.ASCII)
_OTHER_INTEGER = re.compile(
    r"[-+]?(0b[01_]+|0[0-7_]+|0x[0-9a-fA-F_]+|[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)", re.ASCII
)
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?", re.ASCII
)
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NUMERIC = re.compile(r"[-+]?[0-9][0-9a-fA-FxX_:.]*")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([Tt \t].*)?", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_ /.,;()=+*@:-]*", re.ASCII)
_QUOTED_KEY = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*:(?:[ \t]+(.*))?""", re.S)
_COLON = re.compile(r"[ \t]*:(?:[ \t]+|$)")
_ESCAPES = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f",
    "r": "\r", "e": "\x1b", " ": " ", '"': '"', "\\": "\\", "/": "/", "N": "\x85", "_": "\xa0",
    "L": "\u2028", "P": "\u2029",
}  # fmt: skip
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.S)


@dataclass(frozen=True, slots=True)
class _Line:
    """One line that is not empty; empty ones are counted before the next."""

    number: int
    indent: int
    text: str
    blanks: int


def loads(text: str, name: str) -> Any:
    """The value of a document.

    Args:
        text: The document.
        name: The file, for messages.

    Raises:
        FormatError: It breaks the rules of YAML.
        UnsafeError: It asks for an object to be made, which nothing here does.
        UnsupportedError: It uses a part of YAML that `yaml.dump` does not write of plain values.
    """
    return _Reader(text, name).document()


class _Reader:
    """One document on its way to values."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._lines: list[_Line] = []
        self._at = 0
        blanks = 0
        for number, line in enumerate(text.split("\n"), 1):
            stripped = line.strip(" \t\r")
            if not stripped:
                blanks += 1
                continue
            if number == 1 and stripped == "---":
                continue
            indent = len(line) - len(line.lstrip(" "))
            self._lines.append(_Line(number, indent, stripped, blanks))
            blanks = 0

    def document(self) -> Any:
        """The one value of the document."""
        line = self._here()
        if line is None:
            return None
        value = self._block(line.indent, 0)
        line = self._here()
        if line is not None:
            self._malformed("nothing more at this indentation")
        return value

    def _here(self) -> _Line | None:
        """The next line that is no comment; None at the end."""
        while self._at < len(self._lines) and self._lines[self._at].text.startswith("#"):
            self._at += 1
        line = self._lines[self._at] if self._at < len(self._lines) else None
        return None if line is not None and (line.indent, line.text) == (0, "...") else line

    def _block(self, indent: int, depth: int) -> Any:
        """What begins at the present line, which is indented so far."""
        if depth > _MAX_DEPTH:
            raise UnsafeError(
                f"{self._name}: expected values at most {_MAX_DEPTH} levels deep, found more.",
                path=self._name,
            )
        line = self._lines[self._at]
        if line.text == "-" or line.text.startswith("- "):
            return self._sequence(indent, depth)
        if _key_of(line.text) is not None:
            return self._mapping(indent, depth)
        self._at += 1
        return self._scalar(line.text, indent - 1)

    def _sequence(self, indent: int, depth: int) -> list[Any]:
        found: list[Any] = []
        while (line := self._here()) is not None:
            if line.indent != indent or not (line.text == "-" or line.text.startswith("- ")):
                break
            rest = line.text[1:].lstrip(" ")
            inner = indent + len(line.text) - len(rest)
            if not rest:
                self._at += 1
                found.append(self._nested(indent, depth))
            elif rest.startswith("- ") or rest == "-" or _key_of(rest) is not None:
                # What follows the dash is a block of its own, which begins in this line.
                self._lines[self._at] = _Line(line.number, inner, rest, line.blanks)
                found.append(self._block(inner, depth + 1))
            else:
                self._at += 1
                found.append(self._scalar(rest, indent))
        self._check_indent(indent)
        return found

    def _mapping(self, indent: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        while (line := self._here()) is not None:
            parts = _key_of(line.text) if line.indent == indent else None
            if parts is None:
                break
            key = self._value(parts[0])
            if key in found:
                self._malformed(f"{key!r} once")
            self._at += 1
            found[key] = (
                self._scalar(parts[1], indent) if parts[1] else self._nested(indent, depth, True)
            )
        self._check_indent(indent)
        return found

    def _check_indent(self, indent: int) -> None:
        line = self._here()
        if line is not None and line.indent > indent:
            self._malformed("a line that is not indented more than those before")

    def _nested(self, indent: int, depth: int, in_mapping: bool = False) -> Any:
        """What stands below a key or a dash; nothing there is null."""
        line = self._here()
        if line is None:
            return None
        is_dash = line.text == "-" or line.text.startswith("- ")
        if line.indent > indent or (in_mapping and line.indent == indent and is_dash):
            return self._block(line.indent, depth + 1)
        return None

    def _scalar(self, text: str, indent: int) -> Any:
        """A scalar that begins with some text and may go on in lines that are indented more."""
        if text[0] in "|>":
            self._unsupported("a block of text")
        if text[0] in "[{":
            return self._flow(text)
        quote = text[0] if text[0] in "\"'" else ""
        while not _is_closed(text, quote) or (not quote and self._goes_on(indent)):
            if self._at >= len(self._lines):
                self._malformed(f"the end of text in {quote}")
            line = self._lines[self._at]
            if quote == '"' and _ends_in_escape(text):
                text = text[:-1] + line.text
            else:
                text += ("\n" * line.blanks if line.blanks else " ") + line.text
            self._at += 1
        return self._value(text)

    def _goes_on(self, indent: int) -> bool:
        line = self._here()
        return line is not None and line.indent > indent

    def _flow(self, text: str) -> Any:
        """An empty collection, or a list of scalars, in brackets."""
        if text in ("[]", "{}"):
            return [] if text == "[]" else {}
        if text[0] == "[" and text[-1] == "]" and not set(text[1:-1]) & set("[]{}\"'#"):
            return [self._value(part.strip()) for part in text[1:-1].split(",")]
        return self._unsupported("a collection in brackets")

    def _value(self, text: str) -> Any:
        """The value of a whole scalar."""
        if text[:1] == "!":
            raise UnsafeError(
                f"{self._name}: expected plain values, found {text[:80]!r} in line "
                f"{self._number()}, a tag that asks for an object. Nothing was made.",
                path=self._name,
            )
        if text[:1] in ("&", "*", "@", "`", "%") or text == "?" or text.startswith("? "):
            self._unsupported(f"{text[:40]!r}")
        if text[:1] == "'":
            return text[1:-1].replace("''", "'")
        if text[:1] == '"':
            return _ESCAPE.sub(self._unescaped, text[1:-1])
        text = text.partition(" #")[0].rstrip()
        if ": " in text or text.endswith(":"):
            self._malformed("text without a colon before a blank")
        return _resolved(text)

    def _unescaped(self, match: re.Match[str]) -> str:
        code = match[1]
        if len(code) > 1:
            number = int(code[1:], 16)
            return chr(number) if number < 0x110000 else self._malformed("a character")
        return _ESCAPES[code] if code in _ESCAPES else self._malformed("a known escape")

    def _number(self) -> int:
        return self._lines[min(self._at, len(self._lines) - 1)].number

    def _malformed(self, expected: str) -> NoReturn:
        raise FormatError(
            f"{self._name}: expected {expected} in line {self._number()}, found something else. "
            "The file is damaged or not YAML.",
            path=self._name,
        )

    def _unsupported(self, found: str) -> NoReturn:
        raise UnsupportedError(
            f"{self._name}: expected YAML as `yaml.dump` writes it, found {found} in line "
            f"{self._number()}. Load the file with a YAML library and dump it again.",
            path=self._name,
        )


def _key_of(text: str) -> tuple[str, str] | None:
    """A key and what follows it in its line; None where the line is none of a mapping."""
    if text[0] in "\"'":
        match = _QUOTED_KEY.fullmatch(text)
        parts = None if match is None else (match[1], match[2] or "")
    else:
        match = None if text[0] in "[]{}|>#," else _COLON.search(text)
        parts = None if match is None else (text[: match.start()], text[match.end() :])
        if parts is not None and " #" in parts[0]:
            return None
    if parts is None:
        return None
    return (parts[0], "") if parts[1].startswith("#") else parts


def _is_closed(text: str, quote: str) -> bool:
    if not quote:
        return True
    pattern = r"'(?:[^']|'')*'" if quote == "'" else r'"(?:[^"\\]|\\.)*"'
    return re.fullmatch(pattern, text, re.S) is not None


def _ends_in_escape(text: str) -> bool:
    """Whether a line ends in a backslash of its own: the next continues it without a space."""
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _resolved(text: str) -> Any:
    """What a plain scalar means in YAML 1.1; a date stays text."""
    if text in _NULL:
        return None
    if text.lower() in _TRUE + _FALSE and text in (text.lower(), text.title(), text.upper()):
        return text.lower() in _TRUE
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    special = _SPECIAL.fullmatch(text)
    if special is not None:
        return math.nan if special[3] else float(f"{special[1]}inf")
    if _OTHER_INTEGER.fullmatch(text) and ":" not in text and "." not in text:
        digits = text.replace("_", "")
        sign, digits = (digits[0], digits[1:]) if digits[0] in "+-" else ("", digits)
        base = {"b": 2, "x": 16}.get(digits[1:2], 8)
        return int(sign + (digits[2:] if base != 8 else digits), base)
    return text


# --------------------------------------------------------------------------- writing


def dumps(value: Any, name: str) -> str:
    """The document of a value, as `yaml.dump` lays it out.

    Raises:
        UnsupportedError: It holds something other than containers, text, numbers, truth and null.
    """
    if isinstance(value, (dict, list, tuple)) and value:
        return "".join(f"{line}\n" for line in _written(value, name))
    return f"{_scalar(value, name)}\n"


def _written(value: Any, path: str) -> list[str]:
    lines: list[str] = []
    if isinstance(value, dict):
        for key, part in value.items():
            head, where = f"{_scalar(key, path)}:", f"{path}.{key}"
            if isinstance(part, (dict, list, tuple)) and part:
                space = "  " if isinstance(part, dict) else ""
                lines += [head, *(f"{space}{line}" for line in _written(part, where))]
            else:
                lines.append(f"{head} {_scalar(part, where)}")
        return lines
    for index, part in enumerate(value):
        where = f"{path}[{index}]"
        if isinstance(part, (dict, list, tuple)) and part:
            first, *rest = _written(part, where)
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
        else:
            lines.append(f"- {_scalar(part, where)}")
    return lines


def _scalar(value: Any, path: str) -> str:
    if value is None or type(value) is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return _number(value)
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) and ": " not in value and value[-1] not in ": "
        if is_plain and isinstance(_resolved(value), str) and not _is_other(value):
            return value
        if value.isascii() and value.isprintable():
            return "'" + value.replace("'", "''") + "'"
        return '"' + "".join(map(_escaped, value)) + '"'
    if isinstance(value, (list, tuple, dict)) and not value:
        return "{}" if isinstance(value, dict) else "[]"
    raise UnsupportedError(
        f"{path}: expected containers, text, numbers, truth or null, found "
        f"{type(value).__name__}, which YAML cannot hold as plain data.",
        key=path,
    )


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isascii() and character.isprintable():
        return character
    number = ord(character)
    return (
        f"\\x{number:02x}"
        if number < 0x100
        else (f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}")
    )


def _is_other(text: str) -> bool:
    """Whether another reader could take text for a number or a date."""
    return bool(_NUMERIC.fullmatch(text) or _DATE.fullmatch(text) or text in ("=", "<<"))


def _number(value: float) -> str:
    """A float as YAML 1.1 reads it: with a point before the exponent."""
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text.replace("e", ".0e", 1) if "e" in text and "." not in text else text
