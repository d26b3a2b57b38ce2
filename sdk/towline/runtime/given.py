"""What a program hands to `towline.init`, read, and brought up to date with the run's parameters."""

import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

from towline.errors import FailedPrecondition
from towline.runtime.arguments import Template, filled, templated
from towline.runtime.config import Plain, merged, plain

__all__ = ["Given", "read"]


class Given(NamedTuple):
    """Config and arguments, as parameters."""

    plain: Plain
    """Both together; arguments go over the config."""
    args: Any = None
    """The program's own object: a namespace, a dictionary, a list of words."""
    recorded: Mapping[str, Any] = {}
    """What that was, as parameters."""
    template: Template | None = None
    """Where it is a list of words: these, with placeholders."""

    def update_args(self, parameters: Mapping[str, Any]) -> None:
        """Write parameters into the program's arguments, in place; those that are as they were stay so.

        Raises:
            FailedPrecondition: The arguments cannot be changed; reason ARGS_NOT_UPDATED.
        """
        if self.template is not None:
            self.args[:] = filled(self.template.words, parameters)
        elif self.args is not None:
            target = self.args.params if type(self.args).__name__ == "Context" else self.args
            _update(target, self.recorded, parameters)


def read(config: object, args: object) -> tuple[Given, str]:
    """Read what was given; where it cannot be read, nothing, and what is wrong with it."""
    try:
        values, rest, refused = plain({} if config is None else config)
        if args is None:
            return Given(Plain(values, rest, refused)), ""
        template = templated([str(word) for word in args]) if isinstance(args, list) else None
        own = Plain(template.config, {}, []) if template else _plain_args(args)
        together = Plain(merged(values, own.values), merged(rest, own.rest), [*refused, *own.refused])
        return Given(together, args, own.values, template), ""
    except Exception as error:  # TypeError, or whatever their own code raises
        problem = (
            str(error) if isinstance(error, TypeError) else f"config raised {type(error).__name__}: {error}"
        )
        return Given(Plain({}, {}, [])), problem


def _plain_args(args: object) -> Plain:
    try:
        return plain(args)
    except TypeError:
        raise TypeError(
            f"args is of type {type(args).__name__}; give an argparse.Namespace, click's parameters, an "
            "OmegaConf config, a dict or the list of words that will be parsed"
        ) from None


def _update(target: Any, recorded: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    for name, before in recorded.items():
        if name not in parameters:
            continue
        now = parameters[name]
        if now == before and isinstance(now, bool) == isinstance(before, bool):
            continue
        own = _member(target, name)
        if isinstance(now, Mapping) and isinstance(before, Mapping) and own is not None:
            # Objects merge, as they do in the parameters; what only the submission has is added.
            _update(own, {**dict.fromkeys(now), **before}, now)
        else:
            _set(target, name, _like(own, now))


def _member(target: Any, name: str) -> Any:
    if isinstance(target, Mapping):
        return target.get(name)
    return getattr(target, name, None)


def _like(own: Any, value: Any) -> Any:
    """Make a value of the type that the program's own has, where JSON has none for it."""
    if isinstance(own, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kinds = (os.PathLike, tuple)
    enum = hasattr(own, "_value_") and hasattr(own, "_name_")
    if value is not None and (enum or isinstance(own, kinds)):
        try:
            return type(own)(value)
        except (TypeError, ValueError):
            return value
    return value


def _set(target: Any, name: str, value: Any) -> None:
    try:
        if type(target).__name__ == "DictConfig" and "omegaconf" in sys.modules:
            omegaconf = sys.modules["omegaconf"]
            with omegaconf.read_write(target), omegaconf.open_dict(target):
                target[name] = value
        elif isinstance(target, MutableMapping):
            target[name] = value
        else:
            setattr(target, name, value)
    except Exception as error:
        raise FailedPrecondition(
            f"the parameter {name!r} of this run cannot be written into args, a {type(target).__name__} "
            f"({type(error).__name__}: {error}); read it from run.config, or hand over what can be changed",
            reason="ARGS_NOT_UPDATED",
        ) from error
