"""Drive the protocol's real cores through virtual faults, for a number of steps.

usage: python tests/model/run.py [--steps N] [--seed N] [--processes N] [--mutants [NAME...]]

A step is one virtual event: a message that arrives, a commit, a timer, a container's end. The last line is
JSON: {"steps", "examples", "violations"}. With --mutants every guard in towline_testing.model_mutants is
broken in turn, one line each, and the model must find it; exits 0 if all came out as they must.
"""

import argparse
import json
import multiprocessing
import re
import sys
import time
from collections.abc import Sequence
from itertools import count
from multiprocessing.pool import Pool
from pathlib import Path

# As pytest is told by pyproject.toml; before the imports that need it.
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from towline_testing.model_machine import explore
from towline_testing.model_mutants import MUTANTS
from towline_testing.model_world import Broken

_BATCH = 10
_ENOUGH_FOR_A_MUTANT = 2_000_000


def explore_until(steps: int, seed: int, stride: int) -> tuple[int, int, str]:
    """Try batches of examples until there were enough steps; the last value is what was found, or empty."""
    done = examples = 0
    for number in count(seed, stride):
        try:
            more, tried = explore(number, _BATCH)
        except Broken as broken:
            return done, examples, f"seed {number}: {broken}"
        done, examples = done + more, examples + tried
        if done >= steps:
            return done, examples, ""
    raise AssertionError("numbers have no end")


def find_mutant(name: str) -> tuple[bool, str]:
    """Whether the model finds a broken guard, and a line that says how."""
    began, steps, found = time.monotonic(), 0, ""
    with MUTANTS[name]():
        for number in count():
            try:
                steps += explore(number, _BATCH, shrink=False)[0]
            except Exception as broken:  # a core that raises has been found out, too
                found = f"{type(broken).__name__}: {str(broken).splitlines()[0]}"
                break
            if steps > _ENOUGH_FOR_A_MUTANT:
                break
    seconds = time.monotonic() - began
    verdict = f"killed by seed {number}: {found}" if found else "SURVIVED"
    return bool(found), f"model  {name:26} {seconds:5.1f} s  {verdict}"


def find_mutants(pool: Pool, names: Sequence[str]) -> bool:
    """Whether all were found; prints how."""
    killed = 0
    for found, line in pool.imap(find_mutant, names):
        killed += found
        _say(line)
    _say(json.dumps({"mutants": len(names), "killed": killed}))
    return killed == len(names)


def find_nothing(pool: Pool, steps: int, seed: int, processes: int) -> bool:
    """Whether no promise was broken in so many steps; prints what was."""
    began = time.monotonic()
    _say(f"model  seeds {', '.join(str(seed + number) for number in range(processes))} and on by {processes}")
    work = [(-(-steps // processes), seed + number, processes) for number in range(processes)]
    outcomes = pool.starmap(explore_until, work)
    for _, _, found in outcomes:
        if found:
            _say(found)
    done, examples = sum(outcome[0] for outcome in outcomes), sum(outcome[1] for outcome in outcomes)
    violations = sum(bool(outcome[2]) for outcome in outcomes)
    _say(f"model  {done / (time.monotonic() - began):,.0f} steps/s")
    _say(json.dumps({"steps": done, "examples": examples, "violations": violations}))
    return not violations


def main() -> int:
    parser = argparse.ArgumentParser(description="Model checking of the lease protocol.")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mutants", nargs="*", metavar="NAME", choices=[*MUTANTS, []])
    wanted = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(wanted.processes) as pool:
        if wanted.mutants is not None:
            whole = find_mutants(pool, wanted.mutants or list(MUTANTS))
        else:
            whole = find_nothing(pool, wanted.steps, wanted.seed, wanted.processes)
    return 0 if whole else 1


def _say(line: str) -> None:
    sys.stdout.write(re.sub(r"\s+$", "", line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
