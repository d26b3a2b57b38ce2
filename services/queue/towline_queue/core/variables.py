"""Template variables: what a queue declares, and what a submission gives for them."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from towline.requests.json_schemas import Schema
from towline.requests.json_values import Json, dump, parse
from towline.requests.violations import Violations
from towline.v1 import queues_pb2
from towline_queue.core.placeholders import VARIABLE_NAME

__all__ = ["Declarations"]

_ANY_TEXT: Final = '{"type":"string"}'
_MAX_VARIABLES: Final = 64
_MAX_VALUE_BYTES: Final = 64 * 1024
_MAX_DESCRIPTION: Final = 1024


class Declarations:
    """The variables that a queue declares.

    Args:
        variables: As the administrator wrote them.
        violations: Gets what is wrong with them, by path "variables[i].field".
    """

    def __init__(self, variables: Sequence[queues_pb2.TemplateVariable], violations: Violations) -> None:
        self._schemas: dict[str, Schema] = {}
        self._descriptions: dict[str, str] = {}
        self.defaults: dict[str, str] = {}
        if len(variables) > _MAX_VARIABLES:
            violations.add("variables", f"{len(variables)} are too many; at most {_MAX_VARIABLES}")
            return
        for index, variable in enumerate(variables):
            self._declare(variable, f"variables[{index}]", violations)

    def __contains__(self, name: str) -> bool:
        return name in self._schemas

    def _declare(self, variable: queues_pb2.TemplateVariable, path: str, violations: Violations) -> None:
        name = variable.name
        if not VARIABLE_NAME.fullmatch(name):
            violations.add(
                f"{path}.name", f"{name!r}: write a lower-case letter or '_', then at most 63 of a-z 0-9 _"
            )
            return
        if name in self._schemas:
            violations.add(f"{path}.name", f"{name!r} is declared twice")
            return
        if len(variable.description) > _MAX_DESCRIPTION:
            violations.add(f"{path}.description", f"is longer than {_MAX_DESCRIPTION} characters")
        try:
            schema = Schema(variable.schema_json or _ANY_TEXT)
        except ValueError as error:
            violations.add(f"{path}.schema_json", str(error))
            schema = Schema("{}")
        self._schemas[name] = schema
        self._descriptions[name] = variable.description
        if variable.default_json:
            if problem := self._problem(name, variable.default_json):
                violations.add(f"{path}.default_json", problem)
            else:
                self.defaults[name] = _text(parse(variable.default_json))

    def fill(
        self,
        given: Mapping[str, str],
        wishes: Mapping[str, str],
        violations: Violations,
        needed: Collection[str] | None = None,
    ) -> dict[str, str]:
        """Return the text of each declared variable.

        Args:
            given: JSON text by name, from the submission.
            wishes: JSON text by name, from the job; used where the submission gives none and the
                queue declares the variable and permits the value.
            violations: Gets what is wrong, by name; a variable that it names is not in the result.
            needed: Those that must have a value; the others are left out where they have none. None: all.
        """
        filled = dict(self.defaults)
        for name, value_json in wishes.items():
            if name in self and not self._problem(name, value_json):
                filled[name] = _text(parse(value_json))
        for name, value_json in given.items():
            problem = self._problem(name, value_json) if name in self else self._unknown(name)
            if problem:
                violations.add(name[:64] or '""', problem)
                filled.pop(name, None)
            else:
                filled[name] = _text(parse(value_json))
        for name in self._schemas:
            if name not in filled and name not in given and (needed is None or name in needed):
                about = f" ({self._descriptions[name]})" if self._descriptions[name] else ""
                violations.add(name, f"the queue wants a value for it{about}")
        return filled

    def _problem(self, name: str, value_json: str) -> str:
        """Return what is wrong with a value; empty: nothing."""
        if len(value_json.encode()) > _MAX_VALUE_BYTES:
            return f"is larger than {_MAX_VALUE_BYTES} bytes"
        try:
            value = parse(value_json)
        except ValueError as error:
            return f"{error}; text is written in quotes"
        if "\0" in _text(value):
            return "may not hold a NUL character"
        found = [
            f"{path}: {problem}" if path else problem
            for path, problem in self._schemas[name].violations(value)
        ]
        return "; ".join(found)

    def _unknown(self, name: str) -> str:
        if name == "gpus":
            return (
                "the queue fixes the GPUs of a run; leave them out, or have its administrator "
                "declare the variable gpus and write {{gpus}} in the template"
            )
        if close := difflib.get_close_matches(name, self._schemas, n=1):
            return f"the queue declares no such variable; did you mean {close[0]!r}?"
        known = ", ".join(self._schemas)
        return f"the queue declares no such variable; it declares {known or 'none'}"


def _text(value: Json) -> str:
    """Write a value as it stands in a template: text as it is, null as nothing, all else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else dump(value)
