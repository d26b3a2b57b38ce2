"""A project's Dockerfile, as far as must be known before it is built, and its ignore file."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from e2b_dockerfile_utils import (
    DockerfileInstruction,
    DockerfileSyntaxError,
    PatternMatcher,
    ShellLex,
    parse_dockerfile_ast,
)

from towline.errors import InvalidArgument, NotFound
from towline.requests.dockerfiles import MAX_ARG_CHARACTERS
from towline.v1 import jobs_pb2
from towline_agent.core.locks import Find

__all__ = ["BuildKey", "Dockerfile", "ignored", "read"]

# Rises when what is handed to the engine changes in a way that changes images.
_RECIPE_VERSION: Final = 1
_MOST_LINE: Final = 120
_SCRATCH: Final = "scratch"  # the empty image, which has no name in any registry
_OF_BUILDKIT: Final = {
    "RUN": ("mount", "network", "security", "device"),
    "COPY": ("link", "chmod", "parents", "exclude"),
    "ADD": ("link", "chmod", "checksum", "keep-git-dir", "exclude", "unpack"),
}


@dataclass(frozen=True)
class Dockerfile:
    """What a Dockerfile needs."""

    bases: tuple[str, ...]
    """References of the images that it starts from or copies from, each once, in its order."""
    secrets: tuple[str, ...]
    """Ids of the secrets that its steps mount, whether they insist on them or not, sorted."""
    needs_buildkit: str
    """The first thing in it that only BuildKit understands, for people; empty: there is none."""


@dataclass(frozen=True)
class BuildKey:
    """Everything that goes into an image that is built with a Dockerfile."""

    dockerfile: str
    """Its text."""
    context: str
    """sha256 of the context, "sha256:…"."""
    build_args: Mapping[str, str]
    target: str
    bases: Mapping[str, str]
    """Reference → id on the node."""
    platform: str
    """Such as "linux/amd64"."""
    recipe: int = _RECIPE_VERSION

    def digest(self) -> str:
        """Return 64 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Stage:
    name: str
    """Lower-case; empty: it has only its number."""
    bases: list[str]


def read(text: str, build: jobs_pb2.DockerfileBuild, platform: str) -> Dockerfile:
    """Read a Dockerfile, up to the stage that is wanted.

    Args:
        text: Its text.
        build: Where it lies, its build arguments and the stage.
        platform: What it is built for and on, such as "linux/amd64".

    Raises:
        InvalidArgument: It is no Dockerfile (reason INVALID_DOCKERFILE), or has no such stage; the message
            names the line.
    """
    try:
        instructions = parse_dockerfile_ast(text).instructions
    except (DockerfileSyntaxError, RecursionError) as error:
        # Its words are "Dockerfile parse error on line 3: …".
        raise _wrong(build.path, str(error).removeprefix("Dockerfile parse error").lstrip(": ")) from None
    reading = _Reading(build, platform)
    for instruction in instructions:
        reading.take(instruction)
        if reading.is_beyond_target:
            break
    return reading.result()


def ignored(dockerfile: str, find: Find) -> Callable[[str], bool]:
    """Return what tells whether a path of the source tree is left out of the context, as for Docker's client.

    Args:
        dockerfile: Path of the Dockerfile; the ignore file beside it goes over that in the tree's root.
        find: Reads a file of the source tree, see `source_files.reading`.

    Raises:
        InvalidArgument: A pattern is none; the message names the file.
    """
    for path in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            lines = find(path).decode("utf-8-sig", errors="surrogateescape").splitlines()
        except NotFound:
            continue
        try:
            return PatternMatcher(lines).matches
        except ValueError as error:
            raise _wrong(path, str(error)) from None
    return lambda _: False


class _Reading:
    """What was read of a Dockerfile so far."""

    def __init__(self, build: jobs_pb2.DockerfileBuild, platform: str) -> None:
        self._build = build
        self._arguments = _of_platform(platform)
        self._stages: list[_Stage] = []
        self._secrets: set[str] = set()
        self._needs_buildkit = ""

    @property
    def is_beyond_target(self) -> bool:
        """Whether the stage after the wanted one has begun; it was not taken in."""
        wanted = self._wanted()
        return wanted is not None and len(self._stages) > wanted + 1

    def take(self, instruction: DockerfileInstruction) -> None:
        match instruction.name:
            case "ARG" if not self._stages:
                self._declare(instruction)
            case "FROM":
                self._begin(instruction)
            case "RUN" | "COPY" | "ADD" if self._stages:
                self._step(instruction)

    def result(self) -> Dockerfile:
        if not self._stages:
            raise _wrong(self._build.path, "it has no FROM")
        last = self._wanted()
        if last is None or last >= len(self._stages):
            names = ", ".join(stage.name or str(at) for at, stage in enumerate(self._stages))
            raise _wrong(self._build.path, f"it has no stage {self._build.target!r}; it has {names}")
        bases = (base for stage in self._stages[: last + 1] for base in stage.bases)
        found = (base for base in dict.fromkeys(bases) if base != _SCRATCH)
        return Dockerfile(tuple(found), tuple(sorted(self._secrets)), self._needs_buildkit)

    def _wanted(self) -> int | None:
        """Return the number of the wanted stage; None: it has not come yet."""
        target = self._build.target.lower()
        if not target:
            return len(self._stages) - 1
        numbers = (at for at, stage in enumerate(self._stages) if stage.name == target)
        return next(numbers, int(target) if target.isdecimal() else None)

    def _declare(self, instruction: DockerfileInstruction) -> None:
        for word in instruction.args:
            name, equals, default = word.partition("=")
            if name in self._build.build_args:
                self._arguments[name] = self._build.build_args[name]
            elif equals:
                self._arguments[name] = self._filled(default, instruction)

    def _begin(self, instruction: DockerfileInstruction) -> None:
        words = instruction.args
        reference = self._filled(words[0], instruction) if words else ""
        if not reference:
            raise _wrong(
                self._build.path,
                f"line {instruction.start_line}: {_short(instruction.original)} names no image; give the "
                "build argument that it takes, or a default (ARG NAME=VALUE)",
            )
        name = words[2].lower() if len(words) == 3 else ""
        self._stages.append(_Stage(name, [] if self._is_stage(reference) else [reference]))

    def _step(self, instruction: DockerfileInstruction) -> None:
        flags = [flag.removeprefix("--").partition("=")[::2] for flag in instruction.flags]
        only_buildkit = (f"--{name}" for name, _ in flags if name in _OF_BUILDKIT[instruction.name])
        need = next(only_buildkit, "<<" if instruction.heredocs else "")
        if need and not self._needs_buildkit:
            self._needs_buildkit = f"{instruction.name} {need} (line {instruction.start_line})"
        for name, value in flags:
            options = _options(value) if name == "mount" else {"from": value if name == "from" else ""}
            self._copies_from(options.get("from", ""))
            if options.get("type") == "secret":
                # As BuildKit names one that has no id: by the file that it becomes.
                path = options.get("target") or options.get("dst") or options.get("destination") or ""
                self._secrets.add(options.get("id") or path.rpartition("/")[2])

    def _copies_from(self, source: str) -> None:
        # One with a variable cannot be known before; BuildKit alone takes those, and gets the image itself.
        if source and "$" not in source and not source.isdecimal() and not self._is_stage(source):
            self._stages[-1].bases.append(source)

    def _is_stage(self, reference: str) -> bool:
        return any(stage.name == reference.lower() for stage in self._stages)

    def _filled(self, word: str, instruction: DockerfileInstruction) -> str:
        filled = word
        if len(word) <= MAX_ARG_CHARACTERS:
            try:
                filled = ShellLex("\\", env=self._arguments, skip_unset_env=False).process_word(word)
            except (ValueError, RecursionError) as error:
                raise _wrong(self._build.path, f"line {instruction.start_line}: {error}") from None
        # Each can have several of those before it, so that a few lines would fill the agent's memory.
        if len(filled) > MAX_ARG_CHARACTERS:
            problem = f"a value of more than {MAX_ARG_CHARACTERS} characters; shorten it"
            raise _wrong(self._build.path, f"line {instruction.start_line}: {problem}")
        return filled


def _of_platform(platform: str) -> dict[str, str]:
    """Return the arguments that BuildKit sets by itself."""
    os, architecture, variant = [*platform.split("/"), "", ""][:3]
    parts = {"PLATFORM": platform, "OS": os, "ARCH": architecture, "VARIANT": variant}
    return {f"{which}{name}": value for which in ("BUILD", "TARGET") for name, value in parts.items()}


def _options(text: str) -> dict[str, str]:
    """Read the options of a mount, such as "type=secret,id=token,required"."""

    def pairs() -> Iterator[tuple[str, str]]:
        for option in text.split(","):
            name, _, value = option.partition("=")
            yield name.strip().lower(), value.strip()

    return dict(pairs())


def _short(line: str) -> str:
    return line if len(line) <= _MOST_LINE else line[: _MOST_LINE - 1] + "…"


def _wrong(path: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {problem}", reason="INVALID_DOCKERFILE")
