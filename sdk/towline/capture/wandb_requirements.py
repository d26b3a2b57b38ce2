"""W&B's frozen list of packages as requirements: decisions only, no I/O."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from towline.capture.git import without_credentials
from towline.capture.requirements import canonical
from towline.capture.wandb_notes import Notes

__all__ = ["FROZEN", "Frozen", "read_frozen"]

FROZEN: Final = "requirements.frozen.txt"

# Images have their own; Towline comes into containers by other means.
_NEVER: Final = frozenset({"pip", "towline", "wheel"})
_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:\[[A-Za-z0-9 ,._-]*\])?\s*"
    r"(?:(?:[=<>~!]=|[<>]|===)\s*(?P<version>[^\s;,]+)[^;@]*|@\s*(?P<url>\S+))?\s*(?:;.*)?"
)
_EDITABLE: Final = re.compile(
    r"(?:-e|--editable)[ =]+(?P<url>\w+\+\S+?)#(?:.*&)?egg=(?P<name>[A-Za-z0-9._-]+).*"
)
# PyTorch's builds for one version of CUDA, ROCm or none are on an index of their own.
_TORCH: Final = re.compile(r".+\+(?P<build>cu\d+|cpu|rocm[\d.]+)")
_TORCH_INDEX: Final = "https://download.pytorch.org/whl/"


@dataclass
class Frozen:
    """What is installed."""

    requirements: list[str] = field(default_factory=list)
    """PEP 508, in the order of the list."""
    extra_index_urls: list[str] = field(default_factory=list)


def read_frozen(text: str, without: Iterable[str], notes: Notes, *, file: str = FROZEN) -> Frozen:
    """Read the list; what cannot be installed elsewhere is left out with a note.

    Args:
        text: The file: one requirement a line.
        without: Names of packages that people do not want.
        notes: Gets what is repaired and left out.
        file: What it is called.
    """
    unwanted = {canonical(name): name for name in without}
    frozen, seen = Frozen(), set[str]()
    own: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"{file} line {number}"
        requirement = _requirement(line.partition(" #")[0].strip(), place, notes)
        if not requirement:
            continue
        found = _REQUIREMENT.fullmatch(requirement)
        name = canonical(found["name"]) if found else ""
        if name in _NEVER:
            own.append(name)
        elif name in unwanted:
            notes.leave_out(place, f"{requirement}: --without {unwanted[name]}")
        elif name in seen:
            notes.repair(place, f"{requirement}: listed before; the first one is the one that was imported")
        else:
            seen.add(name)
            frozen.requirements.append(requirement)
            if found:
                _find_index(found["version"] or "", place, frozen, notes)
    if own:
        notes.leave_out(file, f"{', '.join(sorted(own))}: images have their own")
    return frozen


def _requirement(line: str, place: str, notes: Notes) -> str:
    """Give the requirement of a line; "" for none."""
    if not line or line.startswith("#"):
        return ""
    if editable := _EDITABLE.fullmatch(line):
        line = f"{editable['name']} @ {editable['url']}"
        notes.repair(
            place, f"is installed as {without_credentials(editable['url'])}, no longer in editable mode"
        )
    found = _REQUIREMENT.fullmatch(line)
    if found is None:
        why = (
            "options of pip are not taken"
            if line.startswith("-")
            else "it is no requirement as PEP 508 has it"
        )
        notes.leave_out(place, f"{_shown(line)}: {why}; add what it stands for with --requirements FILE")
        return ""
    if url := found["url"]:
        if url.startswith(("file:", "/", ".")):
            notes.leave_out(
                place, f"{found['name']}: it was installed from the disk of the machine it was recorded on"
            )
            return ""
        version_control, plus, rest = url.rpartition("+") if re.match(r"\w+\+\w+://", url) else ("", "", url)
        return f"{found['name']} @ {version_control}{plus}{without_credentials(rest)}"
    return line


def _find_index(version: str, place: str, frozen: Frozen, notes: Notes) -> None:
    if "+" not in version:
        return
    torch = _TORCH.fullmatch(version)
    if torch is None:
        notes.repair(place, f"{version} is a local build; an agent's index must have it")
        return
    index = _TORCH_INDEX + torch["build"]
    if index not in frozen.extra_index_urls:
        frozen.extra_index_urls.append(index)
        notes.repair(place, f"{version} is not on PyPI; {index} is asked too")


def _shown(line: str) -> str:
    return repr(line if len(line) <= 60 else f"{line[:59]}…")
