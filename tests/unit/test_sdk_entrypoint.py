"""How programs are started, and started again."""

from pathlib import Path

import pytest

from towline.capture.entrypoint import Entrypoint, Program, entrypoint_of, job_name, parse_command
from towline.errors import InvalidArgument


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "app").mkdir()
    for script in ("train.py", "sub/eval.py", "app/__main__.py"):
        (tmp_path / script).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "cwd", "command", "working_dir"),
    [
        (["python", "train.py", "--lr", "0.1"], ".", ("python", "train.py", "--lr", "0.1"), ""),
        (["python3.12", "-u", "-X", "dev", "train.py"], ".", ("python", "-u", "-X", "dev", "train.py"), ""),
        (["/usr/bin/python3", "-Werror", "train.py", "-m"], ".", ("python", "-Werror", "train.py", "-m"), ""),
        (["python", "-m", "sub.eval", "-x"], ".", ("python", "-m", "sub.eval", "-x"), ""),
        (["python", "-um", "sub.eval"], ".", ("python", "-u", "-m", "sub.eval"), ""),
        (["python", "-msub.eval"], ".", ("python", "-m", "sub.eval"), ""),
        (["python", "eval.py"], "sub", ("python", "eval.py"), "sub"),
        (["python", "../train.py"], "sub", ("python", "../train.py"), "sub"),
        (["python", "app"], ".", ("python", "app"), ""),
    ],
)
def test_a_command_is_written_relative_to_its_tree(project, argv, cwd, command, working_dir):
    interpreter, program = parse_command(argv, project / cwd)
    assert interpreter == argv[0]
    assert entrypoint_of(program, project) == Entrypoint(command, working_dir)


def test_a_working_directory_outside_the_tree_becomes_its_root(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    _, program = parse_command(["python", str(project / "sub/eval.py")], elsewhere)
    assert entrypoint_of(program, project) == Entrypoint(("python", "sub/eval.py"), "")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["python", "nowhere.py"], "the script nowhere.py does not exist"),
        (["python"], "names no script"),
        (["python", "-c", "print()"], "names no script"),
        (["python", "-"], "there is no script: the program comes on standard input"),
        (["python", "-m"], "needs the name of a module"),
        (["torchrun", "train.py"], "'torchrun' is no Python interpreter"),
        (["./train.py"], "no Python interpreter"),
        (["python", "sub"], "does not exist"),
        ([], "there is none"),
    ],
)
def test_what_starts_no_python_program_is_refused(project, argv, problem):
    with pytest.raises(InvalidArgument, match=problem) as caught:
        parse_command(argv, project)
    assert caught.value.metadata == {"field": "command"}


def test_a_script_outside_the_tree_is_refused(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.raises(
        InvalidArgument, match=r"train.py lies outside of the source tree .*elsewhere\d+; change to"
    ):
        entrypoint_of(Program(project, script=project / "train.py"), elsewhere)


@pytest.mark.parametrize(
    ("script", "module", "name"),
    [
        ("/home/ada/digits/train.py", None, "digits-train"),
        ("/home/ada/digits/fit_digits.py", None, "fit_digits"),
        ("/home/ada/my project/main.py", None, "my-project-main"),
        ("/home/ada/app/__main__.py", None, "app"),
        ("/train.py", None, "train"),
        ("/home/ada/über/größe.py", None, "gr-e"),
        ("/home/ada/…/….py", None, "job"),
        (None, "package.train", "package.train"),
    ],
)
def test_jobs_are_named_after_their_program(script, module, name):
    program = Program(Path("/"), script=Path(script) if script else None, module=module)
    assert job_name(program) == name


def test_names_of_jobs_are_not_longer_than_allowed():
    assert len(job_name(Program(Path("/"), script=Path(f"/{'a' * 200}.py")))) == 128


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["torchrun", "--nproc-per-node", "2", "digits/train.py", "--lr", "1"], "digits-train"),
        (["accelerate", "launch", "--multi_gpu", "fit.py"], "fit"),
        (["jupyter", "nbconvert", "--execute", "--output", "out.ipynb", "study.ipynb"], "study"),
        (["jupyter", "nbconvert", "--execute", "study.ipynb"], "study"),
        (["papermill", "study.ipynb", "out.ipynb"], "study"),
        (["my-train", "--lr", "1"], "my-train"),
    ],
)
def test_jobs_of_commands_are_named_after_their_script(words, name):
    assert job_name(Program(Path("/home/ada"), command=words[0], arguments=tuple(words[1:]))) == name


INSTALLED = "#!{python}\nimport sys\n"
LONG = "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"


@pytest.mark.parametrize(("folder", "first_lines"), [("venv", INSTALLED), ("with space", LONG)])
def test_a_command_that_a_package_has_installed_is_started_by_its_name(
    project, monkeypatch, folder, first_lines
):
    bin_folder = project / folder / "bin"
    bin_folder.mkdir(parents=True)
    script = bin_folder / "torchrun"
    script.write_text(first_lines.format(python=bin_folder / "python"))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder))
    whole = [str(script), "train.py"], ["python", str(script), "train.py"]
    for argv in (["torchrun", "train.py"], *whole):
        interpreter, program = parse_command(argv, project)
        assert entrypoint_of(program, project) == Entrypoint(("torchrun", "train.py"), "")
        assert Path(interpreter).name == "python"


def test_a_script_that_names_its_interpreter_is_a_script(project):
    script = project / "sub/fit.py"
    script.write_text("#!/usr/bin/env python3\n")
    interpreter, program = parse_command(["sub/fit.py", "-x"], project)
    assert interpreter == "python3"
    assert entrypoint_of(program, project) == Entrypoint(("python", "sub/fit.py", "-x"), "")
