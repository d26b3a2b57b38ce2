"""What `run.use_artifact` keeps on a person's machine is content, whatever it is called where."""

import json
from pathlib import Path

from towline.client import Client
from towline_testing.checkouts import git_checkout
from towline_testing.postgres import PostgresServer
from towline_testing.registries import shared_registry

SCRIPT = """
import towline
print((towline.init(record=False).use_artifact("digits:v0") / "a.txt").read_text())
"""


def test_another_registry_has_other_files_under_the_same_name(
    embedded_postgres: PostgresServer, tmp_path: Path
) -> None:
    project = git_checkout(tmp_path / "project")
    project.commit({"read.py": SCRIPT})
    data = tmp_path / "data"
    data.mkdir()
    variables = {"TOWLINE_DATA_DIR": str(data), "TOWLINE_CACHE_DIR": str(tmp_path / "cache")}
    seen = []
    for number in range(2):
        (tmp_path / "a.txt").write_text(f"of registry {number}")
        folder = tmp_path / f"registry{number}"
        folder.mkdir()
        with shared_registry(embedded_postgres, folder) as endpoints:
            (data / "endpoints.json").write_text(json.dumps(endpoints._asdict() | {"agent": "unused"}))
            with Client(endpoints) as client:
                client.artifacts.upload(tmp_path / "a.txt", "digits", "dataset")
            seen.append(project.python("read.py", **variables).stdout)
    # Without a registry it is what was read last.
    seen.append(project.python("read.py", **variables).stdout)

    assert seen == ["of registry 0\n", "of registry 1\n", "of registry 1\n"]


def test_what_somebody_wrote_into_the_cache_is_not_given_to_the_next_program(
    embedded_postgres: PostgresServer, tmp_path: Path
) -> None:
    project = git_checkout(tmp_path / "project")
    project.commit({"read.py": SCRIPT})
    data = tmp_path / "data"
    data.mkdir()
    cache = tmp_path / "cache"
    variables = {"TOWLINE_DATA_DIR": str(data), "TOWLINE_CACHE_DIR": str(cache)}
    (tmp_path / "a.txt").write_text("as it was stored")
    with shared_registry(embedded_postgres, tmp_path) as endpoints:
        (data / "endpoints.json").write_text(json.dumps(endpoints._asdict() | {"agent": "unused"}))
        with Client(endpoints) as client:
            client.artifacts.upload(tmp_path / "a.txt", "digits", "dataset")
        project.python("read.py", **variables)
        (cached,) = (cache / "contents").glob("*/a.txt")
        for harm in (cached.unlink, lambda: _overwrite(cached)):
            harm()
            assert project.python("read.py", **variables).stdout == "as it was stored\n"
        _overwrite(cached)

    # Without a registry it cannot be brought back, and nothing else is given in its place.
    without = project.python("read.py", **variables)
    assert without.returncode != 0
    assert "cannot be reached" in without.stderr


def _overwrite(file: Path) -> None:
    file.chmod(0o644)
    file.write_text("as somebody wants")
