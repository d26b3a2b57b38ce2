"""Pages of facts and lines about runs, jobs, queues and agents, for people."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from towline.cli import image_pages, words, yaml_files
from towline.names import short
from towline.v1 import fleet_pb2, jobs_pb2, runs_pb2

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["agent", "draining", "ending", "facts", "job_version", "run", "state_line", "waiting_line"]

_MOST_REQUIREMENTS: Final = 12

Fact = tuple[str, "RenderableType"]


def facts(rows: Iterable[Fact]) -> Table:
    """Lay out labels and values; rows without a value are left out."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        if value not in ("", None):
            grid.add_row(label, Text(value) if isinstance(value, str) else value)
    return grid


def state_line(run: runs_pb2.Run) -> str:
    """Write one change of a run's state."""
    moment = words.when(run.end_time) if run.HasField("end_time") else datetime.now().astimezone()
    return f"{moment:%H:%M:%S} {words.state(run)}{_why(run)}"


def waiting_line(run: runs_pb2.Run) -> str:
    """Write what a run does or waits for, in one line that is written over and over."""
    return f"{words.state(run)}{_why(run)}"


def _why(run: runs_pb2.Run) -> str:
    if run.state == runs_pb2.RUN_STATE_SCHEDULED and run.HasField("due_time"):
        return f" · {_due(run)}"
    said = run.state_detail and run.state_detail != words.own_state(run)
    parts = [run.state_detail] if said else []
    if run.unreachable:
        parts.insert(0, f"was {words.own_state(run)} on {short(run.attempts[-1].agent)}, which is silent")
    if run.queue_position > 0 and " ahead" not in run.state_detail:
        parts.append(f"{run.queue_position} ahead")
    return f" · {', '.join(parts)}" if parts else ""


def _due(run: runs_pb2.Run) -> str:
    left = words.when(run.due_time) - datetime.now(UTC)
    due = f"until {words.moment(run.due_time)}, in {words.duration(left)}"
    cause = words.cause(run.attempts[-1].failure) if run.attempts else ""
    return f"{due}, to be tried again after: {cause}" if cause else due


def ending(run: runs_pb2.Run, *, logs_shown: bool) -> Iterator[str]:
    """Write what there is to say about a run that has ended."""
    if run.attempts:
        last = run.attempts[-1]
        yield f"  {words.phases(run, datetime.now(UTC))[-1]}"
        if said := image_pages.outcome(last):
            yield f"  {said}"
    of_build = run.failure.cause == runs_pb2.FAILURE_CAUSE_IMAGE_BUILD and not run.build_only
    yield from failure(run.failure, logs_shown=logs_shown and not of_build)
    if run.outputs:
        yield f"  outputs {short(run.outputs)}: towline run outputs {short(run.name)} --to DIR"
    if run.state == runs_pb2.RUN_STATE_FAILED:
        yield f"  again: towline run retry {short(run.name)}"


def failure(failure: runs_pb2.Failure, *, logs_shown: bool) -> Iterator[str]:
    """Write why something failed; with the end of the log unless people have just seen it."""
    if not failure.cause:
        return
    yield f"  {words.cause(failure)}: {failure.message}"
    if failure.log_tail and not logs_shown:
        yield from (f"  | {line}" for line in failure.log_tail.splitlines())


def run(run: runs_pb2.Run, holder: fleet_pb2.Agent | None = None) -> Table:
    """Make the page of one run.

    Args:
        run: It.
        holder: The agent that has it, if that is unreachable and known.
    """
    now = datetime.now(UTC)
    state = Text(f"{words.state(run)}{_why(run)}", style=words.state_style(run))
    rows: list[Fact] = [
        ("run", short(run.name)),
        ("name", run.display_name),
        ("only", "builds: it gets the image, and nothing is executed" if run.build_only else ""),
        ("state", state),
        ("silent", _silence(run, holder, now) if holder else ""),
        ("job", short(run.job_version)),
        ("queue", short(run.queue)),
        ("priority", words.lower(runs_pb2.Priority.Name(run.priority), "PRIORITY_")),
        ("author", run.author),
        ("submitted", words.moment(run.create_time)),
        ("ended", words.moment(run.end_time) if run.HasField("end_time") else ""),
        ("retry of", short(run.retry_of) if run.retry_of else ""),
        ("limits", words.limits(run.limits)),
        ("retries", words.retries(run)),
        ("labels", ", ".join(f"{key}={value}" for key, value in sorted(run.labels.items()))),
        ("config", _object(run.config_json)),
        ("inputs", "\n".join(f"{one.name}: {short(one.artifact)}" for one in run.inputs)),
        ("variables", "\n".join(f"{name}: {value}" for name, value in sorted(run.variables.items()))),
    ]
    phases = words.phases(run, now)
    if len(run.attempts) > 1:
        rows.append(("attempts", _attempts(run, phases)))
    if run.attempts:
        label = "attempt" if len(run.attempts) == 1 else "last attempt"
        rows.append((label, "\n".join(_attempt(run, run.attempts[-1], phases[-1]))))
    if run.failure.cause:
        rows.append(("failure", "\n".join(line[2:] for line in failure(run.failure, logs_shown=False))))
    if run.outputs:
        rows.append(("outputs", f"{short(run.outputs)} (towline run outputs {short(run.name)} --to DIR)"))
    rows.append(("summary", _object(run.summary_json)))
    rows.append(("logged", "\n".join(map(short, run.logged_artifacts))))
    return facts(rows)


def _silence(run: runs_pb2.Run, holder: fleet_pb2.Agent, now: datetime) -> str:
    since = f"since {words.moment(holder.last_seen_time)}, {words.ago(holder.last_seen_time, now)} ago"
    fate = "is cancelled" if run.cancel_requested else "goes to another agent"
    return f"{since}; the run {fate} when its queue's lost_after is over"


def _attempts(run: runs_pb2.Run, phases: Sequence[words.Phases]) -> Table:
    """List the attempts of a run, oldest first."""
    heads = ("EPOCH", "OUTCOME", "CAUSE", "AGENT", "LEASED", "RAN", "OUTPUTS")
    grid = Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    for attempt, phase in zip(run.attempts, phases, strict=True):
        grid.add_row(
            str(attempt.epoch),
            _outcome(attempt) or words.state(run),
            words.cause(attempt.failure),
            Text(short(attempt.agent)),
            words.moment(attempt.times.lease_time),
            "" if phase.running is None else words.duration(phase.running),
            Text(short(attempt.outputs)),
        )
    return grid


def _attempt(run: runs_pb2.Run, attempt: runs_pb2.Attempt, phases: words.Phases) -> Iterator[str]:
    outcome = _outcome(attempt)
    place = f"on {short(attempt.agent)}, epoch {attempt.epoch}"
    yield f"{outcome}, {place}" if outcome else place
    yield str(phases)
    if said := image_pages.outcome(attempt):
        yield said
    yield from image_pages.steps(attempt.image)
    if attempt.gpu_ids:
        yield f"GPUs {', '.join(attempt.gpu_ids)}"
    if attempt.HasField("exit_code"):
        yield f"exit code {attempt.exit_code}"
    if not run.failure.cause:  # else the page tells it as the run's
        yield from (line[2:] for line in failure(attempt.failure, logs_shown=False))
    if attempt.outputs and not run.outputs:
        yield (
            f"outputs {short(attempt.outputs)} "
            f"(towline run outputs {short(run.name)} --epoch {attempt.epoch} --to DIR)"
        )


def _outcome(attempt: runs_pb2.Attempt) -> str:
    """Write how an attempt ended; "" while it goes on."""
    if not attempt.outcome:
        return ""
    if attempt.failure.cause == runs_pb2.FAILURE_CAUSE_PREEMPTED:  # it FAILED, for the protocol
        return "preempted"
    return words.lower(runs_pb2.AttemptOutcome.Name(attempt.outcome), "ATTEMPT_OUTCOME_")


def _object(text: str) -> str:
    value = json.loads(text or "{}")
    return yaml_files.dump(value).rstrip() if value else ""


def job_version(version: jobs_pb2.JobVersion, others: Sequence[jobs_pb2.JobVersion]) -> Table:
    """Make the page of one version of a job, with the list of all of them."""
    spec = version.spec
    requirements = spec.python.requirements
    provenance = spec.provenance
    commit = f"{provenance.git_commit[:12]}{' with changes' if provenance.git_dirty else ''}"
    return facts(
        [
            ("job", short(version.name)),
            ("aliases", ", ".join(version.aliases)),
            (
                "recorded",
                f"{words.moment(version.create_time)}{f' by {version.author}' if version.author else ''}",
            ),
            ("source", _source(spec)),
            ("command", _command(spec.entrypoint)),
            ("folder", spec.working_dir),
            ("Python", spec.python.version),
            ("requirements", _shortened(requirements)),
            ("wheels", _shortened([wheel.filename for wheel in spec.python.wheels])),
            ("editable", ", ".join(spec.python.editables)),
            ("lock", " ".join((spec.python.lock.path, *spec.python.lock.extras))),
            ("system packages", ", ".join(spec.python.system_packages)),
            ("Dockerfile", _dockerfile(spec.dockerfile)),
            ("image for", spec.platform),
            ("defaults", _object(spec.config_json)),
            ("config files", "\n".join(f"{file.path} is {file.key}" for file in spec.config_files)),
            ("inputs", "\n".join(f"{one.name}: {short(one.artifact)}" for one in spec.inputs)),
            ("results", _results(provenance.result_schema_json)),
            ("recorded at", commit if provenance.git_commit else ""),
            ("remote", provenance.git_remote),
            ("platform", provenance.platform),
            ("machine", _machine(provenance.system)),
            ("digest", version.digest),
            (
                "versions",
                "\n".join(_version_line(other) for other in others),
            ),
        ]
    )


def _command(words: Sequence[str]) -> str:
    """Write a command as people know it, without what of Towline's own starts it."""
    own = len(words) > 2 and words[1] == "-m" and words[2].startswith("towline.runtime.") and "--" in words
    return " ".join(words[list(words).index("--") + 1 :] if own else words)


def _dockerfile(build: jobs_pb2.DockerfileBuild) -> str:
    stage = f" up to {build.target}" if build.target else ""
    return "\n".join(
        [f"{build.path}{stage}", *(f"{name}={value}" for name, value in sorted(build.build_args.items()))]
    )


def _results(schema_json: str) -> str:
    """Write the results that a recorded run had, with their types."""
    properties = json.loads(schema_json).get("properties", {}) if schema_json else {}
    return ", ".join(
        f"{name} ({kind['type']})" if "type" in kind else name for name, kind in properties.items()
    )


def _machine(system: jobs_pb2.SystemFacts) -> str:
    gpus = ", ".join(
        f"{count} x {name}" if count > 1 else name for name, count in Counter(system.gpus).items()
    )
    driver = f"driver {system.driver_version}, CUDA {system.cuda_version}" if system.driver_version else ""
    return ", ".join(filter(None, (system.os, gpus, driver)))


def _shortened(requirements: Sequence[str]) -> str:
    more = len(requirements) - _MOST_REQUIREMENTS
    shown = ", ".join(requirements[:_MOST_REQUIREMENTS])
    return f"{shown}, and {more} more (--json has them)" if more > 0 else shown


def _version_line(version: jobs_pb2.JobVersion) -> str:
    aliases = ", ".join(version.aliases)
    return f"{short(version.name)}  {words.moment(version.create_time)}  {aliases}".rstrip()


def _source(spec: jobs_pb2.JobSpec) -> str:
    match spec.WhichOneof("source"):
        case "code":
            return f"code snapshot, {words.size(spec.code.size_bytes)}"
        case "git":
            below = f", folder {spec.git.subfolder}" if spec.git.subfolder else ""
            patched = f", with patch {spec.git.patch_digest}" if spec.git.patch_digest else ""
            return f"git {spec.git.remote} at {spec.git.commit}{below}{patched}"
        case "image":
            was = f" (which was {spec.image.requested})" if spec.image.requested else ""
            return f"image {spec.image.reference}{was}"
        case _:
            return ""


def draining(agent: fleet_pb2.Agent) -> str:
    """Write what an agent that drains waits for."""
    count = f"{len(agent.runs)} run{'' if len(agent.runs) == 1 else 's'}"
    line = f"{short(agent.name)} drains; it leaves after {count}"
    if agent.state == fleet_pb2.AGENT_STATE_DISCONNECTED:
        line = f"{short(agent.name)} is not connected; it drains when it is back, unless it was started anew"
    if agent.HasField("drain_deadline"):
        return f"{line}, and preempts those left at {words.moment(agent.drain_deadline)}"
    return line


def agent(agent: fleet_pb2.Agent) -> Table:
    """Make the page of one agent."""
    state = words.lower(fleet_pb2.AgentState.Name(agent.state), "AGENT_STATE_")
    return facts(
        [
            ("agent", short(agent.name)),
            ("state", state),
            ("deadline", _deadline(agent)),
            ("takes no runs", f"because {agent.withheld}" if agent.withheld else ""),
            ("host", agent.hostname),
            ("version", agent.version),
            ("last seen", f"{words.ago(agent.last_seen_time, datetime.now(UTC))} ago"),
            ("queues", ", ".join(map(short, agent.queues))),
            ("slots", str(agent.capacity.slots)),
            (
                "GPUs",
                "\n".join(f"{gpu.id}  {gpu.model}, {words.size(gpu.memory_bytes)}" for gpu in agent.gpus),
            ),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(agent.labels.items()))),
            ("runs", "\n".join(map(short, agent.runs))),
        ]
    )


def _deadline(agent: fleet_pb2.Agent) -> str:
    if not agent.HasField("drain_deadline"):
        return ""
    return f"runs left at {words.moment(agent.drain_deadline)} are preempted"
