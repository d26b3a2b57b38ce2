"""Jobs of W&B as jobs of Towline.

    job = read_folder(Wanted(Path("wandb-job-folder")), load_yaml)
    with job.prepared(code=Path("code")) as prepared:
        digests = [client.blobs.upload(blob) for blob in prepared.blobs]
        client.jobs.create_version(job.name, prepared.spec(digests))

`job.notes` says what was repaired, and what could not be carried over.
"""

import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from towline.capture import remotes, wandb_folder
from towline.capture.images import Resolved
from towline.capture.wandb_code import Code, code_of, script_place
from towline.capture.wandb_defaults import defaults_in
from towline.capture.wandb_folder import Folder, Wanted, as_text
from towline.capture.wandb_job import JOB, ArtifactSource, ImageSource, RepoSource
from towline.capture.wandb_metadata import defaults_of
from towline.capture.wandb_notebooks import NOTEBOOK
from towline.capture.wandb_notes import Notes, wrong
from towline.capture.wandb_patch import PATCH, Patch
from towline.capture.wandb_requirements import FROZEN, Frozen, read_frozen
from towline.errors import InvalidArgument
from towline.runtime.wandb_program import COMMAND
from towline.v1 import jobs_pb2

__all__ = ["Import", "Prepared", "Wanted", "read_folder"]

_MOST_BYTES: Final = 64 * 1024 * 1024
_REQUIREMENTS: Final = "requirements.txt"
_IMPORTS_WANDB: Final = re.compile(rb"^\s*(import|from)\s+wandb\b", re.MULTILINE)

LoadYaml = Callable[[str, str], Any]
"""Reads a YAML or JSON text; the second argument says where it is from, for messages."""


@dataclass(frozen=True)
class Prepared:
    """A job that waits for its blobs."""

    blobs: tuple[Path | bytes, ...]
    """The source tree or the patch; empty for others."""
    spec: Callable[[Sequence[str]], jobs_pb2.JobSpec]
    """Gives the content of the version, from the digests of the blobs."""


class Import:
    """A job of W&B that was read. Made by `read_folder`."""

    def __init__(self, folder: Folder, without: Sequence[str], notes: Notes, load: LoadYaml) -> None:
        self.name = folder.name
        """Of the job of Towline."""
        self.notes = notes
        """What was repaired and left out; complete at the end of the block of `prepared`."""
        self._job, self._metadata = folder.job, folder.metadata
        self._frozen, self._patch = folder.frozen, folder.patch
        self._without = without
        self._load = load

    @contextmanager
    def prepared(
        self, code: Path | None, resolve_image: Callable[[str], Resolved] = Resolved
    ) -> Iterator[Prepared]:
        """Give what is to be uploaded, for the time of the block.

        Args:
            code: Folder with its code; None where W&B's commit or image is enough.
            resolve_image: Finds the digest of an image; by default none is looked for.

        Raises:
            InvalidArgument: Code is needed and not given, or given for an image; or see `code_of`.
            FailedPrecondition: See `code_of`.
        """
        source = self._job.source
        if code is not None and isinstance(source, ImageSource):
            raise InvalidArgument.field(
                "--code", "the job runs an image, which brings its code; leave it out"
            )
        if code is not None:
            with code_of(code, self._job.entrypoint, self._patch, self.notes) as found:
                yield self._from_code(found)
            return
        if isinstance(source, ArtifactSource):
            raise wrong(
                JOB,
                "source.artifact",
                f"W&B's server has the code, as {source.artifact}; download it and give its folder: --code",
            )
        if isinstance(source, RepoSource):
            yield self._from_commit(source)
            return
        try:
            found_image = resolve_image(source.reference)
        except InvalidArgument as error:
            raise wrong(JOB, "source.image", error.message.partition(": ")[2]) from None
        yield self._from_image(found_image)

    def _from_image(self, found: Resolved) -> Prepared:
        self.notes.leave_out(
            "source.image",
            "wandb.config has not the run's parameters: the file that TOWLINE_CONFIG names does",
        )
        if found.note:
            self.notes.leave_out("source.image", found.note)
        image = jobs_pb2.ImageSource(reference=found.reference, requested=found.requested)
        spec = self._spec(jobs_pb2.JobSpec(image=image))
        spec.entrypoint.extend(self._job.entrypoint)
        return Prepared((), lambda _: spec)

    def _from_commit(self, source: RepoSource) -> Prepared:
        try:
            remotes.resolve(source.remote, source.commit)  # a commit is not looked for
        except InvalidArgument:
            raise wrong(
                JOB,
                "source.git.remote",
                f"{source.remote!r} is no URL that agents fetch from; give the code with --code",
            ) from None
        if not self._frozen.requirements:
            self.notes.leave_out(
                FROZEN,
                "it is empty, and the code is not at hand, so nothing but Python is installed; name packages "
                "with --requirements FILE, or give the code with --code",
            )
        if any(word.endswith(NOTEBOOK) for word in self._job.entrypoint):
            self.notes.leave_out(
                "source.notebook",
                "Python does not run notebooks; give the code with --code, and a script is made of it",
            )
        for path in self._metadata.files:
            self.notes.leave_out(
                f"input_types.files.{path}", "its content is not at hand; give the code with --code"
            )
        if self._patch:
            _check_patch(self._patch)
        blobs = (self._patch.content,) if self._patch else ()

        def spec(digests: Sequence[str]) -> jobs_pb2.JobSpec:
            git = jobs_pb2.GitSource(
                remote=source.remote, commit=source.commit, patch_digest="".join(digests)
            )
            return self._spec(jobs_pb2.JobSpec(git=git), self._job.entrypoint, self._frozen)

        return Prepared(blobs, spec)

    def _from_code(self, code: Code) -> Prepared:
        for warning in code.warnings:
            self.notes.leave_out("--code", warning)
        with tarfile.open(code.archive) as tar:
            frozen = self._frozen if self._frozen.requirements else self._requirements_of(tar)
            files = {
                path: content
                for path in self._metadata.files
                if (content := self._config_file(tar, path)) is not None
            }
            defaults = self._defaults_of(tar, code.entrypoint)
        size_bytes = code.archive.stat().st_size

        def spec(digests: Sequence[str]) -> jobs_pb2.JobSpec:
            (digest,) = digests
            tree = jobs_pb2.CodeSource(digest=digest, size_bytes=size_bytes)
            made = self._spec(jobs_pb2.JobSpec(code=tree), code.entrypoint, frozen, files, defaults)
            if isinstance(self._job.source, RepoSource):
                made.provenance.git_commit = self._job.source.commit
                made.provenance.git_remote = self._job.source.remote
            return made

        return Prepared((code.archive,), spec)

    def _requirements_of(self, tar: tarfile.TarFile) -> Frozen:
        """Repair an empty list of packages: with the code's own, or with W&B itself if the code needs it."""
        frozen = Frozen()
        if (text := _read(tar, _REQUIREMENTS)) is not None:
            frozen = read_frozen(as_text(text), self._without, self.notes, file=_REQUIREMENTS)
            self.notes.repair(FROZEN, f"it is empty; {_REQUIREMENTS} of the code is installed")
        elif any(_IMPORTS_WANDB.search(text) for text in _python_files(tar)):
            frozen.requirements.append("wandb")
            self.notes.repair(
                FROZEN, "it is empty; wandb is installed, which the code imports, in its newest version"
            )
        if not frozen.requirements:
            self.notes.leave_out(
                FROZEN, "it is empty, so nothing but Python is installed; --requirements FILE names more"
            )
        return frozen

    def _defaults_of(self, tar: tarfile.TarFile, entrypoint: Sequence[str]) -> dict[str, Any]:
        """Give the parameters that stand in the script itself."""
        place = script_place(entrypoint)
        script = _read(tar, entrypoint[place]) if place is not None else None
        found = defaults_in(script, self._schema) if script else {}
        if found and place is not None:
            self.notes.repair(
                "input_types", f"the defaults of {', '.join(found)} are those in {entrypoint[place]}"
            )
        return found

    @property
    def _schema(self) -> Mapping[str, Any]:
        return self._metadata.input_schema or self._job.input_schema

    def _config_file(self, tar: tarfile.TarFile, path: str) -> Any:
        place = f"input_types.files.{path}"
        data = _read(tar, path) if path.endswith((".json", ".yaml", ".yml")) else None
        if data is None:
            self.notes.leave_out(place, "the code has no such JSON or YAML file")
            return None
        content = self._load(as_text(data), f"--code {path}")
        if not isinstance(content, dict):
            self.notes.leave_out(place, "the file does not hold an object, so its keys cannot be set")
            return None
        return content

    def _spec(
        self,
        spec: jobs_pb2.JobSpec,
        entrypoint: Sequence[str] = (),
        frozen: Frozen | None = None,
        files: Mapping[str, Any] | None = None,
        written: Mapping[str, Any] | None = None,
    ) -> jobs_pb2.JobSpec:
        schema = dict(self._schema)
        defaults = {**(written or {}), **defaults_of(schema)}
        for path, content in (files or {}).items():
            key = _key(path, {*defaults, *schema.get("properties", {})})
            schema["properties"] = {**schema.get("properties", {}), key: self._metadata.files[path]}
            defaults[key] = content
            spec.config_files.add(path=path, key=key)
        spec.input_schema_json = json.dumps(schema)
        spec.config_json = json.dumps(defaults)
        result = self._job.result_schema or self._metadata.result_schema
        if result is not None:
            spec.provenance.result_schema_json = json.dumps(result)
        if frozen is not None:
            spec.entrypoint.extend((*COMMAND, *entrypoint))
            spec.python.version = self._job.python
            spec.python.requirements.extend(frozen.requirements)
            spec.python.extra_index_urls.extend(frozen.extra_index_urls)
        return spec


def read_folder(wanted: Wanted, load_yaml: LoadYaml) -> Import:
    """Read a job as W&B's SDK wrote it; see `wandb_folder.read`."""
    notes = Notes()
    return Import(wandb_folder.read(wanted, notes), wanted.without, notes, load_yaml)


def _check_patch(patch: Patch) -> None:
    with tempfile.TemporaryDirectory(prefix="towline-wandb-") as folder:
        file = Path(folder, PATCH)
        file.write_bytes(patch.content)
        try:
            remotes.check_patch(file)
        except InvalidArgument as error:
            raise wrong(PATCH, "", error.message.partition(": ")[2]) from None


def _read(tar: tarfile.TarFile, path: str) -> bytes | None:
    try:
        file = tar.extractfile(path)
    except KeyError:
        return None
    return file.read(_MOST_BYTES) if file is not None else None


def _python_files(tar: tarfile.TarFile) -> Iterator[bytes]:
    for member in tar:
        file = tar.extractfile(member) if member.name.endswith(".py") else None
        if file is not None:
            yield file.read(_MOST_BYTES)


def _key(path: str, taken: set[str]) -> str:
    """Name the parameter that holds a file: "model" for conf/model.yaml; the path where that is taken."""
    stem = path.rpartition("/")[2].rpartition(".")[0]
    return path if stem in taken else stem
