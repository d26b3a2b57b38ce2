"""`towline queue …`: queues and their templates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from towline.cli import options, output
from towline.cli.connection import connect

if TYPE_CHECKING:
    from towline.v1 import queues_pb2

__all__ = ["app"]

app = typer.Typer(help="Shape queues: what runs of them get.", no_args_is_help=True, rich_markup_mode=None)

_File = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The queue as YAML or JSON, as `towline queue show` prints it."),
]
_Description = Annotated[str | None, typer.Option(help="What it is for.")]
_Memory = Annotated[str | None, typer.Option(help='Memory limit, such as "16GiB" or "{{memory}}".')]
_Cpus = Annotated[str | None, typer.Option(help='Cores, such as "4" or "0.5".')]
_Gpus = Annotated[str | None, typer.Option(help='Whole GPUs of a run, such as "1" or "{{gpus}}".')]
_ShmSize = Annotated[str | None, typer.Option(help='Size of /dev/shm, such as "8GiB".')]
_Env = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="Environment of runs. May be repeated.")
]
_Prebuild = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        parser=options.given,
        help="Build new versions of the jobs of this name at once; * and ? stand for any text or character. "
        "May be repeated.",
    ),
]


@app.command()
def create(
    queue: options.QueueName,
    file: _File = None,
    description: _Description = None,
    memory: _Memory = None,
    cpus: _Cpus = None,
    gpus: _Gpus = None,
    shm_size: _ShmSize = None,
    env: _Env = None,
    prebuild: _Prebuild = None,
    json: options.Json = False,
) -> None:
    """Make a queue from a file, from options, or from both: options go over the file."""
    from towline.v1 import queues_pb2

    spec = _read(file) if file else queues_pb2.QueueSpec()
    _apply(spec, description, {"memory": memory, "cpus": cpus, "gpus": gpus, "shm_size": shm_size}, env)
    if prebuild:
        spec.prebuild[:] = prebuild
    with connect() as client:
        made = client.queues.create(queue, spec)
    _tell(made, "created", as_json=json)


@app.command()
def update(
    queue: options.QueueName,
    file: _File = None,
    description: _Description = None,
    memory: _Memory = None,
    cpus: _Cpus = None,
    gpus: _Gpus = None,
    shm_size: _ShmSize = None,
    env: _Env = None,
    prebuild: _Prebuild = None,
    json: options.Json = False,
) -> None:
    """Replace a queue by a file, or change what options name; runs already submitted keep what they got."""
    with connect() as client:
        before = client.queues.get(queue)
        spec = _read(file) if file else before.spec
        _apply(spec, description, {"memory": memory, "cpus": cpus, "gpus": gpus, "shm_size": shm_size}, env)
        if prebuild:
            spec.prebuild[:] = prebuild
        made = client.queues.update(queue, spec, etag=before.etag)
    _tell(made, "updated", as_json=json)


def _read(file: Path) -> "queues_pb2.QueueSpec":
    from towline.cli import queue_files

    return queue_files.read(file)


def _apply(
    spec: "queues_pb2.QueueSpec",
    description: str | None,
    limits: dict[str, str | None],
    env: list[str] | None,
) -> None:
    from towline.cli import values

    if description is not None:
        spec.description = description
    for field, value in limits.items():
        if value is not None:
            setattr(spec.docker, field, value)
    if env:
        spec.docker.environment.update(values.pairs(env, "--env"))


@app.command("list")
def list_queues(json: options.Json = False) -> None:
    """List queues by name."""
    from towline.names import short

    with connect() as client:
        found = list(client.queues.list())
    if json:
        return output.messages(found)
    return output.table(
        ("QUEUE", "WAITING", "ACTIVE", "PAUSED", "DESCRIPTION"),
        (
            (
                short(queue.name),
                str(queue.counts.waiting),
                str(queue.counts.active),
                "yes" if queue.paused else "no",
                output.plain(queue.spec.description),
            )
            for queue in found
        ),
    )


@app.command()
def show(queue: options.QueueName, json: options.Json = False) -> None:
    """Print a queue as YAML that `create` and `update` take with --file."""
    from towline.cli import queue_files

    with connect() as client:
        found = client.queues.get(queue)
    if json:
        output.message(found)
    else:
        output.write(queue_files.written(found).encode())


@app.command()
def delete(queue: options.QueueName, json: options.Json = False) -> None:
    """Remove a queue; one with runs that have not ended is refused."""
    with connect() as client:
        client.queues.delete(queue)
    if json:
        output.document({})
    else:
        output.text(f"deleted {queue}")


@app.command()
def pause(queue: options.QueueName, json: options.Json = False) -> None:
    """Stop handing out runs; running ones go on, new ones are accepted."""
    with connect() as client:
        _tell(client.queues.pause(queue), "paused", as_json=json)


@app.command()
def resume(queue: options.QueueName, json: options.Json = False) -> None:
    """Hand out runs again."""
    with connect() as client:
        _tell(client.queues.resume(queue), "resumed", as_json=json)


def _tell(queue: "queues_pb2.Queue", what: str, *, as_json: bool) -> None:
    from towline.names import short

    if as_json:
        output.message(queue)
    else:
        output.text(f"{what} {short(queue.name)}")
