"""What the agent decides: phases, capacity, keys, containers, failures, waits."""

import ast
import hashlib
import tomllib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from towline.errors import Internal
from towline.v1 import docker_pb2, jobs_pb2, leases_pb2, runs_pb2
from towline_agent.core import keys, recipe
from towline_agent.core.backoff import Backoff
from towline_agent.core.capacity import Capacity, lease_set_digest
from towline_agent.core.containers import ImageFacts, Owner, container_config
from towline_agent.core.failures import (
    EndedBy,
    ExitStatus,
    SentSignal,
    ended_by,
    from_exit,
    from_start_error,
    may_be_stopped,
)
from towline_agent.core.phases import TRANSITIONS, Phase, Step, after, occupies, run_state
from towline_agent.payload import payload

# --- phases


def test_every_phase_but_the_last_leads_on_and_can_be_reached() -> None:
    assert {phase for phase, _ in TRANSITIONS} == set(Phase) - {Phase.GONE}
    assert set(TRANSITIONS.values()) == set(Phase) - {Phase.OFFERED}


@given(st.lists(st.sampled_from(Step)))
def test_states_told_never_go_back(steps: list[Step]) -> None:
    phases = [Phase.OFFERED]
    for step in steps:
        try:
            phases.append(after(phases[-1], step))
        except Internal:
            continue
    told = [run_state(phase) for phase in phases]
    assert told == sorted(told)
    freed = [occupies(phase) for phase in phases if phase is not Phase.DROPPED]
    assert freed == sorted(freed, reverse=True)


def test_what_the_table_does_not_have_is_a_defect() -> None:
    with pytest.raises(Internal, match="gone cannot start"):
        after(Phase.GONE, Step.START)


# --- capacity

GPUS = tuple(leases_pb2.Gpu(id=f"GPU-{number}") for number in range(4))


class Granting(RuleBasedStateMachine):
    """Whoever asks for what, no slot and no GPU is given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.capacity = Capacity(3, GPUS)
        self.held: list[list[str]] = []

    @rule(gpu_ids=st.lists(st.sampled_from([*(gpu.id for gpu in GPUS), "GPU-other"]), max_size=3))
    def grant(self, gpu_ids: list[str]) -> None:
        if not self.capacity.refusal(gpu_ids, self.capacity.credits(self.held, accepting=True)):
            self.held.append(gpu_ids)

    @rule(index=st.integers(0, 2))
    def end(self, index: int) -> None:
        if index < len(self.held):
            del self.held[index]

    @invariant()
    def nothing_is_given_twice(self) -> None:
        taken = [gpu_id for gpu_ids in self.held for gpu_id in gpu_ids]
        assert len(taken) == len(set(taken))
        assert set(taken) <= {gpu.id for gpu in GPUS}
        assert len(self.held) <= 3
        free = self.capacity.credits(self.held, accepting=True)
        assert free.slots == 3 - len(self.held)
        assert set(free.gpu_ids) == {gpu.id for gpu in GPUS} - set(taken)


TestGranting = Granting.TestCase


def test_nothing_is_free_where_nothing_is_accepted() -> None:
    credits = Capacity(3, GPUS).credits([], accepting=False)
    assert (credits.slots, credits.gpu_ids) == (0, ())


def test_the_lease_set_digest_is_as_the_proto_says() -> None:
    found = lease_set_digest([("b", 10), ("a", 2)])
    assert found == hashlib.sha256(b"a:2\nb:10\n").hexdigest()


# --- keys


def key(**changes: Any) -> keys.EnvironmentKey:
    fields: dict[str, Any] = {
        "base_image_id": "sha256:b",
        "python": "3.11",
        "requirements": ("a==1", "b==2"),
        "index_urls": ("https://pypi.org/simple",),
        "uv_version": "1",
    }
    return keys.EnvironmentKey(**(fields | changes))


def test_everything_that_goes_in_changes_the_key_and_order_does_not() -> None:
    changed = [
        key(),
        key(base_image_id="sha256:c"),
        key(python="3.12"),
        key(requirements=("a==1",)),
        key(index_urls=("https://other/simple",)),
        key(uv_version="2"),
        key(wheels=("a-1-py3-none-any.whl sha256:a",)),
        key(wheels=("a-1-py3-none-any.whl sha256:b",)),
        key(complete=True),
        key(lock="x"),
        key(recipe=999),
    ]
    assert len({one.digest() for one in changed}) == len(changed)
    assert key(requirements=("b==2", "a==1", "a==1")).digest() == key().digest()


def test_job_tags_name_environment_and_source() -> None:
    code = jobs_pb2.JobSpec(code=jobs_pb2.CodeSource(digest="sha256:1"))
    git = jobs_pb2.JobSpec(git=jobs_pb2.GitSource(remote="r", commit="c", subfolder="/s/"))
    same = jobs_pb2.JobSpec(git=jobs_pb2.GitSource(remote="other", commit="c", subfolder="s"))
    tags = {
        keys.job_digest(one, keys.source_id(spec))
        for one in (key(), key(python="3.12"))
        for spec in (code, git)
    }
    assert len(tags) == 4
    assert keys.job_digest(key(), "s", ["a", "b"]) == keys.job_digest(key(), "s", ["b", "a"])
    assert len({keys.job_digest(key(), "s", folders) for folders in ((), ("a",), ("a", "b"))}) == 3
    assert keys.source_id(git) == keys.source_id(same)


def test_credentials_do_not_go_into_keys() -> None:
    urls = ["https://u:p@host:8/simple", "https://host/x@y"]
    assert keys.without_credentials(urls) == ("https://host:8/simple", "https://host/x@y")


# --- recipe


def environment(*requirements: str, **fields: Any) -> jobs_pb2.PythonEnvironment:
    return jobs_pb2.PythonEnvironment(version="3.11.7", requirements=requirements, **fields)


def test_build_files() -> None:
    indexes = recipe.Indexes("https://u:p@own/simple", ("https://extra/simple",))
    files = recipe.build_files(
        environment("b", " a==1 ", "", extra_index_urls=["https://job/simple"]), indexes
    )
    assert files["requirements.txt"] == b"b\na==1\n"
    assert b"--python 3.11 /opt/venv" in files["install"]
    assert b"--no-deps" not in files["install"]
    found = tomllib.loads(files["uv.toml"].decode())["index"]
    assert [index["url"] for index in found] == [
        "https://job/simple",
        "https://extra/simple",
        "https://u:p@own/simple",
    ]
    assert [index.get("default", False) for index in found] == [False, False, True]


def test_only_complete_lists_of_pins_may_be_installed_without_dependencies() -> None:
    pinned = recipe.build_files(environment("a==1", "b @ https://host/b.whl"), recipe.Indexes())
    assert b"--no-deps" in pinned["install"] and b"do not resolve" in pinned["install"]
    complete = recipe.build_files(environment("a==1", complete=True), recipe.Indexes())
    assert b"--no-deps" in complete["install"] and b"do not resolve" not in complete["install"]


def test_a_job_without_anything_in_its_source_to_install_has_no_such_step() -> None:
    assert recipe.project_files(environment("a==1"), recipe.Indexes()) is None
    files = recipe.project_files(environment(editables=[".", "li b"], complete=True), recipe.Indexes())
    assert files is not None
    assert b"--no-deps --editable ./. --editable './li b')" in files["install"]


def test_images_run_the_virtual_environment() -> None:
    config = recipe.image_config(["PATH=/usr/bin", "LANG=C"])
    assert config["Env"] == ["PATH=/opt/venv/bin:/usr/bin", "LANG=C", "VIRTUAL_ENV=/opt/venv"]
    assert recipe.image_config(config["Env"]) == config


# --- containers


def grant(**docker: Any) -> leases_pb2.Grant:
    job = jobs_pb2.JobSpec(code=jobs_pb2.CodeSource(), entrypoint=["python", "x.py"], working_dir="a/b/")
    spec = runs_pb2.LaunchSpec(run="runs/r", job=job, docker=docker_pb2.DockerOptions(**docker))
    return leases_pb2.Grant(lease_id="l", epoch=3, attempt=1, spec=spec)


def config_of(one: leases_pb2.Grant, *env: str, user: str = "") -> dict[str, Any]:
    return container_config(one, ImageFacts("sha256:i", env, user), Owner("agents/x", "instance"))


def test_a_program_is_told_how_it_will_be_stopped() -> None:
    one = grant()
    assert {"TOWLINE_STOP_FILE=/towline/stop.json", "TOWLINE_STOP_SIGNAL=SIGTERM"} < set(
        config_of(one)["Env"]
    )
    one.spec.stop_signal = "SIGUSR1"
    assert "TOWLINE_STOP_SIGNAL=SIGUSR1" in config_of(one)["Env"]


def test_nothing_is_granted_that_the_queue_does_not_say() -> None:
    host = config_of(grant())["HostConfig"]
    assert host["CapDrop"] == ["ALL"] and host["CapAdd"] == []
    assert host["SecurityOpt"] == ["no-new-privileges"] and host["Init"]
    (volume,) = host["Mounts"]
    assert volume["Type"] == "volume" and volume["Target"] == "/towline" and "Source" not in volume
    # Should the engine lose the container without it, the volume still says whose it is.
    assert volume["VolumeOptions"] == {"NoCopy": True, "Labels": config_of(grant())["Labels"]}
    assert not {"Privileged", "DeviceRequests", "NetworkMode", "Memory", "Tmpfs", "Binds"} & set(host)


def test_options_are_carried_over() -> None:
    mounts = [
        docker_pb2.DockerMount(source="/data", target="/d"),
        docker_pb2.DockerMount(source="vol", target="/v", writable=True),
    ]
    host = config_of(grant(memory_bytes=5, mounts=mounts, read_only_root=True, pids_limit=-1))["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (5, 5, -1)
    assert host["Mounts"][1:] == [
        {"Type": "bind", "Source": "/data", "Target": "/d", "ReadOnly": True},
        {"Type": "volume", "Source": "vol", "Target": "/v", "ReadOnly": False},
    ]
    assert host["ReadonlyRootfs"] and set(host["Tmpfs"]) == {"/tmp"}


def test_gpus_are_asked_for_by_uuid() -> None:
    one = grant(gpus=2)
    one.gpu_ids.extend(["GPU-a", "GPU-b"])
    assert config_of(one)["HostConfig"]["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-a", "GPU-b"], "Capabilities": [["gpu"]]}
    ]


def test_users_and_folders() -> None:
    assert config_of(grant())["User"] == "1000:1000"
    assert config_of(grant(user="5"))["User"] == "5"
    assert config_of(grant())["WorkingDir"] == "/workspace/a/b"
    image = grant()
    image.spec.job.image.reference = "x"
    assert config_of(image, user="app")["User"] == "app"
    assert "WorkingDir" not in config_of(image)
    del image.spec.job.entrypoint[:]
    assert "Entrypoint" not in config_of(image) and "Cmd" not in config_of(image)


def test_the_contract_wins_over_the_queue_and_the_queue_over_the_image() -> None:
    one = grant(environment={"TOWLINE_RUN": "x", "A": "${image} ${run_id}", "PYTHONPATH": "/q"})
    env = dict(entry.split("=", 1) for entry in config_of(one, "PYTHONPATH=/i", "A=i")["Env"])
    assert env["TOWLINE_RUN"] == "runs/r" and env["A"] == "sha256:i ${run_id}"
    assert env["PYTHONPATH"] == "/towline/runtime:/q"
    assert "PYTHONPATH=/towline/runtime:/i" in config_of(grant(), "PYTHONPATH=/i")["Env"]


def test_what_is_shipped_imports_nothing_that_is_not() -> None:
    entries = {entry.name: entry.content for entry in payload(runs_pb2.LaunchSpec())}
    modules = {
        name.removeprefix("runtime/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in entries
        if name.endswith(".py")
    }
    assert "towline.runtime" in modules
    for name, content in entries.items():
        if not name.endswith(".py"):
            continue
        assert isinstance(content, bytes)
        for node in top_level_imports(ast.parse(content)):
            assert not node.startswith("towline") or node in modules, f"{name} imports {node}"
    assert entries["config.json"] == b"{}"


def top_level_imports(module: ast.Module) -> list[str]:
    """Modules imported when a module is loaded: not in functions, not for type checkers."""
    found = []
    for statement in module.body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            found.append(statement.module)
        elif isinstance(statement, ast.Import):
            found.extend(alias.name for alias in statement.names)
    return found


# --- failures


@pytest.mark.parametrize(
    ("status", "outcome", "cause", "words"),
    [
        (ExitStatus(0), "SUCCEEDED", None, ""),
        (ExitStatus(0, oom_killed=True), "SUCCEEDED", None, ""),
        (ExitStatus(1), "FAILED", "USER_ERROR", "`run x` exited with code 1."),
        (ExitStatus(137, oom_killed=True), "FAILED", "OOM", "memory limit of 64 MiB"),
        (ExitStatus(1, oom_killed=True), "FAILED", "OOM", "memory limit"),
        (ExitStatus(137), "FAILED", "USER_ERROR", "ended by SIGKILL"),
        (ExitStatus(139), "FAILED", "USER_ERROR", "ended by SIGSEGV"),
        (ExitStatus(255), "FAILED", "USER_ERROR", "exited with code 255"),
        (ExitStatus(127), "FAILED", "USER_ERROR", "was not found in the image"),
        (ExitStatus(126), "FAILED", "USER_ERROR", "could not be executed"),
        (ExitStatus(127, error="no such user"), "FAILED", "USER_ERROR", "no such user"),
    ],
)
def test_exits_are_classified(status: ExitStatus, outcome: str, cause: str | None, words: str) -> None:
    result = from_exit(status, "run x", 64 * 2**20, "tail")
    assert result.outcome == runs_pb2.AttemptOutcome.Value(f"ATTEMPT_OUTCOME_{outcome}")
    assert result.exit_code == status.code
    if cause is None:
        assert not result.HasField("failure")
    else:
        assert result.failure.cause == runs_pb2.FailureCause.Value(f"FAILURE_CAUSE_{cause}")
        assert words in result.failure.message
        assert result.failure.log_tail == "tail" and result.failure.exit_code == status.code


def sent(*signals: int, before_end: float = 1.0) -> list[SentSignal]:
    return [SentSignal(number, before_end) for number in signals]


@pytest.mark.parametrize(
    ("status", "signals", "was_away", "leaves", "blamed"),
    [
        # It killed itself, or the kernel did.
        (ExitStatus(143), [], False, False, EndedBy.PROGRAM),
        (ExitStatus(137), [], True, False, EndedBy.PROGRAM),
        (ExitStatus(139), [], False, False, EndedBy.PROGRAM),
        (ExitStatus(1), None, True, False, EndedBy.PROGRAM),
        (ExitStatus(255), None, False, False, EndedBy.PROGRAM),
        # Its word counts, whatever it was told; so does its memory limit.
        (ExitStatus(0), sent(15), False, True, EndedBy.PROGRAM),
        (ExitStatus(137, oom_killed=True), sent(15), False, True, EndedBy.PROGRAM),
        (ExitStatus(127, error="no such file"), sent(15), False, True, EndedBy.PROGRAM),
        # `docker stop`, with a program that ends at once, by itself, or not at all.
        (ExitStatus(143), sent(15), False, False, EndedBy.OUTSIDE),
        (ExitStatus(1), sent(15), False, False, EndedBy.OUTSIDE),
        (ExitStatus(137), [SentSignal(15, 300), SentSignal(9, 0.01)], False, False, EndedBy.OUTSIDE),
        # Something else than an order to end, or one that is long past.
        (ExitStatus(1), sent(10), False, False, EndedBy.PROGRAM),
        (ExitStatus(143), sent(1, before_end=3600), False, False, EndedBy.PROGRAM),
        # The engine or its machine goes down: it says what it does, or has no time to, or forgets it.
        (ExitStatus(143), sent(15), False, True, EndedBy.SHUTDOWN),
        (ExitStatus(143), [], False, True, EndedBy.SHUTDOWN),
        (ExitStatus(143), None, False, True, EndedBy.SHUTDOWN),
        (ExitStatus(137), sent(9), True, False, EndedBy.SHUTDOWN),
        (ExitStatus(255), None, True, False, EndedBy.SHUTDOWN),
        # Nobody was there.
        (ExitStatus(137), None, False, False, EndedBy.UNKNOWN),
    ],
)
def test_who_ended_a_container(
    status: ExitStatus, signals: list[SentSignal] | None, was_away: bool, leaves: bool, blamed: EndedBy
) -> None:
    assert ended_by(status, signals, was_away=was_away, leaves=leaves) is blamed


@pytest.mark.parametrize(
    ("blamed", "cause", "words"),
    [
        (EndedBy.PROGRAM, runs_pb2.FAILURE_CAUSE_USER_ERROR, "ended by SIGTERM"),
        (EndedBy.OUTSIDE, runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, "from outside Towline"),
        (EndedBy.SHUTDOWN, runs_pb2.FAILURE_CAUSE_NODE_LOST, "machine was stopped"),
        (EndedBy.UNKNOWN, runs_pb2.FAILURE_CAUSE_CONTROL_PLANE, "does not remember"),
    ],
)
def test_only_what_its_program_did_is_the_runs_failure(
    blamed: EndedBy, cause: runs_pb2.FailureCause.ValueType, words: str
) -> None:
    result = from_exit(ExitStatus(143), "run x", 0, "tail", blamed)
    assert result.failure.cause == cause and words in result.failure.message
    assert result.exit_code == result.failure.exit_code == 143 and result.failure.log_tail == "tail"
    assert "exit code 143" in result.failure.message


@pytest.mark.parametrize(
    ("status", "signals", "may"),
    [
        (ExitStatus(143), [], True),
        (ExitStatus(137), None, True),
        (ExitStatus(139), [], False),
        (ExitStatus(1), [], False),
        (ExitStatus(1), sent(15), True),
    ],
)
def test_only_what_may_have_been_told_to_end_waits_for_the_engine(
    status: ExitStatus, signals: list[SentSignal] | None, may: bool
) -> None:
    assert may_be_stopped(status, signals) is may


def test_refused_starts() -> None:
    gpus = from_start_error('could not select device driver "nvidia" with capabilities: [[gpu]]', "x").failure
    assert gpus.cause == runs_pb2.FAILURE_CAUSE_CONTROL_PLANE and "Container Toolkit" in gpus.message
    other = from_start_error("no such user: 7", "python x").failure
    assert other.cause == runs_pb2.FAILURE_CAUSE_USER_ERROR and "no such user: 7" in other.message


# --- backoff


def test_waits_double_up_to_a_bound_and_start_over() -> None:
    backoff = Backoff(lambda: 0.999999, base=1, cap=10)
    waits = [backoff.failed() for _ in range(100)]
    assert [round(wait) for wait in waits[:5]] == [1, 2, 4, 8, 10]
    assert all(one <= two for one, two in pairwise(waits)) and max(waits) <= 10
    backoff.succeeded()
    assert round(backoff.failed()) == 1
    assert Backoff(lambda: 0.0, base=1).failed() == pytest.approx(0.1)
