"""Artifact versions on this node, each in a volume of its own that many runs read.

A volume is filled through the engine, so nothing depends on paths of the node. It counts once it is whole and
on record; what a crash or a cancelled run leaves half-filled is removed and never used.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import uniform
from typing import Final, NoReturn

from towline import names
from towline.errors import NotFound, TowlineError, Unavailable
from towline.v1 import artifacts_pb2, jobs_pb2, leases_pb2, runs_pb2
from towline_agent.core import inputs
from towline_agent.core.failures import failed
from towline_agent.core.inputs import FILLED, LABEL_FILLER, LABEL_INPUT, LABEL_INPUT_OWNER, Stored
from towline_agent.engine.health import EngineHealth
from towline_agent.engine.port import Engine
from towline_agent.hygiene import Leaving
from towline_agent.input_archive import InputArchive
from towline_agent.input_records import InputRecords
from towline_agent.registry import Registry
from towline_agent.retry import retrying
from towline_agent.stopping import to_the_end

__all__ = ["InputCache", "InputSettings"]

_log = logging.getLogger(__name__)
_CLEAN_EVERY_S: Final = 60.0
# A container that ends frees its volumes, and nobody tells.
_LOOK_AGAIN_S: Final = 2.0
_TELL_EVERY_S: Final = 1.0

Tell = Callable[[str], None]


@dataclass(frozen=True)
class InputSettings:
    """How inputs are kept.

    Attributes:
        instance_id: Id of the agent's data folder; marks what is the agent's.
        most_bytes: Bound of what is kept.
    """

    instance_id: str
    most_bytes: int


@dataclass(eq=False)
class _Entry:
    """One artifact version, here or on its way."""

    digest: str
    size: int
    volume: str = ""
    whole: bool = False
    users: int = 0
    """Runs between asking for it and having a container; after that the engine keeps it."""
    used_at: float = 0.0
    filling: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def stored(self) -> Stored:
        return Stored(self.digest, self.size, self.volume, self.used_at)


@dataclass(frozen=True)
class _Wanted:
    """One input of a run."""

    name: str
    version: artifacts_pb2.ArtifactVersion
    """Without its files."""


class InputCache:
    """Gets inputs onto the node, each version once however many runs want it. `run` must run.

    Args:
        engine: The engine.
        registry: Where the bytes come from.
        records: Which volumes are whole.
        settings: How they are kept.
    """

    def __init__(
        self, engine: Engine, registry: Registry, records: InputRecords, settings: InputSettings
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._records = records
        self._settings = settings
        self._entries: dict[str, _Entry] | None = None
        """By digest; None: what earlier starts left was not looked at yet."""
        self._reading = asyncio.Lock()
        self._turn = asyncio.Lock()
        """Held while room is made: first come, first served, and nobody waits for room while holding some."""
        self._fillers: set[str] = set()
        """Names of containers that volumes are being filled through."""
        self._freed = asyncio.Event()
        self._left_over = asyncio.Event()

    @asynccontextmanager
    async def holding(
        self, wanted: Sequence[jobs_pb2.ArtifactInput], image: str, tell: Tell
    ) -> AsyncIterator[Mapping[str, str] | leases_pb2.AttemptResult]:
        """Give the volumes of inputs by their names, or the result of the attempt if there can be none.

        None of them goes within the block; a container made in it keeps them from then on.

        Args:
            wanted: What a run reads, by version.
            image: Any image that is on the node.
            tell: Gets what is done, for people.

        Raises:
            Unavailable: The engine went away; trying again is safe.
        """
        if not wanted:
            yield {}
            return
        found = await self._look_up(wanted, tell)
        if isinstance(found, leases_pb2.AttemptResult):
            yield found
            return
        entries = await self._taken(found, tell)
        if isinstance(entries, leases_pb2.AttemptResult):
            yield entries
            return
        try:
            for one in found:
                result = await self._ensure(entries[one.version.digest], one, image, tell)
                if result is not None:
                    yield result
                    return
            yield {one.name: entries[one.version.digest].volume for one in found}
        finally:
            self._give_back(entries.values())

    async def intact(self, volumes: Collection[str]) -> bool:
        """Tell whether volumes are those that were filled: one may have been removed just before its use."""
        if not volumes:
            return True
        return set(volumes) <= await self._on_engine()

    async def run(self, health: EngineHealth) -> NoReturn:
        """Remove what was left behind, at once and again every minute; runs until cancelled."""
        while True:
            await health.wait_ready()
            self._left_over.clear()
            try:
                await self._clean()
            except Unavailable:
                await health.back()
                continue
            except (TowlineError, OSError) as error:
                _log.warning("inputs that nobody needs stay for now: %s", error)
            try:
                async with asyncio.timeout(_about(_CLEAN_EVERY_S)):
                    await self._left_over.wait()
            except TimeoutError:
                continue

    async def _look_up(
        self, wanted: Sequence[jobs_pb2.ArtifactInput], tell: Tell
    ) -> list[_Wanted] | leases_pb2.AttemptResult:
        found = []
        for one in wanted:
            try:
                version = await self._version(one.artifact, tell, files=False)
            except TowlineError as error:
                return _failure(one.name, one.artifact, error)
            found.append(_Wanted(one.name, version))
        return found

    async def _version(self, name: str, tell: Tell, *, files: bool) -> artifacts_pb2.ArtifactVersion:
        return await retrying(
            lambda: self._registry.artifact_version(name, files=files),
            what=f"looking up {name}",
            patience_s=None,
            waiting=lambda why: tell(f"getting the inputs: {why}"),
        )

    async def _taken(
        self, wanted: Iterable[_Wanted], tell: Tell
    ) -> dict[str, _Entry] | leases_pb2.AttemptResult:
        """Take entries for all of them at once, with room for what is not here yet."""
        sizes = {one.version.digest: one.version.size_bytes for one in wanted}
        if sum(sizes.values()) > self._settings.most_bytes:
            return failed(
                runs_pb2.FAILURE_CAUSE_CONTROL_PLANE,
                f"The run's inputs are {sum(sizes.values())} bytes, more than its agent keeps "
                f"({self._settings.most_bytes}); set TOWLINE_AGENT_INPUT_CACHE higher, or use another agent.",
            )
        entries = self._entries
        if entries is None or not sizes.keys() <= entries.keys():
            async with self._turn:
                entries = await self._known()
                while not await self._make_room(entries, sizes):
                    tell("waiting for room: other runs use the inputs that this node keeps")
                    self._freed.clear()
                    try:
                        async with asyncio.timeout(_about(_LOOK_AGAIN_S)):
                            await self._freed.wait()
                    except TimeoutError:
                        continue
                return self._take(entries, sizes)
        return self._take(entries, sizes)

    def _take(self, entries: dict[str, _Entry], sizes: Mapping[str, int]) -> dict[str, _Entry]:
        taken = {digest: entries.setdefault(digest, _Entry(digest, size)) for digest, size in sizes.items()}
        for entry in taken.values():
            entry.users += 1
        return taken

    def _give_back(self, taken: Iterable[_Entry]) -> None:
        entries = self._entries or {}
        for entry in taken:
            entry.users -= 1
            if not entry.users and not entry.whole and entries.get(entry.digest) is entry:
                del entries[entry.digest]
        self._freed.set()

    async def _make_room(self, entries: dict[str, _Entry], wanted: Mapping[str, int]) -> bool:
        """Remove what was used longest ago until all fits, and tell whether it does."""

        def fits() -> bool:
            new = sum(size for digest, size in wanted.items() if digest not in entries)
            return sum(entry.size for entry in entries.values()) + new <= self._settings.most_bytes

        unused = [entry for entry in entries.values() if not entry.users and entry.digest not in wanted]
        by_volume = {entry.volume: entry for entry in unused}
        for stored in inputs.oldest_first(entry.stored for entry in unused):
            if fits():
                return True
            await self._remove(entries, by_volume[stored.volume])
        return fits()

    async def leaving(self) -> Sequence[Leaving]:
        """Return what no run is about to use, what was used longest ago first."""
        entries = await self._known()
        by_volume = {entry.volume: entry for entry in entries.values() if not entry.users}
        return [
            Leaving(stored.used_at, partial(self._remove, entries, by_volume[stored.volume]))
            for stored in inputs.oldest_first(entry.stored for entry in by_volume.values())
        ]

    async def _remove(self, entries: dict[str, _Entry], entry: _Entry) -> bool:
        """Remove an input unless it is in use by now, and tell whether it is gone."""
        if entry.users or entries.get(entry.digest) is not entry:  # taken meanwhile, or gone
            return False
        # Nobody may take it while it is being removed.
        del entries[entry.digest]
        if await self._engine.remove_volume(entry.volume):
            _log.info("input %s makes room", entry.volume)
            await asyncio.to_thread(self._records.forget, entry.volume)
            return True
        # A container uses it. Where it was wanted anew meanwhile, this volume goes with the next cleaning.
        entries.setdefault(entry.digest, entry)
        return False

    async def _ensure(
        self, entry: _Entry, one: _Wanted, image: str, tell: Tell
    ) -> leases_pb2.AttemptResult | None:
        """Have an entry whole; return the result of the attempt where that cannot be."""
        if entry.filling.locked():
            tell(f"waiting for another run that gets input {one.name} ({names.short(one.version.name)})")
        async with entry.filling:
            entry.used_at = time.time()
            if entry.whole and entry.volume in await self._on_engine():
                await asyncio.to_thread(self._records.touch, entry.stored)
                return None
            try:
                await self._fill(entry, one, image, tell)
            except Unavailable:
                raise
            except (TowlineError, OSError) as error:
                _log.warning("%s cannot be brought here: %s", one.version.name, error)
                return _failure(one.name, one.version.name, error)
        return None

    async def _fill(self, entry: _Entry, one: _Wanted, image: str, tell: Tell) -> None:
        version = await self._version(one.version.name, tell, files=True)
        entry.whole = False
        await asyncio.to_thread(self._records.forget, entry.volume)
        token = uuid.uuid4().hex[:8]
        entry.volume = inputs.volume_name(entry.digest, token)
        filler = f"{entry.volume}-filler"
        self._fillers.add(filler)
        try:
            labels = inputs.volume_labels(entry.digest, entry.size, self._settings.instance_id)
            await to_the_end(self._engine.create_volume(entry.volume, labels))
            config = inputs.filler_config(image, entry.volume, self._settings.instance_id)
            container = await to_the_end(self._engine.create(filler, config))
            archive = InputArchive(self._registry, version, _Progress(one, tell).moved, tell)
            failure: Exception | None = None
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(archive.feed())
                    await self._engine.put_archive(container, FILLED, archive.pieces())
            except* (TowlineError, OSError) as errors:
                failure = _first(errors)
            if failure is not None:
                raise failure
            await asyncio.to_thread(self._records.write, entry.stored)
            entry.whole = True
        finally:
            # Removing takes its time: an order to stop that ends the run does not wait for it.
            self._fillers.discard(filler)
            self._left_over.set()

    async def _known(self) -> dict[str, _Entry]:
        """Return the entries, at first those that earlier starts left whole."""
        async with self._reading:
            if self._entries is None:
                there = await self._on_engine()
                entries = {}
                for stored in inputs.oldest_first(await asyncio.to_thread(self._records.read)):
                    if stored.volume in there:
                        entries[stored.digest] = _Entry(
                            stored.digest, stored.size, stored.volume, whole=True, used_at=stored.used_at
                        )
                    else:
                        await asyncio.to_thread(self._records.forget, stored.volume)
                self._entries = entries
        return self._entries

    async def _on_engine(self) -> set[str]:
        # By both labels: a volume that the engine makes for a mount of one that is gone has none.
        labels = {LABEL_INPUT_OWNER: self._settings.instance_id, LABEL_INPUT: ""}
        return {volume.name for volume in await self._engine.volumes(labels)}

    async def _clean(self) -> None:
        entries = await self._known()
        for container in await self._engine.containers({LABEL_FILLER: self._settings.instance_id}):
            if container.name not in self._fillers:
                await self._engine.remove(container.id)
        whole = [entry for entry in entries.values() if entry.whole]
        there = await self._on_engine()
        # Asked for after them: an entry names its volume before that is made.
        for volume in there - {entry.volume for entry in entries.values()}:
            if await self._engine.remove_volume(volume):
                await asyncio.to_thread(self._records.forget, volume)
        for entry in whole:
            if entry.volume not in there and not entry.users and entries.get(entry.digest) is entry:
                _log.info("input %s was removed from the engine", entry.volume)
                del entries[entry.digest]
                await asyncio.to_thread(self._records.forget, entry.volume)


class _Progress:
    """Tells how far an input is, not too often."""

    def __init__(self, wanted: _Wanted, tell: Tell) -> None:
        self._wanted = wanted
        self._tell = tell
        self._done = 0
        self._told_at = 0.0
        self.moved(0)

    def moved(self, count: int) -> None:
        """Note that more bytes have come."""
        self._done += count
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            version = self._wanted.version
            self._tell(inputs.progress(self._wanted.name, version.name, self._done, version.size_bytes))


def _about(seconds: float) -> float:
    return uniform(seconds * 0.8, seconds * 1.2)  # noqa: S311 - jitter


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _failure(name: str, version: str, error: Exception) -> leases_pb2.AttemptResult:
    """Make the result of an attempt whose input cannot be had."""
    subject = f"Input {name} ({names.short(version)})"
    message = error.message if isinstance(error, TowlineError) else str(error)
    if isinstance(error, NotFound) and error.reason.startswith("ARTIFACT_"):
        return failed(
            runs_pb2.FAILURE_CAUSE_USER_ERROR,
            f"{subject} is not in the registry: {message}; submit the run with another version.",
        )
    return failed(
        runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, f"{subject} could not be brought to the node: {message}"
    )
