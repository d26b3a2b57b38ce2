"""The Engine port's contract, on a real Docker Engine."""

import asyncio
import io
import tarfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from towline.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from towline_agent import tars
from towline_agent.core.containers import LOG_CONFIG
from towline_agent.engine.docker import DockerEngine, connecting
from towline_agent.engine.port import Container, ContainerId, ContainerState, Engine
from towline_testing.engine import base_image, docker, image_id, inspect, volumes

pytestmark = pytest.mark.docker


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with connecting(None) as connected:
        yield connected


class Made:
    """Makes containers and removes them at the end."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.names: list[str] = []

    async def __call__(self, *command: str, **host: Any) -> ContainerId:
        self.names.append(f"towline-test-{uuid4().hex}")
        config = {
            "Image": base_image(),
            "Entrypoint": list(command),
            "Cmd": [],
            "Labels": {"towline.test": self.names[0]},
            "HostConfig": {"Init": True, "LogConfig": LOG_CONFIG} | host,
        }
        return await self.engine.create(self.names[-1], config)

    async def python(self, program: str, **host: Any) -> ContainerId:
        container = await self("python3", "-c", program, **host)
        await self.engine.start(container)
        return container


@pytest.fixture
async def made(engine: Engine) -> AsyncIterator[Made]:
    maker = Made(engine)
    yield maker
    for name in maker.names:
        await engine.remove(name)


async def read(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_it_answers(engine: Engine) -> None:
    assert (await engine.ping()).startswith("Docker ")


async def test_images_are_found_by_reference_and_by_id(engine: Engine) -> None:
    facts = await engine.image(base_image())
    assert facts and facts.id == image_id(base_image())
    assert any(entry.startswith("PATH=") for entry in facts.environment)
    assert await engine.image(facts.id) == facts
    assert await engine.image("towline/absent:never") is None


async def test_an_image_that_no_registry_has_is_not_found(engine: Engine) -> None:
    with pytest.raises(NotFound) as caught:
        await engine.pull("localhost:1/absent:never", lambda _line: None)
    assert caught.value.reason == "IMAGE_NOT_FOUND"
    assert "localhost:1" in caught.value.message


async def test_a_reference_that_is_none_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidArgument):
        await engine.pull("Not A Reference", lambda _line: None)


async def test_a_container_goes_from_created_to_running_to_ended(engine: Engine, made: Made) -> None:
    container = await made("python3", "-c", "import time; time.sleep(60)")
    found = await engine.inspect(container)
    assert found and found.state is ContainerState.CREATED and found.exit is None
    await engine.start(container)
    await engine.start(container)
    found = await engine.inspect(made.names[0])
    assert found and found.id == container and found.state is ContainerState.RUNNING
    await engine.kill(container, "SIGTERM")
    ended = await engine.wait(container)
    assert ended.exit and ended.exit.code == 128 + 15
    assert ended.state is ContainerState.ENDED and await engine.inspect(container) == ended
    await engine.kill(container, "SIGKILL")


def exit_code(ended: Container) -> int | None:
    return ended.exit.code if ended.exit else None


async def ended(engine: Engine, container: ContainerId) -> Container:
    found = await engine.wait(container)
    assert found.exit
    return found


async def test_signals_that_came_through_the_engine_are_told(engine: Engine, made: Made) -> None:
    program = "import signal, time; [signal.signal(n, lambda *_: print(n, flush=True)) for n in (10, 15)]; "
    container = await made.python(program + "print('ready', flush=True); time.sleep(60)")
    logs = engine.logs(container, follow=True)
    assert await anext(logs) == b"ready\n"
    await engine.kill(container, "SIGUSR1")
    await asyncio.to_thread(docker, "stop", "--time=1", container)
    signals = await engine.signals(await ended(engine, container))
    assert signals is not None and [one.number for one in signals] == [10, 15, 9]
    assert 60 > signals[1].before_end > 0.9 and abs(signals[2].before_end) < 0.9


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
async def test_signals_of_a_containers_own_are_not(engine: Engine, made: Made, signal: str) -> None:
    container = await made.python(f"import os, signal; os.kill(os.getpid(), signal.{signal})")
    found = await ended(engine, container)
    assert found.exit and found.exit.code > 128 and await engine.signals(found) == []


async def test_what_the_engine_does_not_remember_is_told_as_that(engine: Engine, made: Made) -> None:
    container = await made.python("pass")
    found = await ended(engine, container)
    assert await engine.signals(replace(found, id=ContainerId("0" * 64))) is None
    assert await engine.signals(replace(found, started_at=None)) is None


async def test_when_a_container_ran_is_told(engine: Engine, made: Made) -> None:
    container = await made("python3", "-c", "import time; time.sleep(60)")
    found = await engine.inspect(container)
    assert found and found.name == made.names[0]
    assert found.started_at is None and found.finished_at is None
    before = time.time()
    await engine.start(container)
    found = await engine.inspect(container)
    assert found and found.started_at and found.finished_at is None
    # The engine's clock may be another machine's.
    assert abs(found.started_at - before) < 30
    await engine.kill(container, "SIGKILL")
    await engine.wait(container)
    ended = await engine.inspect(container)
    assert ended and ended.finished_at and ended.started_at == found.started_at
    assert found.started_at < ended.finished_at < found.started_at + 30


async def test_exit_codes_are_read_again_after_the_end(engine: Engine, made: Made) -> None:
    container = await made.python("raise SystemExit(7)")
    assert exit_code(await engine.wait(container)) == 7
    assert exit_code(await engine.wait(container)) == 7


async def test_killed_for_memory_shows(engine: Engine, made: Made) -> None:
    container = await made.python("b'x' * 10**9", Memory=64 * 2**20, MemorySwap=64 * 2**20)
    killed = (await engine.wait(container)).exit
    assert killed and killed.oom_killed and killed.code == 137


async def test_names_are_taken_once(engine: Engine, made: Made) -> None:
    await made("true")
    with pytest.raises(AlreadyExists) as caught:
        await engine.create(made.names[0], {"Image": base_image()})
    assert caught.value.reason == "CONTAINER_EXISTS"


async def test_a_container_of_an_absent_image_is_not_found(engine: Engine) -> None:
    with pytest.raises(NotFound) as caught:
        await engine.create(f"towline-test-{uuid4().hex}", {"Image": "towline/absent:never"})
    assert caught.value.reason == "IMAGE_NOT_FOUND"


async def test_a_wrong_configuration_is_refused(engine: Engine, made: Made) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await made("true", Mounts=[{"Type": "bind", "Source": "/absent-on-this-node", "Target": "/x"}])
    assert caught.value.reason == "ENGINE_REFUSED"


async def test_what_is_absent_is_told_or_left_so(engine: Engine) -> None:
    absent = ContainerId("0" * 64)
    assert await engine.inspect(absent) is None
    await engine.kill(absent, "SIGTERM")
    await engine.remove(absent)
    await engine.remove_image("towline/absent:never")
    for call in (engine.start(absent), engine.wait(absent), read(engine.logs(absent, follow=True))):
        with pytest.raises(NotFound):
            await call


async def test_containers_are_found_by_all_their_labels(engine: Engine, made: Made) -> None:
    one, two = await made("true"), await made("true")
    found = await engine.containers({"towline.test": made.names[0]})
    assert {container.id for container in found} == {one, two}
    assert found[0].labels["towline.test"] == made.names[0]
    assert not await engine.containers({"towline.test": made.names[0], "towline.other": "x"})


async def test_archives_go_in_and_come_out_of_a_volume(engine: Engine, made: Made) -> None:
    container = await made(
        "sh",
        "-c",
        "cat /towline/in > /towline/out/copy",
        Mounts=[{"Type": "volume", "Target": "/towline"}],
        ReadonlyRootfs=True,
    )
    entries = [tars.Entry("in", b"\x00\xff" * 100_000), tars.Entry("out", None, 0o777)]
    await engine.put_archive(container, "/towline", tars.stream(entries))
    await engine.start(container)
    assert exit_code(await engine.wait(container)) == 0
    archive = await read(engine.get_archive(container, "/towline/out"))
    with tarfile.open(fileobj=io.BytesIO(archive)) as out:
        assert out.getnames() == ["out", "out/copy"]
        copied = out.extractfile("out/copy")
        assert copied and copied.read() == b"\x00\xff" * 100_000
    (volume,) = (mount["Name"] for mount in inspect(container)["Mounts"])
    await engine.remove(container)
    assert volume not in volumes()


async def test_a_folder_tells_when_something_was_made_in_it(engine: Engine, made: Made) -> None:
    container = await made(
        "sh", "-c", "echo > /towline/used/new", Mounts=[{"Type": "volume", "Target": "/towline"}]
    )
    folders = [tars.Entry(name, None, 0o777, modified=123456789) for name in ("used", "unused")]
    await engine.put_archive(container, "/towline", tars.stream(folders))
    assert await engine.modified(container, "/towline/used") == 123456789
    before = time.time() - 1
    await engine.start(container)
    await engine.wait(container)
    assert await engine.modified(container, "/towline/used") > before
    assert await engine.modified(container, "/towline/unused") == 123456789
    assert await engine.modified(container, "/towline/none") is None


async def test_a_volume_is_made_once_and_keeps_what_it_was_made_with(engine: Engine, made: Made) -> None:
    name = f"towline-test-{uuid4().hex}"
    await engine.create_volume(name, {"towline.test": name})
    await engine.create_volume(name, {"towline.test": "other"})
    assert [volume.labels for volume in await engine.volumes({"towline.test": name})] == [
        {"towline.test": name}
    ]
    # Through a container that is never started, and read from another.
    mount = {"Type": "volume", "Source": name, "Target": "/v", "VolumeOptions": {"NoCopy": True}}
    first = await made("true", Mounts=[mount])
    await engine.put_archive(first, "/v", tars.stream([tars.Entry("a", b"kept")]))
    await engine.remove(first)
    second = await made("true", Mounts=[mount | {"ReadOnly": True}])
    with tarfile.open(fileobj=io.BytesIO(await read(engine.get_archive(second, "/v/a")))) as archive:
        member = archive.extractfile("a")
        assert member and member.read() == b"kept"
    await engine.remove(second)
    assert await engine.remove_volume(name)


async def test_volumes_are_found_by_their_labels_and_stay_while_used(engine: Engine, made: Made) -> None:
    mark = uuid4().hex
    options = {"Labels": {"towline.test": mark, "towline.other": "x"}}
    container = await made("true", Mounts=[{"Type": "volume", "Target": "/v", "VolumeOptions": options}])
    (name,) = (mount["Name"] for mount in inspect(container)["Mounts"])
    (found,) = await engine.volumes({"towline.test": mark, "towline.other": ""})
    assert found.name == name and found.labels["towline.test"] == mark
    assert not await engine.volumes({"towline.test": mark, "towline.other": "y"})
    assert not await engine.volumes({"towline.test": mark}, unused=True)
    assert not await engine.remove_volume(name)
    assert name in volumes()
    docker("rm", "--force", container)  # without --volumes: an engine that crashed leaves one so
    assert await engine.volumes({"towline.test": mark}, unused=True) == [found]
    assert await engine.remove_volume(name)
    assert name not in volumes()
    assert await engine.remove_volume(name)


PROGRAM_OUTPUT = (
    bytes(range(256)) * 8,
    b"\0" + b"x" * 100_000 + b"\n",
    b"\xff\xfe text \r\n\n\n",
    b"y" * 16384 + b"\n" + b"z" * 32768 + b"\n",
    b"short\n" + b"w" * 16383 + b"\n",
    b"no newline at the end",
)


@pytest.mark.parametrize("follow", [True, False])
async def test_logs_are_byte_exact(engine: Engine, made: Made, follow: bool) -> None:
    program = f"import os\nfor piece in {PROGRAM_OUTPUT!r}: os.write(1, piece)"
    container = await made("python3", "/program.py")
    await engine.put_archive(container, "/", tars.stream([tars.Entry("program.py", program.encode())]))
    await engine.start(container)
    if not follow:
        await engine.wait(container)
    assert await read(engine.logs(container, follow=follow)) == b"".join(PROGRAM_OUTPUT)


async def test_each_stream_keeps_its_order_and_two_reads_agree(engine: Engine, made: Made) -> None:
    """Between the streams the order is the one in which the engine read them: offsets need no more."""
    container = await made.python("import os\nfor i in range(200): os.write(1 + i % 2, b'%d\\n' % i)")
    followed = await read(engine.logs(container, follow=True))
    assert followed == await read(engine.logs(container, follow=False))
    numbers = [int(line) for line in followed.split()]
    assert [n for n in numbers if n % 2 == 0] == list(range(0, 200, 2))
    assert [n for n in numbers if n % 2] == list(range(1, 200, 2))


async def test_followed_logs_come_while_it_runs(engine: Engine, made: Made) -> None:
    container = await made.python("import time; print('first', flush=True); time.sleep(60)")
    chunks = engine.logs(container, follow=True)
    async with asyncio.timeout(10):
        assert await anext(chunks) == b"first\n"
    await chunks.aclose()
    await engine.kill(container, "SIGKILL")


async def test_a_large_log_is_whole(engine: Engine, made: Made) -> None:
    container = await made.python("for i in range(200_000): print(f'{i:049}')")
    log = await read(engine.logs(container, follow=True))
    assert len(log) == 200_000 * 50
    assert log.endswith(b"199999\n")


async def test_committed_images_keep_files_and_configuration(engine: Engine, made: Made) -> None:
    container = await made("sh", "-c", "echo kept > /kept")
    await engine.start(container)
    await engine.wait(container)
    tag = f"towline/test:{uuid4().hex}"
    config = {"Env": ["A=b"], "User": "1000:1000", "Entrypoint": [], "Cmd": ["cat", "/kept"]}
    try:
        assert await engine.commit(container, tag, config) == image_id(tag)
        facts = await engine.image(tag)
        assert facts and facts.user == "1000:1000" and "A=b" in facts.environment
        made.names.append(f"towline-test-{uuid4().hex}")
        reader = await engine.create(made.names[-1], {"Image": tag, "HostConfig": {"LogConfig": LOG_CONFIG}})
        await engine.start(reader)
        assert await read(engine.logs(reader, follow=True)) == b"kept\n"
    finally:
        for name in made.names:
            await engine.remove(name)
        await engine.remove_image(tag)
    assert await engine.image(tag) is None


async def test_an_engine_that_does_not_answer_is_unavailable() -> None:
    async with connecting("unix:///absent/docker.sock") as absent:
        for call in (absent.ping(), absent.image("x"), absent.inspect("x"), absent.remove("x")):
            with pytest.raises(Unavailable) as caught:
                await call
            assert caught.value.reason == "ENGINE_UNAVAILABLE"
        with pytest.raises(Unavailable):
            await absent.pull("x", lambda _line: None)


def test_the_adapter_is_the_port() -> None:
    adapter: type[Engine] = DockerEngine
    assert adapter
