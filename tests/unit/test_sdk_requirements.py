"""Which requirements make an environment again."""

from pathlib import Path

from towline.capture.requirements import Distribution, Editable, select

ROOT = Path("/project")
SITE = "/venv/lib/python3.11/site-packages"


def dist(name, version="1.0", root=SITE, info="dist-info", **facts):
    defaults = {"requires": [], "requested": False, "installer": "pip", "direct_url": None, "modified": 0.0}
    defaults |= {"root": root, "metadata": f"{root}/{name}-{version}.{info}"}
    made = Distribution.of(defaults | {"name": name, "version": version} | facts)
    assert made is not None
    return made


def test_requirements_are_pinned_by_canonical_name_and_sorted():
    found = [dist("Zope.Interface", "6.1"), dist("scikit_learn", "1.5.2"), dist("torch", "2.3.0+cu121")]
    assert select(found, ROOT).requirements == [
        "scikit-learn==1.5.2",
        "torch==2.3.0+cu121",
        "zope-interface==6.1",
    ]


def test_the_first_on_the_path_wins():
    assert select([dist("numpy", "2.0"), dist("NumPy", "1.26")], ROOT).requirements == ["numpy==2.0"]


def test_a_damaged_installation_is_passed_over():
    assert Distribution.of({"name": None, "version": "1"}) is None


def test_towline_and_what_is_there_for_it_alone_is_left_out_and_installers_are_not():
    found = [
        dist(
            "towline", requires=["grpcio>=1", "protobuf", "pathspec", "typer; extra == 'cli'"], requested=True
        ),
        dist("grpcio", requires=["typing-extensions"]),
        dist("protobuf"),
        dist("pathspec", requested=True),
        dist("typing-extensions"),
        dist("typer"),
        dist("pip"),
        dist("setuptools"),
        dist("onnx", requires=["protobuf>=4"], requested=True),
    ]
    assert select(found, ROOT).requirements == [
        "onnx==1.0",
        "pathspec==1.0",
        "pip==1.0",
        "protobuf==1.0",
        "setuptools==1.0",
    ]


SHA = "ab" * 32


def test_what_came_from_a_repository_or_url_comes_from_there_again_without_credentials():
    git = {"url": "https://ada:secret@host/a.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    ssh = {
        "url": "ssh://git@host/b.git",
        "vcs_info": {"vcs": "git", "commit_id": "beef"},
        "subdirectory": "py",
    }
    wheel = {"url": "https://t0ken@host/c-1.0-py3-none-any.whl", "archive_info": {"hashes": {"sha256": SHA}}}
    old = {"url": "https://host/d.zip", "subdirectory": "py", "archive_info": {"hash": f"sha256={SHA}"}}
    uv = {"url": f"https://host/e.zip#sha256={SHA}", "archive_info": {}}
    plain = {"url": "https://host/f.zip", "archive_info": {}}
    noted = {"a": git, "b": ssh, "c": wheel, "d": old, "e": uv, "f": plain}
    assert select([dist(name, direct_url=url) for name, url in noted.items()], ROOT).requirements == [
        "a @ git+https://host/a.git@c0ffee",
        "b @ git+ssh://git@host/b.git@beef#subdirectory=py",
        f"c @ https://host/c-1.0-py3-none-any.whl#sha256={SHA}",
        f"d @ https://host/d.zip#subdirectory=py&sha256={SHA}",
        f"e @ https://host/e.zip#sha256={SHA}",
        "f @ https://host/f.zip",
    ]


def test_what_came_from_this_machine_is_told_apart():
    editable = {"url": "file:///home/ada/package%201", "dir_info": {"editable": True}}
    folder = {"url": "file:///home/ada/lib", "dir_info": {}}
    wheel = {"url": "file:///tmp/w-1.0-py3-none-any.whl", "archive_info": {"hash": f"sha256={SHA}"}}
    repository = {"url": "file:///srv/r.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    noted = {"mine": editable, "lib": folder, "w": wheel, "r": repository}
    chosen = select([dist(name, direct_url=url) for name, url in noted.items()], ROOT)
    assert chosen.requirements == chosen.warnings == []
    assert chosen.editables == [Editable("mine", Path("/home/ada/package 1"))]
    assert [(each.distribution.name, str(each.source), each.sha256) for each in chosen.local] == [
        ("lib", "/home/ada/lib", ""),
        ("r", "/srv/r.git", ""),
        ("w", "/tmp/w-1.0-py3-none-any.whl", SHA),
    ]


def test_setup_py_develop_is_editable_and_sources_with_metadata_are_nothing_installed():
    found = [
        dist("old", root="/home/ada/old", info="egg-info"),
        dist("here", root="/project/src", info="egg-info"),
        dist("there", root="/home/ada/there", info="egg-info"),
    ]
    chosen = select(found, ROOT, develop={"Old": "/home/ada/old"})
    assert chosen.editables == [Editable("old", Path("/home/ada/old"))]
    assert chosen.requirements == []
    (warning,) = chosen.warnings
    assert warning.startswith("there is imported from /home/ada/there, where it is not installed")


def test_what_setuptools_leaves_in_an_editable_project_does_not_hide_the_installation():
    noted = {"url": "file:///project", "dir_info": {"editable": True}}
    found = [dist("mine", root="/project", info="egg-info"), dist("mine", direct_url=noted)]
    assert select(found, ROOT).editables == [Editable("mine", ROOT)]
    # Where it is not installed at all, it comes with the source.
    chosen = select(found[:1], ROOT)
    assert (chosen.editables, chosen.requirements, chosen.warnings) == ([], [], [])


def test_of_two_in_one_place_the_later_is_recorded_and_both_are_named():
    found = [dist("numpy", "2.0", modified=1.0), dist("numpy", "2.2", modified=2.0), dist("six")]
    chosen = select(found, ROOT)
    assert chosen.requirements == ["numpy==2.2", "six==1.0"]
    (warning,) = chosen.warnings
    assert "numpy is installed more than once" in warning and "(2.0, 2.2); 2.2, the one" in warning


def test_what_pip_was_about_to_remove_is_passed_over():
    left = Distribution.of(
        {
            "name": "numpy",
            "version": "1.0",
            "requires": [],
            "requested": False,
            "installer": "pip",
            "direct_url": None,
            "root": SITE,
            "metadata": f"{SITE}/~umpy-1.0.dist-info",
            "modified": 9.0,
        }
    )
    assert left
    assert select([left, dist("numpy", "2.0")], ROOT).requirements == ["numpy==2.0"]


def test_conda_notes_build_machines_which_say_nothing_and_is_named():
    noted = {"url": "file:///home/conda/feedstock_root/build_artifacts/numpy", "dir_info": {}}
    chosen = select([dist("numpy", installer="conda", direct_url=noted)], ROOT)
    assert chosen.requirements == ["numpy==1.0"]
    (warning,) = chosen.warnings
    assert warning.startswith("numpy came from conda")
    croot = {"url": "file:///croot/pandas_1", "dir_info": {}}
    assert select([dist("pandas", direct_url=croot)], ROOT, conda=True).requirements == ["pandas==1.0"]


def test_a_note_that_is_damaged_counts_as_none():
    for noted in ({}, {"url": 3}, [], "x"):
        assert select([dist("six", direct_url=noted)], ROOT).requirements == ["six==1.0"]


def test_what_came_with_the_operating_system_is_named():
    (warning,) = select([dist("python-apt", root="/usr/lib/python3/dist-packages")], ROOT).warnings
    assert warning.startswith("python-apt came with the operating system")
