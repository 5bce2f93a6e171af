"""The state of a person's own loop: what is in it, whether it can be saved, and how it is put back in place.

Modules, optimizers and generators are known by what they are; anything else with `state_dict()` and
`load_state_dict()` is taken at its word. An optimizer's states go by the names of the parameters, where a module of
the state has them, so that nothing depends on an order.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from typing import Any

from colab_magics.checkpoints.tensors import Tensor
from colab_magics.errors import ColabMagicsError
from colab_magics.tracking import arrays, randomness
from colab_magics.tracking.values import MARK, Encoder, Unsaveable, decode

_MISSING = object()
_LIVE = ("module", "optimizer", "stateful", "generator")


def encoded(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON of a state, and its tensors by name: the live ones, not copies.

    Raises
    ------
    Unsaveable
        Something in it cannot be saved without pickle; says what, by its place in the state.
    """
    names = _names(state)
    encoder = Encoder(lambda value, where, key: _live(encoder, names, value, where, key))
    told = {}
    for name, value in state.items():
        if type(name) is not str:
            raise ColabMagicsError(
                f"state has the key {name!r}.", "Its keys are names: text.", 'Write state={"model": net}.'
            )
        told[name] = encoder.encode(value, f'state["{name}"]', name)
    return told, encoder.tensors


def _is(value: Any, *names: str) -> bool:
    """Whether it is of one of torch's classes `names`, given from torch on."""
    for name in names:
        found: Any = sys.modules.get("torch")
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not None and isinstance(value, found):
            return True
    return False


def _names(state: Mapping[str, Any]) -> dict[int, str]:
    """id of a parameter -> its name, of all modules that are in the state."""
    found: dict[int, str] = {}
    for key, value in _modules(state, ""):
        for name, parameter in value.named_parameters():
            found.setdefault(id(parameter), f"{key}.{name}")
    return found


def _modules(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if _is(value, "nn.Module"):
        yield key, value
    elif type(value) in (dict, OrderedDict):
        for name, one in value.items():
            yield from _modules(one, f"{key}.{name}" if key else str(name))
    elif type(value) in (list, tuple):
        for at, one in enumerate(value):
            yield from _modules(one, f"{key}.{at}")


def _live(encoder: Encoder, names: Mapping[int, str], value: Any, where: str, key: str) -> Any:
    """The JSON of what is put back in place; None of plain values."""
    kind = type(value).__name__
    if arrays.is_array(value):
        return None
    if _is(value, "nn.Module"):
        parts = {
            name: encoder.encode(one, f'{where}["{name}"]', f"{key}/{name}") for name, one in value.state_dict().items()
        }
        return {MARK: "module", "class": kind, "of": parts}
    if _is(value, "optim.Optimizer"):
        return {MARK: "optimizer", "class": kind, **_of_optimizer(encoder, names, value, where, key)}
    state = randomness.own_state(value)
    if state is not None:
        return {MARK: "generator", "class": kind, "of": encoder.encode(state, where, key)}
    if callable(getattr(value, "state_dict", None)) and not isinstance(value, type):
        if not callable(getattr(value, "load_state_dict", None)):
            raise Unsaveable(where, value, f"It is of type {kind}, which has state_dict() and no load_state_dict().")
        told = value.state_dict()
        if isinstance(told, Mapping):
            parts = {str(name): encoder.encode(one, f"{where}.{name}", f"{key}/{name}") for name, one in told.items()}
            if len(parts) == len(told) and all(type(name) is str for name in told) and MARK not in parts:
                return {MARK: "stateful", "class": kind, "of": parts}
        return {MARK: "stateful", "class": kind, "of": encoder.encode(told, f"{where}.state_dict()", key)}
    return None


def _order(optimizer: Any, names: Mapping[int, str]) -> list[list[str]]:
    """The names of the parameters of each group; of a parameter that no module of the state has, its place."""
    return [
        [names.get(id(one), f"#{number}.{at}") for at, one in enumerate(group["params"])]
        for number, group in enumerate(optimizer.param_groups)
    ]


def _of_optimizer(encoder: Encoder, names: Mapping[int, str], value: Any, where: str, key: str) -> dict[str, Any]:
    packed = value.state_dict()
    order = _order(value, names)
    flat = [name for group in order for name in group]
    states = {
        flat[place]: encoder.encode(one, f'{where}.state["{flat[place]}"]', f"{key}/{flat[place]}")
        for place, one in packed["state"].items()
    }
    groups = []
    for number, (group, params) in enumerate(zip(packed["param_groups"], order, strict=True)):
        options = {
            name: encoder.encode(one, f'{where}.param_groups[{number}]["{name}"]', f"{key}/group {number}/{name}")
            for name, one in group.items()
            if name != "params"
        }
        groups.append({"params": params, "options": options})
    others = {
        name: encoder.encode(one, f"{where}.{name}", f"{key}/{name}")
        for name, one in packed.items()
        if name not in ("state", "param_groups")
    }
    return {"state": states, "groups": groups, "others": others}


def put_back(state: dict[str, Any], told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Make the state what it was: tensors keep their memory, objects stay the same objects.

    All is compared before the first of it is touched.

    Raises
    ------
    ColabMagicsError
        It is not the state that was saved: an entry is missing or new, a shape or a class is another. Names both.
    """
    if odd := sorted(set(told) ^ set(state)):
        saved = odd[0] in told
        raise _changed(
            f'state["{odd[0]}"] is {"in the checkpoint, and not in the cell" if saved else "new"}.',
            f"The checkpoint has {_listed(told)}; the cell has {_listed(state)}.",
        )
    putting = _Putting(_names(state), tensors)
    for dry in (True, False):
        for name, one in told.items():
            putting.dry = dry
            state[name] = putting.put(state[name], one, f'state["{name}"]')


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) if names else "nothing"


def _changed(what: str, why: str) -> ColabMagicsError:
    return ColabMagicsError(
        what,
        why,
        "Make the state as it was, and run the cell again.",
        "again=True begins a new run beside it, at step 0.",
    )


class _Putting:
    """Puts a saved state into a live one; `dry` only compares."""

    def __init__(self, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> None:
        self.names, self.tensors = names, tensors
        self.dry = True

    def put(self, live: Any, told: Any, where: str) -> Any:
        """What is to stand at `where`: the live object itself, wherever it can be kept."""
        mark = told.get(MARK) if isinstance(told, dict) else None
        if mark in _LIVE:
            self._put_object(live, told, where, str(mark))
            return live
        if mark == "tensor":
            return self._put_tensor(live, told, where)
        if isinstance(told, dict) and mark is None and type(live) is dict:
            return self._put_dict(live, told, where)
        if mark in ("dict", "ordered") and type(live) is (dict if mark == "dict" else OrderedDict):
            return self._put_dict(live, {decode(name, self.tensors): one for name, one in told["of"]}, where)
        if isinstance(told, list) and type(live) is list:
            return self._put_list(live, told, where)
        if mark == "tuple" and type(live) is tuple and len(live) == len(told["of"]):
            new = tuple(
                self.put(was, one, f"{where}[{at}]") for at, (was, one) in enumerate(zip(live, told["of"], strict=True))
            )
            return live if self.dry else new
        self._check_plain(live, told, where)
        return live if self.dry else _kept(live, decode(told, self.tensors))

    def _check_plain(self, live: Any, told: Any, where: str) -> None:
        for within in _objects(told):
            here = "nothing" if live is _MISSING else f"a {type(live).__name__}"
            raise _changed(
                f"{where} was another thing when it was saved.", f"The checkpoint has a {within}; the cell has {here}."
            )
        if live is not _MISSING and (_is(live, "nn.Module", "optim.Optimizer") or hasattr(live, "load_state_dict")):
            raise _changed(
                f"{where} was another thing when it was saved.",
                f"The checkpoint has plain values there; the cell has a {type(live).__name__}.",
            )

    def _put_dict(self, live: dict[str, Any], told: Mapping[str, Any], where: str) -> Any:
        for name in [name for name in live if name not in told]:
            self._check_plain(live[name], None, f'{where}["{name}"]')
            if not self.dry:
                del live[name]
        for name, one in told.items():
            found = self.put(live.get(name, _MISSING), one, f'{where}["{name}"]')
            if not self.dry:
                live[name] = found
        return live

    def _put_list(self, live: list[Any], told: list[Any], where: str) -> Any:
        # of a list that grows (a history, say) the tensors need not be those that stand there now
        kept = [one for one in live if len(live) == len(told) or not arrays.is_array(one)]
        kept += [_MISSING] * (len(told) - len(kept))
        new = [self.put(kept[at], one, f"{where}[{at}]") for at, one in enumerate(told)]
        if not self.dry:
            live[:] = new
        return live

    def _put_tensor(self, live: Any, told: Mapping[str, Any], where: str) -> Any:
        was = told["of"]
        if not arrays.is_array(live):
            self._check_plain(live, None, where)
            return live if self.dry else decode(told, self.tensors)
        now = arrays.described(live)
        if now != was:
            raise _changed(f"{where} is {arrays.spoken(was)} in the checkpoint, and {arrays.spoken(now)} here.", "")
        if self.dry:
            return live
        saved = decode(told, self.tensors)
        if arrays.is_torch(live):
            with sys.modules["torch"].no_grad():
                live.copy_(saved)
            return live
        if now.get("scalar") or not live.flags.writeable:
            return saved
        live[...] = saved
        return live

    def _put_object(self, live: Any, told: Mapping[str, Any], where: str, mark: str) -> None:
        here = "nothing" if live is _MISSING else f"a {type(live).__name__}"
        if live is _MISSING or type(live).__name__ != told["class"]:
            raise _changed(f"{where} was a {told['class']}, and is {here} in the cell.", "")
        if mark == "module":
            self._put_module(live, told["of"], where)
        elif mark == "optimizer":
            self._put_optimizer(live, told, where)
        elif self.dry:
            return
        elif mark == "generator":
            randomness.put_own(live, decode(told["of"], self.tensors))
        else:
            try:
                live.load_state_dict(decode(told["of"], self.tensors))
            except Exception as error:
                raise _changed(
                    f"{where} does not take the state that it gave.", f"{type(error).__name__}: {str(error)[:200]}"
                ) from error

    def _put_module(self, live: Any, told: Mapping[str, Any], where: str) -> None:
        own = live.state_dict()
        if odd := sorted(set(told) ^ set(own)):
            there = "the checkpoint" if odd[0] in told else "the cell's"
            raise _changed(f'{where}["{odd[0]}"] is only in {there} {type(live).__name__}.', "")
        for name, one in told.items():
            if arrays.is_array(own[name]) and isinstance(one, dict) and one.get(MARK) == "tensor":
                now = arrays.described(own[name])
                if now != one["of"]:
                    was = arrays.spoken(one["of"])
                    raise _changed(f'{where}["{name}"] is {was} in the checkpoint, and {arrays.spoken(now)} here.', "")
        if not self.dry:
            saved = OrderedDict((name, decode(told[name], self.tensors)) for name in own)
            if hasattr(own, "_metadata"):  # by which a module knows that the names are those of its own version
                saved._metadata = own._metadata  # type: ignore[attr-defined]
            live.load_state_dict(saved)

    def _put_optimizer(self, live: Any, told: Mapping[str, Any], where: str) -> None:
        order, saved = _order(live, self.names), [list(group["params"]) for group in told["groups"]]
        if [sorted(group) for group in order] != [sorted(group) for group in saved]:
            both = {name for group in order for name in group} ^ {name for group in saved for name in group}
            odd = min(both, default="the division into groups")
            raise _changed(
                f"{where} has other parameters than when it was saved.",
                f"It differs in {odd}: {sum(map(len, saved))} in the checkpoint, {sum(map(len, order))} in the cell.",
            )
        if self.dry:
            return
        places = {name: place for place, name in enumerate(name for group in order for name in group)}
        parameters = [one for group in live.param_groups for one in group["params"]]
        states = {places[name]: decode(one, self.tensors) for name, one in told["state"].items()}
        groups = [
            {**self._options(group["options"], group_here), "params": [places[name] for name in names]}
            for group, group_here, names in zip(told["groups"], live.param_groups, order, strict=True)
        ]
        others = {name: decode(one, self.tensors) for name, one in told["others"].items()}
        live.load_state_dict({"state": states, "param_groups": groups, **others})
        self._as_they_were(live, parameters, states)

    def _options(self, told: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
        options = {name: decode(one, self.tensors) for name, one in told.items()}
        for name, one in options.items():
            if arrays.is_torch(one) and arrays.is_torch(here.get(name)):
                options[name] = one.to(here[name].device)
        return options

    def _as_they_were(self, live: Any, parameters: list[Any], states: Mapping[int, Any]) -> None:
        """torch casts an optimizer's states to the parameter's dtype as it loads them; they may have been finer."""
        for place, saved in states.items():
            now = live.state.get(parameters[place])
            for key, one in saved.items() if isinstance(saved, dict) and isinstance(now, dict) else ():
                if arrays.is_torch(one) and arrays.is_torch(now.get(key)) and now[key].dtype != one.dtype:
                    now[key] = one.to(now[key].device)


def _objects(told: Any) -> Iterator[str]:
    """The classes of the objects that stand in what was saved."""
    if isinstance(told, dict):
        if told.get(MARK) in _LIVE:
            yield str(told["class"])
            return
        for one in told.values():
            yield from _objects(one)
    elif isinstance(told, list):
        for one in told:
            yield from _objects(one)


def _kept(live: Any, value: Any) -> Any:
    """The live container, with what is in the new one, where they are of one kind."""
    if type(live) is not type(value):
        return value
    if isinstance(live, dict | set):
        live.clear()
        live.update(value)
        return live
    if isinstance(live, deque) and live.maxlen == value.maxlen:
        live.clear()
        live.extend(value)
        return live
    return value
