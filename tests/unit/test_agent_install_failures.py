"""Failed installations: which requirement, why, and what to do, from what installers print."""

import pytest

from towline.v1 import runs_pb2
from towline_agent.core.install_failures import InstallLog, install_failure

UV = {  # as printed by uv 0.9 to 0.11: the words changed, and the frames
    "nope": (
        "  \u00d7 No solution found when resolving dependencies:\n"
        "  ╰─▶ Because nope was not found in the package registry and you require\n"
        "      nope, we can conclude that your requirements are unsatisfiable.\n",
        "nope was not found in the package registry",
    ),
    "six==99.0": (
        "Using Python 3.11.7 environment at: /opt/venv\n"
        "error: No solution found when resolving dependencies\n"
        "  cause: Because there is no version of six==99.0 and you require six==99.0, we can conclude that "
        "your requirements are unsatisfiable.\n",
        "there is no version of six==99.0",
    ),
    "requests==2.31.0 and requests[x]<2.20": (
        "error: No solution found when resolving dependencies\n  cause: Because you require "
        "requests==2.31.0 and requests[x]<2.20, we can conclude that your requirements are unsatisfiable.\n",
        "you require requests==2.31.0 and requests[x]<2.20",
    ),
    "tensorflow==2.3.0": (
        "error: No solution found when resolving dependencies\n  cause: Because tensorflow==2.3.0 has no "
        "wheels with a matching Python ABI tag (e.g., `cp311`) and you require tensorflow==2.3.0, we can "
        "conclude that your requirements are unsatisfiable.\n\n"
        "hint: You require CPython 3.11 (`cp311`), but we only found "
        "wheels for `tensorflow` (v2.3.0) with the following Python ABI tags: `cp37m`, `cp38`\n",
        "(`cp311`), but we only found wheels for `tensorflow` (v2.3.0) with the following Python ABI tags",
    ),
    "pkg==1.0": (
        "  \u00d7 Failed to build `pkg==1.0`\n  ├─▶ The build backend returned an error\n"
        "  ╰─▶ Call to `setuptools.build_meta.build_wheel` failed (exit status: 1)\n\n      [stderr]\n"
        "      RuntimeError: needs CUDA_HOME\n",
        "it does not build: RuntimeError: needs CUDA_HOME",
    ),
    "secret": (
        "error: Failed to fetch: `https://127.0.0.1:9/simple/secret/`\n"
        "  cause: HTTP status client error (401 Unauthorized) for url (https://127.0.0.1:9/simple/secret/)\n",
        "Failed to fetch: `https://127.0.0.1:9/simple/secret/`: HTTP status client error (401 Unauthorized)",
    ),
    "away": (
        "error: Request failed after 3 retries in 8.0s\n  cause: Failed to fetch: http://127.0.0.1:9/simple/away/\n"
        "  cause: error sending request for url (http://127.0.0.1:9/simple/away/)\n"
        "  cause: tcp connect error\n  cause: Connection refused (os error 111)\n",
        "Failed to fetch: http://127.0.0.1:9/simple/away/: Connection refused (os error 111). See that",
    ),
    "six==1.17.0": (
        "error: Failed to download `six==1.17.0`\n  cause: Hash mismatch for `six==1.17.0`\n\n"
        "         Expected:\n           sha256:00\n",
        "Hash mismatch for `six==1.17.0`",
    ),
    "not a requirement": (
        "error: Couldn't parse requirement in `requirements.txt` at position 0\n  cause: not a requirement\n",
        "Couldn't parse requirement in `requirements.txt` at position 0",
    ),
}


def said(text: str) -> str:
    log = InstallLog()
    log.feed(text.encode())
    failure = log.failure().failure
    assert failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD
    assert failure.log_tail.strip() in text
    return failure.message


@pytest.mark.parametrize(("name", "log", "why"), [(name, *rest) for name, rest in UV.items()], ids=UV.keys())
def test_the_requirement_that_fails_is_named_with_the_reason(name: str, log: str, why: str) -> None:
    message = said(log)
    assert message.startswith(f"The image could not be built: requirement `{name}` cannot be installed: ")
    assert why in message


def test_a_requirement_is_named_though_the_log_of_its_build_is_long() -> None:
    noise = "".join(f"         warning {number}: {'x' * 100}\n" for number in range(1000))
    text = (
        "Resolved 1 package in 2ms\nerror: Failed to build `numpy==1.21.0`\n  cause: The build backend "
        f"returned an error\n\n         [stderr]\n{noise}         fatal error: longintrepr.h: No such file\n"
        f"         compilation terminated.\n\nhint: Build failures usually indicate a problem\n"
    )
    message = said(text)
    assert (
        "requirement `numpy==1.21.0` cannot be installed: it does not build: fatal error: longintrepr.h"
        in message
    )
    assert len(message) < 600


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            "E: Unable to locate package nope\n",
            "system package `nope` cannot be installed: its distribution has",
        ),
        ("E: Version '9' for 'tree' was not found\n", "system package `tree=9` cannot be installed: its"),
        ("E: Package 'old' has no installation candidate\n", "system package `old` cannot be installed"),
        (
            "E: Failed to fetch http://deb/dists/x  Could not resolve 'deb'\nE: Some index files failed\n",
            "Failed to fetch http://deb/dists/x Could not resolve 'deb'. The build log",
        ),
        (
            "towline: the base image has no apt-get, which system packages need; take one of Debian's kind\n",
            "the base image has no apt-get, which system packages need. Take one of Debian's kind.",
        ),
        (
            "error: No interpreter found for Python 3.12 in virtual environments or search path\n",
            "Python 3.12 cannot be installed: the base image has no Python 3.12",
        ),
        (
            "conda: cannot solve: No candidates were found for nope 1.\n",
            "package `nope` of conda cannot be installed: cannot solve: No candidates were found for nope 1.",
        ),
        ("error: no space left\n", "one of the job's requirements cannot be installed: no space left. The"),
        ("Killed\n", "one of the job's requirements cannot be installed: Killed."),
    ],
)
def test_what_else_fails_is_told_in_its_own_words(log: str, words: str) -> None:
    assert words in said(log)


def test_a_requirement_from_a_repository_says_that_git_is_missing() -> None:
    log = "error: Failed to download and build `lib @ git+https://x`\n  cause: Git executable not found\n"
    message = said(log)
    assert "`lib @ git+https://x`" in message and "the base image has no git" in message


def test_only_the_last_lines_are_there() -> None:
    assert "`x`" in install_failure("error: Failed to build `x`\n  cause: y\n").failure.message
