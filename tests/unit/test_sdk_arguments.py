"""Command lines as parameters, and back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import towline
from towline.capture.entrypoint import Program
from towline.capture.parameters import parameterized
from towline.runtime.arguments import filled, templated, templated_papermill


@pytest.mark.parametrize(
    ("words", "config"),
    [
        (["--lr", "1e-3", "--name=a b"], {"lr": 0.001, "name": "a b"}),
        (["--learning-rate", "0.10", "data.csv"], {}),
        (["data.csv", "--learning-rate", "0.10"], {"learning_rate": 0.1}),
        (["--epochs", "-1", "--x", "-.5e2"], {"epochs": -1, "x": -50.0}),
        (["--hidden", "128", "64", "--amp"], {"hidden": [128, 64]}),
        (["--model.width=8", "--model.act", "relu"], {"model": {"width": 8, "act": "relu"}}),
        (
            ["db=mysql", "+model.lr=0.1", "++n=3", "~a", "a/b=c"],
            {"db": "mysql", "model": {"lr": 0.1}, "n": 3},
        ),
        (["--config-name", "big", "lr=1"], {"config_name": "big", "lr": 1}),
        (["--debug=True", "--fast", "false", "--tag="], {"debug": True, "fast": False, "tag": ""}),
        (["--verbose", "--out", "../a/b", "-x", "3"], {"out": "../a/b"}),
        (["--seed", "007", "--version", "1.2.3"], {"seed": "007", "version": "1.2.3"}),
        (["--add", "1", "--add", "2"], {}),
        (["--model=resnet", "--model.depth=3"], {"model": {"depth": 3}}),
        (["--", "--lr", "1"], {}),
        (["--fmt={a}", "--y", "1"], {"y": 1}),
        (["--line=a\nb", "--bytes=\udcff"], {}),
        (["lr", "0.1", "-p", "x", "1"], {}),
    ],
)
def test_values_among_arguments_are_parameters_and_come_back_as_they_were_typed(words, config):
    template = templated(words)
    assert template.config == config
    assert filled(template.words, config) == words
    assert filled(template.words, {}) == words


def test_a_command_line_with_placeholders_of_its_own_is_left_alone():
    words = ["--y", "1", "--x", "${config.lr=3}"]
    assert templated(words) == (words, {})


@pytest.mark.parametrize(
    ("words", "parameters", "expected"),
    [
        (["--lr", "1e-3"], {"lr": 0.5}, ["--lr", "0.5"]),
        (["--lr=1e-3", "--n", "3"], {"n": 4, "lr": 0.001}, ["--lr=1e-3", "--n", "4"]),
        (["--hidden", "128", "64"], {"hidden": [32, 64, 1]}, ["--hidden", "32", "64", "1"]),
        (["--hidden", "1e2", "64"], {"hidden": [100.0, 32]}, ["--hidden", "1e2", "32"]),
        (["model.lr=0.1"], {"model": {"lr": 1e-05}}, ["model.lr=1e-05"]),
        (["--amp=True", "--fast=true"], {"amp": False, "fast": False}, ["--amp=False", "--fast=false"]),
        (["--flag=1"], {"flag": True}, ["--flag=true"]),
        (["--name=x"], {"name": "a b; rm -rf '$HOME'"}, ["--name=a b; rm -rf '$HOME'"]),
        (["--name=x"], {"name": {"a": [1]}}, ['--name={"a": [1]}']),
    ],
)
def test_parameters_of_a_run_go_into_their_places(words, parameters, expected):
    assert filled(templated(words).words, parameters) == expected


def test_papermill_is_told_its_parameters():
    words = ["in.ipynb", "out.ipynb", "-p", "lr", "0.1", "-r", "name", "7", "--cwd", "x"]
    template = templated_papermill(words)
    assert template.config == {"lr": 0.1, "name": 7}
    assert filled(template.words, {"lr": 0.2}) == [*words[:4], "0.2", *words[5:]]


@pytest.mark.parametrize(
    ("command", "arguments", "config"),
    [
        ("torchrun", ["--nproc-per-node", "2", "train.py", "--lr", "0.1"], {"lr": 0.1}),
        ("torchrun", ["--nproc-per-node", "2", "-m", "pkg.train", "--lr", "0.1"], {"lr": 0.1}),
        ("accelerate", ["launch", "--num_processes=2", "train.py", "lr=1"], {"lr": 1}),
        ("torchrun", ["--nproc-per-node", "2", "gone.py", "--lr", "0.1"], {}),
        ("jupyter", ["nbconvert", "--execute", "--to", "html", "a.ipynb"], {}),
        ("papermill", ["a.ipynb", "b.ipynb", "-p", "lr", "0.1"], {"lr": 0.1}),
        ("my-train", ["--lr", "0.1"], {"lr": 0.1}),
    ],
)
def test_only_the_arguments_of_what_a_launcher_starts_are_parameters(tmp_path, command, arguments, config):
    (tmp_path / "train.py").touch()
    program, found = parameterized(Program(tmp_path, command=command, arguments=tuple(arguments)))
    assert found == config
    assert filled(program.arguments, found) == arguments


def become(*words: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "towline.runtime.replay", *words],
        env={"PYTHONPATH": str(Path(towline.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
        | ({"TOWLINE_CONFIG": str(config)} if config else {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_command_line_with_placeholders_becomes_the_program(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"lr": 0.5}))
    words = ["--", "echo", "--lr", "${config.lr=1e-3}", "--n=${config.n=3}"]
    assert become(*words, config=tmp_path / "config.json").stdout == "--lr 0.5 --n=3\n"
    assert become(*words).stdout == "--lr 1e-3 --n=3\n"
    assert become("--", "sh", "-c", "exit 7").returncode == 7
    gone = become("--", "no-such-program")
    assert (gone.returncode, gone.stderr) == (127, "towline: no-such-program: No such file or directory\n")
    assert become("--").returncode == 2
