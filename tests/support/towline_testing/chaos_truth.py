"""What PostgreSQL itself says happened: triggers note each committed change of a lease, an attempt, a run."""

import json
from dataclasses import dataclass
from typing import Any, Final

from towline.v1 import runs_pb2
from towline_testing.history import (
    Event,
    Granted,
    LeaseEnded,
    ResultCommitted,
    RunEnded,
    Seen,
    Standing,
)
from towline_testing.postgres import PostgresServer

_AUDIT: Final = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.audit (
    n bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tx text NOT NULL DEFAULT pg_current_xact_id()::text, place text NOT NULL, old jsonb, new jsonb
);
CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.audit (place, old, new) VALUES (
        TG_ARGV[0],
        CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - '{own_spec,launch_spec,failure}'::text[] END,
        CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - '{own_spec,launch_spec,failure}'::text[] END
    );
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR DELETE ON queue.leases FOR EACH ROW EXECUTE FUNCTION chaos.note('leases');
CREATE TRIGGER renote AFTER UPDATE ON queue.leases FOR EACH ROW
    WHEN (OLD.epoch IS DISTINCT FROM NEW.epoch) EXECUTE FUNCTION chaos.note('leases');
CREATE TRIGGER note AFTER INSERT OR UPDATE ON queue.attempts FOR EACH ROW
    EXECUTE FUNCTION chaos.note('attempts');
CREATE TRIGGER note AFTER UPDATE ON queue.runs FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.end_time IS DISTINCT FROM NEW.end_time)
    EXECUTE FUNCTION chaos.note('runs');
"""
_HISTORY: Final = """
SELECT coalesce(json_agg(json_build_array(place, extract(epoch FROM at), old, new, tx) ORDER BY n), '[]')
FROM chaos.audit
"""
_STANDING: Final = """
SELECT coalesce(json_agg(json_build_array(runs.name, runs.state, ready.first_run IS NOT NULL,
    scheduled.run IS NOT NULL, leases.run IS NOT NULL)), '[]')
FROM queue.runs
LEFT JOIN queue.ready ON (ready.queue, ready.shape, ready.priority) = (runs.queue, runs.shape, runs.priority)
    AND runs.seq >= ready.seq AND runs.seq < ready.seq + ready.size
LEFT JOIN queue.scheduled ON scheduled.run = runs.name
LEFT JOIN queue.leases ON leases.run = runs.name
"""
_LEFT: Final = """
SELECT coalesce(json_agg(found), '[]') FROM (
    SELECT 'lease of ' || run || ' epoch ' || epoch AS found FROM queue.leases
    UNION ALL SELECT 'place in a queue of ' || first_run FROM queue.ready
    UNION ALL SELECT 'schedule of ' || run FROM queue.scheduled
) AS rows
"""
_RESULTS: Final = frozenset(
    {
        runs_pb2.ATTEMPT_OUTCOME_SUCCEEDED,
        runs_pb2.ATTEMPT_OUTCOME_FAILED,
        runs_pb2.ATTEMPT_OUTCOME_CANCELLED,
    }
)
_TERMINAL: Final = frozenset(
    {runs_pb2.RUN_STATE_SUCCEEDED, runs_pb2.RUN_STATE_FAILED, runs_pb2.RUN_STATE_CANCELLED}
)
# Triggers of one transaction fire by table, not by meaning.
_ORDER: Final = (ResultCommitted, LeaseEnded, RunEnded, Granted)


@dataclass(frozen=True)
class Truth:
    """The queue service's database, read as superuser."""

    server: PostgresServer
    database: str

    def query(self, statement: str) -> Any:
        """Return what a statement yields as one JSON value."""
        return json.loads(self.server.psql(statement, self.database))

    def execute(self, statement: str) -> str:
        return self.server.psql(statement, self.database)

    def install(self) -> None:
        """Begin to note changes; the service's tables must be there."""
        self.execute(_AUDIT)

    def events(self) -> list[Event]:
        """Return what was committed, in the order in which it took effect."""
        rows = self.query(_HISTORY)
        first: dict[str, int] = {}
        found = []
        for number, (place, at, old, new, tx) in enumerate(rows):
            first.setdefault(tx, number)
            events = _events(place, float(at), old, new)
            found += [(first[tx], _ORDER.index(type(event)), number, event) for event in events]
        return [event for *_, event in sorted(found, key=lambda item: item[:3])]

    def standings(self, at: float, runs: list[str]) -> list[Seen]:
        """Say where each of some runs stands."""
        found = {row[0]: row[1:] for row in self.query(_STANDING)}
        return [Seen(at, run, _standing(*found[run]) if run in found else Standing.GONE) for run in runs]

    def left(self) -> list[str]:
        """Name what belongs to runs that have not ended: leases, places in queues, schedules."""
        return list(self.query(_LEFT))

    def grants(self, run: str) -> int:
        """Count the leases that a run has had."""
        counts = [
            f"SELECT count(*) FROM queue.{table} WHERE run = '{run}'" for table in ("attempts", "leases")
        ]
        return int(self.execute(f"SELECT ({counts[0]}) + ({counts[1]})"))

    def cut_connections(self) -> int:
        """End every connection of the services to this database; returns how many."""
        return int(
            self.server.psql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                f"WHERE datname = '{self.database}' AND pid <> pg_backend_pid()"
            )
        )


def _standing(state: int | None, *places: bool) -> Standing:
    """Judge by the state a run ended in, and whether it is ready, scheduled, leased: exactly one holds."""
    if (state in _TERMINAL) + sum(places) != 1 or (state is not None and state not in _TERMINAL):
        return Standing.STUCK
    if state is not None:
        return Standing.ENDED
    return Standing.HELD if places[-1] else Standing.WAITING


def _events(place: str, at: float, old: dict[str, Any] | None, new: dict[str, Any] | None) -> list[Event]:
    match place:
        case "leases":
            ended = [LeaseEnded(at, old["run"], old["epoch"])] if old else []
            granted = (
                [Granted(at, new["run"], new["epoch"], new["agent"], tuple(new["gpu_ids"]))] if new else []
            )
            return [*ended, *granted]
        case "attempts" if new and new["outcome"] in _RESULTS:
            return [ResultCommitted(at, new["run"], new["epoch"], str(new["finish_id"]))]
        case "runs" if new and new["state"] in _TERMINAL:
            name = runs_pb2.RunState.Name(new["state"]).removeprefix("RUN_STATE_")
            return [RunEnded(at, new["name"], name)]
        case _:
            return []
