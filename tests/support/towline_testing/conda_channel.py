"""A channel of conda, made of packages that tests write; no public one can be reached from everywhere."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from rattler.index import index_fs

_PREFIX = "/a/place/of/the/one/who/built/it"

TOOL = {
    "bin/tool": f'#!/bin/sh\necho "$MODE {_PREFIX} $TOOL_HOME"\n',
    "etc/conda/activate.d/tool.sh": "export TOOL_HOME=$CONDA_PREFIX/share/tool\n",
}
# Stands in for conda's own Python: the prefix becomes an environment of the base image's.
PYTHON = {"bin/.python-post-link.sh": '#!/bin/sh\n/usr/bin/python3 -m venv --without-pip "$PREFIX"\n'}
PURE = {"site-packages/pure.py": "IS = 'pure'\n"}


class CondaChannel:
    """A folder that is a channel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def publish(self) -> None:
        """Put the three packages into it."""
        self._package("linux-64", "tool", "1.2", TOOL)
        self._package("linux-64", "python", "3.11.99", PYTHON)
        self._package("noarch", "pure", "2.0", PURE, depends=["python >=3.9"])
        await index_fs(self.folder)

    def _package(
        self, subdir: str, name: str, version: str, files: dict[str, str], depends: Sequence[str] = ()
    ) -> None:
        index = {"name": name, "version": version, "build": "0", "build_number": 0, "subdir": subdir}
        index |= {"depends": list(depends)} | ({"noarch": "python"} if subdir == "noarch" else {})
        paths = []
        for path, text in files.items():
            entry = {"_path": path, "path_type": "hardlink", "size_in_bytes": len(text)}
            entry["sha256"] = hashlib.sha256(text.encode()).hexdigest()
            if _PREFIX in text:
                entry |= {"prefix_placeholder": _PREFIX, "file_mode": "text"}
            paths.append(entry)
        told = {"info/index.json": index, "info/paths.json": {"paths": paths, "paths_version": 1}}
        if subdir == "noarch":
            link = {"noarch": {"type": "python", "entry_points": []}, "package_metadata_version": 1}
            told["info/link.json"] = link
        (self.folder / subdir).mkdir(parents=True, exist_ok=True)
        with tarfile.open(self.folder / subdir / f"{name}-{version}-0.tar.bz2", "w:bz2") as archive:
            for path, text in files.items() | {(path, json.dumps(told[path])) for path in told}:
                member = tarfile.TarInfo(path)
                member.size, member.mode = len(text), 0o755 if path.startswith("bin/") else 0o644
                archive.addfile(member, io.BytesIO(text.encode()))
