"""Clients of the registry and the queue.

    async with AsyncClient() as client:              # or: with Client() as client, without `await`
        run = await client.runs.submit(RunSubmission(job="digits-train:latest", queue="default"))
        async for piece in client.logs.tail(run.name, follow=True):
            ...

`Client` has the same groups and methods as `AsyncClient`, made from them one by one. Methods take and return
the messages of `towline.v1`; `time_limits` and `retry_policy` make two of timedeltas and mappings. Names may
be whole ("jobs/a/versions/v0") or short ("a:v0", "a", "default"). Whatever fails raises a
`towline.errors.TowlineError`.
"""

from towline.client.aio import AsyncClient
from towline.client.blobs import Progress
from towline.client.policies import retry_policy, time_limits
from towline.client.runs import ENDED_STATES
from towline.client.sync import Client
from towline.client.transfers import About, Doing, Moved, TreeProgress
from towline.runtime.endpoints import Endpoints

__all__ = [
    "ENDED_STATES",
    "About",
    "AsyncClient",
    "Client",
    "Doing",
    "Endpoints",
    "Moved",
    "Progress",
    "TreeProgress",
    "retry_policy",
    "time_limits",
]
