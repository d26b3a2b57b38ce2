"""Start an agent: `python -m towline_agent`; see settings.py for its environment variables."""

import asyncio
import logging
import platform
import socket
import sys
import uuid
from collections.abc import Collection
from contextlib import AsyncExitStack
from importlib.metadata import version

import grpc

from towline.rpc.channel import open_channel
from towline.service import process
from towline.service.server import serving, stop_requested
from towline.v1 import agent_pb2, agent_pb2_grpc, leases_pb2
from towline_agent import gpus
from towline_agent.base_images import BaseImages
from towline_agent.builder import BuildSettings, DockerImages
from towline_agent.core.capacity import Capacity
from towline_agent.core.conda import Channels
from towline_agent.core.containers import Owner
from towline_agent.core.leases import LeaseBook
from towline_agent.core.recipe import Indexes
from towline_agent.core.system_packages import Mirrors
from towline_agent.credentials import Credentials
from towline_agent.deadlines import Deadlines, boot_id
from towline_agent.download_cache import DownloadCache
from towline_agent.engine import docker
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import Engine
from towline_agent.hygiene import Caches, Disks, Hygiene
from towline_agent.image_cache import ImageCache, ImageSettings
from towline_agent.image_records import ImageRecords
from towline_agent.input_cache import InputCache, InputSettings
from towline_agent.input_records import InputRecords
from towline_agent.journal import Identity, Journal, locked
from towline_agent.keeping import OutputKeeper
from towline_agent.keeping_deadlines import DeadlineKeeper
from towline_agent.local_service import AgentServicer
from towline_agent.logs import LogPipe
from towline_agent.node import Node, Parts
from towline_agent.packages import Packages
from towline_agent.registry import Registry
from towline_agent.runner import Runner, Tools
from towline_agent.session import Sessions
from towline_agent.settings import AgentSettings
from towline_agent.sharing import SharedImages
from towline_agent.sources import Sources
from towline_agent.spares import Spares
from towline_agent.sweep import sweep
from towline_agent.used_images import PreparingImages, UsedImages, noting
from towline_agent.warming import RunsFirst, Warming
from towline_agent.watchdog.starting import keep_running

_log = logging.getLogger("towline_agent")
_LEAVE_S = 5.0
_SEQS_PER_START = 2**32


class _Leave(Exception):
    """The agent's work is over; ends the root group."""


def main() -> int:
    """Run an agent until it is told to stop; return the exit status."""
    return process.run(AgentSettings, serve)


async def serve(settings: AgentSettings) -> None:
    """Run an agent until a signal, a drain's end, or an error that trying again cannot heal.

    Raises:
        TowlineError: Such an error, alone or in a group; containers are left alone.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(locked(settings.data_dir))
        stop = await stack.enter_async_context(stop_requested())
        engine = await stack.enter_async_context(
            docker.connecting(settings.docker_host, Credentials(settings.registry_logins))
        )
        to_queue = await stack.enter_async_context(open_channel(settings.queue_address))
        to_registry = await stack.enter_async_context(open_channel(settings.registry_address))
        try:
            async with asyncio.TaskGroup() as root:
                await _Agent(settings, engine, to_queue, to_registry, root).work(stop)
                raise _Leave
        except* _Leave:
            pass


class _Agent:
    """All parts of an agent, wired."""

    def __init__(
        self,
        settings: AgentSettings,
        engine: docker.DockerEngine,
        to_queue: grpc.aio.Channel,
        to_registry: grpc.aio.Channel,
        root: asyncio.TaskGroup,
    ) -> None:
        self._settings = settings
        self._root = root
        self._engine = engine
        boot = boot_id()
        journal = Journal(settings.data_dir, boot)
        self._identity = journal.start()
        self._owner = Owner(settings.agent_name, self._identity.instance_id)
        self._health = EngineHealth(engine, self._engine_changed)
        peer = f"the registry at {settings.registry_address}"
        registry = Registry(to_registry, peer)
        queue = f"the queue service at {settings.queue_address}"
        self._used = UsedImages(settings.data_dir / "images")
        noted = noting(engine, self._used)
        self._shared = self._sharing(noted, to_registry, peer)
        self._images = DockerImages(
            noted,
            Sources(registry, journal.work, settings.git_protocols),
            Packages(registry, journal.work, settings.git_protocols),
            _build_settings(settings, self._identity),
            self._shared,
        )
        self._logs = LogPipe(to_queue, queue)
        keeper = OutputKeeper(engine, self._health, registry, journal.work)
        self._spares = Spares(engine, self._owner)
        images = RunsFirst(PreparingImages(self._images, self._used))
        bases = BaseImages(noted, settings.base_images)
        self._warming = Warming(
            bases,
            settings.ready_pythons,
            settings.ready_images,
            images.idle,
            lambda: self._node.book.intake.withheld,
        )
        tools = Tools(engine, self._health, images, self._logs, keeper)
        found = gpus.find(settings.gpus)
        capacity = Capacity(settings.slots or max(1, len(found)), found)
        book = LeaseBook(capacity, self._identity.starts * _SEQS_PER_START, lambda: str(uuid.uuid4()))
        self._deadlines = DeadlineKeeper(Deadlines(settings.data_dir, boot), book)
        self._inputs = InputCache(
            engine,
            registry,
            InputRecords(settings.data_dir / "inputs"),
            InputSettings(self._identity.instance_id, settings.input_cache),
        )
        runner = Runner(tools, self._inputs, self._spares, journal, self._owner)
        self._node = Node(book, Parts(journal, self._deadlines, runner, self._health), root)
        introduction = _introduction(settings, self._identity, capacity, boot)
        self._sessions = Sessions(self._node, to_queue, queue, introduction)

    def _sharing(self, engine: Engine, to_registry: grpc.aio.Channel, peer: str) -> SharedImages | None:
        repository = self._settings.image_repository
        if not repository:
            return None
        records = ImageRecords(to_registry, peer, repository, self._settings.agent_name)
        return SharedImages(engine, records, self._root)

    def _hygiene(self) -> Hygiene:
        settings, store, instance = self._settings, self._engine.store(), self._identity.instance_id
        images = ImageCache(
            store,
            self._used,
            ImageSettings(instance, settings.image_cache, settings.image_repository),
            held=self._held_images,
            pushing=lambda: self._shared.pushing if self._shared else (),
        )
        downloads = DownloadCache(self._engine, self._images.installations, settings.build_cache)
        caches = Caches(
            (images.tidy, downloads.tidy), (images.leaving, self._inputs.leaving), downloads.empty
        )
        disks = Disks(settings.data_dir, self._engine.url, store.roots)
        return Hygiene(disks, settings.keep_free, caches, self._node.space_changed)

    def _held_images(self) -> Collection[str]:
        return {*(lease.image.id for lease in self._node.book.leases if lease.image), *self._warming.ready}

    def _engine_changed(self) -> None:
        self._node.engine_changed()

    async def work(self, stop: asyncio.Event) -> None:
        """Work until told to stop; every task belongs to the root group."""
        name = self._settings.agent_name
        _log.info("%s serves %s", name, ", ".join(self._settings.queue_names))
        async with serving(self._settings, self._register):
            self._node.restore()
            for part in (
                self._health.run(),
                self._logs.run(),
                self._node.run(),
                self._deadlines.run(),
                keep_running(self._settings.data_dir, self._engine.url),
                self._sweep(),
            ):
                self._root.create_task(part)
            session = self._root.create_task(self._sessions.run())
            waits = [
                self._root.create_task(stop.wait()),
                self._root.create_task(self._node.empty.wait()),
            ]
            await asyncio.wait([*waits, session], return_when=asyncio.FIRST_COMPLETED)
            if session.done():
                session.result()
            held = len(self._node.book.leases)
            _log.info("leaving%s", f"; {held} runs go on and are taken up at the next start" if held else "")
            self._sessions.leave()
            settled = self._root.create_task(self._deadlines.settled())
            await asyncio.wait([session, settled], timeout=_LEAVE_S)

    async def _sweep(self) -> None:
        await self._sessions.welcomed.wait()
        self._root.create_task(self._inputs.run(self._health))
        self._root.create_task(self._hygiene().run(self._health))
        self._root.create_task(self._spares.run(self._health))
        self._root.create_task(self._warming.run(self._health))
        await sweep(self._engine, self._health, self._images, self._owner, lambda: self._node.book.leases)

    def _register(self, server: grpc.aio.Server) -> list[str]:
        servicer = AgentServicer(self._settings.agent_name, self._node, self._sessions, self._health)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(servicer, server)
        return [agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name]


def _build_settings(settings: AgentSettings, identity: Identity) -> BuildSettings:
    return BuildSettings(
        builder=identity.instance_id,
        starts=identity.starts,
        base_images=settings.base_images,
        indexes=Indexes(settings.build_index_url, settings.build_extra_index_urls),
        ca_bundle=settings.build_ca_bundle,
        network=settings.build_network,
        mirrors=Mirrors(settings.build_apt_mirrors),
        channels=Channels(settings.conda_channels, gpus.cuda_version(settings.gpus)),
        dockerfile_builder=settings.dockerfile_builder,
        secrets=settings.build_secrets,
        cache_volume="" if settings.build_cache_volume == "-" else settings.build_cache_volume,
    )


def _introduction(
    settings: AgentSettings, identity: Identity, capacity: Capacity, boot: str
) -> leases_pb2.Hello:
    return leases_pb2.Hello(
        agent=settings.agent_name,
        instance_id=identity.instance_id,
        boot_id=boot,
        queues=settings.queue_names,
        capacity=leases_pb2.Capacity(slots=capacity.slots),
        gpus=capacity.gpus,
        labels={"os": platform.system(), "arch": platform.machine()} | settings.labels,
        version=version("towline"),
        hostname=socket.gethostname(),
    )


if __name__ == "__main__":
    sys.exit(main())
