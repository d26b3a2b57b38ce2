"""Artifacts: folders as manifests of blobs."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc

from towline.client import placing, shorthand
from towline.client.artifact_records import ArtifactRecords
from towline.client.blobs import Blobs
from towline.client.calls import Service, new_request_id
from towline.client.digests import EMPTY, Measured
from towline.client.parallel import in_parallel
from towline.client.patience import persistently
from towline.client.placing import Place
from towline.client.reading import cut, digests_of
from towline.client.small_blobs import MOST_BLOBS, MOST_MESSAGE_BYTES, SMALL_BYTES, SmallBlobs
from towline.client.transfers import About, Doing, TreeProgress, Watch
from towline.client.trees import Entry, changed, entries_of
from towline.errors import Aborted, InvalidArgument, NotFound, TowlineError
from towline.rpc.memory import keep_freed_memory
from towline.v1 import artifacts_pb2

__all__ = ["Artifacts"]

# Messages of small blobs, and large blobs, that are on their way.
_SMALL_AT_ONCE: Final = 4
_LARGE_AT_ONCE: Final = 4
# Of answers to one request for small blobs: what is lost of them is asked for again.
_REQUEST_BYTES: Final = 8 * 1024 * 1024
_COMPARED_AT_ONCE: Final = 256
# A manifest of 100,000 files takes a while to check and to store.
_CREATE_TIMEOUT_S: Final = 120.0
# Blobs that were there may be collected while others are sent, if that takes a day.
_ROUNDS: Final = 3


class Artifacts(ArtifactRecords):
    """Named, versioned sets of files."""

    def __init__(self, registry: Service, blobs: Blobs) -> None:
        super().__init__(registry)
        self._blobs = blobs
        self._small = SmallBlobs(registry)

    async def upload(
        self,
        source: Path,
        name: str,
        type: str,
        *,
        about: About | None = None,
        progress: TreeProgress | None = None,
    ) -> artifacts_pb2.CreateArtifactVersionResponse:
        """Store the files below a folder, or one file, and make them a version of an artifact.

        What the registry has is not sent, equal files are sent once, and an upload that was interrupted, even
        by the end of this process, goes on where it stopped when it is called again. Links that stay in the
        folder are read as what they lead to. Breaks of up to a minute are waited for.

        Args:
            source: The folder or file; a file is in the version by its name alone.
            name: The artifact, "digits" or "artifacts/digits".
            type: What it is, such as "dataset".
            about: What else is told with the version.
            progress: Is told how far it is.

        Returns:
            The version; `created` is false where one with this content was there.

        Raises:
            InvalidArgument: There is nothing at `source`, or something that cannot be stored: a link that
                leads out, a device, a name that is not UTF-8, a file that cannot be read; each is named.
            FailedPrecondition: A file changed or vanished meanwhile; reason FILE_CHANGED.
            TowlineError: What the registry answered, or Unavailable.
        """
        keep_freed_memory()
        request = _request(shorthand.artifact(name), type, about or About())
        await self._blobs.missing([EMPTY])  # before much is read for a registry that is not there
        entries = await asyncio.to_thread(entries_of, source)
        watch = Watch(progress, len(entries), sum(entry.stamp.size_bytes for entry in entries))
        digests, nothing_new = await digests_of(entries, watch)
        request.files.extend(
            artifacts_pb2.ArtifactFile(
                path=entry.path,
                digest=digests[entry.path],
                size_bytes=entry.stamp.size_bytes,
                executable=entry.executable,
            )
            for entry in entries
        )
        # What was read before was most likely sent before, too; asking would cost as much as trying.
        made = await self._create(request) if nothing_new else None
        for _ in range(_ROUNDS):
            if made is None:
                await self._send(entries, digests, watch)
                made = await self._create(request)
        if made is None:
            raise Aborted(
                "blobs go from the registry while others are sent; raise its COLLECT_AFTER_HOURS",
                reason="BLOBS_COLLECTED",
            )
        watch.begin(Doing.SENDING)
        watch.done(len(entries), sum(entry.stamp.size_bytes for entry in entries))
        return made

    async def _create(
        self, request: artifacts_pb2.CreateArtifactVersionRequest
    ) -> artifacts_pb2.CreateArtifactVersionResponse | None:
        """Make a version; None: the registry lacks some of its blobs."""
        try:
            return await persistently(
                lambda: self._registry.call(
                    self._stub.CreateArtifactVersion,
                    request,
                    timeout_s=_CREATE_TIMEOUT_S,
                    compression=grpc.Compression.Gzip,
                )
            )
        except NotFound as error:
            if error.reason != "BLOB_NOT_FOUND":
                raise
        return None

    async def _send(self, entries: Sequence[Entry], digests: dict[str, str], watch: Watch) -> None:
        """Send what the registry lacks."""
        watch.begin(Doing.SENDING)
        first = {digests[entry.path]: entry for entry in reversed(entries)}
        lacking = {digest: first[digest] for digest in await persistently(lambda: self._blobs.missing(first))}
        there = [entry for entry in entries if lacking.get(digests[entry.path]) is not entry]
        watch.done(len(there), sum(entry.stamp.size_bytes for entry in there))

        async def send_some(files: Sequence[tuple[Entry, str]]) -> None:
            await self._small.send(files)
            watch.done(len(files), sum(entry.stamp.size_bytes for entry, _ in files))

        small = [
            ((entry, digest), entry.stamp.size_bytes)
            for digest, entry in lacking.items()
            if entry.stamp.size_bytes <= SMALL_BYTES
        ]
        await in_parallel(cut(small, MOST_BLOBS, MOST_MESSAGE_BYTES), send_some, at_once=_SMALL_AT_ONCE)
        large = [item for item in lacking.items() if item[1].stamp.size_bytes > SMALL_BYTES]
        await in_parallel(large, lambda item: self._send_large(*item, watch), at_once=_LARGE_AT_ONCE)

    async def _send_large(self, digest: str, entry: Entry, watch: Watch) -> None:
        reached = 0

        def moved(done: int, _: int) -> None:
            nonlocal reached
            watch.done(0, done - reached)
            reached = done

        try:
            await self._blobs.send(Path(entry.place), Measured(digest, entry.stamp.size_bytes), moved)
        except FileNotFoundError:
            raise changed(entry.path, "vanished") from None
        except TowlineError as error:
            if error.reason in ("FILE_CHANGED", "DIGEST_MISMATCH"):
                raise changed(entry.path, "changed") from None
            raise
        watch.done(1, 0)

    async def download(
        self, name: str, to: Path, *, replace: bool = True, progress: TreeProgress | None = None
    ) -> artifacts_pb2.ArtifactVersion:
        """Write a version's files below the folder `to`; those that are there with this content are kept.

        A download that was interrupted goes on where it stopped when it is called again. Each file is there
        whole and checked, or not at all. Breaks of up to a minute are waited for.

        Args:
            name: The version, such as "digits:v0".
            to: The folder; it is made where it is missing.
            replace: Whether files that are there with other content are replaced; else they are refused.
            progress: Is told how far it is.

        Raises:
            AlreadyExists: One is there with other content and `replace` is false; nothing is written then;
                reason FILE_EXISTS.
            InvalidArgument: A path of the manifest leaves `to`; nothing is written then.
            FailedPrecondition: A link that is already below `to` leads out of it; reason PATH_LEAVES_FOLDER.
            Aborted: What came is not what was asked for; reason DIGEST_MISMATCH.
            OSError: A file cannot be written.
            TowlineError: What the registry answered, or Unavailable.
        """
        keep_freed_memory()
        version = await self.get(name)
        places = await asyncio.to_thread(placing.places_below, to, version.files)
        sizes = {file.digest: file.size_bytes for file in version.files}
        watch = Watch(progress, len(version.files), version.size_bytes)
        kept, lacking, others = await _compare(places, sizes, watch)
        if others and not replace:
            raise placing.exist(to, others)
        await asyncio.to_thread(placing.mark, kept)
        watch.begin(Doing.RECEIVING)
        count = sum(map(len, lacking.values()))
        left_bytes = sum(sizes[digest] * len(some) for digest, some in lacking.items())
        watch.done(len(version.files) - count, version.size_bytes - left_bytes)
        await self._receive(places, lacking, sizes, watch)
        return version

    async def _receive(
        self,
        places: dict[str, list[Place]],
        lacking: dict[str, list[Place]],
        sizes: dict[str, int],
        watch: Watch,
    ) -> None:
        """Write what is lacking, from the registry or from where the same content is already."""

        async def take(blobs: Sequence[artifacts_pb2.WholeBlob]) -> None:
            await asyncio.to_thread(_write, lacking, blobs)
            for blob in blobs:
                count = len(lacking[blob.digest])
                watch.done(count, count * len(blob.data))

        small = [
            (digest, size) for digest, size in sizes.items() if size <= SMALL_BYTES and digest in lacking
        ]
        await in_parallel(
            cut(small, MOST_BLOBS, _REQUEST_BYTES),
            lambda group: self._small.receive(group, take),
            at_once=_SMALL_AT_ONCE,
        )
        large = [digest for digest in lacking if sizes[digest] > SMALL_BYTES]
        await in_parallel(
            large,
            lambda digest: self._receive_large(digest, places[digest], lacking[digest], watch),
            at_once=_LARGE_AT_ONCE,
        )

    async def _receive_large(
        self, digest: str, places: Sequence[Place], lacking: Sequence[Place], watch: Watch
    ) -> None:
        source = next((place for place in places if place not in lacking), None)
        if source is None:
            source = lacking[0]
            reached = 0

            def moved(done: int, _: int) -> None:
                nonlocal reached
                watch.done(0, done - reached)
                reached = done

            await self._blobs.download(digest, source.path, moved)
        others = [place for place in lacking if place is not source]
        size_bytes = await asyncio.to_thread(placing.copy, [source, *others], digest)
        watch.done(len(lacking), len(others) * size_bytes)


async def _compare(
    places: dict[str, list[Place]], sizes: dict[str, int], watch: Watch
) -> tuple[list[Place], dict[str, list[Place]], list[Place]]:
    """Find places that have their content, by digest those that lack it, and which of these have another."""
    watch.begin(Doing.COMPARING)
    kept: list[Place] = []
    lacking: dict[str, list[Place]] = {}
    others: list[Place] = []

    async def compare(some: Sequence[tuple[str, Place]]) -> None:
        found = await asyncio.to_thread(
            lambda: [placing.stands(place, digest, sizes[digest]) for digest, place in some]
        )
        for (digest, place), standing in zip(some, found, strict=True):
            if standing:
                kept.append(place)
            else:
                lacking.setdefault(digest, []).append(place)
            if standing is False:
                others.append(place)
            watch.done(1, sizes[digest])

    every = [((digest, place), sizes[digest]) for digest, some in places.items() for place in some]
    await in_parallel(cut(every, _COMPARED_AT_ONCE, _REQUEST_BYTES), compare)
    return kept, lacking, others


def _write(places: dict[str, list[Place]], blobs: Sequence[artifacts_pb2.WholeBlob]) -> None:
    for blob in blobs:
        placing.write(places[blob.digest], blob.digest, blob.data)


def _request(artifact: str, type: str, about: About) -> artifacts_pb2.CreateArtifactVersionRequest:
    try:
        metadata = json.dumps(dict(about.metadata), allow_nan=False) if about.metadata else ""
    except (TypeError, ValueError) as error:
        raise InvalidArgument.field("metadata", f"is nothing that JSON can hold: {error}") from None
    return artifacts_pb2.CreateArtifactVersionRequest(
        request_id=about.request_id or new_request_id(),
        artifact=artifact,
        type=type,
        producer_run=shorthand.run(about.producer_run) if about.producer_run else "",
        aliases=about.aliases,
        producer_job_version=(
            shorthand.job_version(about.producer_job_version) if about.producer_job_version else ""
        ),
        metadata_json=metadata,
    )
