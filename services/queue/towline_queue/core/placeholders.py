"""Template text: literals, placeholders `{{name}}` and macros `${name}`, read once from left to right.

What fills a placeholder is never read again, so a value can bring in neither a macro nor another
placeholder. `$$` is a dollar sign.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["IMAGE", "MACROS", "VARIABLE_NAME", "Text", "Unfilled", "parse"]

IMAGE: Final = "image"
MACROS: Final = ("run_id", "run_name", "job", "queue", "author", IMAGE)

_TOKEN: Final = re.compile(
    r"(?P<dollar>\$\$)"
    r"|\$\{(?P<macro>[^{}$]*)\}"
    r"|\{\{(?P<variable>[^{}]*)\}\}"
    r"|(?P<broken>\$\{|\{\{)"
)
VARIABLE_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_IMAGE_MACRO: Final = f"${{{IMAGE}}}"


class Unfilled(Exception):
    """A placeholder has no value; `args[0]` is its name."""


@dataclass(frozen=True)
class Text:
    """A template text, parsed.

    Attributes:
        parts: Literals, and references to variables and macros, in order.
    """

    parts: tuple["str | Variable | Macro", ...]

    @property
    def variables(self) -> frozenset[str]:
        """Names of the placeholders in it."""
        return frozenset(part.name for part in self.parts if isinstance(part, Variable))

    @property
    def macros(self) -> frozenset[str]:
        """Names of the macros in it."""
        return frozenset(part.name for part in self.parts if isinstance(part, Macro))

    def fill(self, variables: Mapping[str, str], macros: Mapping[str, str]) -> str:
        """Put the values in; `${image}` stays as it is, for the agent.

        Raises:
            Unfilled: A placeholder has no value.
            ValueError: The text would hold an `${image}` that the template did not write.
        """
        filled: list[str] = []
        images = 0
        for part in self.parts:
            if isinstance(part, str):
                filled.append(part)
            elif isinstance(part, Variable):
                if part.name not in variables:
                    raise Unfilled(part.name)
                filled.append(variables[part.name])
            elif part.name == IMAGE:
                images += 1
                filled.append(_IMAGE_MACRO)
            else:
                filled.append(macros[part.name])
        text = "".join(filled)
        if text.count(_IMAGE_MACRO) != images:
            raise ValueError(f"may not hold the text {_IMAGE_MACRO} except as the template's own macro")
        return text


@dataclass(frozen=True)
class Variable:
    """A placeholder."""

    name: str


@dataclass(frozen=True)
class Macro:
    """A macro."""

    name: str


def parse(text: str) -> Text:
    """Read a template text.

    Raises:
        ValueError: A placeholder or macro is not closed, has no valid name, or is an unknown macro.
    """
    parts: list[str | Variable | Macro] = []
    literal: list[str] = []
    end = 0
    for token in _TOKEN.finditer(text):
        literal.append(text[end : token.start()])
        end = token.end()
        if token["dollar"]:
            literal.append("$")
            continue
        if "".join(literal):
            parts.append("".join(literal))
        literal = []
        parts.append(_reference(token))
    literal.append(text[end:])
    if "".join(literal):
        parts.append("".join(literal))
    return Text(tuple(parts))


def _reference(token: re.Match[str]) -> Variable | Macro:
    if token["broken"]:
        remedy = "write $$ for a dollar sign" if token["broken"] == "${" else "write {{name}}"
        raise ValueError(f"has {token['broken']!r} that is not closed; {remedy}")
    if (macro := token["macro"]) is not None:
        if macro not in MACROS:
            known = " ".join(f"${{{name}}}" for name in MACROS)
            raise ValueError(f"unknown macro ${{{macro}}}; known are {known}; write $$ for a dollar sign")
        return Macro(macro)
    name = token["variable"].strip()
    if not VARIABLE_NAME.fullmatch(name):
        raise ValueError(
            f"{token[0]!r} is no placeholder; names are lower-case letters, digits and '_', at most 64"
        )
    return Variable(name)
