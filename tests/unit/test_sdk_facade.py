"""The synchronous client has what the asynchronous one has."""

import ast
import inspect
from pathlib import Path

import grpc
import pytest

import towline
from towline import errors
from towline.client import AsyncClient, Client, Endpoints
from towline.client.sync import _walk
from towline.rpc.status import to_error
from towline.runtime import SHIPPED

GROUPS = ("jobs", "blobs", "artifacts", "queues", "runs", "logs", "fleet")


@pytest.fixture
def client():
    with Client(Endpoints("127.0.0.1:1", "127.0.0.1:1")) as client:
        yield client


def public(group):
    return {
        name: method for name, method in inspect.getmembers(type(group), callable) if not name.startswith("_")
    }


@pytest.mark.parametrize("group", GROUPS)
def test_every_method_is_there_with_its_signature_and_contract(client, group):
    asynchronous = public(getattr(client._client, group))
    synchronous = public(getattr(client, group))
    assert asynchronous
    assert synchronous.keys() == asynchronous.keys()
    for name, method in synchronous.items():
        assert inspect.signature(method) == inspect.signature(asynchronous[name])
        assert method.__doc__ == asynchronous[name].__doc__
        assert inspect.isgeneratorfunction(method) == inspect.isasyncgenfunction(asynchronous[name])


def test_the_two_clients_have_the_same_groups(client):
    groups = {
        name for name, value in vars(client).items() if not name.startswith("_") and name != "endpoints"
    }
    assert groups == {
        name for name in vars(client._client) if not name.startswith("_") and name != "endpoints"
    }
    assert groups == set(GROUPS)


def test_a_closed_client_says_so(client):
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.jobs.get("a")


def test_an_iterator_outlives_its_client(client):
    async def forever(group):
        while True:
            yield 1

    numbers = _walk(forever)(client.logs)
    assert next(numbers) == 1
    client.close()
    numbers.close()


def test_clients_are_found_in_the_top_module():
    assert (towline.Client, towline.AsyncClient) == (Client, AsyncClient)
    with pytest.raises(AttributeError, match="nothing"):
        towline.nothing  # noqa: B018 - the access is what is tested


class Failed(grpc.aio.AioRpcError):
    def __init__(self, code):
        super().__init__(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="details")


# What gRPC itself may say; each code stands here, so that a new one of gRPC's makes this test fail.
EXPECTED = {
    "CANCELLED": errors.Internal,
    "UNKNOWN": errors.Internal,
    "INVALID_ARGUMENT": errors.InvalidArgument,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "NOT_FOUND": errors.NotFound,
    "ALREADY_EXISTS": errors.AlreadyExists,
    "PERMISSION_DENIED": errors.Internal,
    "UNAUTHENTICATED": errors.Internal,
    "RESOURCE_EXHAUSTED": errors.ResourceExhausted,
    "FAILED_PRECONDITION": errors.FailedPrecondition,
    "ABORTED": errors.Aborted,
    "UNIMPLEMENTED": errors.Internal,
    "INTERNAL": errors.Internal,
    "UNAVAILABLE": errors.Unavailable,
    "DATA_LOSS": errors.Internal,
    "OUT_OF_RANGE": errors.OutOfRange,
}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_grpc_code_becomes_an_error_of_towline(code):
    error = to_error(Failed(code), peer="the registry at x")
    assert type(error) is EXPECTED[code.name]
    assert error.reason == code.name
    assert "the registry at x" in str(error)


async def test_a_message_over_the_bound_is_the_callers_mistake():
    async def refuse(request, context):
        return request

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 100)])
    handler = grpc.unary_unary_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("s", {"m": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    for most in (100, 1000):  # refused by the sending side, and by the receiving one
        options = [("grpc.max_send_message_length", most)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary("/s/m")(b"x" * 200, timeout=10)
        error = to_error(raised.value, peer="the registry at x")
        assert type(error) is errors.InvalidArgument
        assert error.reason == "MESSAGE_TOO_LARGE"
    await server.stop(None)


def test_what_is_shipped_is_all_that_it_imports():
    sdk = Path(towline.__file__).parents[1]
    shipped = set(SHIPPED)
    assert {f"towline/runtime/{file.name}" for file in (sdk / "towline/runtime").glob("*.py")} <= shipped
    for file in shipped:
        for node in ast.walk(ast.parse((sdk / file).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("towline"):
                path = node.module.replace(".", "/")
                known = {f"{path}.py", f"{path}/__init__.py"} & shipped
                assert known or node.module == "towline.client", f"{file} imports {node.module}"
