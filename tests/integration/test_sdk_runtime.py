"""What a training script imports, as it is in containers and where nothing can be recorded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import towline
from towline_testing.checkouts import SourceTree, program_environment
from towline_testing.shipped import shipped

SDK = Path(towline.__file__).parents[1]


@pytest.fixture
def container(tmp_path):
    """Run code with the files that are shipped into containers, and nothing else but the standard library."""
    runtime = shipped(tmp_path / "runtime")
    (tmp_path / "config.json").write_text(json.dumps({"lr": 0.5, "model": {"width": 16}, "added": [1]}))

    def run(code, **variables):
        (tmp_path / "main.py").write_text(code)
        return subprocess.run(
            [sys.executable, "-S", "main.py"],
            cwd=tmp_path,
            env={
                "PYTHONPATH": str(runtime),
                "TOWLINE_CONFIG": str(tmp_path / "config.json"),
                "TOWLINE_OUTPUTS": str(tmp_path / "out"),
                "TOWLINE_RUN_NAME": "first",
            }
            | variables,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


def test_the_top_module_imports_the_standard_library_only():
    code = "import sys, towline; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import json, sys; sys.path.append({str(SDK)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    foreign = {name for name in json.loads(done.stdout) if not name.startswith("_")} - sys.stdlib_module_names
    assert foreign == {"towline"}


def test_in_a_container_the_submission_goes_over_the_defaults_and_nothing_is_recorded(container):
    code = """
import sys, towline
with towline.init(job="x", config={"lr": 0.1, "model": {"width": 8, "depth": 2}}) as run:
    (run.outputs / "metrics.json").write_text("{}")
    print(run.config.lr, *run.config.model.values(), run.config.added, run.name, run.recorded)
print([name for name in sys.modules if name in ("subprocess", "grpc", "google")])
"""
    done = container(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["0.5 16 2 [1] first False", "[]"]


def test_outputs_go_where_the_agent_says(container, tmp_path):
    container("import towline; (towline.init().outputs / 'a').write_text('x')")
    assert (tmp_path / "out/a").read_text() == "x"


@pytest.mark.parametrize("content", [None, "[1]", "{"])
def test_parameters_that_cannot_be_read_are_an_error_in_a_container(container, tmp_path, content):
    file = tmp_path / "broken.json"
    if content:
        file.write_text(content)
    done = container("import towline; towline.init()", TOWLINE_CONFIG=str(file))
    assert done.returncode == 1
    assert "TOWLINE_CONFIG names" in done.stderr
    assert str(file) in done.stderr


def test_a_second_call_gives_the_same_run_and_another_config_is_refused(container):
    code = """
import towline
from towline.errors import FailedPrecondition
run = towline.init({"lr": 1})
assert towline.init() is run and towline.init({"lr": 1}) is run
try:
    towline.init({"lr": 2})
except FailedPrecondition as error:
    print(error.reason)
run.finish()
assert towline.init({"lr": 2}) is not run
"""
    done = container(code)
    assert (done.stdout, done.stderr) == ("RUN_STARTED\n", "")


def test_a_client_that_was_made_before_a_fork_does_not_hold_up_the_child(folder):
    code = """
import os, sys
from towline.client import Client, Endpoints
client = Client(Endpoints("127.0.0.1:1", "127.0.0.1:1"))
child = os.fork()
if child == 0:
    try:
        client.runs.get("a")
    except RuntimeError as error:
        print(error)
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    folder.write({"main.py": code})
    done = folder.python("main.py")
    assert done.stdout == "this Client is closed, or was made before the process forked\n3\n", done.stderr


@pytest.fixture
def folder(tmp_path):
    return SourceTree(tmp_path)


def test_without_services_the_program_runs_and_one_line_says_what_to_do(folder, tmp_path_factory):
    folder.write({"train.py": "import towline; print(towline.init({'lr': 0.1}).config.lr)"})
    data = tmp_path_factory.mktemp("data")
    done = folder.python("train.py", TOWLINE_OFFLINE_DIR=str(data / "offline"))
    assert (done.returncode, done.stdout) == (0, "0.1\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("towline: recorded offline: no Towline services are known here; run `towline up`")
    assert line.endswith(" sends it (1 waiting; with TOWLINE_RECORD=0 nothing is recorded, or said)")
    assert not (folder.root / "towline-outputs").exists()
    (record,) = (data / "offline").glob("*/record.json")
    assert json.loads(record.read_text())["job"] == f"{folder.root.name}-train"


@pytest.mark.parametrize("variables", [{"TOWLINE_RECORD": "0"}, {"TOWLINE_RECORD": "off"}, {"RANK": "1"}])
def test_nothing_is_said_where_nothing_is_to_be_recorded(folder, variables):
    folder.write({"train.py": "import towline; print(towline.init().recorded)"})
    done = folder.python("train.py", **variables)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_record_false_records_nothing(folder):
    folder.write({"train.py": "import towline; print(towline.init(record=False).recorded)"})
    assert (done := folder.python("train.py")).stdout == "False\n"
    assert done.stderr == ""


def test_an_interactive_session_is_told_why_it_is_not_recorded(folder):
    done = folder.python("-c", "import towline; print(towline.init().recorded)")
    assert done.stdout == "False\n"
    assert done.stderr.startswith("towline: not recorded: there is no script in an interactive session")


def test_outputs_on_a_desktop_get_a_folder_per_run_and_settings_change_it(folder):
    folder.write({"train.py": "import towline; print(towline.init(name='try 1', record=False).outputs)"})
    made = Path(folder.python("train.py").stdout.strip())
    assert made.parent == folder.root / "towline-outputs"
    assert made.name.endswith("-try1")
    assert (
        Path(folder.python("train.py", TOWLINE_OUTPUTS_DIR="there").stdout.strip()).parent
        == folder.root / "there"
    )
    assert folder.python("train.py", TOWLINE_OUTPUTS=str(folder.root / "o")).stdout.strip() == str(
        folder.root / "o"
    )


def test_a_program_from_standard_input_is_told_why_it_is_not_recorded(folder):
    done = subprocess.run(
        [sys.executable, "-"],
        input="import towline; print(towline.init({'lr': 1}).config.lr)",
        env=program_environment(),
        cwd=folder.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
    assert done.stderr.startswith(
        "towline: not recorded: there is no script: the program came on standard input; run a file"
    )


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("3", "config is of type int; give a dict, a dataclass, an argparse.Namespace or a pydantic model"),
        ("Odd()", "config raised RuntimeError: not now"),
    ],
)
def test_a_config_that_cannot_be_read_never_ends_the_program(folder, container, config, problem):
    code = f"""
import towline
class Odd:
    @property
    def model_dump(self):
        raise RuntimeError("not now")
run = towline.init({config})
print(run.recorded, run.config, (run.outputs / "x").write_text("x"))
"""
    folder.write({"train.py": code})
    done = folder.python("train.py")
    assert (done.stdout, done.stderr) == ("False {} 1\n", f"towline: not recorded: {problem}\n")
    done = container(code)
    assert done.stdout.startswith("False {'lr': 0.5, ")
    assert done.stderr == f"towline: {problem}\n"
