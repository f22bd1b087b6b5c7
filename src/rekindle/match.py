"""The way back: a stored document matched against live objects, then put into them in place.

Two passes. The first compares, builds what must be new from data alone, and collects every
difference; it changes no live object. Only when there is none does the second pass act. A live
object answers for one stored node only. Names of classes and functions in a document are compared
with the live ones, never looked up to be called. The passes are in `matching.engine`; the other
modules of `matching` are the kinds of values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rekindle.codecs import values
from rekindle.errors import FormatError
from rekindle.matching import arrays, containers, objects, references
from rekindle.matching.engine import Engine
from rekindle.matching.filling import set_attribute
from rekindle.matching.outcomes import MISSING
from rekindle.state import tag_of

__all__ = ["MISSING", "Match", "set_attribute"]


class Match(Engine):
    """One restore of any kind of value; see `Engine` for its arguments."""

    def _tagged(self, node: Any, live: Any, path: str, strict: bool) -> Any:
        if isinstance(node, list):
            return containers.match_list(self, node, {}, live, path, strict)
        tag = tag_of(node)
        if tag is None:
            return containers.match_plain_dict(self, node, live, path, strict)
        if tag in values.DECODERS:
            self.num_values += 1
            return values.decode(node)
        matcher = _MATCHERS.get(tag)
        if matcher is None:
            raise FormatError(
                f"{self.full(path)}: expected a tag of format version 1, found {tag}. "
                "The document is malformed, or was written by a newer version."
            )
        outcome = matcher(self, node, live, path, strict)
        if "$id" in node:
            self.outcomes.setdefault(f"{self.component}#{node['$id']}", outcome)
        return outcome


_MATCHERS: dict[str, Callable[[Engine, dict[str, Any], Any, str, bool], Any]] = {
    "$list": containers.match_tagged_list,
    "$tuple": containers.match_tuple,
    "$set": containers.match_set,
    "$frozenset": containers.match_frozenset,
    "$deque": containers.match_deque,
    "$dict": containers.match_dict,
    "$bytearray": containers.match_bytearray,
    "$objects": containers.match_object_array,
    "$namedtuple": containers.match_namedtuple,
    "$object": objects.match_object,
    "$enum": objects.match_enum,
    "$adapter": objects.match_adapter,
    "$array": arrays.match_array,
    "$view": arrays.match_array,
    "$ref": references.match_ref,
    "$partial": references.match_partial,
    "$slice": containers.match_slice,
    "$method": references.match_method,
    "$class": references.match_class,
    "$function": references.match_function,
    "$module": references.match_module,
    "$part": references.leave_alone,
    "$external": references.leave_alone,
    "$excluded": references.leave_alone,
}
