"""The one place where errors become gRPC statuses on the server side."""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc

from towline.errors import Internal, TowlineError
from towline.rpc.status import to_status

__all__ = ["ErrorInterceptor"]

_log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]
# Generic for type checkers only.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Translates what a servicer raises: a TowlineError as it is, anything else as Internal, logged."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Wrap the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None:  # an unknown method: grpc answers UNIMPLEMENTED itself
            return handler
        method = handler_call_details.method
        kind = "stream" if handler.request_streaming else "unary"
        if handler.response_streaming:
            stream = handler.stream_stream or handler.unary_stream
            make = getattr(grpc, f"{kind}_stream_rpc_method_handler")
            # Two forms of grpc.aio: a generator of responses, or a coroutine that reads and writes itself.
            guard: Any = _guard_call if inspect.iscoroutinefunction(stream) else _guard_stream
            wrapped: Any = guard(stream, method)
        else:
            call = handler.stream_unary or handler.unary_unary
            make = getattr(grpc, f"{kind}_unary_rpc_method_handler")
            wrapped = _guard_call(call, method)
        made: _Handler = make(wrapped, handler.request_deserializer, handler.response_serializer)
        return made


def _guard_call(behaviour: Any, method: str) -> Callable[[Any, _Context], Awaitable[Any]]:
    async def guarded(request: Any, context: _Context) -> Any:
        try:
            return await behaviour(request, context)
        except Exception as error:
            await _abort(context, error, method)

    return guarded


def _guard_stream(behaviour: Any, method: str) -> Callable[[Any, _Context], AsyncIterator[Any]]:
    async def guarded(request: Any, context: _Context) -> AsyncIterator[Any]:
        try:
            async for response in behaviour(request, context):
                yield response
        except Exception as error:
            await _abort(context, error, method)

    return guarded


async def _abort(context: _Context, error: Exception, method: str) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):  # the servicer aborted by itself
        raise error
    while isinstance(error, ExceptionGroup):  # what ended a handler's task group
        error = error.exceptions[0]
    if not isinstance(error, TowlineError):
        _log.error("%s failed", method, exc_info=error)
        error = Internal("the service failed; its log says more", reason="INTERNAL")
    await context.abort_with_status(to_status(error))
    raise AssertionError("abort_with_status returned")
