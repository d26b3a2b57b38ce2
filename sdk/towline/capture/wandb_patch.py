"""What W&B keeps of uncommitted changes: the output of `git diff --submodule=diff`, made one that applies."""

import re
from typing import Final, NamedTuple

from towline.capture.wandb_notes import Notes

__all__ = ["PATCH", "Patch", "read_patch"]

PATCH: Final = "diff.patch"

_START: Final = re.compile(rb"^diff --git ", re.MULTILINE)
_SUBMODULE: Final = re.compile(rb"^Submodule (\S+) .*\n?", re.MULTILINE)
_BINARY: Final = re.compile(rb"^Binary files .* differ$", re.MULTILINE)
_HEADER: Final = re.compile(rb"diff --git \"?a/(?P<old>.+?)\"? \"?b/(?P<new>.+?)\"?\r?\n")


class _Section(NamedTuple):
    path: str
    content: bytes


class Patch:
    """Changes of files, each with its path relative to the root of the repository."""

    def __init__(self, sections: list[_Section]) -> None:
        self._sections = sections

    def __bool__(self) -> bool:
        return bool(self._sections)

    @property
    def content(self) -> bytes:
        """What `git apply -p1` takes."""
        return b"".join(section.content for section in self._sections)

    @property
    def paths(self) -> frozenset[str]:
        """The files that it changes, makes or deletes."""
        return frozenset(section.path for section in self._sections)

    def below(self, folder: str, notes: Notes) -> "Patch":
        """Give the changes below a folder, still with their whole paths; the others are noted as left out."""
        inside = [each for each in self._sections if each.path.startswith(f"{folder}/")]
        for section in self._sections:
            if section not in inside:
                notes.leave_out(PATCH, f"{section.path}: lies outside of {folder}/, which --code holds")
        return Patch(inside)


def read_patch(data: bytes, notes: Notes) -> Patch:
    """Read the patch; changes of binary files, whose content it has not, are noted as left out.

    Raises:
        ValueError: It is no output of git diff.
    """
    if not data.strip():
        return Patch([])
    for submodule in sorted(set(_SUBMODULE.findall(data))):
        notes.repair(
            PATCH,
            f"the submodule {_text(submodule)} stood on another commit; that is applied as changes of files",
        )
    data = _SUBMODULE.sub(b"", data)
    starts = [match.start() for match in _START.finditer(data)]
    if not starts and data.strip():
        raise ValueError("is no output of git diff: no line begins with 'diff --git'")
    sections = []
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        content = data[start:end]
        header = _HEADER.match(content)
        if header is None:
            raise ValueError(f"has a header that cannot be read: {_text(content.splitlines()[0])[:120]!r}")
        path = _text(header["new"])
        if _BINARY.search(content) and b"GIT binary patch" not in content:
            notes.leave_out(
                PATCH, f"{path}: the patch has not the content of binary files; take it in with --code"
            )
        else:
            sections.append(_Section(path, content))
    return Patch(sections)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
