"""`make chaos-mutants`: breaks each guard of `mutations.py` in a copy of the tree; a check has to notice.

The model's own mutants are tried, too, unless some are selected by name. Prints a table. Exit status 0 only
if the unbroken copy passes every check and every mutant is killed.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from mutations import MUTATIONS, Edit, Mutation

ROOT: Final = Path(__file__).resolve().parents[2]
_PARTS: Final = (
    "sdk",
    "services",
    "tests",
    "protos",
    "docs",
    "deploy/dev/base-image",
    "pyproject.toml",
    "README.md",
    "ARCHITECTURE.md",
)
_PACKAGES: Final = ("sdk", "services/queue", "services/registry", "services/agent")
_LONGEST_S: Final = 300
_PASSED: Final = 0
# pytest's own words for "some tests failed"; anything else means that the check itself is broken.
_FAILED: Final = 1


@dataclass(frozen=True)
class Result:
    """What became of one mutant."""

    mutation: Mutation
    status: int
    seconds: float
    output: str

    @property
    def killed(self) -> bool:
        return self.status == _FAILED


def main() -> int:
    """Try what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="mutants, or parts of their names; none: all")
    parser.add_argument("--no-model", action="store_true", help="leave the model's own mutants out")
    parser.add_argument("--copies", type=int, default=2, help="mutants tried at once")
    options = parser.parse_args()
    chosen = [
        one for one in MUTATIONS if not options.names or any(word in one.name for word in options.names)
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="towline-mutants-") as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(max(1, options.copies)):
            trees.put(_copy(Path(folder) / str(number)))
        whole = _baseline(trees, list(dict.fromkeys(one.check for one in chosen)))
        if not whole:
            return 1
        with ThreadPoolExecutor(max(1, options.copies)) as pool:
            results = list(pool.map(lambda mutation: _try(trees, mutation), chosen))
    _table(results)
    model = _PASSED if options.names or options.no_model else _model_mutants()
    return 0 if all(result.killed for result in results) and model == _PASSED else 1


def _model_mutants() -> int:
    """Let the model checker find what is broken in its own process; return its exit status."""
    path = os.pathsep.join(str(ROOT / package) for package in _PACKAGES)
    command = [sys.executable, ROOT / "tests/model/run.py", "--mutants"]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False).returncode


def _copy(tree: Path) -> Path:
    for part in _PARTS:
        source, target = ROOT / part, tree / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(source, target)
    return tree


def _baseline(trees: "SimpleQueue[Path]", checks: list[str]) -> bool:
    """See that the checks pass while nothing is broken; say which does not."""
    tree = trees.get()
    tests = [check for check in checks if not check.startswith("scenario ")]
    scenarios = [check.removeprefix("scenario ") for check in checks if check not in tests]
    try:
        for command in (_pytest(tests) if tests else None, _chaos(scenarios) if scenarios else None):
            if command is None:
                continue
            status, output = _run(tree, command)
            if status != _PASSED:
                _say(output[-6000:])
                _say("the checks fail though nothing is broken: mend that first")
                return False
    finally:
        trees.put(tree)
    _say(f"{len(checks)} checks pass while nothing is broken", aside=True)
    return True


def _try(trees: "SimpleQueue[Path]", mutation: Mutation) -> Result:
    tree = trees.get()
    before = {edit.file: (tree / edit.file).read_text() for edit in mutation.edits}
    try:
        for edit in mutation.edits:
            _apply(tree, edit)
        if mutation.check.startswith("scenario "):
            command = _chaos([mutation.check.removeprefix("scenario ")])
        else:
            command = _pytest([mutation.check])
        began = time.monotonic()
        status, output = _run(tree, command)
        result = Result(mutation, status, time.monotonic() - began, output)
    finally:
        for file, text in before.items():
            (tree / file).write_text(text)
        trees.put(tree)
    _say(f"{mutation.name:<34} {'killed' if result.killed else 'ALIVE'} {result.seconds:.1f} s", aside=True)
    return result


def _apply(tree: Path, edit: Edit) -> None:
    file = tree / edit.file
    text = file.read_text()
    if text.count(edit.old) != 1:
        sys.exit(f"towline: {edit.file} does not have this exactly once, mend tests/chaos: {edit.old!r}")
    file.write_text(text.replace(edit.old, edit.new))


def _pytest(tests: Sequence[str]) -> list[str]:
    # PostgreSQL 18 alone: what is tried here is the same on both.
    chosen = ["-k", "not postgres15 and not postgres17"]
    return [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *chosen, *tests]


def _chaos(scenarios: Sequence[str]) -> list[str]:
    return [sys.executable, "tests/chaos/run.py", "--no-model", "--exact", *scenarios]


def _run(tree: Path, command: Sequence[str]) -> tuple[int, str]:
    """Run a check in a copy, with the copy's code; a check that hangs counts as failed."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(tree / package) for package in _PACKAGES),
        # A mutant of the same size and second as the original would be taken for it.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=_LONGEST_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
        return _FAILED, output
    return process.returncode, output


def _table(results: Sequence[Result]) -> None:
    width = max(len(result.mutation.name) for result in results)
    check = max(len(_short(result.mutation.check)) for result in results)
    _say(f"{'mutant':<{width}}  {'noticed by':<{check}}  verdict   what would go wrong")
    for result in results:
        verdict = "killed" if result.killed else "ALIVE"
        one = result.mutation
        _say(f"{one.name:<{width}}  {_short(one.check):<{check}}  {verdict:<8}  {one.why}")
    for result in results:
        if not result.killed:
            _say(f"{result.mutation.name}: its check ended with {result.status}:\n{result.output[-3000:]}")
    _say(f"{sum(result.killed for result in results)} of {len(results)} mutants killed")


def _short(check: str) -> str:
    return check.rpartition("::")[2]


def _say(line: str, *, aside: bool = False) -> None:
    stream = sys.stderr if aside else sys.stdout
    stream.write(f"{line}\n")
    stream.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
