"""Values of the protos' enums as people write them: "high" for PRIORITY_HIGH."""

from typing import Any

from towline.errors import InvalidArgument

__all__ = ["parse"]


def parse(kind: Any, prefix: str, word: str, option: str) -> Any:
    """Read the name of a value, in lower or upper case and without its prefix.

    Raises:
        InvalidArgument: There is no such value; the message lists those there are.
    """
    values = {name.removeprefix(prefix).lower(): value for name, value in kind.items() if value}
    try:
        return values[word.lower()]
    except KeyError:
        raise InvalidArgument.field(option, f"{word!r} is none of {', '.join(values)}") from None
