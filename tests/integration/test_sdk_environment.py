"""Recorded environments, with real installations of every kind."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from towline.capture import capture_command, environment
from towline.capture.locks import LockFile
from towline.errors import InvalidArgument
from towline_testing.checkouts import SourceTree, git_checkout

UV = Path(sys.executable).with_name("uv")
BACKENDS = {
    "setuptools": '[build-system]\nrequires = ["setuptools>=61"]\nbuild-backend = "setuptools.build_meta"\n',
    "hatchling": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n',
    "uv_build": '[build-system]\nrequires = ["uv_build"]\nbuild-backend = "uv_build"\n',
}


def project(name, backend="setuptools", version="1.0", extra=""):
    """Give the files of a package that is called `name` and answers with its version."""
    table = f'[project]\nname = "{name}"\nversion = "{version}"\n'
    return {
        "pyproject.toml": BACKENDS[backend] + table + extra,
        f"src/{name.lower().replace('-', '_')}/__init__.py": f"ANSWER = '{version}'\n",
    }


@dataclass
class Venv:
    folder: Path

    @property
    def python(self):
        return self.folder / "bin/python"

    @property
    def site(self):
        return next((self.folder / "lib").glob("python*/site-packages"))

    def install(self, *arguments):
        subprocess.run([UV, "pip", "install", "--quiet", "--python", self.python, *arguments], check=True)

    def pip(self, *arguments):
        subprocess.run([self.python, "-m", "pip", "install", "--quiet", *arguments], check=True)


@pytest.fixture
def venv(tmp_path):
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    return Venv(tmp_path / "venv")


@pytest.fixture
def tree(tmp_path):
    tree = git_checkout(tmp_path / "digits")
    tree.commit({"train.py": "x"})
    return tree


def built(tmp_path, name="Demo_Pkg", **options):
    """Build a wheel, with a command and a script of its own."""
    folder = SourceTree(tmp_path / f"build-{name}")
    extra = '[project.scripts]\ndemo = "demo_pkg:main"\n[tool.setuptools]\nscript-files = ["tool"]\n'
    folder.write(project(name, extra=extra, **options) | {"tool": "#!/usr/bin/python3\nprint('tool')\n"})
    subprocess.run(
        [UV, "build", "--quiet", "--wheel", "--out-dir", tmp_path / "dist", folder.root], check=True
    )
    (wheel,) = (tmp_path / "dist").glob(f"{name.lower()}-*.whl")
    return wheel


def capture(venv, tree, **options):
    return capture_command([str(venv.python), "train.py"], tree.root, **options)


def archived(captured):
    return captured.snapshot.paths


@pytest.mark.parametrize("backend", BACKENDS)
def test_editable_packages_of_each_kind_inside_and_outside_of_the_source(venv, tree, tmp_path, backend):
    inner = {f"libs/inner/{path}": text for path, text in project("inner", backend).items()}
    tree.commit(inner)
    outer = SourceTree(tmp_path / "outer")
    outer.write(project("Outer_Lib", backend) | {"notes.txt": "n", ".env": "TOKEN=1"})
    venv.install("--editable", tree.root / "libs/inner", "--editable", outer.root)
    with capture(venv, tree) as captured:
        python = captured.spec("sha256:" + "0" * 64).python
        paths = archived(captured)
    assert list(python.editables) == [".towline/editables/outer-lib", "libs/inner"]
    assert python.complete and not python.requirements and not python.wheels
    assert {"libs/inner/pyproject.toml", ".towline/editables/outer-lib/notes.txt"} <= paths
    assert ".towline/editables/outer-lib/src/outer_lib/__init__.py" in paths
    assert not any(path.endswith(".env") for path in paths)


def test_the_project_itself_installed_as_editable_is_its_root(venv, tree):
    tree.commit(project("digits"))
    venv.install("--editable", tree.root)
    with capture(venv, tree) as captured:
        assert captured.environment.editables == (".",)
        assert captured.environment.requirements == ()


def test_an_editable_package_in_an_environment_of_the_tree_is_taken_along(tree):
    # pip install -e git+https://… puts it there.
    folder = tree.root / ".venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    git_checkout(folder / "src/inner").commit(project("inner", "uv_build"))
    venv = Venv(folder)
    venv.install("--editable", folder / "src/inner")
    with capture(venv, tree) as captured:
        assert captured.environment.editables == (".towline/editables/inner",)
        assert ".towline/editables/inner/pyproject.toml" in archived(captured)


def test_an_editable_package_that_is_not_in_the_snapshot_is_named(venv, tree, tmp_path):
    tree.commit({".gitignore": "libs/\n"})
    tree.write({f"libs/inner/{path}": text for path, text in project("inner", "uv_build").items()})
    gone = SourceTree(tmp_path / "gone")
    gone.write(project("gone", "uv_build"))
    venv.install("--editable", tree.root / "libs/inner", "--editable", gone.root)
    shutil.rmtree(gone.root)
    with capture(venv, tree) as captured:
        assert captured.environment.editables == ()
        first, second = captured.warnings
    assert first.startswith("gone is installed in editable mode from") and "no project" in first
    assert second.startswith("the editable package inner is left out") and "libs/inner/" in second


@pytest.mark.parametrize("installer", ["install", "pip"])
def test_a_local_wheel_becomes_a_blob(venv, tree, tmp_path, installer):
    wheel = built(tmp_path)
    if installer == "pip":
        venv.install("pip")
    getattr(venv, installer)(wheel)
    with capture(venv, tree) as captured:
        (made,) = captured.wheels
        assert (made.name, made.read_bytes()) == (wheel.name, wheel.read_bytes())
        spec = captured.spec("sha256:" + "0" * 64)
        (told,) = spec.python.wheels
        assert (told.filename, told.size_bytes) == (wheel.name, wheel.stat().st_size)
        assert [each.partition("==")[0] for each in spec.python.requirements] == ["pip"] * (
            installer == "pip"
        )
        assert captured.warnings == ()
    assert not made.parent.exists()


@pytest.mark.parametrize("change", ["gone", "rebuilt", "folder", "sdist"])
def test_what_is_not_there_as_it_was_is_packed_from_what_is_installed(venv, tree, tmp_path, change):
    wheel = built(tmp_path)
    folder = tmp_path / "build-Demo_Pkg"
    if change in ("gone", "rebuilt"):
        venv.install(wheel)
    elif change == "folder":
        venv.install(folder)
        shutil.rmtree(folder)
    else:
        subprocess.run([UV, "build", "--quiet", "--sdist", "--out-dir", tmp_path, folder], check=True)
        venv.install(next(tmp_path.glob("*.tar.gz")))
    before = wheel.read_bytes()
    wheel.unlink()
    if change == "rebuilt":
        (folder / "src/demo_pkg/__init__.py").write_text("ANSWER = 'another'\n")
        shutil.rmtree(folder / "build", ignore_errors=True)
        assert built_again(folder, tmp_path) != before
    # What runs is what is installed, whatever somebody has done to it.
    (venv.site / "demo_pkg/__init__.py").write_text("ANSWER = 'edited'\n")
    with capture(venv, tree) as captured:
        assert captured.warnings == ()
        (made,) = captured.wheels
        kept = shutil.copy(made, tmp_path / made.name)
        with capture(venv, tree) as again:
            assert again.wheels[0].read_bytes() == made.read_bytes(), "the same gives the same"
    assert Path(kept).name == "demo_pkg-1.0-py3-none-any.whl"
    other = Venv(tmp_path / "other")
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, other.folder], check=True)
    other.install(kept)
    program = "import demo_pkg, importlib.metadata as m; print(demo_pkg.ANSWER, m.version('Demo_Pkg'))"
    assert subprocess.check_output([other.python, "-c", program], text=True) == "edited 1.0\n"
    assert subprocess.check_output([other.folder / "bin/tool"], text=True) == "tool\n"
    assert (other.folder / "bin/tool").read_text().startswith(f"#!{other.folder}")
    assert (other.folder / "bin/demo").exists()
    with zipfile.ZipFile(kept) as archive:
        names = archive.namelist()
    assert "demo_pkg-1.0.dist-info/direct_url.json" not in names
    assert not any("bin/demo" in name or name.endswith("scripts/demo") for name in names)


def built_again(folder, tmp_path):
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", tmp_path / "dist", folder], check=True)
    return next((tmp_path / "dist").glob("*.whl")).read_bytes()


def test_what_cannot_be_packed_is_named(venv, tree, tmp_path):
    wheel = built(tmp_path)
    venv.install(wheel)
    wheel.unlink()
    (venv.site / "demo_pkg/__init__.py").unlink()
    with capture(venv, tree) as captured:
        assert captured.wheels == ()
        (warning,) = captured.warnings
    assert warning.startswith(
        f"demo-pkg was installed from {wheel} and is left out: not all of it can be read"
    )
    (venv.site / "demo_pkg-1.0.dist-info/RECORD").unlink()
    with capture(venv, tree) as captured:
        (warning,) = captured.warnings
    assert "has no RECORD" in warning


def test_what_is_damaged_is_named_and_the_rest_recorded(venv, tree):
    venv.install("six==1.17.0", "idna==3.10")
    (venv.site / "half-1.0.dist-info").mkdir()
    (venv.site / "~dna-3.9.dist-info").mkdir()
    (venv.site / "idna-3.10.dist-info/direct_url.json").write_text("{not json")
    (venv.site / "old-1.0.egg-info").write_text("Metadata-Version: 1.0\nName: old\nVersion: 1.0\n")
    with capture(venv, tree) as captured:
        assert captured.environment.requirements == ("old==1.0", "six==1.17.0")
        (warning,) = captured.warnings
    assert "not installed as a whole: half-1.0.dist-info, idna-3.10.dist-info" in warning.replace(
        "idna-3.10.dist-info, half-1.0.dist-info", "half-1.0.dist-info, idna-3.10.dist-info"
    )


def test_setup_py_develop_is_an_editable_package(venv, tree, tmp_path):
    folder = SourceTree(tmp_path / "old")
    folder.write(
        {"setup.py": "", "old.egg-info/PKG-INFO": "Metadata-Version: 1.0\nName: Old\nVersion: 1.0\n"}
    )
    (venv.site / "easy-install.pth").write_text(f"{folder.root}\n")
    (venv.site / "Old.egg-link").write_text(f"{folder.root}\n.")
    with capture(venv, tree) as captured:
        assert captured.environment.editables == (".towline/editables/old",)


def test_the_machine_is_described_and_describing_it_never_fails(monkeypatch, tmp_path):
    facts = environment.describe_own(sys.path)
    described = environment.inspect(facts, tmp_path).environment(frozenset()).system
    assert described.os and described.python == f"CPython {facts['version']}"
    assert described.cpu_count == len(os.sched_getaffinity(0))
    assert described.memory_bytes > 2**28


def test_a_driver_is_asked_through_its_command_too(monkeypatch, tmp_path, tree, venv):
    smi = tmp_path / "bin/nvidia-smi"
    SourceTree(tmp_path).write(
        {
            "bin/nvidia-smi": '#!/bin/sh\ncase "$1" in\n'
            '--query*) echo "NVIDIA H100 80GB HBM3, 550.54.15"; echo "NVIDIA H100 80GB HBM3, 550.54.15";;\n'
            '*) echo "| Driver Version: 550.54.15    CUDA Version: 12.4     |";;\nesac\n'
        }
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}:{os.environ['PATH']}")
    with capture(venv, tree) as captured:
        told = captured.spec("sha256:" + "0" * 64).provenance.system
    if told.gpus and told.driver_version != "550.54.15":
        pytest.skip("this machine has a GPU of its own")
    assert list(told.gpus) == ["NVIDIA H100 80GB HBM3"] * 2
    assert (told.driver_version, told.cuda_version) == ("550.54.15", "12.4")


def test_a_driver_that_hangs_holds_nothing_up(monkeypatch, tmp_path):
    SourceTree(tmp_path).write({"nvidia-smi": "#!/bin/sh\nexec sleep 600\n"})
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("towline.capture.system._PATIENCE_S", 0.2)
    facts = environment.describe_own([])
    described = environment.inspect(facts, tmp_path).environment(frozenset()).system
    assert described.os and described.driver_version == ""


def test_the_lock_goes_in_place_of_what_is_installed(venv, tree):
    venv.install("six==1.17.0")
    tree.commit({"requirements.txt": "-r base.txt\n", "base.txt": "idna==3.10\n"})
    with capture(venv, tree, lock=LockFile(tree.root / "requirements.txt")) as captured:
        python = captured.spec("sha256:" + "0" * 64).python
    assert (python.lock.path, list(python.requirements), python.complete) == ("requirements.txt", [], False)
    tree.commit({".gitignore": "base.txt\n", ".towlineignore": "base.txt\n"})
    with pytest.raises(InvalidArgument, match=r"lock: base.txt is left out of the snapshot"):
        capture(venv, tree, lock=LockFile(tree.root / "requirements.txt"))


def test_a_url_is_recorded_with_its_hash_and_without_credentials(venv, tree, tmp_path):
    wheel = built(tmp_path)
    venv.install(wheel)
    noted = {"url": f"https://ada:pw@host/{wheel.name}", "archive_info": {"hashes": {"sha256": "ab" * 32}}}
    (venv.site / "demo_pkg-1.0.dist-info/direct_url.json").write_text(json.dumps(noted))
    with capture(venv, tree) as captured:
        (requirement,) = captured.environment.requirements
    assert requirement == f"demo-pkg @ https://host/{wheel.name}#sha256={'ab' * 32}"


def test_folders_that_only_the_path_of_imports_has_are_named(venv, tree, tmp_path, monkeypatch):
    here, there, editable = (
        tree.root / "lib",
        SourceTree(tmp_path / "there"),
        SourceTree(tmp_path / "editable"),
    )
    there.write({"pkg/__init__.py": ""})
    tree.commit({"lib/mine.py": ""})
    editable.write(project("inner", "uv_build"))
    venv.install("--editable", editable.root)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{here}:{there.root}:{tmp_path}/empty:{tmp_path}/absent")
    with capture(venv, tree) as captured:
        (warning,) = captured.warnings
    assert warning.startswith(f"modules in {there.root} are found by PYTHONPATH")


def test_a_whole_home_is_no_editable_package(venv, tree, tmp_path, monkeypatch):
    home = SourceTree(tmp_path / "home")
    home.write(project("inner", "uv_build") | {"private.txt": "x"})
    venv.install("--editable", home.root)
    monkeypatch.setenv("HOME", str(home.root))
    with capture(venv, tree) as captured:
        assert not any("private" in path for path in archived(captured))
        (warning,) = captured.warnings
    assert "no folder to take whole" in warning


def test_what_a_person_has_installed_for_themselves_is_packed_too(venv, tree, tmp_path):
    # As pip install --user: beside the environment, with its scripts in a folder of their own.
    wheel = built(tmp_path)
    own = Venv(tmp_path / "home/.local")
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, own.folder], check=True)
    own.install(wheel)
    wheel.unlink()
    facts = environment.ask(venv.python, tree.root)
    theirs = environment.ask(own.python, tree.root)
    facts["distributions"] += theirs["distributions"]
    found = environment.inspect(facts, tree.root).environment(frozenset())
    assert (found.warnings, len(found.wheels)) == ((), 1)
    with zipfile.ZipFile(found.wheels[0].path) as archive:
        assert "demo_pkg-1.0.data/scripts/tool" in archive.namelist()
    found.close()
