"""What makes a job's content: its checks, its complete form, its digest."""

import re
from typing import Final
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement

from towline.errors import InvalidArgument
from towline.v1.jobs_pb2 import JobSpec, PythonEnvironment
from towline_registry.core import digests, json_objects, schemas, texts

__all__ = ["completed", "digest_of"]

MAX_ARGUMENTS: Final = 1000
MAX_ARGUMENT_CHARACTERS: Final = 32 * 1024
MAX_REQUIREMENTS: Final = 5000
MAX_REQUIREMENT_CHARACTERS: Final = 1024
MAX_INDEXES: Final = 16
MAX_GPUS: Final = 1024
MAX_PROVENANCE_CHARACTERS: Final = 1024

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PYTHON: Final = re.compile(r"3\.(0|[1-9][0-9]?)(\.(0|[1-9][0-9]?))?")
_VCS: Final = re.compile(r"(git|hg|svn|bzr)\+")
_WEB: Final = frozenset({"http", "https"})
_FETCHED: Final = _WEB | {"ssh", "git", "file"}

# As the reference grammar of the container registries has it: [host[:port]/]name[:tag][@digest].
_IMAGE_HOST: Final = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_IMAGE_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?:{_IMAGE_HOST}/)?{_IMAGE_PART}(?:/{_IMAGE_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


def completed(spec: JobSpec) -> JobSpec:
    """Check a spec and fill in what may be left out: the parameters and their schema.

    Raises:
        InvalidArgument: A field is missing, wrong or out of bounds; it is named as "spec.…".
    """
    made = JobSpec()
    made.CopyFrom(spec)
    _check_source(made)
    _check_entrypoint(made)
    if made.HasField("python"):
        _check_python(made.python)
    if not 0 <= made.hints.gpus <= MAX_GPUS:
        raise InvalidArgument.field("spec.hints.gpus", f"{made.hints.gpus} is not within 0 to {MAX_GPUS}")
    _check_provenance(made)
    _complete_parameters(made)
    return made


def digest_of(spec: JobSpec) -> digests.Digest:
    """Digest what is run: a completed spec without its provenance, its JSON texts in canonical form."""
    content = JobSpec()
    content.CopyFrom(spec)
    content.ClearField("provenance")
    content.config_json = json_objects.canonical(json_objects.read(spec.config_json, "spec.config_json"))
    content.input_schema_json = json_objects.canonical(
        json_objects.read(spec.input_schema_json, "spec.input_schema_json")
    )
    return digests.of(content.SerializeToString(deterministic=True))


def _check_source(spec: JobSpec) -> None:
    match spec.WhichOneof("source"):
        case "code":
            digests.checked(spec.code.digest, "spec.code.digest")
            if not 0 <= spec.code.size_bytes <= digests.MAX_BLOB_BYTES:
                raise InvalidArgument.field("spec.code.size_bytes", "it is not within 0 to 1 TiB")
        case "git":
            if not spec.git.remote:
                raise InvalidArgument.field("spec.git.remote", "give the URL of the repository")
            texts.without_credentials(spec.git.remote, "spec.git.remote", _FETCHED, scp_like=True)
            if not _COMMIT.fullmatch(spec.git.commit):
                raise InvalidArgument.field(
                    "spec.git.commit",
                    f"{spec.git.commit[:80]!r} is no commit id; resolve it to 40 or 64 lower-case hex digits",
                )
            if spec.git.subfolder:
                texts.relative_path(spec.git.subfolder, "spec.git.subfolder")
        case "image":
            if len(spec.image.reference) > 512 or not _IMAGE.fullmatch(spec.image.reference):
                raise InvalidArgument.field(
                    "spec.image.reference",
                    f"{spec.image.reference[:80]!r} is no image reference; write [host/]name[:tag][@digest]",
                )
        case _:
            raise InvalidArgument.field("spec.source", "set one of code, git and image")


def _check_entrypoint(spec: JobSpec) -> None:
    from_image = spec.WhichOneof("source") == "image"
    if not from_image and not (spec.entrypoint and spec.entrypoint[0]):
        raise InvalidArgument.field("spec.entrypoint", 'give the command, such as ["python", "train.py"]')
    if len(spec.entrypoint) > MAX_ARGUMENTS:
        raise InvalidArgument.field("spec.entrypoint", f"at most {MAX_ARGUMENTS} arguments are taken")
    for argument in spec.entrypoint:
        texts.bounded(argument, "spec.entrypoint", MAX_ARGUMENT_CHARACTERS)
    if sum(map(len, spec.entrypoint)) > MAX_ARGUMENT_CHARACTERS:
        raise InvalidArgument.field(
            "spec.entrypoint", f"at most {MAX_ARGUMENT_CHARACTERS} characters are taken; put more into a file"
        )
    if spec.working_dir:
        if from_image:
            raise InvalidArgument.field("spec.working_dir", "an image has no source tree; leave it empty")
        texts.relative_path(spec.working_dir, "spec.working_dir")
    if from_image and spec.HasField("python"):
        raise InvalidArgument.field("spec.python", "an image brings its own environment; leave it unset")


def _check_python(python: PythonEnvironment) -> None:
    if not _PYTHON.fullmatch(python.version):
        raise InvalidArgument.field(
            "spec.python.version",
            f'{python.version[:40]!r} is no version of Python 3; write "3.11" or "3.11.7"',
        )
    if len(python.requirements) > MAX_REQUIREMENTS:
        raise InvalidArgument.field("spec.python.requirements", f"at most {MAX_REQUIREMENTS} are taken")
    for requirement in python.requirements:
        _check_requirement(requirement, "spec.python.requirements")
    if len(python.extra_index_urls) > MAX_INDEXES:
        raise InvalidArgument.field("spec.python.extra_index_urls", f"at most {MAX_INDEXES} are taken")
    for url in python.extra_index_urls:
        texts.without_credentials(url, "spec.python.extra_index_urls", _WEB)


def _check_requirement(text: str, field: str) -> None:
    texts.bounded(text, field, MAX_REQUIREMENT_CHARACTERS)
    if not text.isprintable():
        raise InvalidArgument.field(field, f"{text[:80]!r} is more than one line; give one requirement each")
    try:
        url = Requirement(text).url
    except InvalidRequirement as error:
        raise InvalidArgument.field(
            field, f"{text[:80]!r} is not as PEP 508 has it: {str(error).splitlines()[0]}"
        ) from None
    if url:
        bare = _VCS.sub("", url, count=1)
        scheme = urlsplit(bare).scheme
        texts.without_credentials(bare, field, _FETCHED if scheme in _FETCHED else {scheme})


def _check_provenance(spec: JobSpec) -> None:
    for part in ("git_commit", "git_remote", "git_branch", "platform"):
        texts.bounded(getattr(spec.provenance, part), f"spec.provenance.{part}", MAX_PROVENANCE_CHARACTERS)
    remote = spec.provenance.git_remote
    if "://" in remote:  # a path or a name of this machine is as good as any to people
        texts.without_credentials(remote, "spec.provenance.git_remote", {urlsplit(remote).scheme})


def _complete_parameters(spec: JobSpec) -> None:
    spec.config_json = spec.config_json or "{}"
    config = json_objects.read(spec.config_json, "spec.config_json")
    if not spec.input_schema_json:
        spec.input_schema_json = json_objects.canonical(schemas.derived(config))
    else:
        schemas.check(spec.input_schema_json, config)
