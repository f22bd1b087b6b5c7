"""Functions and classes that a pickle carries by value, as records of what they are made of.

Their code is shown as data (its name, constants and the values that it captured) and never run.
Source: cloudpickle 3.1, `cloudpickle.py`; its pickles are those of versions from 1.5 on.
"""

from __future__ import annotations

from typing import Any

from rekindle.pickles.nodes import Call, Pairs
from rekindle.pickles.python_values import nodes, short
from rekindle.pickles.rebuilding import Builder, Rebuilder, Steps
from rekindle.pickles.records import RecordedClass, RecordedFunction
from rekindle.state import Record, Reference

_MODULES = ("cloudpickle.cloudpickle", "cloudpickle.cloudpickle_fast")
_BYTECODE = {"co_code": 6, "co_consts": 7, "co_names": 8, "co_filename": 10}
"""Where parts of a code object stand among its arguments, from Python 3.8 on."""


def _argument(call: Call, index: int, default: Any = None) -> Any:
    return call.arguments[index] if len(call.arguments) > index else default


def _slots(call: Call) -> dict[str, Any]:
    """The nodes of what was set on a function or class after it was made, by name."""
    found: dict[str, Any] = {}
    for state in call.states or ():
        for part in state if type(state) is tuple else (state,):
            if type(part) is Pairs:
                found.update(
                    (key, value)
                    for key, value in zip(part[::2], part[1::2], strict=True)
                    if type(key) is str
                )
    return found


def _builtin_type(rebuilder: Rebuilder, call: Call) -> Any:
    """`_builtin_type("CodeType")`: a name of the module `types`."""
    (name,) = nodes(call, 1)
    return Reference(f"types:{short(name)}")


def _cell(rebuilder: Rebuilder, call: Call) -> Steps:
    """`_make_cell(value)`: what a function captured."""
    given = nodes(call, 0, 1)
    return (yield given[0]) if given else None


def _function(rebuilder: Rebuilder, call: Call) -> Any:
    """`_make_function(code, globals, name, defaults, closure)`, or `_make_skel_func` of old."""
    nodes(call, 1, 8)
    slots = _slots(call)
    names = [slots.get("__qualname__"), slots.get("__name__"), _argument(call, 2)]
    name = next((name for name in names if type(name) is str), "function")
    module = slots.get("__module__")
    if type(module) is not str:
        module = "__main__"
    record = RecordedFunction(short(f"{short(module)}:{short(name)}"))
    return rebuilder.shell(call, record, _fill_function(rebuilder, record, call, slots))


def _fill_function(
    rebuilder: Rebuilder, record: RecordedFunction, call: Call, slots: dict[str, Any]
) -> Steps:
    code = _argument(call, 0)
    fields: dict[str, Any] = {}
    captured = slots.get("__closure__") or _argument(call, 4) or ()
    names = _captured_names(code)
    if type(captured) is tuple and len(captured) == len(names):
        values = yield captured
        fields["closure"] = dict(zip(names, values, strict=True))
    else:
        fields["closure"] = yield captured
    defaults = slots.get("__defaults__", _argument(call, 3))
    fields["defaults"] = yield defaults
    fields["globals"] = yield slots.get("__globals__")
    fields["code"] = yield code
    record.adopt(fields)


def _captured_names(code: Any) -> list[str]:
    """Names of the variables that a code object takes from around it."""
    if type(code) is not Call or type(code.arguments) is not tuple or len(code.arguments) < 2:
        return []
    names = code.arguments[-2]
    if type(names) is not tuple or not all(type(name) is str for name in names):
        return []
    return list(names)


def code_fields(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """What is readable of a code object, from the arguments that would make it."""
    fields = {name: arguments[index] for name, index in _BYTECODE.items() if index < len(arguments)}
    texts = [part for part in arguments[10:14] if type(part) is str]
    fields["co_name"] = texts[1] if len(texts) > 1 else None
    return fields


def _class(rebuilder: Rebuilder, call: Call) -> Any:
    """`_make_skeleton_class(type, name, bases, kwargs, id, extra)`."""
    given = nodes(call, 3, 8)
    slots = _slots(call)
    module = slots.get("__module__")
    if type(module) is not str:
        module = _module_in(_argument(call, 3))
    record = RecordedClass(short(f"{short(module)}:{short(given[1])}"))
    return rebuilder.shell(call, record, _fill_class(rebuilder, record, call, slots))


def _module_in(node: Any) -> str:
    """The module among the keywords of a class, or that of a script."""
    pairs = dict(zip(map(str, node[::2]), node[1::2], strict=True)) if type(node) is Pairs else {}
    module = pairs.get("__module__")
    return module if type(module) is str else "__main__"


def _fill_class(
    rebuilder: Rebuilder, record: RecordedClass, call: Call, slots: dict[str, Any]
) -> Steps:
    fields: dict[str, Any] = {"bases": (yield call.arguments[2])}
    attributes: dict[str, Any] = {}
    for name, node in slots.items():
        attributes[name] = yield node
    fields["attributes"] = attributes
    record.adopt(fields)


def _module(rebuilder: Rebuilder, call: Call) -> Any:
    """`subimport(name)`: the name of a module."""
    (name,) = nodes(call, 1)
    return Reference(short(name))


def _code(rebuilder: Rebuilder, call: Call) -> Steps:
    """`_builtin_type("CodeType")(...)`: a record of its names and constants."""
    given = yield nodes(call, 8, 24)
    return Record("types:CodeType", code_fields(given))


_TABLE: dict[str, Builder] = {
    "_builtin_type": _builtin_type,
    "_builtin_type(CodeType)": _code,
    "_make_cell": _cell,
    "_make_empty_cell": _cell,
    "_make_function": _function,
    "_make_skel_func": _function,
    "_make_skeleton_class": _class,
    "subimport": _module,
}
BUILDERS: dict[str, Builder] = {
    f"{module}:{name}": builder for module in _MODULES for name, builder in _TABLE.items()
}
"""What each name of cloudpickle is shown as."""
