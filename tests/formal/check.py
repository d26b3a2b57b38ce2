"""Model checking of lease.pml: the protocol must pass, and every deliberately broken variant must be refused.

usage: python tests/formal/check.py [VARIANT...]

One line for each variant; exits 0 if all came out as they must. Needs `spin` and `gcc` (Debian packages of
these names; `deploy/dev/apt-install` brings them).
"""

import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).with_name("lease.pml")
_WITHIN_S = 600
_AT_ONCE = 2
"""Checkers; each may take half a gigabyte."""


@dataclass(frozen=True)
class Variant:
    """One way to build the model, and whether the checker must refuse it."""

    name: str
    macros: tuple[str, ...] = ()
    broken: bool = True
    live: bool = False


VARIANTS = (
    Variant("protocol", broken=False),
    Variant("protocol, liveness", ("LIVE",), broken=False, live=True),
    Variant("no epoch in finish", ("NO_EPOCH_IN_FINISH",)),
    Variant("renewed before commit", ("RENEWED_BEFORE_COMMIT",)),
    Variant("grant before commit", ("GRANT_BEFORE_COMMIT",)),
    Variant("valid from receipt", ("VALID_FROM_RECEIPT",)),
    Variant("restart valid anew", ("RESTART_VALID_ANEW",)),
    Variant("no watchdog", ("NO_WATCHDOG",)),
    Variant("no permit", ("NO_PERMIT",)),
    Variant("no recheck in reaper", ("NO_RECHECK_IN_REAPER",)),
    Variant("no reaper, liveness", ("LIVE", "NO_REAPER"), live=True),
)


@dataclass(frozen=True)
class Outcome:
    """What the checker found."""

    complaint: str
    """The first broken property, or empty."""
    complete: bool
    """Whether every reachable state was visited, or a complaint ended the search."""
    states: int


def check(variant: Variant) -> Outcome:
    """Build and run the checker for one variant."""
    with tempfile.TemporaryDirectory(prefix="towline-spin-") as folder:
        _run(folder, "spin", "-a", *(f"-D{macro}" for macro in variant.macros), str(MODEL))
        # A fair scheduler needs room for one more process than there are.
        kind = ["-DNFAIR=3"] if variant.live else ["-DSAFETY", "-DNOCLAIM"]
        _run(folder, "gcc", "-w", "-O2", "-DHC4", "-DVECTORSZ=512", *kind, "-o", "pan", "pan.c")
        # A run that has ended blocks everything: that is no deadlock, hence -E.
        printed = _run(folder, "./pan", "-E", "-m100000", "-w24", *(["-a", "-f"] if variant.live else []))
    complaint = re.search(r"^pan:\d+: (.*)$", printed, re.MULTILINE)
    states = re.search(r"^ *(\d+) states, stored", printed, re.MULTILINE)
    errors = re.search(r"errors: (\d+)", printed)
    found = complaint[1] if complaint else ""
    whole = "max search depth too small" not in printed and "Search not completed" not in printed
    return Outcome(found, bool(found) or (whole and bool(errors)), int(states[1]) if states else 0)


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_WITHIN_S, check=False)
    if done.returncode:
        raise SystemExit(f"towline: {command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main(names: list[str]) -> int:
    wrong = 0
    chosen = [variant for variant in VARIANTS if not names or variant.name in names]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for variant, (outcome, seconds) in zip(chosen, pool.map(_timed, chosen), strict=True):
            as_it_must = outcome.complete and bool(outcome.complaint) == variant.broken
            wrong += not as_it_must
            verdict = f"refused: {outcome.complaint}" if outcome.complaint else "holds"
            note = "" if as_it_must else "   <-- WRONG"
            line = f"spin   {variant.name:26} {outcome.states:>9,} states {seconds:5.1f} s  {verdict}{note}"
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    return 1 if wrong else 0


def _timed(variant: Variant) -> tuple[Outcome, float]:
    began = time.monotonic()
    return check(variant), time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
