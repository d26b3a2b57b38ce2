"""Docker's engine, through aiodocker: the one place that knows its wire; its errors are in errors.py."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Any, Final

from aiodocker import Docker

from towline.errors import AlreadyExists, Internal, InvalidArgument, NotFound, Unavailable
from towline_agent.core.containers import ImageFacts
from towline_agent.core.failures import ExitStatus, SentSignal
from towline_agent.core.logframes import LogFrames
from towline_agent.core.offsets import Skipper
from towline_agent.core.platforms import written
from towline_agent.core.transfers import Transfer, Transfers
from towline_agent.credentials import Credentials, default_file
from towline_agent.engine.build_port import BuildEngine
from towline_agent.engine.buildkit import BuildKit
from towline_agent.engine.classic_builds import ClassicBuilds
from towline_agent.engine.errors import refusal, translated
from towline_agent.engine.port import Container, ContainerId, ContainerState, Image, Volume
from towline_agent.engine.store import DockerStore
from towline_agent.engine.wire import CHUNK_BYTES, lines

__all__ = ["DockerEngine", "connecting"]

_BUILDKIT_SINCE: Final = (1, 39)  # version of its API: Docker 18.09
_GIVES_NEWLINES_SINCE: Final = 26  # the oldest major release measured to do so
_ANSWER_S: Final = 5.0
# The engine notes a container's end after it has told of it.
_NOTED_S: Final = 2.0
# aiodocker's own default socket search asserts that one exists; a stopped engine may have none.
# The engine hears of a kill for memory apart from the end that comes of it, and may hear of it after that.
_KILLED: Final = 137
_OOM_LOOKS: Final = 4
_OOM_LOOK_S: Final = 0.2
_DEFAULT_URL: Final = "unix:///var/run/docker.sock"
_TAGGED: Final = re.compile(r"[:@][^/]*$")


@asynccontextmanager
async def connecting(
    url: str | None, credentials: Credentials | None = None
) -> AsyncIterator["DockerEngine"]:
    """Give the engine at a URL such as "unix:///var/run/docker.sock"; None: where Docker's client looks.

    Nothing is sent yet, so an engine that does not answer is no error here.

    Args:
        url: See above.
        credentials: Logins for pulls and pushes; None: those of Docker's client.
    """
    # No timeout of the client's own: builds, waits and logs take as long as they take.
    try:
        client = Docker(url=url)
    except AssertionError:
        client = Docker(url=_DEFAULT_URL)
    async with client:
        yield DockerEngine(client, credentials or Credentials(default_file()))


class DockerEngine:
    """The Engine port on Docker's API."""

    def __init__(self, client: Docker, credentials: Credentials) -> None:
        self._client = client
        self._credentials = credentials
        self._gives_newlines = False
        """Whether the engine gives the newline of a long line back, see logframes; told by each ping."""

    @property
    def url(self) -> str:
        """Return where the engine is, such as "unix:///var/run/docker.sock"."""
        return str(self._client._connection_info)

    def store(self) -> DockerStore:
        """Return what it keeps on its disks, for those who tidy there."""
        return DockerStore(self._client)

    async def ping(self) -> str:
        """See Engine."""
        release = str((await self._version())["Version"])
        self._gives_newlines = int(release.partition(".")[0]) >= _GIVES_NEWLINES_SINCE
        return f"Docker {release}"

    async def platform(self) -> str:
        """See Engine."""
        version = await self._version()
        return written(version["Os"], version["Arch"])

    async def image(self, reference: str) -> ImageFacts | None:
        """See Engine."""
        try:
            with translated("image"):
                found = await self._client.images.inspect(reference)
        except NotFound:
            return None
        config = found.get("Config") or {}
        environment = tuple(config.get("Env") or ())
        return ImageFacts(
            found["Id"],
            environment,
            config.get("User") or "",
            found["Size"],
            written(found.get("Os", ""), found.get("Architecture", ""), found.get("Variant", "")),
            config.get("WorkingDir") or "",
        )

    async def images(self, labels: Mapping[str, str]) -> list[Image]:
        """See Engine."""
        with translated("image"):
            async with self._client._query("images/json", params={"filters": _having(labels)}) as response:
                found = await response.json()
        return [Image(image["Id"], image["Labels"] or {}) for image in found]

    async def pull(self, reference: str, progress: Callable[[Transfer], None]) -> None:
        """See Engine."""
        # Without a tag the engine would pull all of them.
        tagged = reference if _TAGGED.search(reference) else f"{reference}:latest"
        login = await self._credentials.header(reference)
        transfers = Transfers()
        try:
            async for line in lines(self._read("images/create", {"fromImage": tagged}, "POST", login)):
                item = json.loads(line)
                if "error" in item:
                    raise NotFound(refusal(item["error"], reference), reason="IMAGE_NOT_FOUND")
                progress(transfers.feed(item))
        except Internal as error:  # the engine passes on what a registry answers as its own failure
            raise NotFound(refusal(error.message, reference), reason="IMAGE_NOT_FOUND") from error

    async def tag(self, image: str, reference: str) -> None:
        """See Engine."""
        name, _, tag = reference.rpartition(":")
        with translated("image"):
            async with self._client._query(f"images/{image}/tag", "POST", params={"repo": name, "tag": tag}):
                return

    async def push(self, reference: str, progress: Callable[[Transfer], None]) -> str:
        """See Engine."""
        name, _, tag = reference.rpartition(":")
        login = await self._credentials.header(reference)
        digest, transfers = "", Transfers()
        try:
            async for line in lines(self._read(f"images/{name}/push", {"tag": tag}, "POST", login)):
                item = json.loads(line)
                if "error" in item:
                    raise InvalidArgument(refusal(item["error"], reference), reason="ENGINE_REFUSED")
                digest = (item.get("aux") or {}).get("Digest", digest)
                progress(transfers.feed(item))
        except Internal as error:  # the engine passes on what a registry answers as its own failure
            raise InvalidArgument(refusal(error.message, reference), reason="ENGINE_REFUSED") from error
        if not digest:
            raise Unavailable(f"the engine broke off the push of {reference}", reason="ENGINE_UNAVAILABLE")
        return digest

    async def create(self, name: str, config: Mapping[str, Any]) -> ContainerId:
        """See Engine."""
        try:
            with translated("image"):
                made = await self._client.containers.create(dict(config), name=name)
        except AlreadyExists:
            raise AlreadyExists(f"a container {name} exists", reason="CONTAINER_EXISTS") from None
        return ContainerId(made.id)

    async def start(self, container: ContainerId) -> None:
        """See Engine."""
        with translated():
            await self._client.containers.container(container).start()

    async def kill(self, container: ContainerId, signal: str) -> None:
        """See Engine."""
        try:
            with translated():
                await self._client.containers.container(container).kill(signal=signal)
        except (NotFound, AlreadyExists):  # not there, or (409) does not run
            return

    async def wait(self, container: ContainerId) -> Container:
        """See Engine."""
        with translated():
            await self._client.containers.container(container).wait()
        found = await self._ended(container)
        for _ in range(_OOM_LOOKS):
            if found.exit is None or found.exit.code != _KILLED or found.exit.oom_killed:
                break
            await asyncio.sleep(_OOM_LOOK_S)
            found = await self._ended(container)
        return found

    async def _ended(self, container: ContainerId) -> Container:
        found = await self.inspect(container)
        if found is None:
            raise NotFound(f"container {container[:12]} is gone", reason="CONTAINER_NOT_FOUND")
        if found.exit is None:
            raise Unavailable("the engine broke off waiting", reason="ENGINE_UNAVAILABLE")
        return found

    async def inspect(self, container: str) -> Container | None:
        """See Engine."""
        try:
            with translated():
                found = await self._client.containers.container(container).show()
        except NotFound:
            return None
        state = found["State"]
        if state["Running"] or state["Status"] in ("paused", "restarting"):
            how, ended = ContainerState.RUNNING, None
        elif state["Status"] == "created" and not state.get("Error"):
            how, ended = ContainerState.CREATED, None
        else:
            how = ContainerState.ENDED
            ended = ExitStatus(state["ExitCode"], bool(state["OOMKilled"]), state.get("Error") or "")
        return Container(
            ContainerId(found["Id"]),
            how,
            found["Config"].get("Labels") or {},
            ended,
            name=found["Name"].removeprefix("/"),
            started_at=_moment(state["StartedAt"]),
            finished_at=_moment(state["FinishedAt"]) if ended else None,
        )

    async def signals(self, ended: Container) -> list[SentSignal] | None:
        """See Engine."""
        if ended.started_at is None or ended.finished_at is None:
            return None
        filters = {"type": ["container"], "container": [ended.id], "event": ["kill", "die"]}
        params = {
            "filters": json.dumps(filters),
            "since": f"{ended.started_at:.6f}",
            "until": f"{ended.finished_at + _NOTED_S:.6f}",
        }
        found: list[SentSignal] = []
        async with aclosing(self._read("events", params)) as chunks:
            async for line in lines(chunks):
                event = json.loads(line)
                if event["Action"] == "die":
                    return found
                number = event["Actor"]["Attributes"].get("signal", "")
                if number.isdigit():
                    found.append(SentSignal(int(number), ended.finished_at - event["timeNano"] / 1e9))
        return None

    async def containers(self, labels: Mapping[str, str]) -> list[Container]:
        """See Engine."""
        with translated():
            found = await self._client.containers.list(all=1, filters=_having(labels))
        inspected = [await self.inspect(container.id) for container in found]
        return [container for container in inspected if container is not None]

    async def remove(self, container: str) -> None:
        """See Engine."""
        try:
            with translated():
                await self._client.containers.container(container).delete(force=True, v=True)
        except (NotFound, AlreadyExists):  # gone, or (409) being removed
            return

    async def volumes(self, labels: Mapping[str, str], *, unused: bool = False) -> list[Volume]:
        """See Engine."""
        filters = _having(labels, **({"dangling": ["true"]} if unused else {}))
        with translated("volume"):
            async with self._client._query("volumes", params={"filters": filters}) as response:
                found = await response.json()
        return [Volume(volume["Name"], volume["Labels"] or {}) for volume in found["Volumes"] or ()]

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """See Engine."""
        with translated("volume"):
            body = {"Name": name, "Labels": dict(labels)}
            await self._client.volumes.create(body)  # type: ignore[no-untyped-call] # no annotations

    async def remove_volume(self, name: str) -> bool:
        """See Engine."""
        try:
            with translated("volume"):
                async with self._client._query(f"volumes/{name}", "DELETE"):
                    return True
        except NotFound:
            return True
        except AlreadyExists:  # (409) it is in use
            return False

    async def put_archive(self, container: ContainerId, path: str, archive: AsyncIterable[bytes]) -> None:
        """See Engine."""
        with translated():
            await self._client.containers.container(container).put_archive(  # type: ignore[no-untyped-call] # no annotations
                path, archive
            )

    async def modified(self, container: ContainerId, path: str) -> float | None:
        """See Engine."""
        place = f"containers/{container}/archive"
        try:
            with translated():
                async with self._client._query(place, "HEAD", params={"path": path}) as response:
                    told = json.loads(base64.b64decode(response.headers["X-Docker-Container-Path-Stat"]))
        except json.JSONDecodeError:  # aiodocker wants to read why not, which no answer to HEAD says
            return None
        return datetime.fromisoformat(told["mtime"]).timestamp()

    async def get_archive(self, container: ContainerId, path: str) -> AsyncIterator[bytes]:
        """See Engine."""
        async for chunk in self._read(f"containers/{container}/archive", {"path": path}):
            yield chunk

    async def logs(self, container: ContainerId, *, follow: bool) -> AsyncIterator[bytes]:
        """See Engine."""
        frames = LogFrames(gives_newlines=self._gives_newlines)
        if not follow:
            async for data in self._logs(container, frames):
                yield data
            return
        async for data in self._logs(container, frames, follow="1"):
            yield data
        # Measured on 20.10: a followed log without a newline at its end lost its last piece in
        # 28 of 60 tries; read again after the end it was whole in 60 of 60.
        await self.wait(container)
        recent = frames.recent
        skipper = Skipper(recent.size)
        again = LogFrames(gives_newlines=frames.gives_newlines, since=recent.since)
        async for data in self._logs(container, again, since=str(recent.since_unix)):
            if rest := skipper.feed(data):
                yield rest

    async def _logs(self, container: ContainerId, frames: LogFrames, **params: str) -> AsyncIterator[bytes]:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1"} | params
        try:
            async for chunk in self._read(f"containers/{container}/logs", params):
                if data := frames.feed(chunk):
                    yield data
        except AlreadyExists as error:  # (409) it is being removed
            raise NotFound(error.message, reason="CONTAINER_NOT_FOUND") from error

    async def commit(self, container: ContainerId, reference: str, config: Mapping[str, Any]) -> str:
        """See Engine."""
        name, _, tag = reference.rpartition(":")
        with translated():
            made = await self._client.containers.container(container).commit(
                repository=name, tag=tag, config=dict(config), pause=False
            )
        return str(made["Id"])

    async def has_buildkit(self) -> bool:
        """See Engine."""
        version = await self._version()
        api = tuple(int(part) for part in str(version["ApiVersion"]).split("."))
        return version["Os"] == "linux" and api >= _BUILDKIT_SINCE

    def builder(self, *, buildkit: bool) -> BuildEngine:
        """See Engine."""
        return BuildKit(self._client) if buildkit else ClassicBuilds(self._client)

    async def remove_image(self, reference: str) -> None:
        """See Engine."""
        try:
            with translated("image"):
                await self._client.images.delete(reference)
        except NotFound:
            return

    async def _version(self) -> Mapping[str, Any]:
        with translated():
            async with asyncio.timeout(_ANSWER_S):
                return await self._client.version()

    async def _read(
        self, path: str, params: Mapping[str, str], method: str = "GET", login: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """Read a response as it comes and drop it when nobody reads on; `login` is for a container registry.

        aiodocker's own methods decode text, hold archives in memory, and leave a cancelled pull going.
        """
        with translated("image" if path.startswith("images/") else "container"):
            headers = {"X-Registry-Auth": login} if login else None
            async with self._client._query(
                path, method, params=params, headers=headers, timeout=None
            ) as response:
                # release() would wait for the end of an endless stream; close() drops the connection.
                try:
                    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                        yield chunk
                finally:
                    response.close()


def _having(labels: Mapping[str, str], **more: list[str]) -> str:
    having = [f"{name}={value}" if value else name for name, value in labels.items()]
    return json.dumps({"label": having, **more})


def _moment(written: str) -> float | None:
    """Read a moment such as "2026-01-31T12:00:00.123456789Z"; that of the year 1 means never."""
    moment = datetime.fromisoformat(written)
    return moment.timestamp() if moment.year > 1 else None
