"""Which requirements make an environment again."""

from pathlib import Path

from towline.capture.requirements import Distribution, select

ROOT = Path("/project")


def dist(name, version="1.0", **facts):
    defaults = {"requires": [], "requested": False, "installer": "pip", "direct_url": None}
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


def test_towline_and_what_is_there_for_it_alone_is_left_out():
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
        dist("wheel"),
        dist("setuptools"),
        dist("onnx", requires=["protobuf>=4"], requested=True),
    ]
    assert select(found, ROOT).requirements == [
        "onnx==1.0",
        "pathspec==1.0",
        "protobuf==1.0",
        "setuptools==1.0",
    ]


def test_what_came_from_a_repository_or_url_comes_from_there_again_without_credentials():
    git = {"url": "https://ada:secret@host/a.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    ssh = {
        "url": "ssh://git@host/b.git",
        "vcs_info": {"vcs": "git", "commit_id": "beef"},
        "subdirectory": "py",
    }
    wheel = {"url": "https://host/c-1.0-py3-none-any.whl", "archive_info": {}}
    found = [dist("a", direct_url=git), dist("b", direct_url=ssh), dist("c", direct_url=wheel)]
    assert select(found, ROOT).requirements == [
        "a @ git+https://host/a.git@c0ffee",
        "b @ git+ssh://git@host/b.git@beef#subdirectory=py",
        "c @ https://host/c-1.0-py3-none-any.whl",
    ]


def test_what_came_from_this_machine_is_left_out_and_named_unless_it_is_in_the_tree():
    here = {"url": "file:///project/package%201", "dir_info": {"editable": True}}
    elsewhere = {"url": "file:///home/ada/lib", "dir_info": {"editable": True}}
    wheel = {"url": "file:///tmp/w-1.0-py3-none-any.whl", "archive_info": {}}
    found = [dist("mine", direct_url=here), dist("lib", direct_url=elsewhere), dist("w", direct_url=wheel)]
    assert select(found, ROOT) == ([], ["lib", "w"])


def test_conda_notes_build_machines_which_say_nothing():
    noted = {"url": "file:///home/conda/feedstock_root/build_artifacts/numpy", "dir_info": {}}
    assert select([dist("numpy", installer="conda", direct_url=noted)], ROOT).requirements == ["numpy==1.0"]
