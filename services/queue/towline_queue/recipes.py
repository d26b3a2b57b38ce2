"""What submissions name, looked up: job and artifact versions in the registry, queues in the database."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from towline.errors import NotFound
from towline.names import JobVersionName, QueueName
from towline.v1 import jobs_pb2
from towline_queue.core.kinds import Recipe
from towline_queue.core.submission import Submission
from towline_queue.inputs import asked_inputs, note_uses, resolve
from towline_queue.recently_used import RecentlyUsed
from towline_queue.registry_client import RegistryClient
from towline_queue.storage import queues
from towline_queue.storage.database import Database
from towline_queue.storage.new_runs import NewRuns, QueueVersion, queue_versions

__all__ = ["AskedKind", "Found", "Recipes"]

_RECIPES_BYTES: Final = 32 * 1024 * 1024
_QUEUES_BYTES: Final = 32 * 1024 * 1024
# Of what is kept besides texts, roughly.
_EACH_BYTES: Final = 4096


class AskedKind(NamedTuple):
    """One kind of runs that a request asks for.

    Attributes:
        text: The serialized RunSubmission without what is a run's own.
        submission: The same, its form checked.
        prefix: What stands before the paths of its first run's fields in an error: "" or "runs[i].".
    """

    text: bytes
    submission: Submission
    prefix: str


class Found(NamedTuple):
    """What a kind names."""

    version: jobs_pb2.JobVersion
    queue: QueueVersion
    inputs: tuple[jobs_pb2.ArtifactInput, ...]


class Recipes:
    """Recipes of kinds, each made once.

    Queues are remembered as they were: who stores what was made has it compared, and calls `refresh`.

    Args:
        database: Where queues are.
        registry: Where job and artifact versions come from.
    """

    def __init__(self, database: Database, registry: RegistryClient) -> None:
        self._database = database
        self._registry = registry
        self._queues: RecentlyUsed[QueueName, QueueVersion] = RecentlyUsed(_QUEUES_BYTES)
        self._recipes: RecentlyUsed[tuple[bytes, str, bytes, str], Recipe] = RecentlyUsed(_RECIPES_BYTES)

    async def find(self, kinds: Sequence[AskedKind]) -> list[Found]:
        """Return what each kind names.

        Raises:
            InvalidArgument: The inputs of one are too many.
            NotFound: The first that is not there, by its path: QUEUE_NOT_FOUND, JOB_NOT_FOUND or
                JOB_VERSION_NOT_FOUND; or the artifacts that are not, see `resolve`.
            Unavailable: The registry gave no answer; reason REGISTRY_UNAVAILABLE.
        """
        versions: dict[JobVersionName, jobs_pb2.JobVersion] = {}
        for kind in kinds:
            job = kind.submission.job
            if job not in versions:
                with _located(kind.prefix, "job"):
                    versions[job] = await self._registry.job_version(job)
        wanted = {kind.submission.queue for kind in kinds}
        known = {name: version for name in wanted if (version := self._queues.get(name)) is not None}
        if len(known) < len(wanted):
            known |= await self._read(wanted - known.keys())
        for kind in kinds:
            if kind.submission.queue not in known:
                with _located(kind.prefix, "queue"):
                    raise queues.not_found(kind.submission.queue)
        inputs = await self._inputs(kinds, versions)
        return [
            Found(versions[kind.submission.job], known[kind.submission.queue], one)
            for kind, one in zip(kinds, inputs, strict=True)
        ]

    async def _inputs(
        self, kinds: Sequence[AskedKind], versions: Mapping[JobVersionName, jobs_pb2.JobVersion]
    ) -> Sequence[tuple[jobs_pb2.ArtifactInput, ...]]:
        if not any(kind.submission.inputs or versions[kind.submission.job].spec.inputs for kind in kinds):
            return [()] * len(kinds)
        asked = [
            asked_inputs(
                versions[kind.submission.job].spec, kind.submission, f"{kind.prefix or 'run.'}inputs"
            )
            for kind in kinds
        ]
        return await resolve(self._registry, asked)

    async def note_uses(self, made: NewRuns) -> None:
        """Note what runs that are about to be stored read; see `inputs.note_uses` for the errors."""
        await note_uses(self._registry, made)

    def recipe(self, kind: AskedKind, found: Found) -> Recipe:
        """Return the recipe of a kind; see Recipe for the errors."""
        # Written out where there are any: an alias may have moved.
        inputs = "\n".join(f"{one.name}={one.artifact}" for one in found.inputs)
        key = (kind.text, found.version.name, found.queue.spec, inputs)
        recipe = self._recipes.get(key)
        if recipe is None:
            recipe = Recipe(kind.submission, found.version, found.queue.spec, kind.prefix, found.inputs)
            weight = sum(map(len, (*key, recipe.kind.spec))) + _EACH_BYTES
            self._recipes.keep(key, recipe, weight)
        return recipe

    async def refresh(self, names: Collection[QueueName]) -> bool:
        """Look at queues again; return whether one has changed since it was remembered."""
        before = {name: self._queues.get(name) for name in names}
        now = await self._read(names)
        return any(now.get(name) != before[name] for name in names)

    async def _read(self, names: Collection[QueueName]) -> Mapping[QueueName, QueueVersion]:
        found = await queue_versions(self._database, names)
        for name in names:
            if name in found:
                self._queues.keep(name, found[name], len(found[name].spec) + _EACH_BYTES)
            else:
                self._queues.drop(name)
        return found


@contextmanager
def _located(prefix: str, field: str) -> Iterator[None]:
    """Say in a NotFound of the block where in the request the name stands."""
    try:
        yield
    except NotFound as error:
        path = f"{prefix or 'run.'}{field}"
        raise NotFound(
            f"{path}: {error.message}", reason=error.reason, metadata=error.metadata | {"field": path}
        ) from error
