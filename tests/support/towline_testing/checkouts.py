"""Source trees and training scripts, as people have them."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import towline

_AUTHOR = {
    name: value
    for role in ("AUTHOR", "COMMITTER")
    for name, value in {f"GIT_{role}_NAME": "Ada", f"GIT_{role}_EMAIL": "ada@example.org"}.items()
}


@dataclass(frozen=True)
class SourceTree:
    """A folder with files in it."""

    root: Path

    def write(self, files: dict[str, str | bytes]) -> None:
        for path, content in files.items():
            place = self.root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.encode() if isinstance(content, str) else content)

    def git(self, *arguments: str | Path) -> str:
        return subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *arguments],
            cwd=self.root,
            env=os.environ | _AUTHOR | {"GIT_CONFIG_GLOBAL": os.devnull},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def commit(self, files: dict[str, str | bytes]) -> str:
        """Write files, commit all that is there, and give the commit's id."""
        self.write(files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a commit")
        return self.git("rev-parse", "HEAD")

    def diff(self) -> bytes:
        """Give what differs from the last commit, as a patch; files that git does not know are not in it."""
        command = ("git", "diff", "--binary", "HEAD")
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True).stdout

    def python(
        self, *arguments: str, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python in the tree, with this towline; variables are added to the environment."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd or self.root,
            env=program_environment(**variables),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def program_environment(**variables: str) -> dict[str, str]:
    """Give the environment of a program that a person starts, with nothing set for Towline but this."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOWLINE_")}
    folder = str(Path(towline.__file__).parents[1])
    # Root could make folders even there.
    nowhere = {"TOWLINE_OFFLINE_DIR": "/dev/null/offline", "TOWLINE_CACHE_DIR": "/dev/null/cache"}
    return inherited | {"PYTHONPATH": folder, "HOME": "/nonexistent"} | nowhere | variables


def git_checkout(root: Path) -> SourceTree:
    """Make an empty git repository."""
    root.mkdir(parents=True, exist_ok=True)
    tree = SourceTree(root)
    tree.git("init", "--quiet", "--initial-branch=main")
    return tree
