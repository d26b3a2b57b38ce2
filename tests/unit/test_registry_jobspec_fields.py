"""Inputs, configuration files, wheels, editable folders, locks, patches: what is taken and what is not."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from towline.errors import InvalidArgument
from towline.v1 import jobs_pb2
from towline.v1.jobs_pb2 import (
    ArtifactInput,
    CodeSource,
    ConfigFile,
    DependencyLock,
    DockerfileBuild,
    GitSource,
    ImageSource,
    JobSpec,
    Provenance,
    PythonEnvironment,
    SystemFacts,
    Wheel,
)
from towline_registry.core.jobspecs import blobs_of, completed, digest_of

DIGEST, OTHER, THIRD = ("sha256:" + digit * 64 for digit in "012")
COMMIT = "0123456789abcdef" * 2 + "01234567"
WHEEL = "a-1.0-py3-none-any.whl"
MANY = json.dumps({f"k{n}": {} for n in range(65)})
UV = jobs_pb2.LOCK_FORMAT_UV_LOCK
CONDA = jobs_pb2.LOCK_FORMAT_CONDA_ENVIRONMENT
PIP = jobs_pb2.LOCK_FORMAT_REQUIREMENTS_TXT


def code(**fields: Any) -> JobSpec:
    return JobSpec(**({"code": CodeSource(digest=DIGEST), "entrypoint": ["python", "train.py"]} | fields))


def image(**fields: Any) -> JobSpec:
    return JobSpec(**({"image": ImageSource(reference="alpine:3")} | fields))


def inputs(*pairs: tuple[str, str]) -> JobSpec:
    return code(inputs=[ArtifactInput(name=name, artifact=artifact) for name, artifact in pairs])


def files(*pairs: tuple[str, str], config: str = '{"model": {}, "data": {"a": 1}, "n": 1}') -> JobSpec:
    made = code(config_files=[ConfigFile(path=path, key=key) for path, key in pairs])
    made.config_json = config
    return made


def python(**fields: Any) -> JobSpec:
    return code(python=PythonEnvironment(**({"version": "3.11"} | fields)))


def wheel(filename: str = WHEEL, digest: str = DIGEST, size_bytes: int = 1) -> Wheel:
    return Wheel(filename=filename, digest=digest, size_bytes=size_bytes)


def lock(
    form: int = UV, path: str = "uv.lock", digest: str = DIGEST, extras: tuple[str, ...] = ()
) -> JobSpec:
    return python(lock=DependencyLock(format=form, path=path, digest=digest, extras=extras))


def git(**fields: Any) -> JobSpec:
    values = {"remote": "https://example.com/repo.git", "commit": COMMIT} | fields
    return JobSpec(git=GitSource(**values), entrypoint=["make"])


def dockerfile(path: str = "Dockerfile", **fields: Any) -> JobSpec:
    return code(dockerfile=DockerfileBuild(path=path, **fields))


def provenance(**fields: Any) -> JobSpec:
    return code(provenance=Provenance(**fields))


def system(**fields: Any) -> JobSpec:
    return provenance(system=SystemFacts(**fields))


@pytest.mark.parametrize(
    "spec",
    [
        inputs(("a.b-c", "artifacts/x/versions/latest"), ("data", "artifacts/digits/versions/v3")),
        image(inputs=[ArtifactInput(name="data", artifact="artifacts/digits/versions/best")]),
        files(("conf/model.yaml", "model"), ("data.json", "data")),
        files(("ü/ö.yml", "model")),
        python(wheels=[wheel(), wheel("b_c-2.0.1+cu12-cp311-cp311-linux_x86_64.whl", OTHER)]),
        python(editables=[".", ".towline/editables/b", "libs/a"]),
        python(system_packages=["ffmpeg", "libgl1:amd64", "tree=2.1.0-1+b1"]),
        code(platform="linux/amd64"),
        image(platform="linux/arm/v7"),
        lock(),
        lock(path="sub/folder/uv.lock", extras=("dev", "gpu-12")),
        lock(CONDA, "environment.yml"),
        lock(PIP, "requirements/prod.in"),
        git(patch_digest=OTHER),
        dockerfile(),
        dockerfile("docker/Dockerfile", build_args={"A": "", "_b2": "x=y"}, target="train"),
        image(image=ImageSource(reference=f"alpine@{DIGEST}", requested="alpine:3")),
        provenance(result_schema_json='{"properties": {"loss": {"type": "number"}}}'),
        system(os="Debian", cpu_count=64, memory_bytes=2**40, gpus=["H100"] * 8, cuda_version="12.4"),
    ],
)
def test_taken(spec: JobSpec) -> None:
    made = completed(spec)
    for each in (made, spec):
        each.ClearField("config_json")
        each.ClearField("input_schema_json")
    assert made == spec


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (inputs(("", "artifacts/a/versions/v0")), "inputs[0].name"),
        (dockerfile(""), "dockerfile.path"),
        (dockerfile("../Dockerfile"), "dockerfile.path"),
        (dockerfile(build_args={"A-B": ""}), "dockerfile.build_args"),
        (dockerfile(target="a b"), "dockerfile.target"),
        (image(dockerfile=DockerfileBuild(path="Dockerfile")), "dockerfile"),
        (inputs((".x", "artifacts/a/versions/v0")), "inputs[0].name"),
        (inputs(("a/b", "artifacts/a/versions/v0")), "inputs[0].name"),
        (inputs(("a", "artifacts/a/versions/v0"), ("a", "artifacts/b/versions/v0")), "inputs[1].name"),
        (inputs(("a", "artifacts/a")), "inputs[0].artifact"),
        (inputs(("a", "a:v0")), "inputs[0].artifact"),
        (inputs(*[(f"n{n}", "artifacts/a/versions/v0") for n in range(65)]), "inputs"),
        (files(("/etc/model.json", "model")), "config_files[0].path"),
        (files(("../model.json", "model")), "config_files[0].path"),
        (files(("model.toml", "model")), "config_files[0].path"),
        (files(("a.json", "model"), ("a.json", "data")), "config_files[1].path"),
        (files(("a.json", "model"), ("b.json", "model")), "config_files[1].key"),
        (files(("a.json", "none")), "config_files[0].key"),
        (files(("a.json", "n")), "config_files[0].key"),
        (files(("a.json", "")), "config_files[0].key"),
        (files(*[(f"{n}.json", f"k{n}") for n in range(65)], config=MANY), "config_files"),
        (image(config_files=[ConfigFile(path="a.json", key="a")], config_json='{"a": {}}'), "config_files"),
        (python(wheels=[wheel("a.tar.gz")]), "python.wheels[0].filename"),
        (python(wheels=[wheel("../a-1.0-py3-none-any.whl")]), "python.wheels[0].filename"),
        (python(wheels=[wheel("a-1.0-py3-none-a\ny.whl")]), "python.wheels[0].filename"),
        (python(wheels=[wheel(), wheel(digest=OTHER)]), "python.wheels[1].filename"),
        (python(wheels=[wheel(digest="sha256:")]), "python.wheels[0].digest"),
        (python(wheels=[wheel(size_bytes=-1)]), "python.wheels[0].size_bytes"),
        (python(wheels=[wheel(f"a{n}-1.0-py3-none-any.whl") for n in range(257)]), "python.wheels"),
        (python(editables=["/src"]), "python.editables[0]"),
        (python(system_packages=["--allow-downgrades"]), "python.system_packages[0]"),
        (python(system_packages=["a b"]), "python.system_packages[0]"),
        (python(system_packages=["tree", "tree"]), "python.system_packages[1]"),
        (python(system_packages=["x" * 257]), "python.system_packages[0]"),
        (python(system_packages=[f"a{n}" for n in range(501)]), "python.system_packages"),
        (code(platform="amd64"), "platform"),
        (image(platform="linux/amd64/v1/x"), "platform"),
        (python(editables=["a/../.."]), "python.editables[0]"),
        (python(editables=["a", "a"]), "python.editables[1]"),
        (lock(0), "python.lock.format"),
        (lock(17), "python.lock.format"),
        (lock(path="/uv.lock"), "python.lock.path"),
        (lock(path="poetry.lock"), "python.lock.path"),
        (lock(CONDA, "environment.txt"), "python.lock.path"),
        (lock(digest=""), "python.lock.digest"),
        (lock(extras=("a b",)), "python.lock.extras[0]"),
        (lock(PIP, "requirements.txt", extras=("dev",)), "python.lock.extras"),
        (git(patch_digest="sha256:x"), "git.patch_digest"),
        (image(image=ImageSource(reference="a", requested="A B")), "image.requested"),
        (provenance(result_schema_json="[]"), "provenance.result_schema_json"),
        (provenance(result_schema_json='{"type": "flot"}'), "provenance.result_schema_json"),
        (system(cpu="x" * 1025), "provenance.system.cpu"),
        (system(cpu_count=-1), "provenance.system.cpu_count"),
        (system(memory_bytes=-1), "provenance.system.memory_bytes"),
        (system(gpus=["x"] * 1025), "provenance.system.gpus"),
        (system(gpus=["x" * 1025]), "provenance.system.gpus"),
    ],
)
def test_refused(spec: JobSpec, field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        completed(spec)
    assert failure.value.metadata.get("field") == f"spec.{field}", failure.value.metadata
    assert len(failure.value.message) < 500


def test_all_that_is_wrong_is_told_at_once() -> None:
    spec = JobSpec(
        git=GitSource(remote="", commit="main"),
        entrypoint=["x"],
        inputs=[ArtifactInput(name="-", artifact="a")],
        config_json='{"lr": "fast", "epochs": 0}',
        input_schema_json='{"properties": {"lr": {"type": "number"}, "epochs": {"minimum": 1}}}',
    )
    with pytest.raises(InvalidArgument) as failure:
        completed(spec)
    assert failure.value.reason == "INVALID_SPEC"
    assert sorted(failure.value.metadata) == [
        "spec.config_json.epochs",
        "spec.config_json.lr",
        "spec.git.commit",
        "spec.git.remote",
        "spec.inputs[0].artifact",
        "spec.inputs[0].name",
    ]
    for path, problem in failure.value.metadata.items():
        assert f"{path}: {problem}" in failure.value.message


def test_so_much_that_is_wrong_still_fits_into_an_error() -> None:
    names = [(f"{'x' * 200}{n}", "wrong " * 100) for n in range(64)]
    spec = inputs(*names)
    spec.python.CopyFrom(PythonEnvironment(version="3.11", requirements=["wrong requirement"] * 5000))
    with pytest.raises(InvalidArgument) as failure:
        completed(spec)
    assert len(failure.value.message.encode()) < 4000
    assert failure.value.message.endswith("more")


def test_order_is_no_content_where_it_means_nothing() -> None:
    def both(make: Callable[..., JobSpec], *values: Any) -> set[str]:
        return {digest_of(completed(make(*order))) for order in (values, values[::-1])}

    assert len(both(inputs, ("a", "artifacts/a/versions/v0"), ("b", "artifacts/b/versions/v0"))) == 1
    assert len(both(files, ("a.json", "model"), ("b.json", "data"))) == 1
    assert len(both(lambda *given: python(wheels=given), wheel(), wheel("b-1-py3-none-any.whl"))) == 1
    assert len(both(lambda *given: python(editables=given), "a", "b")) == 1
    assert len(both(lambda *given: python(system_packages=given), "ffmpeg", "tree")) == 1
    assert len(both(lambda *given: lock(extras=given), "a", "b")) == 1
    assert len(both(lambda *given: python(requirements=given), "a==1", "b==1")) == 2


def test_every_new_field_is_content_but_what_is_told_to_people() -> None:
    plain = digest_of(completed(code()))
    contents = [
        inputs(("a", "artifacts/a/versions/v0")),
        inputs(("a", "artifacts/a/versions/latest")),
        files(("a.json", "model")),
        python(),
        python(wheels=[wheel()]),
        python(wheels=[wheel(digest=OTHER)]),
        python(editables=["."]),
        lock(),
        lock(digest=OTHER),
        git(),
        git(patch_digest=OTHER),
        dockerfile(),
        dockerfile(build_args={"A": "1"}),
        dockerfile(target="1"),
    ]
    assert len({plain, *(digest_of(completed(spec)) for spec in contents)}) == len(contents) + 1
    told = provenance(result_schema_json="{}", system=SystemFacts(os="x"))
    assert digest_of(completed(told)) == plain
    by_tag = image(image=ImageSource(reference=f"alpine@{DIGEST}", requested="alpine:3"))
    assert digest_of(completed(by_tag)) == digest_of(
        completed(image(image=ImageSource(reference=f"alpine@{DIGEST}")))
    )


def test_blobs_of_a_spec() -> None:
    assert blobs_of(image()) == set()
    assert blobs_of(git()) == set()
    assert blobs_of(git(patch_digest=OTHER)) == {OTHER}
    spec = python(wheels=[wheel(digest=OTHER), wheel("b-1-py3-none-any.whl", THIRD)])
    assert blobs_of(spec) == {DIGEST, OTHER, THIRD}
