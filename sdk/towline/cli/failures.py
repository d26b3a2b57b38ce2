"""How errors are shown: no tracebacks; what is wrong, and each violation on a line of its own."""

import json
import re
import sys
from contextlib import suppress
from typing import Final

from towline.cli import exit_codes
from towline.errors import TowlineError
from towline.names import short

__all__ = ["as_text", "show", "show_usage"]

# Which errors are about a resource: in others "runs/a" may well be a file.
_REASONS: Final = re.compile(r"(JOB|QUEUE|RUN|AGENT|ARTIFACT)_.*|NO_OUTPUTS|ALIAS_MOVED|IN_USE")
_FIELDS: Final = re.compile(r"(.+\.)?(name|job|queue|run|agent|artifact|expected)")
_KIND: Final = r"(?<![\w/.-])(job|queue|run|agent|artifact)s/"
_WORD: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?"
_FORM: Final = re.compile(rf"; write {_KIND}\S*\{{.*?\}} \(([^()]*)\)")
_QUOTED: Final = re.compile(rf"'{_KIND}([^']*)'")
_NAME: Final = re.compile(rf"(?:\b(?:job|queue|run|agent|artifact) )?{_KIND}{_WORD}(?:/versions/{_WORD})?")
_LIMIT: Final = re.compile(r"^run\.limits\.max_(wait|runtime): ")
_INPUT: Final = re.compile(r"(^|; )run\.inputs\[([^\]]*)\]: ")
_FIELD: Final = re.compile(
    r"^(?:run\.)?(?:job|queue): (?=there is no |\w+ '[^']*' (?:does not exist|has no ))"
)

# Errors whose metadata is one violation per entry: path → what is wrong there.
_HEADLINES: Final = {
    "INVALID_CONFIG": "the parameters do not fit the job:",
    "INVALID_VARIABLE": "the template variables do not fit the queue:",
    "INVALID_SPEC": "the job is wrong:",
    "INVALID_TEMPLATE": "the queue's template is wrong:",
}


def as_text(error: TowlineError) -> str:
    """Write an error for people; the first line says what is wrong."""
    if error.reason not in _HEADLINES or not error.metadata:
        if _LIMIT.match(error.message):
            return _LIMIT.sub(r"--max-\1: ", error.message)
        if _INPUT.search(error.message):
            return _as_typed(_INPUT.sub(r"\1--input \2: ", error.message))
        about_names = _REASONS.fullmatch(error.reason) or _FIELDS.fullmatch(error.metadata.get("field", ""))
        return _as_typed(error.message) if about_names else error.message
    violations = [f"{path}: {problem}" for path, problem in error.metadata.items()]
    # The metadata has come in no order; the message has them in that of the request.
    violations.sort(key=error.message.find)
    more = re.search(r"and \d+ more$", error.message)
    lines = [*violations, more[0]] if more else violations
    return "\n  ".join([_HEADLINES[error.reason], *lines])


def _as_typed(message: str) -> str:
    """Write names as people type them: "job 'a:v0'" for "jobs/a/versions/v0"."""
    message = _FORM.sub(r" (\2)", message)
    message = _QUOTED.sub(lambda found: f"'{found[2].replace('/versions/', ':')}'", message)
    message = _NAME.sub(lambda found: f"{found[1]} {short(found[0].split()[-1])!r}", message)
    return _FIELD.sub("", message)


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
    _write(json.dumps({"error": error}))


def _write_text(text: str) -> None:
    label = "\x1b[1;31merror:\x1b[0m" if sys.stderr.isatty() else "error:"
    _write(f"{label} {text}")


def _write(line: str) -> None:
    with suppress(OSError):  # nowhere is left to say so; the exit code does
        sys.stderr.write(line + "\n")
