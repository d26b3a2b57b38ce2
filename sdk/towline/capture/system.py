"""What machine a program runs on; for people, so whatever cannot be learned at once stays empty."""

import os
import platform
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["System", "look"]

# Drivers that hang are not rare.
_PATIENCE_S: Final = 3.0


@dataclass(frozen=True)
class System:
    """The recording machine; see SystemFacts in jobs.proto."""

    os: str = ""
    cpu: str = ""
    cpu_count: int = 0
    memory_bytes: int = 0
    gpus: tuple[str, ...] = ()
    driver_version: str = ""
    cuda_version: str = ""
    python: str = ""


class _Gpus(NamedTuple):
    names: tuple[str, ...] = ()
    driver: str = ""
    cuda: str = ""


def look(interpreter: Mapping[str, Any]) -> System:
    """Look at this machine; takes at most some seconds, and raises nothing.

    Args:
        interpreter: What the program's interpreter tells; see `towline.capture.probe`.
    """
    gpus = _within(_PATIENCE_S, _nvml)
    if not gpus.driver:
        gpus = _within(_PATIENCE_S, _nvidia_smi)
    return replace(
        _machine(),
        gpus=gpus.names,
        driver_version=gpus.driver,
        cuda_version=gpus.cuda,
        python=f"{interpreter.get('implementation', '')} {interpreter.get('version', '')}".strip(),
    )


def _machine() -> System:
    pages = _number(lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    processors = _number(lambda: len(os.sched_getaffinity(0))) or os.cpu_count() or 0
    return System(
        os=_first(r'^PRETTY_NAME="?([^"\n]+)', _text("/etc/os-release")) or platform.platform(terse=True),
        cpu=_first(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo")) or platform.processor(),
        cpu_count=processors,
        memory_bytes=pages,
    )


def _number(ask: Callable[[], int]) -> int:
    try:
        return max(0, ask())
    except (OSError, ValueError, AttributeError):  # not on this platform
        return 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""


def _within(seconds: float, ask: Callable[[], _Gpus]) -> _Gpus:
    """Give what is answered in time, or nothing; an answer that never comes holds up no exit."""
    answers: list[_Gpus] = []

    def work() -> None:
        try:
            answers.append(ask())
        except Exception:  # no GPU, no driver, or a library that is none
            return

    asking = threading.Thread(target=work, daemon=True)
    asking.start()
    asking.join(seconds)
    return answers[0] if answers else _Gpus()


def _nvml() -> _Gpus:
    import pynvml  # noqa: PLC0415 - the program may have it, Towline's SDK does not ask for it

    pynvml.nvmlInit()
    try:
        handles = (pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount()))
        names = tuple(_decoded(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
        cuda = pynvml.nvmlSystemGetCudaDriverVersion()
        driver = _decoded(pynvml.nvmlSystemGetDriverVersion())
        return _Gpus(names, driver, f"{cuda // 1000}.{cuda % 1000 // 10}")
    finally:
        pynvml.nvmlShutdown()


def _decoded(text: str | bytes) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _nvidia_smi() -> _Gpus:
    program = shutil.which("nvidia-smi")
    if program is None:
        return _Gpus()

    def ask(*arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=True,
        )
        return done.stdout

    rows = [
        line.rpartition(", ")
        for line in ask("--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()
    ]
    cuda = _first(r"CUDA Version:\s*([0-9.]+)", ask())
    return _Gpus(tuple(row[0] for row in rows), rows[0][2] if rows else "", cuda)
