"""Parameters of a run: as JSON holds them, with attributes."""

import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

__all__ = ["Config", "Plain", "jsonable", "merged", "plain"]

MOST_LEVELS: Final = 64


class Config(dict[str, Any]):
    """Parameters by name, also as attributes: `config.optimizer.lr` is `config["optimizer"]["lr"]`.

    Names that dictionaries use themselves ("items", "keys", …) are reached with brackets only.
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.update(_members(values or {}, frozenset()))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            known = ", ".join(self) or "none"
            raise AttributeError(f"no parameter {name!r}; there are: {known}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"no parameter {name!r}") from None

    def __reduce__(self) -> tuple[type["Config"], tuple[dict[str, Any]]]:
        return Config, (dict(self),)


def _members(values: Mapping[str, Any], above: frozenset[int]) -> dict[str, Any]:
    within = above | {id(values)}
    return {name: _with_attributes(value, within) for name, value in values.items()}


def _with_attributes(value: Any, above: frozenset[int]) -> Any:
    """Convert a value; what holds itself, or lies too deep, stays as the program made it.

    Args:
        value: It.
        above: Ids of the containers it lies in.
    """
    if id(value) in above or len(above) >= MOST_LEVELS:
        return value
    if isinstance(value, Mapping):
        config = Config()
        config.update(_members(value, above))
        return config
    if isinstance(value, list):
        return [_with_attributes(item, above | {id(value)}) for item in value]
    return value


def merged(defaults: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Put parameters over defaults, key by key: objects merge, everything else replaces."""
    result = dict(defaults)
    for name, value in over.items():
        there = result.get(name)
        both = isinstance(there, Mapping) and isinstance(value, Mapping)
        result[name] = merged(there, value) if both and there is not None else value
    return result


class Plain(NamedTuple):
    """A config, parted into what JSON holds and what it does not."""

    values: dict[str, Any]
    """What JSON holds."""
    rest: dict[str, Any]
    """What it does not, at the same places."""
    refused: list[str]
    """The places of the rest, such as "model.activation"."""


def plain(config: object) -> Plain:
    """Turn a config as programs have it into what JSON holds.

    Mappings, dataclasses, `argparse.Namespace`, OmegaConf's, a click context (its parameters), pydantic
    models, enums, paths, tuples, NumPy scalars and arrays (anything with `tolist()` or `item()`) are
    understood, without importing any of these libraries.
    What holds itself, lies more than 64 levels deep or raises an exception when it is read is refused.

    Raises:
        TypeError: `config` itself has no fields.
    """
    fields = _fields(config)
    if fields is None:
        raise TypeError(
            f"config is of type {type(config).__name__}; give a dict, a dataclass, an argparse.Namespace or "
            "a pydantic model"
        )
    return _parted(fields, "", frozenset({id(config)}))


def jsonable(value: Any) -> Any:
    """Give a value as JSON holds it, all of it; NaN and infinity as text, for JSON has no numbers for them.

    Raises:
        Exception: It cannot be held, or what its own code raises.
    """
    return _plain(value, frozenset(), _as_text)


def _parted(fields: Mapping[Any, Any], path: str, above: frozenset[int]) -> Plain:
    parted = Plain({}, {}, [])
    for name, value in fields.items():
        place = f"{path}{name}"
        try:
            inner = _fields(value) if _may_enter(value, above) else None
            if isinstance(name, str) and inner is not None:
                values, rest, refused = _parted(inner, f"{place}.", above | {id(value)})
                parted.values[name] = values
                parted.refused.extend(refused)
                if rest:
                    parted.rest[name] = rest
            else:
                parted.values[_key(name)] = _plain(value, above)
        except Exception:  # _NotPlain, or what the value's own code raises
            parted.rest[name] = value
            parted.refused.append(place)
    return parted


class _NotPlain(Exception):
    """JSON does not hold this value."""


def _may_enter(value: Any, above: frozenset[int]) -> bool:
    return len(above) < MOST_LEVELS and id(value) not in above


def _refused(_: float) -> Any:
    raise _NotPlain


def _as_text(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _plain(value: Any, above: frozenset[int], odd: Callable[[float], Any] = _refused) -> Any:
    """Give a value as JSON holds it, all of it; _NotPlain where that cannot be.

    Args:
        value: It.
        above: Ids of the containers it lies in.
        odd: Gives what stands for a number that JSON does not have.
    """
    # Subclasses, such as numpy.float64 and enum.IntEnum, become the plain type.
    for kind in (int, str):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(getattr(value, "_value_", value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else odd(value)
    if value is None or isinstance(value, bool):
        return value
    if not _may_enter(value, above):
        raise _NotPlain
    within = above | {id(value)}
    if isinstance(value, list | tuple):
        return [_plain(item, within, odd) for item in value]
    if (fields := _fields(value)) is not None:
        return {_key(name): _plain(inner, within, odd) for name, inner in fields.items()}
    return _plain(_simpler(value), within, odd)


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise _NotPlain
    return str(name)


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """Give the fields of a value that has some, and None of any other."""
    kind = type(value).__name__
    fields: Mapping[Any, Any] | None = None
    if kind == "DictConfig" and "omegaconf" in sys.modules:
        fields = _container(value)
    elif isinstance(value, Mapping):
        fields = value
    elif isinstance(value, type):
        fields = None
    elif hasattr(value, "__dataclass_fields__"):
        fields = {name: getattr(value, name) for name in value.__dataclass_fields__}
    elif callable(dump := getattr(value, "model_dump", None)):  # pydantic
        fields = dict(dump())
    elif kind in ("Namespace", "SimpleNamespace"):
        fields = dict(vars(value))
    elif kind == "Context" and isinstance(given := getattr(value, "params", None), dict):  # click
        fields = given
    return fields


def _container(value: Any) -> Any:
    """Give what OmegaConf's containers hold, with their interpolations resolved."""
    return sys.modules["omegaconf"].OmegaConf.to_container(value, resolve=True)


def _simpler(value: Any) -> Any:
    """Give what stands for a path, an enum member, an array or a scalar; _NotPlain for anything else."""
    if isinstance(value, type):
        raise _NotPlain
    if type(value).__name__ == "ListConfig" and "omegaconf" in sys.modules:
        return _container(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "_value_") and hasattr(value, "_name_"):  # enum.Enum, which is slow to import
        return value._value_
    for method in ("tolist", "item"):
        if callable(convert := getattr(value, method, None)):
            try:
                return convert()
            except (TypeError, ValueError, RuntimeError):  # such as item() of a tensor with many elements
                continue
    raise _NotPlain
