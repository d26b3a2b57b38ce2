"""Requirements that come from git repositories; agents fetch them, as base images have no git."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["ORIGINS", "Repository", "find", "origins", "place"]

_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[A-Za-z0-9._,\s-]*\])?)\s*@\s*"
    r"git\+(?P<remote>[^\s#;]+)@(?P<commit>[0-9a-f]{64}|[0-9a-f]{40})"
    r"(?:#subdirectory=(?P<subdirectory>[^\s&;]+))?"
)

# Notes of an installed package where it truly came from, as whoever fetches it by git would (PEP 610).
ORIGINS: Final = """\
import base64, csv, hashlib, json, pathlib, sys

origins = json.loads(pathlib.Path("/towline/origins.json").read_text())
for site in pathlib.Path("/opt/venv/lib").glob("python*/site-packages"):
    for note in site.glob("*.dist-info/direct_url.json"):
        origin = origins.get(json.loads(note.read_text())["url"].partition("#")[0].rstrip("/"))
        if origin is None:
            continue
        content = json.dumps(origin).encode()
        note.write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record = note.with_name("RECORD")
        with record.open(newline="") as file:
            rows = list(csv.reader(file))
        name = f"{note.parent.name}/{note.name}"
        rows = [[name, f"sha256={digest}", len(content)] if row[0] == name else row for row in rows]
        with record.open("w", newline="") as file:
            csv.writer(file, lineterminator="\\n").writerows(rows)
"""


@dataclass(frozen=True)
class Repository:
    """A requirement that is built from a commit."""

    requirement: str
    """As the job has it."""
    name: str
    """With extras."""
    remote: str
    commit: str
    subdirectory: str = ""

    def url(self, number: int) -> str:
        """Return where its project lies in the checkout at `place(number)`."""
        return f"file://{place(number)}" + (f"/{self.subdirectory}" if self.subdirectory else "")

    def local(self, number: int) -> str:
        """Write it as a requirement of the checkout at `place(number)`."""
        return f"{self.name} @ {self.url(number)}"

    @property
    def origin(self) -> Mapping[str, Any]:
        """What an installer notes of it."""
        version = {"vcs": "git", "commit_id": self.commit, "requested_revision": self.commit}
        note: dict[str, Any] = {"url": self.remote, "vcs_info": version}
        return note | ({"subdirectory": self.subdirectory} if self.subdirectory else {})


def place(number: int) -> str:
    """Return the folder of a checkout in a build container."""
    return f"/towline/git/{number}"


def find(requirements: Iterable[str]) -> tuple[Repository, ...]:
    """Return the requirements that are commits of git repositories, in their order."""
    matches = ((line.strip(), _REQUIREMENT.fullmatch(line.strip())) for line in requirements)
    return tuple(
        Repository(line, match["name"], match["remote"], match["commit"], match["subdirectory"] or "")
        for line, match in matches
        if match
    )


def origins(repositories: Iterable[Repository]) -> bytes:
    """Write what ORIGINS reads."""
    noted = {each.url(number): each.origin for number, each in enumerate(repositories)}
    return json.dumps(noted).encode()
