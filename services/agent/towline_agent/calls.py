"""The end of a bidirectional call whose two directions are two tasks of one group."""

import asyncio
from typing import Final

import grpc

from towline.errors import TowlineError, Unavailable
from towline.rpc.status import to_error

__all__ = ["CALL_ERRORS", "told_by"]

# What reading and writing raise; a pending write may raise InvalidStateError when the peer stops.
CALL_ERRORS: Final = (grpc.aio.AioRpcError, asyncio.InvalidStateError, TowlineError)


def told_by(errors: BaseExceptionGroup[Exception], peer: str) -> TowlineError:
    """Return the one error that tells why a call ended: the service's own word before a broken connection.

    Args:
        errors: CALL_ERRORS of both directions.
        peer: The service and its address, for the message.
    """
    found = [
        to_error(error, peer=peer) if isinstance(error, grpc.RpcError) else error for error in _flat(errors)
    ]
    told = [error for error in found if isinstance(error, TowlineError)]
    certain = [error for error in told if not isinstance(error, Unavailable)]
    broken = Unavailable(f"{peer}: the call broke: {found[0]}", reason="UNAVAILABLE")
    return next(iter(certain or told), broken)


def _flat(errors: BaseExceptionGroup[Exception]) -> list[BaseException]:
    flat: list[BaseException] = []
    for error in errors.exceptions:
        flat.extend(_flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    return flat
