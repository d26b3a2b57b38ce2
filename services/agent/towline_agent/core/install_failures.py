"""Which requirement an installation failed at, and why, as uv, apt-get and conda's installer print it.

No version of them promises its words: what is not understood is in the log.
"""

import re
from dataclasses import dataclass
from typing import Final

from towline.v1 import leases_pb2, runs_pb2
from towline_agent.core.failures import LogTail, failed

__all__ = ["InstallLog", "install_failure"]

_MOST_LINES: Final = 30
_LONGEST_LINE: Final = 2048
_LONGEST_WHY: Final = 400

# How what is wrong begins; what a build prints of its own, uv indents.
_BEGINS: Final = re.compile(r"(?:error: |\s{0,2}[\u00d7x] |E: |conda: |towline: the base image )")
_FRAME: Final = re.compile(r"^[\s\u2500-\u257f\u25b6`>|-]*(?:\u25b6|->)\s*|^\s*(?:cause|Caused by): ")
_PROGRESS: Final = re.compile(r"\s*(?:[+-] \S|(?:Resolved|Prepared|Installed|Building|Downloading|Using) )")

_NAMES: Final = (
    re.compile(r"Because (?P<name>[\w.\-]+(?:\[[\w,.\-]+\])?) was not found in"),
    re.compile(r"Because there (?:is|are) no versions? of (?P<name>[^\s]+(?:[<>=!~]=?\S+)?)"),
    re.compile(r"Because (?P<name>[\w.\-]+==\S+) (?:has no|depends on|needs)"),
    re.compile(r"Because you require (?P<name>.+?),? (?:we can conclude|and you require)"),
    re.compile(r"Failed to fetch: `?https?://\S+/(?P<name>[\w.\-]+)/?`?(?:\s|$)"),
    re.compile(
        r"Failed to (?:build|download and build|download|fetch|resolve)(?: distribution)?:? `(?P<name>[^`]+)`"
    ),
    re.compile(r"Couldn't parse requirement in `[^`]*` at position \d+ (?:cause: |Caused by: )?(?P<name>.+)"),
)
_SYSTEM_NAMES: Final = (
    re.compile(r"E: Unable to locate package (?P<name>\S+)(?P<why>)"),
    re.compile(r"E: Package '(?P<name>[^']+)' has (?P<why>no installation candidate)"),
    re.compile(r"E: Version '(?P<version>[^']+)' for '(?P<name>[^']+)' was (?P<why>not found)"),
)


class InstallLog:
    """Keeps of an installation's log what says how it failed: the last lines, and where it begins."""

    def __init__(self) -> None:
        self._tail = LogTail()
        self._rest = ""
        self._told: list[str] = []

    def feed(self, data: bytes) -> None:
        """Take what was printed next."""
        self._tail.feed(data)
        *lines, self._rest = (self._rest + data.decode(errors="replace")).split("\n")
        self._rest = self._rest[:_LONGEST_LINE]
        for line in lines:
            self._line(line[:_LONGEST_LINE])

    def failure(self) -> leases_pb2.AttemptResult:
        """Return the result of the attempt, once all is printed and the installation has failed."""
        if self._rest:
            self._line(self._rest)
            self._rest = ""
        return install_failure(self._tail.text(), "\n".join(self._told))

    def _line(self, line: str) -> None:
        if _BEGINS.match(line) and not (line.startswith("E: ") and self._told):
            self._told = [line]
        elif self._told and len(self._told) < _MOST_LINES:
            self._told.append(line)


@dataclass(frozen=True)
class _Said:
    what: str
    """What could not be installed, such as "requirement `x`"."""
    why: str
    remedy: str


def install_failure(log_tail: str, told: str = "") -> leases_pb2.AttemptResult:
    """Classify a failed installation, naming the requirement and the reason where they can be told.

    Args:
        log_tail: The last lines of its log.
        told: The lines that tell of the failure first, which need not be among these.
    """
    words = _flat(told or log_tail)
    said = _of_base_image(words) or _of_system(words) or _of_conda(words) or _of_python(words, log_tail)
    why = f": {_short(said.why)}" if said.why else ""
    message = f"The image could not be built: {said.what} cannot be installed{why}. {said.remedy}"
    return failed(runs_pb2.FAILURE_CAUSE_IMAGE_BUILD, message, log_tail)


def _of_base_image(words: str) -> _Said | None:
    if found := re.search(r"No interpreter found for Python ([\d.]+)", words):
        version = found[1]
        return _Said(
            f"Python {version}",
            f"the base image has no Python {version}, and this agent downloads none",
            "Take one that has it in the queue's template (image.base_image), or add "
            f"python{version} to the job's system packages where its distribution has that.",
        )
    if found := re.search(r"towline: (the base image .+?)(?:; (.+))?$", words):
        return _Said("the environment", found[1], _sentence(found[2] or "take another one"))
    return None


def _of_system(words: str) -> _Said | None:
    for pattern in _SYSTEM_NAMES:
        if found := pattern.search(words):
            version = found.groupdict().get("version")
            name = f"{found['name']}={version}" if version else found["name"]
            why = "its distribution has no such package" + (" in this version" if version else "")
            return _Said(f"system package `{name}`", why, "Correct the job's system packages.")
    if found := re.match(r"(?:error: )?E: (.+?)(?: E: .*)?$", words):
        remedy = "The build log says more; see that this agent's builds reach the package servers."
        return _Said("the job's system packages", found[1], remedy)
    return None


def _of_conda(words: str) -> _Said | None:
    if not words.startswith("conda: "):
        return None
    said = words.removeprefix("conda: ")
    name = re.search(r"No candidates were found for (\S+)", said)
    what = f"package `{name[1]}` of conda" if name else "the environment of conda"
    remedy = (
        "Correct environment.yml, or give this agent the channel that has it (TOWLINE_AGENT_CONDA_CHANNELS)."
    )
    return _Said(what, said, remedy)


def _of_python(words: str, log_tail: str) -> _Said:
    name = next(
        (match["name"].strip(" .,") for match in (each.search(words) for each in _NAMES) if match), ""
    )
    what = f"requirement `{name}`" if name else "one of the job's requirements"
    if "Git executable not found" in words:
        return _Said(
            what,
            "it comes from a git repository, and the base image has no git",
            "Name its whole commit in the requirements, or add git to the job's system packages.",
        )
    if found := re.search(r"Because (.+?),? we can conclude", words):
        hints = re.findall(r"hint: (.+?)(?= hint: |$)", words)
        why = ". ".join([found[1].removesuffix(f" and you require {name}"), *hints[:1]])
        remedy = "Correct the job's requirements, or give this agent an index that has them."
        # uv takes an index that lets nobody in for one without the package, and does not say so.
        login = " An index that wants a login has it from TOWLINE_AGENT_BUILD_EXTRA_INDEX_URLS."
        return _Said(what, why, f"{remedy}{login}" if "was not found in" in why else remedy)
    if "Failed to fetch" in words or "error sending request" in words:
        return _Said(what, _cause(words), _of_server(words))
    if re.search(r"(?:Failed to (?:download and )?build|build backend returned an error)", words):
        return _Said(
            what,
            f"it does not build: {_last(log_tail)}",
            "The build log says more; what it needs to build may be added as system packages.",
        )
    return _Said(
        what,
        _cause(words),
        "The build log says more; correct the job's requirements, or give this agent an index that has them.",
    )


def _of_server(words: str) -> str:
    if re.search(r"\b40[13]\b", words):
        return "Give this agent the login of that index (TOWLINE_AGENT_BUILD_EXTRA_INDEX_URLS)."
    if "certificate" in words:
        return "Give this agent the authority of that index (TOWLINE_AGENT_BUILD_CA_BUNDLE)."
    return "See that this agent's builds reach that index."


def _cause(words: str) -> str:
    """Return the first cause and the last, which says most."""
    causes = [cause.strip() for cause in re.split(r"\b(?:cause|Caused by): ", words) if cause.strip()]
    first = causes[0].removeprefix("error: ") if causes else ""
    if len(causes) < 2:
        return first
    first = causes[1] if first.startswith("Request failed") and len(causes) > 2 else first
    return f"{first}: {causes[-1]}"


def _last(log_tail: str) -> str:
    """Return the line of a failed build that most likely says why."""
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("hint: ") and not _PROGRESS.match(line)]
    fatal = [line for line in lines if "fatal error: " in line]
    return (fatal or lines[-1:] or [""])[0]


def _flat(text: str) -> str:
    """Return what uv prints over several lines, with frames of its own, as one line."""
    lines = [_FRAME.sub("cause: ", line).strip() for line in text.splitlines()]
    joined = re.sub(r"[\u2500-\u257f\u25b6\u00d7]+", " ", " ".join(lines))
    return re.sub(r"\s{2,}", " ", joined).strip()


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def _short(why: str) -> str:
    why = why.strip().rstrip(".:")
    return why if len(why) <= _LONGEST_WHY else f"{why[: _LONGEST_WHY - 1]}…"
