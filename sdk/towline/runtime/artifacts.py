"""Artifacts of a run: those it reads, and those it logs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from towline import errors
from towline.errors import FailedPrecondition, Internal, InvalidArgument, NotFound
from towline.runtime import environment
from towline.runtime.config import jsonable
from towline.runtime.saying import say
from towline.runtime.spool import append_use

__all__ = ["FILES", "MANIFEST", "is_utf8", "log", "manifest", "use"]

MANIFEST: Final = "manifest.json"
FILES: Final = "files"
_MOST_METADATA_BYTES: Final = 64 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LETTERS: Final = "letters, digits, '_', '.', '-', at most 128, not beginning with '.' or '-'"
_TYPE: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_FETCHER: Final = "import sys; sys.path.append({!r}); from towline.capture.fetching import main; main()"
_CLONE: Final = 0x40049409  # FICLONE: a copy that shares its blocks, where the file system can


def use(artifact: str, name: str | None, spool: Path | None) -> Path:
    """Give the folder with the files of an artifact that this program reads; see Run.use_artifact.

    Args:
        artifact: "NAME:VERSION", "NAME:ALIAS" or a whole resource name.
        name: What the recorded job calls it; None: as the artifact.
        spool: Folder of the recording, if there is one.
    """
    parent, version = _parsed(artifact)
    if name is not None:
        _check_name("name", name)
    if os.environ.get(environment.CONFIG):
        return _mounted(parent, version, name)
    folder, found = _fetched(parent, version)
    if spool:
        try:
            append_use(spool, {"name": name or parent, "artifact": found})
        except OSError as error:
            say(f"that {parent} was read is not recorded: {error}")
    return folder


def _parsed(artifact: str) -> tuple[str, str]:
    """Split "digits:v0", "digits" or "artifacts/digits/versions/v0" into artifact and version or alias."""
    whole = re.fullmatch(r"artifacts/([^/]+)(?:/versions/([^/]+))?", artifact)
    parent, version = (whole[1], whole[2]) if whole else artifact.partition(":")[::2]
    version = version or "latest"
    if not _NAME.fullmatch(parent) or not _NAME.fullmatch(version):
        raise InvalidArgument.field(
            "artifact", f"{artifact!r} names no artifact; write NAME:VERSION or NAME:ALIAS ({_LETTERS}, each)"
        )
    return parent, version


def _check_name(field: str, name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument.field(field, f"{name!r} is no name; use {_LETTERS}")


def _mounted(parent: str, version: str, name: str | None) -> Path:
    """Find an input of the run: by its name, else by the artifact it is."""
    inputs = _inputs()
    found = name or (parent if parent in inputs else None)
    if found is None:
        reading = [each for each, artifact in inputs.items() if artifact.split("/")[1:2] == [parent]]
        found = reading[0] if reading else parent
    if found not in inputs:
        there = ", ".join(f"{each} ({artifact})" for each, artifact in sorted(inputs.items())) or "none"
        raise NotFound(
            f"{found!r} is no input of this run; its inputs: {there}. Add it when you submit: "
            f"towline submit … --input {found}={parent}:{version}",
            reason="INPUT_NOT_FOUND",
            metadata={"input": found},
        )
    return Path(os.environ[environment.INPUTS]) / found


def _inputs() -> dict[str, str]:
    file = os.environ.get(environment.INPUTS_FILE)
    if not file or not os.environ.get(environment.INPUTS):
        return {}
    try:
        inputs: dict[str, str] = json.loads(Path(file).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FailedPrecondition(
            f"{environment.INPUTS_FILE} names {file}, which cannot be read as the run's inputs: {error}",
            reason="INPUTS_UNREADABLE",
        ) from error
    return inputs


def _fetched(parent: str, version: str) -> tuple[Path, str]:
    """Have a process of its own bring a version into the cache: grpc stays out of this one."""
    asked = {
        "artifact": f"artifacts/{parent}/versions/{version}",
        "cache": str(environment.cache_folder()),
        "paths": [path for path in sys.path if path],
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", _FETCHER.format(str(Path(__file__).parents[2]))],
        input=json.dumps(asked).encode(),
        stdout=subprocess.PIPE,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise Internal(
            f"the download of {parent}:{version} ended with exit code {done.returncode} and no answer",
            reason="FETCH_FAILED",
        ) from None
    if problem := answer.get("error"):
        raise getattr(errors, problem["kind"])(problem["message"], reason=problem["reason"])
    return Path(answer["folder"]), answer["artifact"]


def manifest(
    name: str, type: str, aliases: Sequence[str], metadata: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Make what is said of an artifact that a run logs.

    Raises:
        InvalidArgument: Something of it cannot be; the message names the argument.
    """
    given = [aliases] if isinstance(aliases, str) else list(aliases)
    _check_name("name", name)
    for alias in given:
        _check_name("aliases", alias)
    if not isinstance(type, str) or not _TYPE.fullmatch(type):
        raise InvalidArgument.field(
            "type", f"{type!r} is no lower-case word of at most 63 characters; write 'model', say"
        )
    return {"name": name, "type": type, "aliases": given, "metadata": _metadata(metadata)}


def log(path: Path, said: Mapping[str, Any], target: Path | None) -> None:
    """Copy a file or folder to where it is made an artifact when the run has ended; see Run.log_artifact.

    Args:
        path: File or folder.
        said: See `manifest`.
        target: Folder of the artifacts that the run logs; None: nobody keeps them.
    """
    if not path.exists():
        raise InvalidArgument.field("path", f"there is no {path}; give a file or a folder that exists")
    if target is None or not target.parent.is_dir():  # nobody keeps it; where somebody did, that was said
        return
    try:
        _leave(path, target, said)
    except OSError as error:
        say(f"the artifact {said['name']} is not kept: {error}")


def _metadata(metadata: Mapping[str, Any] | None) -> Any:
    try:
        plain = jsonable({} if metadata is None else metadata)
    except Exception:  # whatever its values' own code raises
        plain = None
    if not isinstance(plain, dict):
        raise InvalidArgument.field(
            "metadata", "JSON cannot hold it; give a dict of text, numbers, lists and dicts"
        )
    if len(json.dumps(plain)) > _MOST_METADATA_BYTES:
        raise InvalidArgument.field(
            "metadata", f"is more than {_MOST_METADATA_BYTES} bytes as JSON; log a file instead"
        )
    return plain


def _leave(path: Path, target: Path, said: Mapping[str, Any]) -> None:
    import shutil  # noqa: PLC0415 - slow to import, and most programs log nothing

    folder = _numbered(target)
    try:
        for relative, source in _files(path):
            place = folder / FILES / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            _copy(source, place)
        new = folder / f"{MANIFEST}.new"
        new.write_text(json.dumps(said), encoding="utf-8")
        new.replace(folder / MANIFEST)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _numbered(target: Path) -> Path:
    target.mkdir(exist_ok=True)
    number = sum(1 for _ in target.iterdir())
    while True:
        folder = target / str(number)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            (folder / FILES).mkdir()
            return folder


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """List files, and links to files, with their places in the artifact."""
    if path.is_file():
        yield path.name, path
        return
    for folder, _, names in os.walk(path):
        for each in names:
            source = Path(folder, each)
            relative = str(source.relative_to(path))
            if not source.is_file():
                say(f"{source} is not kept: only files and folders are")
            elif not is_utf8(relative):
                say(f"{relative!r} is not kept: its name is not UTF-8")
            else:
                yield relative, source


def is_utf8(path: str) -> bool:
    """Whether a path, as the operating system gave it, is UTF-8: artifacts name files by nothing else."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _copy(source: Path, place: Path) -> None:
    import fcntl  # noqa: PLC0415 - as shutil
    import shutil  # noqa: PLC0415 - likewise

    with source.open("rb") as read, place.open("wb") as write:
        try:
            fcntl.ioctl(write.fileno(), _CLONE, read.fileno())
        except OSError:
            shutil.copyfileobj(read, write, 1024 * 1024)
    place.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
