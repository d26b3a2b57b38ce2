"""What makes a job's content: its checks, its complete form, its digest."""

import re
from typing import Final
from urllib.parse import urlsplit

from towline.errors import InvalidArgument
from towline.requests import dockerfiles
from towline.requests.system import is_platform
from towline.v1.jobs_pb2 import JobSpec, Provenance
from towline_registry.core import digests, environments, json_objects, parameters, schemas, texts
from towline_registry.core.findings import Findings

__all__ = ["blobs_of", "completed", "digest_of"]

MAX_ARGUMENTS: Final = 1000
MAX_ARGUMENT_CHARACTERS: Final = 32 * 1024
MAX_IMAGE_CHARACTERS: Final = 512
MAX_GPUS: Final = 1024
MAX_PROVENANCE_CHARACTERS: Final = 1024
MAX_CPUS: Final = 1024**2
MAX_MEMORY_BYTES: Final = 1024**5

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

# As the reference grammar of the container registries has it: [host[:port]/]name[:tag][@digest].
_IMAGE_HOST: Final = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_IMAGE_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?:{_IMAGE_HOST}/)?{_IMAGE_PART}(?:/{_IMAGE_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


def completed(spec: JobSpec) -> JobSpec:
    """Check a spec and fill in what may be left out: the parameters and their schema.

    What has no order is sorted: inputs, configuration files, wheels, editable folders, system
    packages, extras of the lock.

    Raises:
        InvalidArgument: Fields are missing, wrong or out of bounds; all are named as "spec.…".
            See `Findings.check`.
    """
    made = JobSpec()
    made.CopyFrom(spec)
    findings = Findings()
    _check_source(made, findings)
    with findings.gathering():
        _check_entrypoint(made)
    if made.working_dir:
        _check_working_dir(made, findings)
    if made.HasField("python"):
        _check_python(made, findings)
    if made.platform and not is_platform(made.platform):
        findings.add(
            "spec.platform",
            f"{made.platform[:80]!r} is no platform; write {{os}}/{{architecture}}, such as linux/amd64",
        )
    if made.HasField("dockerfile"):
        _check_dockerfile(made, findings)
    if not 0 <= made.hints.gpus <= MAX_GPUS:
        findings.add("spec.hints.gpus", f"{made.hints.gpus} is not within 0 to {MAX_GPUS}")
    _check_provenance(made.provenance, findings)
    parameters.complete(made, findings)
    findings.check()
    _sort(made)
    return made


def digest_of(spec: JobSpec) -> digests.Digest:
    """Digest what is run: a completed spec without what is only told to people.

    That is its provenance and the reference that its image was resolved from. The JSON texts are in canonical
    form.
    """
    content = JobSpec()
    content.CopyFrom(spec)
    content.ClearField("provenance")
    if content.WhichOneof("source") == "image":
        content.image.ClearField("requested")
    content.config_json = json_objects.canonical(json_objects.read(spec.config_json, "spec.config_json"))
    content.input_schema_json = json_objects.canonical(
        json_objects.read(spec.input_schema_json, "spec.input_schema_json")
    )
    return digests.of(content.SerializeToString(deterministic=True))


def blobs_of(spec: JobSpec) -> set[digests.Digest]:
    """Give all blobs that a completed spec needs."""
    found = {wheel.digest for wheel in spec.python.wheels} | {spec.code.digest, spec.git.patch_digest}
    return {digests.Digest(digest) for digest in found if digest}


def _check_source(spec: JobSpec, findings: Findings) -> None:
    match spec.WhichOneof("source"):
        case "code":
            with findings.gathering():
                digests.checked(spec.code.digest, "spec.code.digest")
            if not 0 <= spec.code.size_bytes <= digests.MAX_BLOB_BYTES:
                findings.add("spec.code.size_bytes", "it is not within 0 to 1 TiB")
        case "git":
            _check_git(spec, findings)
        case "image":
            _check_image(spec.image.reference, "spec.image.reference", findings)
            if spec.image.requested:
                _check_image(spec.image.requested, "spec.image.requested", findings)
        case _:
            findings.add("spec.source", "set one of code, git and image")


def _check_git(spec: JobSpec, findings: Findings) -> None:
    git = spec.git
    with findings.gathering():
        if not git.remote:
            raise InvalidArgument.field("spec.git.remote", "give the URL of the repository")
        texts.without_credentials(git.remote, "spec.git.remote", environments.FETCHED, scp_like=True)
    if not _COMMIT.fullmatch(git.commit):
        findings.add(
            "spec.git.commit",
            f"{git.commit[:80]!r} is no commit id; resolve it to 40 or 64 lower-case hex digits",
        )
    with findings.gathering():
        if git.subfolder:
            texts.relative_path(git.subfolder, "spec.git.subfolder")
    with findings.gathering():
        if git.patch_digest:
            digests.checked(git.patch_digest, "spec.git.patch_digest")


def _check_image(reference: str, field: str, findings: Findings) -> None:
    if len(reference) > MAX_IMAGE_CHARACTERS or not _IMAGE.fullmatch(reference):
        findings.add(field, f"{reference[:80]!r} is no image reference; write [host/]name[:tag][@digest]")


def _check_entrypoint(spec: JobSpec) -> None:
    if spec.WhichOneof("source") in ("code", "git") and not (spec.entrypoint and spec.entrypoint[0]):
        raise InvalidArgument.field("spec.entrypoint", 'give the command, such as ["python", "train.py"]')
    if len(spec.entrypoint) > MAX_ARGUMENTS:
        raise InvalidArgument.field("spec.entrypoint", f"at most {MAX_ARGUMENTS} arguments are taken")
    for argument in spec.entrypoint:
        texts.bounded(argument, "spec.entrypoint", MAX_ARGUMENT_CHARACTERS)
    if sum(map(len, spec.entrypoint)) > MAX_ARGUMENT_CHARACTERS:
        raise InvalidArgument.field(
            "spec.entrypoint", f"at most {MAX_ARGUMENT_CHARACTERS} characters are taken; put more into a file"
        )


def _check_working_dir(spec: JobSpec, findings: Findings) -> None:
    if _from_image(spec):
        findings.add("spec.working_dir", "an image has no source tree; leave it empty")
    with findings.gathering():
        texts.relative_path(spec.working_dir, "spec.working_dir")


def _check_python(spec: JobSpec, findings: Findings) -> None:
    if _from_image(spec):
        findings.add("spec.python", "an image brings its own environment; leave it unset")
    else:
        environments.check(spec.python, findings)


def _check_dockerfile(spec: JobSpec, findings: Findings) -> None:
    if _from_image(spec):
        findings.add("spec.dockerfile", "an image is built already; leave it unset")
    if not spec.dockerfile.path:
        findings.add("spec.dockerfile.path", "name the Dockerfile in the source tree")
    for field, problem in dockerfiles.problems(spec.dockerfile):
        findings.add(f"spec.dockerfile.{field}", problem)


def _check_provenance(provenance: Provenance, findings: Findings) -> None:
    for part in ("git_commit", "git_remote", "git_branch", "platform"):
        _check_text(getattr(provenance, part), f"spec.provenance.{part}", findings)
    if "://" in provenance.git_remote:  # a path or a name of this machine is as good as any to people
        with findings.gathering():
            scheme = urlsplit(provenance.git_remote).scheme
            texts.without_credentials(provenance.git_remote, "spec.provenance.git_remote", {scheme})
    with findings.gathering():
        if provenance.result_schema_json:
            schemas.read(provenance.result_schema_json, "spec.provenance.result_schema_json")
    system = provenance.system
    for part in ("os", "cpu", "driver_version", "cuda_version", "python"):
        _check_text(getattr(system, part), f"spec.provenance.system.{part}", findings)
    for part, most in (("cpu_count", MAX_CPUS), ("memory_bytes", MAX_MEMORY_BYTES)):
        if not 0 <= getattr(system, part) <= most:
            findings.add(f"spec.provenance.system.{part}", f"it is not within 0 to {most}")
    if len(system.gpus) > MAX_GPUS:
        findings.add("spec.provenance.system.gpus", f"at most {MAX_GPUS} are taken")
    for gpu in system.gpus[:MAX_GPUS]:
        _check_text(gpu, "spec.provenance.system.gpus", findings)


def _check_text(text: str, field: str, findings: Findings) -> None:
    with findings.gathering():
        texts.bounded(text, field, MAX_PROVENANCE_CHARACTERS)


def _sort(spec: JobSpec) -> None:
    spec.inputs.sort(key=lambda each: each.name)
    spec.config_files.sort(key=lambda file: file.path)
    if spec.HasField("python"):
        spec.python.wheels.sort(key=lambda wheel: wheel.filename)
        spec.python.editables.sort()
        spec.python.system_packages.sort()
        if spec.python.HasField("lock"):
            spec.python.lock.extras.sort()


def _from_image(spec: JobSpec) -> bool:
    return spec.WhichOneof("source") == "image"
