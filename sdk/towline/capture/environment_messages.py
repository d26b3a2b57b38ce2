"""Environments as jobs carry them."""

from dataclasses import asdict

from towline.capture.environment import Environment
from towline.capture.system import System
from towline.v1 import jobs_pb2

__all__ = ["python", "system"]


def python(environment: Environment) -> jobs_pb2.PythonEnvironment:
    """Write an environment."""
    made = jobs_pb2.PythonEnvironment(
        version=environment.version,
        requirements=environment.requirements,
        extra_index_urls=environment.extra_index_urls,
        editables=environment.editables,
        complete=environment.complete,
        system_packages=environment.system_packages,
    )
    for wheel in environment.wheels:
        made.wheels.add(filename=wheel.path.name, digest=wheel.digest, size_bytes=wheel.size_bytes)
    if lock := environment.lock:
        made.lock.CopyFrom(
            jobs_pb2.DependencyLock(
                format=jobs_pb2.LockFormat.Value(lock.format.value),
                path=lock.path,
                digest=lock.digest,
                extras=lock.extras,
            )
        )
    return made


def system(found: System) -> jobs_pb2.SystemFacts:
    """Write what is known of a machine."""
    return jobs_pb2.SystemFacts(**asdict(found))
