"""Names of tensors with and without those of wrappers."""

from __future__ import annotations

from rekindle.prefixes import aligned, bare


def test_wrappers_of_the_whole_module_are_left_out() -> None:
    assert bare(["module.a.w", "module.b"]) == {"module.a.w": "a.w", "module.b": "b"}
    assert bare(["_orig_mod.module.a"]) == {"_orig_mod.module.a": "a"}
    assert bare(["module._orig_mod.a"]) == {"module._orig_mod.a": "a"}


def test_a_compiled_part_is_looked_through() -> None:
    assert bare(["actor._orig_mod.0.w", "scale"]) == {"actor._orig_mod.0.w": "actor.0.w",
                                                      "scale": "scale"}  # fmt: skip


def test_a_module_of_ones_own_that_is_called_module_stays() -> None:
    names = ["module.a", "head"]
    assert bare(names) == {name: name for name in names}
    # All of them begin with it here, and the live ones do too: nothing is a wrapper's.
    assert aligned(["module.a"], ["module.a"]) == {"module.a": "module.a"}


def test_names_that_would_fall_together_stay() -> None:
    names = ["a._orig_mod.w", "a.w"]
    assert bare(names) == {name: name for name in names}


def test_either_side_may_be_wrapped() -> None:
    assert aligned(["module.a", "module.b"], ["a", "b"]) == {"module.a": "a", "module.b": "b"}
    assert aligned(["a", "b"], ["module.a", "module.b"]) == {"a": "module.a", "b": "module.b"}
    assert aligned(["_orig_mod.a"], ["module.a"]) == {"_orig_mod.a": "module.a"}
    assert aligned(["a"], ["c"]) == {"a": "a"}
