"""Environments beyond a list of pins: local wheels, editable packages, a project's own lock."""

import asyncio
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from towline.capture.locks import LockFile, read_lock
from towline.v1 import jobs_pb2, leases_pb2, runs_pb2
from towline_agent.builder import Ready
from towline_agent.core.contents import CONTENTS
from towline_testing.agent import code_spec
from towline_testing.builds import Builds, always, run_in, unique
from towline_testing.checkouts import SourceTree, git_checkout
from towline_testing.engine import PYTHON

pytestmark = pytest.mark.docker

UV = Path(sys.executable).with_name("uv")
BACKENDS = {
    "setuptools": 'requires = ["setuptools>=61"]\nbuild-backend = "setuptools.build_meta"\n',
    "hatchling": 'requires = ["hatchling"]\nbuild-backend = "hatchling.build"\n',
    "uv_build": 'requires = ["uv_build"]\nbuild-backend = "uv_build"\n',
}


def project(name: str, backend: str, rest: str = "") -> dict[str, str]:
    """A package of that name, in the folder of that name."""
    pyproject = f'[build-system]\n{BACKENDS[backend]}[project]\nname = "{name}"\nversion = "1.5"\n{rest}'
    return {f"{name}/pyproject.toml": pyproject, f"{name}/src/{name}/__init__.py": f"IS = '{name}'\n"}


async def environment(
    builds: Builds, files: dict[str, str], *requirements: str, **python: object
) -> jobs_pb2.JobSpec:
    digest, size = await builds.tree({"main.py": unique()} | files)
    job = code_spec(digest, size)
    job.python.CopyFrom(jobs_pb2.PythonEnvironment(version=PYTHON, requirements=requirements, **python))
    return job


async def wheel(builds: Builds, folder: Path, text: str) -> jobs_pb2.Wheel:
    """A wheel that wants a package which no index has, stored in the registry."""
    tree = SourceTree(folder / uuid4().hex)
    tree.write(project("local_lib", "hatchling", 'dependencies = ["towline-no-such-package"]\n'))
    tree.write({"local_lib/src/local_lib/__init__.py": f"IS = '{text}'\n"})
    command = [UV, "build", "--quiet", "--wheel", "--out-dir", tree.root, tree.root / "local_lib"]
    await asyncio.to_thread(subprocess.run, command, check=True)
    (made,) = tree.root.glob("*.whl")
    await builds.registry.upload(made.read_bytes())
    digest = f"sha256:{hashlib.sha256(made.read_bytes()).hexdigest()}"
    return jobs_pb2.Wheel(filename=made.name, digest=digest, size_bytes=made.stat().st_size)


def frozen(image: str) -> list[str]:
    program = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    return sorted(run_in(image, "python", "-c", program).split())


async def ready(builds: Builds, job: jobs_pb2.JobSpec) -> str:
    got = await builds(job)
    assert isinstance(got, Ready), (got, builds.log.data.decode())
    return got.facts.id


async def refused(builds: Builds, job: jobs_pb2.JobSpec) -> runs_pb2.Failure:
    got = await builds(job)
    assert isinstance(got, leases_pb2.AttemptResult)
    assert got.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    return got.failure


async def test_exactly_what_was_recorded_is_installed_and_nothing_it_needs(
    builds: Builds, tmp_path: Path
) -> None:
    # requests wants four others; the wheel wants one that is nowhere. The recorded environment had neither.
    one, other = [await wheel(builds, tmp_path, text) for text in ("one", "other")]
    pins = ("requests==2.31.0", "six==1.17.0")
    image = await ready(builds, await environment(builds, {}, *pins, wheels=[one], complete=True))
    assert frozen(image) == ["local_lib==1.5", "requests==2.31.0", "six==1.17.0"]
    noted = "importlib.metadata.distribution('local_lib').read_text('direct_url.json')"
    program = f"import local_lib, importlib.metadata; print(local_lib.IS, {noted})"
    told = run_in(image, "python", "-c", program)
    sha256 = one.digest.removeprefix("sha256:")
    assert told.startswith("one ") and f"/{one.filename}#sha256={sha256}" in told
    image = await ready(builds, await environment(builds, {}, *pins, wheels=[other], complete=True))
    assert run_in(image, "python", "-c", program).startswith("other "), "its content is part of the key"


@pytest.mark.parametrize("damage", ["size", "missing", "name"])
async def test_a_wheel_that_is_not_what_was_recorded_is_named(
    builds: Builds, tmp_path: Path, damage: str
) -> None:
    made = await wheel(builds, tmp_path, "x")
    if damage == "size":
        made.size_bytes += 1
    elif damage == "missing":
        made.digest = "sha256:" + "0" * 64
    else:
        made.filename = "../../bin/uv"
    failure = await refused(builds, await environment(builds, {}, always_six(), wheels=[made]))
    assert {"size": "size", "missing": made.digest, "name": "'../../bin/uv' is no file name"}[
        damage
    ] in failure.message


async def test_a_commit_of_a_repository_is_installed_though_the_base_image_has_no_git(
    builds: Builds, tmp_path: Path
) -> None:
    repository = git_checkout(tmp_path / "repository")
    commit = repository.commit({f"py/{path}": text for path, text in project("lib", "hatchling").items()})
    repository.commit({"py/lib/src/lib/__init__.py": "IS = 'later'\n"})
    url = repository.root.as_uri()
    pin = f"lib @ git+{url}@{commit}#subdirectory=py/lib"
    image = await ready(builds, await environment(builds, {}, pin, "pip==25.0", complete=True))
    assert run_in(image, "python", "-c", "import lib; print(lib.IS)") == "lib"
    assert run_in(image, "python", "-m", "pip", "freeze").splitlines() == [pin]
    verified = "import importlib.metadata as m; d = m.distribution('lib'); "
    verified += "f = next(f for f in d.files if f.name == 'direct_url.json'); import hashlib, base64; "
    verified += "h = hashlib.sha256(f.read_binary()).digest(); "
    verified += "print(base64.urlsafe_b64encode(h).rstrip(b'=').decode() == f.hash.value)"
    assert run_in(image, "python", "-c", verified) == "True", "RECORD is as the file is"


async def test_a_commit_that_cannot_be_had_is_told(builds: Builds, tmp_path: Path) -> None:
    url = (tmp_path / "nowhere").as_uri()
    failure = await refused(builds, await environment(builds, {}, f"lib @ git+{url}@{'c0ffee' * 6}beef"))
    assert "c0ffeec0ffee" in failure.message and url in failure.message
    failure = await refused(builds, await environment(builds, {}, f"lib @ git+{url}@main"))
    assert "the base image has no git" in failure.message


def always_six() -> str:
    return f"six==1.17.0; {always()}"


async def test_editable_packages_are_installed_from_the_source_which_stays_as_it_was(builds: Builds) -> None:
    files = {path: text for backend in BACKENDS for path, text in project(f"by_{backend}", backend).items()}
    # What the build would leave is there already in one of them: it was recorded so.
    files["by_setuptools/src/by_setuptools.egg-info/PKG-INFO"] = (
        "Name: by_setuptools\nVersion: 1.5\nSummary: as recorded\n"
    )
    files["more/" + "setup.py"] = (
        "from setuptools import setup\nsetup(name='more', version='2', py_modules=['m'])\n"
    )
    files["more/m.py"] = "IS = 'more'\n"
    folders = [*(f"by_{backend}" for backend in BACKENDS), "more"]
    job = await environment(builds, files, "six==1.17.0", editables=folders, complete=True)
    image = await ready(builds, job)
    listed = run_in(image, "find", ".", "-type", "f", "-printf", "%P %U\n").splitlines()
    assert sorted(listed) == sorted(f"{path} 1000" for path in [*files, "main.py"])
    assert run_in(image, "find", ".", "!", "-user", "1000") == ""
    for path, text in files.items():
        assert run_in(image, "cat", path) == text.strip()
    assert sorted(set(frozen(image))) == [
        "by_hatchling==1.5",
        "by_setuptools==1.5",
        "by_uv_build==1.5",
        "more==2",
        "six==1.17.0",
    ]
    program = "import by_hatchling, by_setuptools, by_uv_build, m; print(by_setuptools.__file__, m.__file__)"
    assert (
        run_in(image, "python", "-c", program)
        == "/workspace/by_setuptools/src/by_setuptools/__init__.py /workspace/more/m.py"
    )
    told = run_in(
        image, "cat", "/opt/venv/lib/python3.11/site-packages/by_hatchling-1.5.dist-info/direct_url.json"
    )
    assert "file:///workspace/by_hatchling" in told and '"editable":true' in told.replace(" ", "")


async def test_editables_are_part_of_the_job_image_only(builds: Builds) -> None:
    files = project("inner", "uv_build")
    requirements = (always_six(),)
    digest, size = await builds.tree(files | {"main.py": unique()})
    plain = code_spec(digest, size, requirements=requirements)
    one = await ready(builds, plain)
    assert b"installing from the source" not in builds.log.data, "who has none does not pay"
    builds.log.data = b""
    plain.python.editables.append("inner")
    other = await ready(builds, plain)
    assert one != other
    assert b"installing from the source" in builds.log.data
    assert b"1 requirements" not in builds.log.data, "the environment was installed again"
    lists = [json.loads(run_in(image, "cat", CONTENTS))["components"] for image in (one, other)]
    inner = [[each["name"] for each in found if each["name"] == "inner"] for found in lists]
    assert inner == [[], ["inner"]], "each image lists what is in it"


async def test_an_editable_package_that_does_not_build_is_told(builds: Builds) -> None:
    broken = {"inner/pyproject.toml": f'[build-system]\n{BACKENDS["hatchling"]}[project]\nname = "inner"\n'}
    failure = await refused(builds, await environment(builds, broken, editables=["inner"]))
    assert "inner" in failure.message and "version" in failure.log_tail
    assert failure.log_tail.encode() in builds.log.data
    failure = await refused(builds, await environment(builds, {}, editables=["absent"]))
    assert "absent" in failure.log_tail


def lock(tree: SourceTree, name: str, *extras: str) -> jobs_pb2.DependencyLock:
    """Judge a lock as recording does."""
    read = read_lock(LockFile(tree.root / name, extras), tree.root)
    return jobs_pb2.DependencyLock(
        format=jobs_pb2.LockFormat.Value(read.format.value),
        path=read.path,
        digest=read.digest,
        extras=read.extras,
    )


SIX = "ff70335d468e7eb6ec65b95b99d3a2836546063f63acc5171de367e834932a81"


async def test_a_requirements_file_with_hashes_includes_and_folders_of_the_source(
    builds: Builds, tmp_path: Path
) -> None:
    tree = SourceTree(tmp_path / "project")
    files = {
        "deploy/requirements.txt": "-r base/more.txt\n-c pins.txt\nidna\n",
        "deploy/base/more.txt": f"-e ../inner\nsix==1.17.0 \\\n    --hash=sha256:{SIX}\n",
        "deploy/pins.txt": "idna==3.10\n",
        **project("inner", "setuptools", 'dependencies = ["iniconfig==2.0.0"]\n'),
    }
    tree.write(files)
    chosen = lock(tree, "deploy/requirements.txt")
    image = await ready(builds, await environment(builds, files, lock=chosen))
    assert frozen(image) == ["idna==3.10", "iniconfig==2.0.0", "inner==1.5", "six==1.17.0"]
    # A file that the lock includes is another environment, though the lock is the same.
    files["deploy/pins.txt"] = "idna==3.7\n"
    assert "idna==3.7" in frozen(await ready(builds, await environment(builds, files, lock=chosen)))
    # And the source may change without an installation of what is fetched.
    builds.log.data = b""
    await ready(builds, await environment(builds, files, lock=chosen))
    assert b"requirements.txt lists" not in builds.log.data


async def test_a_hash_that_is_wrong_is_told(builds: Builds, tmp_path: Path) -> None:
    tree = SourceTree(tmp_path / "project")
    files = {"requirements.txt": f"six==1.17.0 --hash=sha256:{'0' * 64}\n"}
    tree.write(files)
    failure = await refused(builds, await environment(builds, files, lock=lock(tree, "requirements.txt")))
    assert "six==1.17.0" in failure.message and "Hash mismatch" in failure.log_tail


async def test_a_lock_of_uv_with_extras_groups_and_a_workspace(builds: Builds, tmp_path: Path) -> None:
    tree = SourceTree(tmp_path / "project")
    rest = (
        'dependencies = ["six==1.17.0", "inner"]\n[project.optional-dependencies]\nfast = ["idna==3.10"]\n'
        '[dependency-groups]\ndev = ["iniconfig==2.0.0"]\nextra = ["toml==0.10.2"]\n'
        '[tool.uv.workspace]\nmembers = ["inner"]\n[tool.uv.sources]\ninner = { workspace = true }\n'
    )
    files = {
        f"py/{path.removeprefix('fit/')}": text for path, text in project("fit", "hatchling", rest).items()
    } | {f"py/{path}": text for path, text in project("inner", "uv_build").items()}
    tree.write(files)
    command = [UV, "lock", "--quiet", "--project", tree.root / "py", "--python", sys.executable]
    await asyncio.to_thread(subprocess.run, command, check=True)
    files["py/uv.lock"] = (tree.root / "py/uv.lock").read_text()
    plain = await environment(builds, files, lock=lock(tree, "py/uv.lock"))
    image = await ready(builds, plain)
    assert frozen(image) == ["fit==1.5", "iniconfig==2.0.0", "inner==1.5", "six==1.17.0"]
    assert (
        run_in(image, "python", "-c", "import fit; print(fit.__file__)")
        == "/workspace/py/src/fit/__init__.py"
    )
    more = await environment(builds, files, lock=lock(tree, "py/uv.lock", "fast", "extra"))
    more.code.CopyFrom(plain.code)
    assert {"idna==3.10", "toml==0.10.2"} <= set(frozen(await ready(builds, more)))


async def test_a_lock_that_is_another_than_the_recorded_one(builds: Builds, tmp_path: Path) -> None:
    tree = SourceTree(tmp_path / "project")
    tree.write({"requirements.txt": "six==1.17.0\n"})
    chosen = lock(tree, "requirements.txt")
    failure = await refused(
        builds, await environment(builds, {"requirements.txt": "six==1.16.0\n"}, lock=chosen)
    )
    assert "requirements.txt has the digest sha256:" in failure.message
    failure = await refused(builds, await environment(builds, {}, lock=chosen))
    assert "the source tree has no file requirements.txt" in failure.message
