"""Images that are built with a project's own Dockerfile, by both builders of a real engine."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from towline.v1 import jobs_pb2, leases_pb2, runs_pb2
from towline_agent.builder import Ready
from towline_agent.builders import BuilderChoice
from towline_agent.core.ancestors import LABEL_ENVIRONMENT
from towline_agent.core.ownership import LABEL_MADE_BY
from towline_testing.agent import code_spec
from towline_testing.builds import Builds, building, run_in, unique
from towline_testing.container_registry import container_registry
from towline_testing.engine import base_image, docker, image_id
from towline_testing.postgres import PostgresServer
from towline_testing.waiting import eventually, eventually_async

pytestmark = pytest.mark.docker

BUILT, REUSED = runs_pb2.IMAGE_OUTCOME_BUILT, runs_pb2.IMAGE_OUTCOME_REUSED
BOTH = pytest.mark.parametrize("builder", [BuilderChoice.BUILDKIT, BuilderChoice.CLASSIC])
PATH = "docker/Dockerfile.towline"
SMALL = "FROM scratch\nCOPY . /app/\nWORKDIR /app\n"


@pytest.fixture
async def builds(embedded_postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Builds]:
    async with building(embedded_postgres, tmp_path) as made:
        before = set(docker("images", "--quiet", "--filter=dangling=true").split())
        yield made
        left = set(docker("images", "--quiet", "--filter=dangling=true").split()) - before
        assert not [image for image in left if _is_of(image, made)]


def _is_of(image: str, builds: Builds) -> bool:
    """Whether an image without a name is of a test's builds; other sessions use the engine, too."""
    history = subprocess.run(
        ["docker", "history", "--no-trunc", image], capture_output=True, text=True, check=False
    )
    return builds.name in history.stdout


async def job(builds: Builds, dockerfile: str, files: dict[str, str], **build: object) -> jobs_pb2.JobSpec:
    digest, size = await builds.tree({PATH: dockerfile, **files})
    how = jobs_pb2.DockerfileBuild(**{"path": PATH, **build})  # type: ignore[arg-type] # tests give what fits
    return code_spec(digest, size, dockerfile=how)


def refused(got: Ready | leases_pb2.AttemptResult) -> str:
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    return got.failure.message


@BOTH
async def test_a_project_is_built_with_its_own_dockerfile(builds: Builds, builder: BuilderChoice) -> None:
    builds.images = builds.builder(dockerfile_builder=builder)
    text = f"""\
FROM {base_image()} AS first
ARG WORD=none
RUN echo {builds.name} $WORD > /said
FROM {base_image()}
WORKDIR /srv
COPY --from=first /said .
COPY . .
USER 1234
"""
    files = {"main.py": unique(), "data.bin": "x", "keep.bin": "y", ".dockerignore": "*.bin\n!keep.bin\n"}
    made = await builds(await job(builds, text, files, build_args={"WORD": "hello"}))
    assert isinstance(made, Ready), (made, builds.log.data)
    assert (made.outcome, made.facts.user, made.facts.working_dir) == (BUILT, "1234", "/srv")
    listed = run_in(made.facts.id, "sh", "-c", "cat said && ls -A && python main.py").splitlines()
    program = files["main.py"].split("'")[1]
    assert listed == [
        f"{builds.name} hello",
        ".dockerignore",
        "docker",
        "keep.bin",
        "main.py",
        "said",
        program,
    ]
    log = builds.log.data.decode()
    assert f"building {PATH} with" in log and f"RUN echo {builds.name}" in log, log


async def test_what_is_built_is_named_by_its_content(builds: Builds) -> None:
    """Not by its job, nor by what is left out of the context; an image that is there needs no source."""
    files = {"main.py": unique(), ".dockerignore": "*.log\n"}
    first = await builds(one := await job(builds, SMALL, {**files, "a.log": "1"}))
    assert isinstance(first, Ready) and first.outcome == BUILT
    other = await job(builds, SMALL, {**files, "b.log": "22"})
    assert await builds(other) == Ready(first.facts, REUSED)
    assert b"building" not in builds.log.data[builds.log.data.index(b"built ") :]

    again = one.__deepcopy__()
    again.code.size_bytes = 1  # it could not be fetched
    assert await builds(again) == Ready(first.facts, REUSED)

    changed = await builds(await job(builds, SMALL, {**files, "main.py": unique()}))
    with_arg = await builds(await job(builds, SMALL, files, build_args={"A": "1"}))
    assert isinstance(changed, Ready) and isinstance(with_arg, Ready)
    assert changed.outcome == with_arg.outcome == BUILT


@BOTH
async def test_a_step_that_fails_is_named(builds: Builds, builder: BuilderChoice) -> None:
    builds.images = builds.builder(dockerfile_builder=builder)
    text = f"FROM {base_image()}\nRUN echo {builds.name} > /a\nRUN echo alas; exit 7\nRUN true\n"
    got = await builds(await job(builds, text, {}))
    # The classic builder counts the labels, too.
    assert re.search(rf"step `\[3/\d\] RUN echo alas; exit 7` of {PATH} failed: exit code 7\.", refused(got))
    assert isinstance(got, leases_pb2.AttemptResult)
    assert "\nalas\n" in got.failure.log_tail and b"\nalas\n" in builds.log.data


async def test_the_base_stays_where_the_first_step_fails(builds: Builds) -> None:
    """The classic builder's images of steps go with the build; it tells of them in the file's own words."""
    base, container = f"towline-test:{uuid4().hex}", docker("create", base_image(), "true")
    docker("commit", container, base)
    docker("rm", container)
    builds.images = builds.builder(dockerfile_builder=BuilderChoice.CLASSIC)
    try:
        got = await builds(await job(builds, f"from {base}\nRUN echo {builds.name}; exit 7\n", {}))
        assert "exit code 7" in refused(got)
        assert image_id(base)
    finally:
        docker("rmi", "--force", base)


@BOTH
async def test_no_dockerfile_makes_an_image_pass_for_an_environment(
    builds: Builds, builder: BuilderChoice
) -> None:
    """Environments of other jobs would be made from it."""
    builds.images = builds.builder(dockerfile_builder=builder)
    text = f"{SMALL}LABEL {LABEL_ENVIRONMENT}=forged {LABEL_MADE_BY}=forged\n"
    made = await builds(await job(builds, text, {"main.py": unique()}))
    assert isinstance(made, Ready), (made, builds.log.data)
    labels = json.loads(docker("inspect", "--format={{json .Config.Labels}}", made.facts.id))
    assert labels[LABEL_ENVIRONMENT] == "" and labels[LABEL_MADE_BY] != "forged"


async def test_what_cannot_be_built_says_why(builds: Builds) -> None:
    for text, build, problem in (
        ("FROM scratch\nCOPYY . /\n", {}, f"{PATH}: on line 2: unknown instruction: COPYY"),
        ("FROM scratch AS one\n", {"target": "two"}, f"{PATH}: it has no stage 'two'; it has one"),
        ("ARG BASE\nFROM $BASE\n", {}, "line 2: FROM $BASE names no image"),
        ("FROM scratch\nCOPY nothing /\n", {}, f"step `[1/1] COPY nothing /` of {PATH} failed"),
        ("FROM scratch\n", {"path": "Dockerfile"}, "the source tree has no file Dockerfile"),
    ):
        builds.log.data = b""
        got = await builds(await job(builds, text, {"main.py": unique()}, **build))
        assert problem in refused(got)
        assert builds.log.data, "the log says nothing"


async def test_a_secret_is_mounted_and_stays_out_of_layers_and_logs(builds: Builds, tmp_path: Path) -> None:
    word = f"s3cret-{uuid4().hex}"
    (tmp_path / "token").write_text(f"{word}\n")
    text = f"""\
FROM {base_image()}
RUN --mount=type=secret,id=token,mode=0444 --mount=type=secret,id=other \\
    echo {builds.name}; wc -c /run/secrets/token > /length && cat /run/secrets/token
COPY . /workspace/
"""
    spec = await job(builds, text, {"main.py": unique()})
    builds.images = builds.builder(secrets={"token": tmp_path / "token"})
    made = await builds(spec)
    assert isinstance(made, Ready), (made, builds.log.data)
    assert run_in(made.facts.id, "cat", "/length").split()[0] == str(len(word) + 1)
    assert word.encode() not in _saved(made.facts.id) + builds.log.data
    assert b"\n****\n" in builds.log.data
    assert b"towline: this agent has no secret other" in builds.log.data

    docker("rmi", "--force", made.facts.id)
    builds.images = builds.builder(dockerfile_builder=BuilderChoice.CLASSIC)
    assert "RUN --mount (line 2) needs BuildKit" in refused(await builds(spec))
    builds.images = builds.builder(network="somewhere")
    assert "TOWLINE_AGENT_BUILD_NETWORK names, somewhere" in refused(await builds(spec))
    builds.images = builds.builder(secrets={"token": tmp_path / "nothing"})
    assert "the secret token cannot be read on this agent" in refused(await builds(spec))


def _saved(image: str) -> bytes:
    return subprocess.run(["docker", "save", image], capture_output=True, check=True).stdout


@BOTH
async def test_a_build_that_is_broken_off_leaves_nothing(builds: Builds, builder: BuilderChoice) -> None:
    builds.images = builds.builder(dockerfile_builder=builder)
    text = f"FROM {base_image()}\nRUN echo {builds.name}; sleep 4242\n"
    spec = await job(builds, text, {})

    def sleeping() -> bool:
        return any(b"sleep\x004242" in _read(line) for line in Path("/proc").glob("[0-9]*/cmdline"))

    async def asleep() -> bool:
        return sleeping()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(builds(spec))
        await eventually_async(asleep)
        task.cancel()
    eventually(lambda: not sleeping())
    assert not builds.made and not builds.left_over()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # the process has ended
        return b""


async def test_it_is_built_once_for_a_fleet(builds: Builds, tmp_path: Path) -> None:
    with container_registry(tmp_path / "images") as registry:
        builds.repository = registry.repository()
        builds.images = builds.builder()
        spec = await job(builds, SMALL, {"main.py": unique()})
        first = await builds(spec)
        assert isinstance(first, Ready) and first.outcome == BUILT

        async def shared() -> bool:
            return bool(registry.manifests())

        await eventually_async(shared)
        docker("rmi", "--force", first.facts.id)
        builds.name = uuid4().hex
        builds.images = builds.builder()
        second = await builds(spec)
        assert isinstance(second, Ready)
        assert (second.outcome, second.facts.id) == (runs_pb2.IMAGE_OUTCOME_PULLED, first.facts.id)
        assert image_id(docker("inspect", "--format={{index .RepoTags 0}}", second.facts.id))
