"""A side in a process of its own, from the outside."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.queue.services import ROOT

__all__ = ["SideProcess", "side_process"]

END_S: Final = 10.0


class SideProcess:
    """One that runs."""

    def __init__(self, module: str, process: subprocess.Popen[str]) -> None:
        self._module = module
        self._process = process
        self.pid = process.pid

    def ask(self, step: str, **arguments: Any) -> dict[str, Any]:
        """Have a step carried out.

        Raises:
            RuntimeError: It failed; the reason is on standard error.
        """
        assert self._process.stdin and self._process.stdout
        print(json.dumps({"step": step, **arguments}), file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"{self._module}: {step} failed, exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def side_process(module: str, *arguments: str, python: Path = Path(sys.executable)) -> Iterator[SideProcess]:
    """Run a side, see side.py, until the block is left."""
    with subprocess.Popen(
        [python, "-m", "bench.queue.side", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield SideProcess(module, process)
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
