"""How errors are shown: no tracebacks; what is wrong, and each violation on a line of its own."""

import json
import re
import sys
from typing import Final

from towline.cli import exit_codes
from towline.errors import TowlineError

__all__ = ["as_text", "show", "show_usage"]


# Errors whose metadata is one violation per entry: path → what is wrong there.
_HEADLINES: Final = {
    "INVALID_CONFIG": "the parameters do not fit the job:",
    "INVALID_VARIABLE": "the template variables do not fit the queue:",
    "INVALID_TEMPLATE": "the queue's template is wrong:",
}


def as_text(error: TowlineError) -> str:
    """Write an error for people; the first line says what is wrong."""
    if error.reason not in _HEADLINES or not error.metadata:
        return error.message
    violations = [f"{path}: {problem}" for path, problem in error.metadata.items()]
    # The metadata has come in no order; the message has them in that of the request.
    violations.sort(key=error.message.find)
    more = re.search(r"and \d+ more$", error.message)
    lines = [*violations, more[0]] if more else violations
    return "\n  ".join([_HEADLINES[error.reason], *lines])


def show(error: TowlineError, *, as_json: bool) -> int:
    """Write an error to standard error and give the exit code it calls for."""
    code = exit_codes.of(error)
    if as_json:
        _write_json(type(error).__name__, error.reason, error.message, error.metadata, code)
    else:
        _write_text(as_text(error))
    return code


def show_usage(message: str, hint: str, *, as_json: bool) -> int:
    """Write what is wrong with the command line, and give the exit code it calls for."""
    code = exit_codes.ExitCode.BAD_INPUT
    if as_json:
        _write_json("InvalidArgument", "USAGE", message, {}, code)
    else:
        _write_text(f"{message}\n{hint}".rstrip())
    return code


def _write_json(kind: str, reason: str, message: str, metadata: dict[str, str], code: int) -> None:
    error = {"kind": kind, "reason": reason, "message": message, "metadata": metadata, "exit_code": int(code)}
    sys.stderr.write(json.dumps({"error": error}) + "\n")


def _write_text(text: str) -> None:
    label = "\x1b[1;31merror:\x1b[0m" if sys.stderr.isatty() else "error:"
    sys.stderr.write(f"{label} {text}\n")
