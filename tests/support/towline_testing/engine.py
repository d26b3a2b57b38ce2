"""The Docker Engine of the tests: its base image, and what a test may look for on it."""

import json
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from towline_testing.waiting import eventually

REPOSITORY = Path(__file__).parents[3]
PYTHON = "3.11"


@cache
def base_image() -> str:
    """Return the reference of the base image; makes it where it is not there yet."""
    reference = f"towline/python:{PYTHON}"
    if not image_id(reference):
        subprocess.run([REPOSITORY / "deploy/dev/base-image", "ensure", PYTHON], check=True)
    return reference


def docker(*arguments: str) -> str:
    """Run the docker client and return what it prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def image_id(reference: str) -> str:
    """Return an image's id, empty where it is not there."""
    return docker("images", "--no-trunc", "--quiet", reference).partition("\n")[0]


def containers(**labels: str) -> list[str]:
    """Return ids of all containers, ended ones too, with labels such as towline_run="runs/x"."""
    filters = [f"--filter=label={name.replace('_', '.')}={value}" for name, value in labels.items()]
    return docker("ps", "--all", "--no-trunc", "--quiet", *filters).split()


def remove_containers(**labels: str) -> None:
    """Remove containers with labels, and wait for those that somebody else removes."""
    for container in containers(**labels):
        subprocess.run(["docker", "rm", "--force", "--volumes", container], capture_output=True, check=False)
    eventually(lambda: not containers(**labels))


def inspect(container: str) -> Mapping[str, Any]:
    """Return what the engine tells about a container."""
    found: Mapping[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def volumes() -> set[str]:
    """Return the names of all volumes."""
    return set(docker("volume", "ls", "--quiet").split())
