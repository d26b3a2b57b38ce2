"""Guards broken on purpose: what is changed, why it matters, and the fastest check that must notice.

`mutants.py` applies each to a copy of the tree; tests/unit/test_chaos_mutations.py holds them to the code.
"""

from dataclasses import dataclass
from typing import Final

_QUEUE: Final = "services/queue/towline_queue"
_AGENT: Final = "services/agent/towline_agent"
_SQL: Final = f"{_QUEUE}/storage"
_ATTEMPTS: Final = "tests/integration/test_queue_attempts.py"
_LEASES: Final = "tests/integration/test_queue_leases.py"
_UPKEEP: Final = "tests/integration/test_queue_upkeep.py"
_SESSIONS: Final = "tests/unit/test_queue_session_protocol.py"
_BOOK: Final = "tests/unit/test_agent_leases.py"
_RESTARTS: Final = "tests/unit/test_agent_leases_over_restarts.py"
_PROTOCOL: Final = "tests/unit/test_agent_protocol.py"

_RUN_AND_EPOCH: Final = "WHERE leases.run = said.run AND leases.epoch = said.epoch"
_RUN_ONLY: Final = "WHERE leases.run = said.run"
_SPANS: Final = "tests/integration/test_queue_waiting_spans.py"
_LONE: Final = "tests/integration/test_queue_lone_runs.py"
_STALE: Final = f"{_ATTEMPTS}::test_a_stale_epoch_changes_no_row"


@dataclass(frozen=True)
class Edit:
    """One text replaced by another, in one file."""

    file: str
    """From the root of the tree."""
    old: str
    """Stands exactly once in the file."""
    new: str


@dataclass(frozen=True)
class Mutation:
    """One broken guard."""

    name: str
    why: str
    """What would go wrong."""
    check: str
    """A test, "file::function" (PostgreSQL 18 only), or "scenario NAME" of `make chaos`."""
    edits: tuple[Edit, ...]


def table() -> str:
    """Write the list as docs/chaos.md has it."""
    lines = ["| broken guard | what would go wrong | noticed by |", "|---|---|---|"]
    lines += [f"| `{one.name}` | {one.why} | `{one.check.rpartition('::')[2]}` |" for one in MUTATIONS]
    return "\n".join(lines) + "\n"


MUTATIONS: Final = (
    Mutation(
        "finish-without-epoch",
        "a result of an attempt that was given up ends the run that another agent executes",
        _STALE,
        (Edit(f"{_SQL}/attempt_finish.sql", _RUN_AND_EPOCH, _RUN_ONLY),),
    ),
    Mutation(
        "failure-without-epoch",
        "a failure of an attempt that was given up takes the run from the agent that has it now",
        _STALE,
        (
            Edit(f"{_SQL}/attempt_failed.sql", _RUN_AND_EPOCH, _RUN_ONLY),
            Edit(f"{_SQL}/attempt_finish.sql", _RUN_AND_EPOCH, _RUN_ONLY),
        ),
    ),
    Mutation(
        "progress-without-epoch",
        "an agent that was fenced takes or moves a run that is no longer its own",
        _STALE,
        (Edit(f"{_SQL}/attempt_progress.sql", _RUN_AND_EPOCH, _RUN_ONLY),),
    ),
    Mutation(
        "give-back-without-epoch",
        "a late refusal puts a run back into its queue while another agent executes it",
        _STALE,
        (Edit(f"{_SQL}/attempt_give_back.sql", _RUN_AND_EPOCH, _RUN_ONLY),),
    ),
    Mutation(
        "progress-in-any-direction",
        "a message that overtook another takes a run back to a state it has left",
        f"{_ATTEMPTS}::test_progress_moves_by_the_table_only",
        (
            Edit(
                f"{_SQL}/attempt_progress.sql",
                "THEN greatest(state, told) ELSE",
                "THEN told ELSE",
            ),
        ),
    ),
    Mutation(
        "loss-without-session",
        "the reaper takes a run from an agent that has just come back and adopted it",
        f"{_UPKEEP}::test_a_lease_that_another_session_adopts_meanwhile_is_not_lost",
        (
            Edit(
                f"{_SQL}/attempt_failed.sql",
                "AND (said.session IS NULL OR leases.session = said.session)",
                "",
            ),
        ),
    ),
    Mutation(
        "expiry-without-health",
        "after an outage of PostgreSQL all leases expire at once, before their agents could renew them",
        f"{_UPKEEP}::test_a_lease_is_spared_until_it_could_have_been_renewed_for_all_its_time",
        (
            Edit(
                f"{_SQL}/upkeep_expired.sql",
                "AND leases.lost_after <= CAST(:healthy_for AS interval)",
                "AND CAST(:healthy_for AS interval) IS NOT NULL",
            ),
        ),
    ),
    Mutation(
        "renewal-of-a-followed-session",
        "an agent's forgotten twin keeps leases alive that nobody sees to",
        f"{_UPKEEP}::test_a_session_that_was_followed_renews_nothing",
        (
            Edit(
                f"{_SQL}/session_renew.sql",
                "agents.name = sessions.agent AND agents.session = sessions.id",
                "agents.name = sessions.agent",
            ),
        ),
    ),
    Mutation(
        "gpu-given-twice",
        "two runs share one GPU when claims for an agent overlap",
        "tests/integration/test_queue_dispatch.py::test_claims_that_overlap_never_give_away_one_gpu_twice",
        (
            Edit(
                f"{_SQL}/claim.sql",
                "AND leases.gpu_ids && string_to_array(choice.gpu_ids, ',')",
                "AND false",
            ),
            Edit(
                f"{_QUEUE}/storage/claims.py",
                "free_gpus=offer.free_gpus - held[offer.agent] if offer.agent in held else frozenset()",
                "free_gpus=offer.free_gpus",
            ),
        ),
    ),
    Mutation(
        "claim-for-a-session-that-drains",
        "an agent that leaves is given runs that it will not execute",
        "tests/integration/test_queue_dispatch.py::test_a_draining_agent_gets_nothing",
        (
            Edit(f"{_SQL}/claim.sql", "      AND NOT agents.draining\n", ""),
            Edit(
                f"{_QUEUE}/core/session_protocol.py",
                "return self.phase is Phase.OPEN and not self._draining",
                "return self.phase is Phase.OPEN",
            ),
        ),
    ),
    Mutation(
        "lone-run-to-a-session-that-is-over",
        "a run submitted alone is given to an agent that another process has replaced",
        f"{_LONE}::test_an_agent_that_may_take_none_gets_none",
        (
            Edit(
                f"{_SQL}/insert_run.sql",
                " AND agents.session = CAST(:session AS uuid)\n"
                "    JOIN queue.sessions ON sessions.id = agents.session\n",
                "\n    JOIN queue.sessions ON sessions.id = CAST(:session AS uuid)\n",
            ),
        ),
    ),
    Mutation(
        "lone-run-before-others",
        "a run submitted alone is handed out before one that waits",
        f"{_LONE}::test_it_passes_none_that_waits_of_which_this_process_was_not_told",
        (
            Edit(
                f"{_SQL}/insert_run.sql",
                "AND ready.priority = level.priority AND ready.seq >= level.floor",
                "AND false",
            ),
        ),
    ),
    Mutation(
        "rest-of-a-span-lost",
        "runs that were submitted together with one that is handed out are never handed out",
        f"{_SPANS}::test_claims_of_any_size_take_each_run_once_and_in_order",
        (
            Edit(
                f"{_SQL}/claim.sql",
                "FROM (SELECT * FROM span WHERE taken < size) AS span",
                "FROM (SELECT * FROM span WHERE taken > size) AS span",
            ),
        ),
    ),
    Mutation(
        "rest-of-a-span-kept",
        "runs that were handed out are handed out again with those that are left of their span",
        f"{_SPANS}::test_replicas_and_cancels_that_reach_for_the_same_runs_share_them_out",
        (
            Edit(
                f"{_SQL}/claim.sql",
                "WHERE ctid = ANY(ARRAY(SELECT at FROM span))\n",
                "WHERE ctid = ANY(ARRAY(SELECT at FROM span WHERE taken = size))\n",
            ),
        ),
    ),
    Mutation(
        "cancel-takes-the-span",
        "to cancel one run takes those out of the queue that were submitted after it",
        f"{_SPANS}::test_one_that_is_cancelled_leaves_the_others_where_they_were",
        (
            Edit(
                f"{_QUEUE}/storage/runs.py",
                "    if after:\n",
                "    if before and after:\n",
            ),
        ),
    ),
    Mutation(
        "renewed-before-commit",
        "an agent goes on by a renewal that was never kept, and its run is given to another",
        f"{_SESSIONS}::test_renewed_follows_the_commit_of_the_renewal",
        (
            Edit(
                f"{_QUEUE}/core/session_protocol.py",
                "        return self._begin(calls)\n\n    def _answer(",
                "        told = [] if said.heartbeat is None else self._acknowledge(self._renewal)\n"
                "        return [*told, *self._begin(calls)]\n\n    def _answer(",
            ),
        ),
    ),
    Mutation(
        "confirm-before-commit",
        "an agent forgets a result that was never kept",
        f"{_SESSIONS}::test_a_confirm_follows_the_commit",
        (
            Edit(
                f"{_QUEUE}/core/session_protocol.py",
                "        calls: list[StoreCall] = []\n        if said.report:\n",
                "        calls: list[StoreCall] = []\n"
                "        ok = leases_pb2.FINISH_VERDICT_OK\n"
                "        told = [\n"
                "            leases_pb2.Confirm(finish_id=finish.finish_id, verdict=ok)\n"
                "            for message in messages\n"
                "            for finish in message.finishes\n"
                "        ]\n"
                "        if told:\n"
                "            calls.append(on.Commit(self.key.agent, said.report))\n"
                "            return [_send(confirms=told), *self._begin(calls)]\n"
                "        if said.report:\n",
            ),
        ),
    ),
    Mutation(
        "grant-before-commit",
        "an agent executes a run by a lease that was never kept",
        f"{_LEASES}::test_a_run_goes_from_submit_to_success",
        (
            Edit(
                f"{_QUEUE}/storage/claims.py",
                "            return await self._handed_out(await self._claim(self._database, searches, "
                "choose(offers, None)))\n",
                "            async with self._database.transaction() as transaction:\n"
                "                claim = await self._claim(transaction, searches, choose(offers, None))\n"
                '                await transaction._connection.execute("ROLLBACK")\n'
                "            return await self._handed_out(claim)\n",
            ),
        ),
    ),
    Mutation(
        "renewal-counts-from-its-answer",
        "an agent trusts a lease for longer than the queue keeps it: as long as the answer took",
        f"{_PROTOCOL}::test_a_renewal_counts_for_what_was_taken_when_its_heartbeat_was_sent",
        (
            Edit(
                f"{_AGENT}/core/protocol.py",
                "self._book.renewed(beat.leases, beat.sent)",
                "self._book.renewed(beat.leases, now)",
            ),
        ),
    ),
    Mutation(
        "grant-counts-from-its-arrival",
        "an agent trusts a grant that was long under way for longer than the queue keeps it",
        f"{_PROTOCOL}::test_a_grant_is_as_old_as_the_last_word_that_was_acknowledged_before_it",
        (
            Edit(
                f"{_AGENT}/core/protocol.py",
                "self._book.granted(grant, self._acknowledged_sent, now)",
                "self._book.granted(grant, now, now)",
            ),
        ),
    ),
    Mutation(
        "start-before-the-answer-is-known",
        "a container starts by a grant that was taken back for want of an answer",
        f"{_BOOK}::test_a_grant_is_answered_when_it_is_on_disk_and_starts_when_the_answer_has_arrived",
        (
            Edit(
                f"{_AGENT}/core/leases.py",
                'self._reply(lease.grant, "")\n'
                "        return [DeadlinesChanged(), *self._try_execute(lease)]",
                'self._reply(lease.grant, "")\n'
                "        return [DeadlinesChanged(), *self._try_execute(lease), *self._permit(lease)]",
            ),
        ),
    ),
    Mutation(
        "result-sent-before-it-is-kept",
        "a result is committed that a restarted agent does not remember, and another one is sent",
        f"{_BOOK}::test_a_result_is_sent_after_it_was_kept",
        (
            Edit(
                f"{_AGENT}/core/leases.py",
                "return [KeepFinish(key, lease.finish)]\n\n    def finish_kept",
                "return [*self._finished(lease), KeepFinish(key, lease.finish)]\n\n    def finish_kept",
            ),
        ),
    ),
    Mutation(
        "restored-lease-counts-from-now",
        "an agent that restarts again and again executes a run that another one has",
        f"{_RESTARTS}::test_a_restored_lease_that_nobody_renews_ends_when_it_would_have",
        (
            Edit(
                f"{_AGENT}/core/orders.py",
                "lease.hold_until(kept.window.stop_at if kept.window else now)",
                "lease.hold_until(now + lease.ttl)",
            ),
        ),
    ),
    Mutation(
        "begun-attempt-begins-again",
        "a program is executed twice under one epoch, after its container was removed while no agent looked",
        "tests/integration/test_agent_adoption.py::test_a_container_that_is_gone_is_never_made_again",
        (Edit(f"{_AGENT}/runner.py", "if attempt.lease.begun:", "if False:"),),
    ),
    Mutation(
        "newer-attempt-beside-an-older",
        "two containers of one run are at work on one node",
        f"{_BOOK}::test_an_older_attempt_of_the_run_is_gone_before_a_newer_begins",
        (
            Edit(
                f"{_AGENT}/core/leases.py",
                "return [] if any(occupies(other.phase) for other in older) else orders.execute(lease)",
                "return orders.execute(lease)",
            ),
        ),
    ),
    Mutation(
        "watchdog-ignores-deadlines",
        "the container of a dead agent runs on while another agent executes its run",
        "tests/unit/test_agent_deadlines.py::test_what_is_due",
        (
            Edit(
                f"{_AGENT}/core/deadlines.py",
                "        if now >= deadline.kill_at:\n            actions",
                '        if now >= deadline.kill_at and deadline.reason == "TIMEOUT":\n            actions',
            ),
        ),
    ),
    Mutation(
        "watchdog-not-started",
        "the container of a killed agent runs on while another agent executes its run",
        "scenario agent-killed-for-good",
        (
            Edit(
                f"{_AGENT}/__main__.py",
                "                keep_running(self._settings.data_dir, self._engine.url),\n",
                "",
            ),
        ),
    ),
    Mutation(
        "lease-never-expires-on-the-node",
        "an agent that is cut off executes its run beside the agent that has it now",
        "scenario partition-long",
        (
            Edit(f"{_AGENT}/core/lease.py", "_STOP_AT: Final = 3 / 4", "_STOP_AT: Final = 300.0"),
            Edit(f"{_AGENT}/core/lease.py", "_KILL_AT: Final = 7 / 8", "_KILL_AT: Final = 350.0"),
        ),
    ),
)
