"""All systems in turn, round by round: submission, drain, dispatch when idle and under half load."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bench.queue.figures import Figures, percentiles
from bench.queue.sides import BATCH, MOST_IN_FLIGHT
from bench.queue.systems import Answer, Driven, System
from towline_testing.postgres import PostgresServer

__all__ = ["Turn", "compare"]


@dataclass(frozen=True)
class Turn:
    """What is done in one turn of one system.

    Attributes:
        only: Of "submit", "drain", "dispatch" and "load".
        submitted: Runs submitted each time.
        drained: Runs drained each time.
        samples: Of dispatch.
        load_s: How long the load lasts, in seconds.
    """

    only: frozenset[str]
    submitted: int
    drained: int
    samples: int
    load_s: float

    def take(self, system: System, postgres: PostgresServer, figures: Figures) -> dict[str, str]:
        """Take all figures once, on fresh databases; return the versions of what was measured."""
        postgres.psql("CHECKPOINT")  # at the same distance from the last one for all
        with system.running(postgres) as driven:
            versions: dict[str, str] = driven.about["versions"]
            submits, drains = list(driven.about["submit"]), list(driven.about["drain"])
            if self.only & {"drain", "load"}:
                driven.ask("submit", runs=BATCH, variant=submits[-1])  # what is made on first use
                driven.ask("drain", runs=BATCH, variant=drains[0])
                for drain in drains:
                    driven.ask("submit", runs=self.drained, variant=submits[-1])
                    self._drain(system.name, driven, drain, figures)
            if "dispatch" in self.only:
                for variant in driven.about["dispatch"]:
                    answer = driven.ask("dispatch", samples=self.samples, warm_up=50, variant=variant)
                    _note_times(figures, system.name, "dispatch", answer, variant)
            if "load" in self.only:
                best = figures.best(system.name, "drain")
                rate = figures.values[system.name][best][-1] / 2
                variant = best.partition(": ")[2]
                answer = driven.ask("load", rate=rate, seconds=self.load_s, variant=variant)
                # Not by the variant, which may be another in the next round.
                _note_times(figures, system.name, "dispatch under half load", answer, "its quickest drain")
        for submit in submits if "submit" in self.only else []:
            with system.running(postgres) as driven:
                driven.ask("submit", runs=MOST_IN_FLIGHT * BATCH, variant=submit)  # one for each connection
                self._submit(system.name, driven, submit, figures)
        return versions

    def _submit(self, name: str, driven: Driven, variant: str, figures: Figures) -> None:
        answer = driven.ask("submit", runs=self.submitted, variant=variant)
        _note(figures, name, f"submit: {variant}", answer, self.submitted)

    def _drain(self, name: str, driven: Driven, variant: str, figures: Figures) -> None:
        answer = driven.ask("drain", runs=self.drained, variant=variant)
        _note(figures, name, f"drain: {variant}", answer, self.drained)


def compare(
    systems: Sequence[System], turn: Turn, rounds: int, postgres: PostgresServer
) -> tuple[Figures, dict[str, str]]:
    """Give each system its turn in each round; return the figures and all versions."""
    figures, versions = Figures(), {}
    for number in range(rounds):
        for system in systems:
            print(f"round {number + 1} of {rounds}: {system.name}", file=sys.stderr)
            versions |= turn.take(system, postgres, figures)
    return figures, versions


def _note(figures: Figures, name: str, figure: str, answer: Answer, runs: int) -> None:
    figures.note(name, figure, runs / answer.said["seconds"])
    kind, _, variant = figure.partition(": ")
    for part, seconds in answer.cpu_s.items():
        figures.note(name, f"{kind} CPU of {part}: {variant}", seconds / runs * 1e6)
    figures.note(name, f"{kind} WAL bytes: {variant}", answer.wal_bytes / runs)
    figures.note(name, f"{kind} database bytes: {variant}", answer.database_bytes / runs)


def _note_times(figures: Figures, name: str, figure: str, answer: Answer, variant: str) -> None:
    median, high = percentiles(answer.said["ms"])
    figures.note(name, f"{figure}, p50: {variant}", median)
    figures.note(name, f"{figure}, p99: {variant}", high)
