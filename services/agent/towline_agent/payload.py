"""What is put into /towline of a container before it starts."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from towline.v1 import runs_pb2
from towline_agent.core.containers import UNTOUCHED
from towline_agent.tars import Entry

__all__ = ["payload"]

# What the runtime part imports besides itself; a test holds this list to be complete.
_TOP: Final = ("__init__.py", "errors.py")


def payload(spec: runs_pb2.LaunchSpec) -> list[Entry]:
    """Make the members of /towline: parameters, what the inputs are, the runtime, folders to write to.

    Everything is readable for every user, and those folders writable, because the container's
    user may be any.
    """
    inputs = {one.name: one.artifact for one in spec.inputs}
    return [
        Entry("config.json", (spec.config_json or "{}").encode()),
        Entry("inputs", None, 0o755),
        Entry("inputs.json", json.dumps(inputs).encode()),
        Entry("outputs", None, 0o777, modified=UNTOUCHED),
        Entry("results", None, 0o777, modified=UNTOUCHED),
        Entry("artifacts", None, 0o777, modified=UNTOUCHED),
        *_runtime(),
    ]


@cache
def _runtime() -> tuple[Entry, ...]:
    """Pack what `import towline` needs in a container: the package itself and its runtime part."""
    package = files("towline")
    top = (Entry(f"runtime/towline/{name}", (package / name).read_bytes()) for name in _TOP)
    return (
        Entry("runtime", None, 0o755),
        Entry("runtime/towline", None, 0o755),
        *top,
        *_tree(package / "runtime", "runtime/towline/runtime"),
    )


def _tree(folder: Traversable, name: str) -> Iterator[Entry]:
    yield Entry(name, None, 0o755)
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir() and item.name != "__pycache__":
            yield from _tree(item, f"{name}/{item.name}")
        elif item.name.endswith(".py"):
            yield Entry(f"{name}/{item.name}", item.read_bytes())
