"""A project's own lock: what is read of it, and what is refused."""

import hashlib

import pytest

from towline.capture.locks import Format, LockFile, read_lock
from towline.errors import InvalidArgument
from towline_testing.checkouts import SourceTree

UV = """
version = 1
requires-python = ">=3.11"

[[package]]
name = "idna"
version = "3.10"
source = { registry = "https://pypi.org/simple" }

[[package]]
name = "torch"
version = "2.5"
source = { registry = "https://ada:pw@torch.example/cu121" }

[[package]]
name = "proj"
version = "0.1"
source = { editable = "." }

[package.optional-dependencies]
fast = [{ name = "idna" }]

[package.dev-dependencies]
dev = [{ name = "idna" }]
"""
PROJECT = '[project]\nname = "proj"\nversion = "0.1"\n'


@pytest.fixture
def tree(tmp_path):
    return SourceTree(tmp_path / "project")


def refused(tree, name, *extras):
    with pytest.raises(InvalidArgument) as caught:
        read_lock(LockFile(tree.root / name, extras), tree.root)
    assert caught.value.metadata == {"field": "lock"}
    return caught.value.message.removeprefix("lock: ")


def test_a_requirements_file_with_what_it_includes(tree):
    main = "-r requirements/base.txt\n-c pins.txt\nidna==3.10 --hash=sha256:aa\n-e libs/x\n"
    tree.write(
        {
            "requirements.txt": main,
            "requirements/base.txt": "six==1.17.0\n-r ../requirements.txt\n",
            "pins.txt": "certifi<2025\n",
            "libs/x/setup.py": "",
        }
    )
    lock = read_lock(LockFile(tree.root / "requirements.txt"), tree.root)
    assert (lock.format, lock.path) == (Format.REQUIREMENTS_TXT, "requirements.txt")
    assert lock.digest == f"sha256:{hashlib.sha256(main.encode()).hexdigest()}"
    assert lock.files == {"requirements.txt", "requirements/base.txt", "pins.txt"}
    assert lock.warnings == []


def test_open_versions_are_named(tree):
    tree.write({"requirements.txt": "numpy>=1\nsix\nidna==3.10\n"})
    (warning,) = read_lock(LockFile(tree.root / "requirements.txt"), tree.root).warnings
    assert warning.startswith("requirements.txt leaves versions open") and "numpy, six;" in warning


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("this is no list", "is no requirements file: line 1 ('this is no list') is no requirement"),
        ("-r /etc/base.txt", "outside of the source tree"),
        ("-r ../base.txt", "outside of the source tree"),
        ("-r absent.txt", "absent.txt cannot be read: No such file"),
        ("-r https://host/base.txt", "line 1: https://host/base.txt is not in the source tree"),
        ("six\n-e /home/ada/lib", "line 2: /home/ada/lib lies outside of the source tree"),
        ("-e ../lib", "line 1: ../lib lies outside of the source tree"),
        ("./absent-1.0-py3-none-any.whl", "does not exist"),
        ("--extra-index-url https://ada:pw@host/simple", "line 1 has a user name or a password in a URL"),
        ("a @ git+https://t0ken@host/a.git@c0ffee", "line 1 has a user name or a password in a URL"),
        ("--find-links ./wheels", "folders of packages are not taken"),
    ],
)
def test_requirements_that_cannot_be_carried_over(tree, text, said):
    tree.write({"requirements.txt": text})
    message = refused(tree, "requirements.txt")
    assert said in message and "pw" not in message and "t0ken" not in message


def test_variables_and_git_users_are_no_secrets(tree):
    tree.write({"requirements.txt": "-i https://${TOKEN}@host/simple\na @ git+ssh://git@host/a.git@c0ffee\n"})
    assert read_lock(LockFile(tree.root / "requirements.txt"), tree.root).warnings == []


def test_a_lock_of_uv(tree):
    tree.write({"uv.lock": UV, "pyproject.toml": PROJECT})
    lock = read_lock(LockFile(tree.root / "uv.lock", ("fast", "dev")), tree.root)
    assert (lock.format, lock.extras) == (Format.UV_LOCK, ("fast", "dev"))
    assert lock.files == {"uv.lock", "pyproject.toml"}
    assert lock.extra_index_urls == ["https://torch.example/cu121"]


def test_locks_of_uv_that_cannot_be_carried_over(tree):
    tree.write({"uv.lock": UV})
    assert "pyproject.toml cannot be read" in refused(tree, "uv.lock")
    tree.write({"pyproject.toml": PROJECT})
    assert refused(tree, "uv.lock", "slow").endswith("no extra or group slow; it has dev, fast")
    tree.write({"uv.lock": "version = [", "poetry.lock": ""})
    assert "uv.lock is no TOML" in refused(tree, "uv.lock")
    tree.write({"uv.lock": 'title = "x"'})
    assert "is no lock of uv" in refused(tree, "uv.lock")
    tree.write({"uv.lock": "version = 1\n[[package]]\nsource = 1"})
    assert "is no lock of uv" in refused(tree, "uv.lock")
    tree.write({"uv.lock": UV.replace('editable = "."', 'editable = "../lib"')})
    assert "proj comes from ../lib, outside of the source tree" in refused(tree, "uv.lock")
    assert "give the uv.lock beside it" in refused(tree, "pyproject.toml")
    assert "requirements.txt, uv.lock or environment.yml" in refused(tree, "poetry.lock")


CONDA = """
name: fit
channels: [conda-forge]
dependencies:
  - python=3.12
  - pip
  - pip:
      - numpy==2.0.1
      - -e ./libs/x
      - --extra-index-url https://torch.example/cu121
"""


def test_an_environment_of_conda(tree):
    tree.write({"environment.yml": CONDA, "libs/x/pyproject.toml": ""})
    lock = read_lock(LockFile(tree.root / "environment.yml"), tree.root)
    assert (lock.format, lock.python) == (Format.CONDA_ENVIRONMENT, "3.12")
    assert (lock.requirements, lock.editables) == (["numpy==2.0.1"], ["libs/x"])
    assert lock.extra_index_urls == ["https://torch.example/cu121"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "is no environment of conda"),
        ("dependencies: [", "is no YAML"),
        ("dependencies: [ffmpeg, '=3']", "'=3' is no package of conda"),
        ("dependencies: [ffmpeg]\nvariables: [1]", "variables are no names with values"),
        ("dependencies: ['python>=3.10']", "python>=3.10 is not one version; write python=3.11"),
        ("dependencies: [python]", "python is not one version"),
        ("dependencies: [{pip: ['not one line']}]", "is no requirements file"),
        ("dependencies: [{pip: ['six --hash=sha256:aa']}]", "has options of pip"),
        ("dependencies: [{pip: ['./libs']}]", "libs does not exist"),
    ],
)
def test_environments_of_conda_that_cannot_be_carried_over(tree, text, said):
    tree.write({"environment.yml": text})
    assert said in refused(tree, "environment.yml")


@pytest.mark.parametrize(
    ("dependencies", "python"),
    [
        ("python=3.11, cudatoolkit=12, conda-forge::ffmpeg", "3.11"),
        ("'python>=3.10', ffmpeg", ""),
        ("ffmpeg", ""),
        ("python, 'numpy >=2,<3'", ""),
    ],
)
def test_packages_of_conda_are_left_to_the_agent(tree, dependencies, python):
    tree.write({"environment.yml": f"dependencies: [{dependencies}, {{pip: [six==1.17.0]}}]\n"})
    lock = read_lock(LockFile(tree.root / "environment.yml"), tree.root)
    assert (lock.python, lock.requirements, lock.warnings) == (python, ["six==1.17.0"], [])


def test_files_that_cannot_be_read(tree, tmp_path):
    tree.write({"requirements.txt": b"\xff\xfe", "x.txt": "six==1.17.0"})
    assert refused(tree, "requirements.txt").endswith("is no UTF-8 text")
    assert "cannot be read" in refused(tree, "absent.txt")
    assert refused(tree, "x.txt", "fast") == "x.txt has no extras or groups; only a uv.lock has"
    (tmp_path / "r.txt").write_text("six")
    assert "lies outside of the source tree" in refused(tree, "../r.txt")
