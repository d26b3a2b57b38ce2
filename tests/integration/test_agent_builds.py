"""Images: built on a real engine from sources in a real registry, reused, refused."""

import asyncio
import io
import subprocess
import tarfile
from pathlib import Path
from uuid import uuid4

import pytest

from towline.capture import images
from towline.v1 import docker_pb2, jobs_pb2, leases_pb2, runs_pb2
from towline_agent.builder import Ready
from towline_agent.core.recipe import LABEL_BUILDER, Indexes
from towline_agent.telling import Tell
from towline_testing.agent import code_spec, launch_spec
from towline_testing.builds import Builds, always, exported, run_in, unique
from towline_testing.checkouts import git_checkout
from towline_testing.container_registry import ContainerRegistry, container_registry
from towline_testing.engine import base_image, containers, docker, image_id
from towline_testing.image_registry import image_registry
from towline_testing.registry import digest_of
from towline_testing.waiting import eventually_async

pytestmark = pytest.mark.docker

BUILT, REUSED = runs_pb2.IMAGE_OUTCOME_BUILT, runs_pb2.IMAGE_OUTCOME_REUSED


async def test_an_image_is_built_once_and_then_reused(builds: Builds) -> None:
    program = unique()
    digest, size = await builds.source(main_py=program, pkg__mod_py="x = 1\n")
    job = code_spec(digest, size, requirements=("six==1.17.0",))
    first = await builds(job)
    assert isinstance(first, Ready), (first, builds.log.data)
    assert first.outcome == BUILT
    second = await builds(job)
    assert second == Ready(first.facts, REUSED)
    image = first.facts.id
    assert run_in(image, "cat", "main.py") == program.strip()
    assert run_in(image, "python", "main.py") in program
    assert run_in(image, "python", "-c", "import six, pkg.mod; print(six.__version__)") == "1.17.0"
    assert run_in(image, "sh", "-c", "id -u; echo $HOME; pwd; which python").split() == [
        "1000",
        "/home/towline",
        "/workspace",
        "/opt/venv/bin/python",
    ]
    run_in(image, "sh", "-c", "touch /workspace/pkg/new /home/towline/new main.py")


async def test_other_source_same_environment(builds: Builds) -> None:
    requirements = ("six==1.17.0", f"idna==3.10; {always()}")
    one = await builds(code_spec(*await builds.source(main_py=unique()), requirements=requirements))
    builds.log.data = b""
    two = await builds(code_spec(*await builds.source(main_py=unique()), requirements=requirements[::-1]))
    assert isinstance(one, Ready) and isinstance(two, Ready)
    assert one.facts.id != two.facts.id and two.outcome == BUILT
    assert b"requirements" not in builds.log.data, "the environment was installed again"
    first, second = (told.image() for told in builds.tells)
    assert first is not None and second is not None
    installed = {step.name: step.pieces for step in first.steps}
    assert list(installed) == [
        "fetch the source",
        "start the build container",
        "resolve packages",
        *(["fetch packages"] if "fetch packages" in installed else []),
        "install packages",
        "compile modules",
        "keep the environment",
        "add the source",
        "keep the image",
    ]
    assert installed["install packages"] == 2 and installed["compile modules"]
    assert [step.name for step in second.steps] == [
        "fetch the source",
        "reuse the environment",
        "add the source",
        "keep the image",
    ]


async def test_asked_for_twice_at_once_it_is_built_once(builds: Builds) -> None:
    # The marker makes an environment that is not there yet, so that there is something to tell.
    needs = (f"iniconfig==2.0.0; {always()}",)
    job = code_spec(*await builds.source(main_py=unique()), requirements=needs)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(builds(job)) for _ in range(3)]
    outcomes = [got.outcome for got in (task.result() for task in tasks) if isinstance(got, Ready)]
    assert sorted(outcomes) == sorted([BUILT, REUSED, REUSED])
    waiting = "waiting for another run that builds the same image"
    assert waiting in builds.told
    assert any(line.startswith(f"{waiting}: ") for line in builds.told), "nobody told how it goes"


async def test_a_requirement_that_does_not_exist_is_named(builds: Builds) -> None:
    job = code_spec(*await builds.source(main_py=unique()), requirements=("towline-no-such-package==9.9",))
    got = await builds(job)
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    assert "towline-no-such-package" in got.failure.message
    assert "towline-no-such-package" in got.failure.log_tail
    assert got.failure.log_tail.encode() in builds.log.data


async def test_a_version_that_does_not_exist_is_named(builds: Builds) -> None:
    job = code_spec(*await builds.source(main_py=unique()), requirements=("six==99.0",))
    got = await builds(job)
    assert isinstance(got, leases_pb2.AttemptResult)
    assert "six==99.0" in got.failure.message


async def test_a_line_that_is_no_requirement_is_told(builds: Builds) -> None:
    job = code_spec(*await builds.source(main_py=unique()), requirements=("six ==== 1",))
    got = await builds(job)
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    assert "six ==== 1" in got.failure.log_tail


async def test_pins_that_contradict_each_other_are_installed_as_recorded(builds: Builds) -> None:
    # requests 2.31 wants urllib3 < 3 and certifi; pip would have kept this environment.
    pins = ("requests==2.31.0", f"urllib3==1.20; {always()}")
    job = code_spec(*await builds.source(main_py=unique()), requirements=pins)
    got = await builds(job)
    assert isinstance(got, Ready), builds.log.data
    installed = run_in(
        got.facts.id, "python", "-c", "import importlib.metadata as m; print(m.version('urllib3'))"
    )
    assert installed == "1.20"
    assert b"installing exactly what is listed" in builds.log.data


async def test_no_credentials_and_no_authorities_are_in_the_image_or_the_log(builds: Builds) -> None:
    secret = f"s3cret{uuid4().hex}"
    builds.indexes = Indexes(extra=(f"https://user:{secret}@127.0.0.1:9/simple",))
    builds.images = builds.builder()
    job = code_spec(*await builds.source(main_py=unique()), requirements=("six==1.17.0",))
    failed = await builds(job)
    assert isinstance(failed, leases_pb2.AttemptResult), "nobody serves that index"
    assert secret.encode() not in builds.log.data + failed.SerializeToString()
    # Where nothing needs to be installed, an image comes of it.
    got = await builds(code_spec(*await builds.source(main_py=unique())))
    assert isinstance(got, Ready)
    saved = exported(got.facts.id)
    assert secret.encode() not in saved
    assert b"ca.pem" not in saved and b"uv.toml" not in saved
    authorities = ("find", "/etc/ssl/certs", "-type", "f", "-newer", "/opt/venv/pyvenv.cfg")
    assert not run_in(got.facts.id, *authorities)
    assert not run_in(got.facts.id, "find", "/towline")[len("/towline") :]


async def test_a_cancelled_build_leaves_nothing(builds: Builds) -> None:
    requirements = (f"scipy==1.14.1; {always()}",)
    job = code_spec(*await builds.source(main_py=unique()), requirements=requirements)
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(builds(job))
            await eventually_async(builds.container)
            task.cancel()
        await task
    assert not builds.left_over()


async def test_what_no_build_uses_is_swept_unless_another_agent_made_it(builds: Builds) -> None:
    engine = builds.engine
    labels = {"earlier": f"{builds.name}:1", "now": f"{builds.name}:2", "other": f"{builds.name}x:1"}
    made = {
        which: await engine.create(
            f"towline-build-{uuid4().hex}", {"Image": base_image(), "Labels": {LABEL_BUILDER: label}}
        )
        for which, label in labels.items()
    }
    try:
        await builds.images.sweep()
        assert set(made.values()) & set(containers()) == {made["other"]}
    finally:
        for container in made.values():
            await engine.remove(container)


async def test_no_base_image_for_the_recorded_python(builds: Builds) -> None:
    builds.base_images = ("localhost:1/python:{version}",)
    builds.images = builds.builder()
    got = await builds(code_spec(*await builds.source(main_py=unique())))
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_PULL
    assert "Python 3.11" in got.failure.message and "localhost:1/python:3.11" in got.failure.message


async def test_a_base_image_of_the_queue_without_that_python(builds: Builds) -> None:
    job = code_spec(*await builds.source(main_py=unique()))
    job.python.version = "3.4.1"
    got = await builds(job, image=docker_pb2.DockerImageOptions(base_image=base_image()))
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    assert "3.4" in got.failure.log_tail


@pytest.mark.parametrize(
    ("member", "word"),
    [("../evil", "'..'"), ("/etc/evil", "absolute")],
)
async def test_an_unsafe_source_is_refused_by_name(builds: Builds, member: str, word: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    await builds.registry.upload(buffer.getvalue())
    got = await builds(code_spec(digest_of(buffer.getvalue()), len(buffer.getvalue())))
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    assert member in got.failure.message and word in got.failure.message
    assert member.encode() in builds.log.data


async def test_a_source_of_another_size_than_recorded(builds: Builds) -> None:
    digest, size = await builds.source(main_py=unique())
    got = await builds(code_spec(digest, size - 512))
    assert isinstance(got, leases_pb2.AttemptResult)
    assert "size" in got.failure.message


async def test_a_source_that_is_not_in_the_registry(builds: Builds) -> None:
    got = await builds(code_spec("sha256:" + "0" * 64, 10))
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD


def commit(folder: Path, **files: str) -> str:
    folder.mkdir()
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_py", ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "x")):
        subprocess.run(["git", *command], cwd=folder, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    )
    return head.stdout.strip()


async def test_a_git_source(builds: Builds, tmp_path: Path) -> None:
    head = commit(tmp_path / "repo", README="x", train__main_py="print('from git')\n")
    job = jobs_pb2.JobSpec(
        git=jobs_pb2.GitSource(remote=(tmp_path / "repo").as_uri(), commit=head, subfolder="train"),
        entrypoint=("python", "main.py"),
        python=jobs_pb2.PythonEnvironment(version="3.11"),
    )
    got = await builds(job)
    assert isinstance(got, Ready), got
    assert run_in(got.facts.id, "ls") == "main.py"


async def test_a_git_source_with_a_submodule_and_a_patch(builds: Builds, tmp_path: Path) -> None:
    library, origin = git_checkout(tmp_path / "library"), git_checkout(tmp_path / "origin")
    library.commit({"lib.py": "name = 'library'\n"})
    origin.git("submodule", "--quiet", "add", library.root, "vendor")
    commit = origin.commit({"main.py": f"# {uuid4().hex}\nprint('as committed')\n"})
    origin.write({"main.py": "from vendor.lib import name\nprint('patched', name)\n"})
    patch = origin.diff()
    await builds.registry.upload(patch)
    source = jobs_pb2.GitSource(remote=origin.root.as_uri(), commit=commit)
    job = jobs_pb2.JobSpec(git=source, python=jobs_pb2.PythonEnvironment(version="3.11"))
    job.git.patch_digest = digest_of(patch)
    patched = await builds(job)
    assert isinstance(patched, Ready), builds.log.data
    assert run_in(patched.facts.id, "python", "main.py") == "patched library"
    job.git.patch_digest = ""
    plain = await builds(job)
    assert isinstance(plain, Ready) and run_in(plain.facts.id, "python", "main.py") == "as committed"
    wrong = patch.replace(b"as committed", b"as nobody wrote it")
    await builds.registry.upload(wrong)
    job.git.patch_digest = digest_of(wrong)
    refused = await builds(job)
    assert isinstance(refused, leases_pb2.AttemptResult)
    assert refused.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    assert "patch does not apply" in refused.failure.message and commit[:12] in refused.failure.message
    assert b"patch does not apply" in builds.log.data


async def test_a_commit_that_is_not_there(builds: Builds, tmp_path: Path) -> None:
    commit(tmp_path / "repo", README="x")
    source = jobs_pb2.GitSource(remote=(tmp_path / "repo").as_uri(), commit="1" * 40)
    job = jobs_pb2.JobSpec(git=source, python=jobs_pb2.PythonEnvironment(version="3.11"))
    got = await builds(job)
    assert isinstance(got, leases_pb2.AttemptResult)
    assert "111111111111" in got.failure.message


async def test_a_protocol_that_is_not_allowed(builds: Builds) -> None:
    source = jobs_pb2.GitSource(remote="ext::sh -c id", commit="1" * 40)
    job = jobs_pb2.JobSpec(git=source, python=jobs_pb2.PythonEnvironment(version="3.11"))
    got = await builds(job)
    assert isinstance(got, leases_pb2.AttemptResult)
    assert "not allowed" in got.failure.message


async def test_image_jobs_use_what_is_there(builds: Builds) -> None:
    got = await builds.images.ensure(
        launch_spec(jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=base_image()))),
        builds.log,
        Tell(builds.told.append),
    )
    assert isinstance(got, Ready)
    assert got.outcome == REUSED and got.facts.id == image_id(base_image())


@pytest.mark.parametrize(
    ("policy", "reference", "word"),
    [
        (docker_pb2.PULL_POLICY_IF_NOT_PRESENT, "localhost:1/absent:x", "localhost:1"),
        (docker_pb2.PULL_POLICY_NEVER, "localhost:1/absent:x", "NEVER"),
        (docker_pb2.PULL_POLICY_ALWAYS, "towline/python:3.11", "towline/python:3.11"),
        (docker_pb2.PULL_POLICY_IF_NOT_PRESENT, "Not A Reference", "invalid reference"),
    ],
)
async def test_image_jobs_without_an_image_fail(
    builds: Builds, policy: docker_pb2.PullPolicy.ValueType, reference: str, word: str
) -> None:
    job = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=reference))
    got = await builds(job, image=docker_pb2.DockerImageOptions(pull_policy=policy))
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_PULL
    assert reference in got.failure.message and word in got.failure.message


@pytest.mark.parametrize("by_digest", [False, True])
async def test_image_jobs_pull_what_is_not_there(builds: Builds, by_digest: bool) -> None:
    with image_registry(uuid4().bytes) as served:
        reference = served.by_digest if by_digest else served.reference
        job = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=reference))
        first = await builds(job)
        assert isinstance(first, Ready), first
        assert first.outcome == runs_pb2.IMAGE_OUTCOME_PULLED
        assert first.facts.id == served.image_id and first.facts.environment == ("FROM=registry",)
        name = reference[: -(64 - 12)] if by_digest else reference
        assert any(told.startswith(f"pulling {name}: 1 of 1 layers") for told in builds.told), builds.told
        image = builds.tells[0].image()
        assert image is not None
        assert [(step.name, step.pieces, step.cached_pieces) for step in image.steps] == [
            (f"pull {name}", 1, 0)
        ]
        assert await builds(job) == Ready(first.facts, REUSED)
        always = docker_pb2.DockerImageOptions(pull_policy=docker_pb2.PULL_POLICY_ALWAYS)
        assert await builds(job, image=always) == Ready(first.facts, REUSED), "the registry has the same"


async def test_an_image_by_the_digest_that_its_tag_had(builds: Builds, tmp_path: Path) -> None:
    with container_registry(tmp_path / "registry") as registry:
        registry.push("team/digits", "v1", uuid4().bytes, index=True)
        tag = f"{registry.host}/team/digits:v1"
        found = images.resolve(tag)
        assert found.requested == tag and "@sha256:" in found.reference
        job = jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=found.reference))
        first = await builds(job)
        assert isinstance(first, Ready), first
        assert first.outcome == runs_pb2.IMAGE_OUTCOME_PULLED
        registry.push("team/digits", "v1", uuid4().bytes, index=True)
        assert images.resolve(tag).reference != found.reference
        assert await builds(job) == Ready(first.facts, REUSED)
    assert await builds(job) == Ready(first.facts, REUSED), "nobody is asked for what is there"


async def test_a_tag_that_a_registry_does_not_have(builds: Builds) -> None:
    with image_registry(b"x") as served:
        reference = served.reference.replace("latest", "absent")
        got = await builds(jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference=reference)))
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_PULL
    assert reference in got.failure.message and "manifest" in got.failure.message


async def pushed(images: ContainerRegistry, count: int) -> None:
    """Wait until so many images are in a container registry: no run waits for that."""

    async def there() -> bool:
        return len(images.manifests()) == count

    await eventually_async(there, within=60)


async def test_a_node_pulls_the_environment_that_another_has_built_and_adds_its_source(
    builds: Builds, tmp_path: Path
) -> None:
    with container_registry(tmp_path / "images") as images:
        builds.repository = images.repository()
        builds.images = builds.builder()
        requirements = (f"idna==3.10; {always()}",)
        first = await builds(code_spec(*await builds.source(main_py=unique()), requirements=requirements))
        assert isinstance(first, Ready)
        assert first.outcome == BUILT
        await pushed(images, 2)
        environment = docker("inspect", "--format={{.Parent}}", first.facts.id)
        docker("rmi", "--force", first.facts.id, environment)  # as on a node that has neither
        builds.told.clear()
        second = await builds(code_spec(*await builds.source(main_py=unique()), requirements=requirements))
        assert isinstance(second, Ready)
        assert second.outcome == BUILT
        await pushed(images, 3)
        assert any("pulling" in line for line in builds.told)
        assert not any("installing" in line for line in builds.told)
        builds.made.insert(0, environment)
