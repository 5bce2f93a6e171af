"""References are found without a line of the object's own code, by the names that a person would write."""

from __future__ import annotations

import functools
import gc
import sys
import types
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from colab_magics.memory.references import References

pytestmark = [pytest.mark.face, pytest.mark.colab]


class Thing:
    """What is to be found."""


class Slotted:
    __slots__ = ("empty", "thing")

    def __init__(self, thing: Thing) -> None:
        self.thing = thing


class Hostile:
    """Raises whatever is asked of it, and would tell of it."""

    asked = 0

    def __init__(self, thing: Thing) -> None:
        object.__setattr__(self, "thing", thing)

    def _refuse(self, *_: Any) -> NoReturn:
        Hostile.asked += 1
        raise RuntimeError("this object must not be asked")

    __class__ = property(_refuse)  # type: ignore[assignment]
    __dict__ = property(_refuse)  # type: ignore[assignment]
    __len__ = __iter__ = __getattr__ = __eq__ = __hash__ = __repr__ = __bool__ = _refuse  # type: ignore[assignment]
    value = property(_refuse)


class HostileDict(dict):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("this dictionary must not be asked")

    items = values = keys = __len__ = __getitem__ = __iter__  # type: ignore[assignment]


def named(one: Any, thing: Any) -> list[str]:
    references = References(set(), lambda code: code.co_name)
    return [name for name, child in references.of(one) if child is thing]


def closure(thing: Thing) -> Any:
    return lambda: thing


def default(thing: Any) -> Any:
    def function(given: Any = thing) -> Any:
        return given

    return function


THING = Thing()
Pair = namedtuple("Pair", "first second")
attributes = types.SimpleNamespace(thing=THING)


@pytest.mark.parametrize(
    ("one", "names"),
    [
        ({"a": THING, 2: THING, Thing(): THING}, ["['a']", "[2]", "[…]"]),
        ({"k" * 60: THING}, [f"['{'k' * 38}…]"]),
        ([0, THING], ["[1]"]),
        ((THING,), ["[0]"]),
        (Pair(1, THING), ["[1]"]),
        ({THING}, ["[…]"]),
        (deque([THING]), ["[…]"]),
        (defaultdict(list, a=THING), ["['a']"]),
        (OrderedDict(a=THING), ["['a']"]),
        (attributes, [".thing"]),
        (Slotted(THING), [".thing"]),
        (HostileDict(a=THING), ["['a']"]),
        (closure(THING), ["'s closure"]),
        (functools.partial(print, THING), []),
        (types.MethodType(print, THING), [""]),
        (iter([THING]), []),
    ],
)
def test_a_reference_has_the_name_that_one_would_write(one: Any, names: list[str]) -> None:
    assert named(one, THING) == names


def test_what_has_no_name_is_found_by_the_collector() -> None:
    generator = (held for held in [THING] for _ in (1, 2))
    next(generator)
    references = References(set(), lambda code: code.co_name)
    for one in (generator, functools.partial(print, THING), default(THING), UserDict(a=THING)):
        seen, pending = {id(one)}, [one]
        for parent in pending:
            new = [child for _, child in references.of(parent) if id(child) not in seen]
            seen |= set(map(id, new))
            pending += new
        assert id(THING) in seen, one


def test_an_object_that_refuses_everything_is_not_asked() -> None:
    hostile = Hostile(THING)
    assert named(hostile, THING) == [""]
    assert named([hostile], hostile) == ["[0]"]
    assert named({1: hostile}, hostile) == ["[1]"]
    assert Hostile.asked == 0


def test_a_failed_frame_gives_its_variables_by_name_and_a_living_one_is_left_as_it_is() -> None:
    def fails(held: Any) -> None:
        inner = held
        raise ValueError(inner is held)

    try:
        fails(THING)
    except ValueError as error:
        failure = error
    references = References(set(), lambda code: f"{code.co_name}()")
    [(_, traceback)] = [(name, one) for name, one in references.of(failure) if isinstance(one, types.TracebackType)]
    frames = dict(references.of(traceback))
    assert list(frames)[-1] == ": fails()"
    assert named(frames[": fails()"], THING) == ["held", "inner"]

    here = sys._getframe()
    before = len(gc.get_referents(here))
    list(references.of(here))
    assert len(gc.get_referents(here)) == before  # no copy of its variables was left in it


def test_an_object_of_plain_values_keeps_having_no_dictionary_of_its_own() -> None:
    one = Thing()
    one.number, one.word = 1, "a"  # type: ignore[attr-defined]
    size = len(gc.get_referents(one))
    assert list(References(set(), str).of(one)) == []
    assert len(gc.get_referents(one)) == size
