"""Images by content key, and the leases under which they are built.

A row of `images` stays when a build fails or an image is forgotten: its epoch must never be given again.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Update, and_, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from towline.errors import Aborted, NotFound
from towline.names import AgentName
from towline_registry.core.images import Key
from towline_registry.storage.tables import images

__all__ = ["Building", "Failed", "Leased", "Pushed", "State", "finish", "forget", "obtain", "renew"]


@dataclass(frozen=True)
class Pushed:
    """The image is there."""

    reference: str
    size_bytes: int
    builder: str
    create_time: datetime


@dataclass(frozen=True)
class Leased:
    """Nobody has it, and the caller has the lease now."""

    epoch: int


@dataclass(frozen=True)
class Building:
    """Somebody else builds it."""

    epoch: int
    builder: str
    detail: str
    start_time: datetime


@dataclass(frozen=True)
class Failed:
    """The build that the caller has waited for failed."""

    failure: bytes
    """towline.v1.Failure."""


State = Pushed | Leased | Building | Failed


async def obtain(
    connection: AsyncConnection,
    key: Key,
    asker: tuple[AgentName, str],
    waited_for: int | None,
    ttl: timedelta,
) -> State:
    """Say where an image stands, and give the caller the build lease where nobody has image or lease.

    Args:
        connection: In a transaction.
        key: Which.
        asker: The agent and the id of its build.
        waited_for: The epoch of the build that the caller has heard of; None: of none.
        ttl: How long the lease holds.
    """
    builder, build_id = asker
    look = select(images, func.clock_timestamp().label("now")).where(_is(key))
    row = (await connection.execute(look)).one_or_none()
    # Most look to see how a build goes, and need no lock for that.
    if row is not None and (state := _without_lease(row, build_id, waited_for)):
        return state
    await connection.execute(
        insert(images).values(repository=key.repository, digest=key.digest).on_conflict_do_nothing()
    )
    # From here to the commit nobody else takes or ends a lease of this key.
    row = (await connection.execute(look.with_for_update())).one()
    if state := _without_lease(row, build_id, waited_for):
        return state
    until = func.clock_timestamp() + ttl
    if row.expire_time is not None and row.build_id == build_id:
        await connection.execute(_update(key).values(expire_time=until))
        return Leased(row.epoch)
    epoch = row.epoch + 1
    taken = {"epoch": epoch, "builder": builder, "build_id": build_id, "detail": "", "expire_time": until}
    await connection.execute(_update(key).values(taken | {"build_time": func.clock_timestamp()}))
    return Leased(epoch)


async def renew(connection: AsyncConnection, key: Key, epoch: int, detail: str, ttl: timedelta) -> None:
    """Keep a build lease, whose time may be up as long as nobody took it.

    Raises:
        Aborted: It is another's now, or has ended; reason STALE_EPOCH.
    """
    kept = await connection.execute(
        _update(key)
        .where(images.c.epoch == epoch, images.c.expire_time.is_not(None))
        .values(detail=detail, expire_time=func.clock_timestamp() + ttl)
    )
    if not kept.rowcount:
        raise _stale(key)


async def finish(
    connection: AsyncConnection,
    key: Key,
    epoch: int,
    *,
    pushed: tuple[str, int] | None = None,
    failure: bytes | None = None,
) -> None:
    """End a build lease; ending it again in the same way changes nothing.

    Args:
        connection: In a transaction.
        key: Which image.
        epoch: The lease's.
        pushed: Its reference and its size in bytes, if it is there now.
        failure: towline.v1.Failure, if it cannot be built.

    Raises:
        Aborted: Another has, or had, the lease since; reason STALE_EPOCH.
    """
    row = (await connection.execute(select(images).where(_is(key)).with_for_update())).one_or_none()
    if row is None or row.epoch != epoch:
        raise _stale(key)
    if row.expire_time is None:
        if _ended_so(row, pushed, failure):
            return
        raise _stale(key)
    outcome: dict[str, object] = {"expire_time": None, "build_id": "", "detail": ""}
    if pushed is not None:
        outcome |= {"reference": pushed[0], "size_bytes": pushed[1], "build_time": func.clock_timestamp()}
    elif failure is not None:
        outcome |= {"failed_epoch": epoch, "failure": failure}
    await connection.execute(_update(key).values(**outcome))


async def forget(connection: AsyncConnection, key: Key, reference: str) -> None:
    """Take back that an image is there, unless it has another reference by now.

    Raises:
        NotFound: The key was never heard of; reason IMAGE_NOT_FOUND.
    """
    known = await connection.execute(select(images.c.digest).where(_is(key)))
    if known.one_or_none() is None:
        raise NotFound(
            f"no image of {key.digest} was recorded for {key.repository}", reason="IMAGE_NOT_FOUND"
        )
    await connection.execute(_update(key).where(images.c.reference == reference).values(reference=None))


def _without_lease(row: Row[Any], build_id: str, waited_for: int | None) -> State | None:
    """Say where an image stands; None: the caller may have the build lease."""
    if row.reference is not None:
        return Pushed(row.reference, row.size_bytes, row.builder, row.build_time)
    if waited_for is not None and row.failed_epoch == waited_for:
        return Failed(row.failure)
    if row.expire_time is not None and row.now < row.expire_time and row.build_id != build_id:
        return Building(row.epoch, row.builder, row.detail, row.build_time)
    return None


def _ended_so(row: Row[Any], pushed: tuple[str, int] | None, failure: bytes | None) -> bool:
    if pushed is not None:
        return bool(row.reference == pushed[0])
    if failure is not None:
        return bool(row.failed_epoch == row.epoch)
    return row.reference is None and row.failed_epoch != row.epoch


def _is(key: Key) -> ColumnElement[bool]:
    return and_(images.c.repository == key.repository, images.c.digest == key.digest)


def _update(key: Key) -> Update:
    return update(images).where(_is(key))


def _stale(key: Key) -> Aborted:
    return Aborted(
        f"the build lease of {key.digest} is no longer this build's; give it up and ask for the image again",
        reason="STALE_EPOCH",
    )
