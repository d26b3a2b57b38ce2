"""The queue that a first `towline up` makes, so that there is somewhere to submit to."""

import json
from typing import Final

from towline.client import AsyncClient, Endpoints
from towline.errors import AlreadyExists
from towline.v1 import docker_pb2, queues_pb2

__all__ = ["NAME", "ensure", "spec"]

NAME: Final = "default"


def spec() -> queues_pb2.QueueSpec:
    """Give a queue of Docker containers whose size each submission may choose."""
    return queues_pb2.QueueSpec(
        description="Made by `towline up`. Change it with `towline queue update default`.",
        docker=docker_pb2.DockerTemplate(
            gpus="{{gpus}}", memory="{{memory}}", cpus="{{cpus}}", shm_size="{{shm_size}}"
        ),
        variables=[
            _variable("gpus", {"type": "integer", "minimum": 0}, 0, "Whole GPUs"),
            _variable("memory", {"type": "string"}, "", 'Memory limit, such as "16GiB"; empty: none'),
            _variable("cpus", {"type": ["number", "string"]}, "", "Cores, such as 0.5; empty: all"),
            _variable("shm_size", {"type": "string"}, "2GiB", "Size of /dev/shm, which data loaders use"),
        ],
    )


def _variable(name: str, schema: object, default: object, description: str) -> queues_pb2.TemplateVariable:
    return queues_pb2.TemplateVariable(
        name=name,
        schema_json=json.dumps(schema),
        default_json=json.dumps(default),
        description=description,
    )


async def ensure(registry: str, queue: str) -> None:
    """Make the default queue if there is none; one that an administrator has changed stays as it is."""
    async with AsyncClient(Endpoints(registry=registry, queue=queue)) as client:
        try:
            await client.queues.create(NAME, spec())
        except AlreadyExists:
            return
