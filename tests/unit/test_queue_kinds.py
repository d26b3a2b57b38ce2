"""What runs of one kind share, what is each one's own, and that the two are the whole again."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import InvalidArgument
from towline.names import RunName
from towline.v1 import docker_pb2, jobs_pb2, queues_pb2, runs_pb2
from towline_queue.core.kinds import Recipe, repeat_run, taken_apart
from towline_queue.core.submission import NewRun, check
from towline_queue.inputs import asked_inputs
from towline_queue.recently_used import RecentlyUsed

NAME = RunName("runs/01abcdefghjkmnpqrs")
VERSION = jobs_pb2.JobVersion(
    name="jobs/digits/versions/v3",
    spec=jobs_pb2.JobSpec(
        entrypoint=["python", "train.py"],
        config_json='{"lr": 0.1, "text": ""}',
        input_schema_json='{"type": "object", "properties": {"lr": {"type": "number"}, "text": {}}}',
    ),
)


def submission(**fields: object) -> runs_pb2.RunSubmission:
    return runs_pb2.RunSubmission(job="jobs/digits/versions/v3", queue="queues/default", **fields)


def recipe(spec: queues_pb2.QueueSpec | None = None, **fields: object) -> Recipe:
    queue_spec = (spec or queues_pb2.QueueSpec()).SerializeToString()
    return Recipe(check(submission(**fields), "run"), VERSION, queue_spec)


def whole(made: Recipe, own: bytes) -> runs_pb2.LaunchSpec:
    return runs_pb2.LaunchSpec.FromString(made.kind.spec + own)


NAMING = queues_pb2.QueueSpec(docker=docker_pb2.DockerTemplate(environment={"WHO": "${run_id}/${run_name}"}))


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.integers(0, 20_000))
def test_own_fields_are_written_as_protobuf_writes_them(title: str, length: int) -> None:
    config = f'{{"lr":1,"text":"{"x" * length}"}}'
    (own,) = recipe().own_fields([NAME], [config], [title])
    expected = runs_pb2.LaunchSpec(run=NAME, display_name=title or "digits-pqrs", config_json=config)
    assert own == expected.SerializeToString()


def test_a_kind_and_what_is_a_runs_own_are_the_whole() -> None:
    limits = runs_pb2.TimeLimits()
    limits.max_wait.FromTimedelta(timedelta(hours=2))
    made = recipe(author="ann", limits=limits, labels={"team": "a"})
    spec = whole(made, *made.own_fields([NAME], ['{"lr": 0.5}'], ["mine"]))
    assert (spec.run, spec.display_name, spec.config_json) == (NAME, "mine", '{"lr":0.5,"text":""}')
    assert (spec.job_version, spec.queue, spec.author) == (VERSION.name, "queues/default", "ann")
    assert spec.job == VERSION.spec
    assert spec.limits == limits
    assert spec.HasField("docker")
    assert spec.stop_signal == "SIGTERM"
    assert made.kind.max_wait == timedelta(hours=2)
    assert made.kind.retry_policy == spec.retry_policy.SerializeToString(deterministic=True)
    assert made.kind.labels_json == '{"team": "a"}'


def test_kinds_of_one_content_have_one_digest_and_others_another() -> None:
    assert recipe().kind.digest == recipe(labels={"a": "b"}).kind.digest
    digests = {recipe().kind.digest, recipe(author="ann").kind.digest, recipe(NAMING).kind.digest}
    assert len(digests) == 3


def test_where_the_template_names_the_run_its_options_are_the_runs_own() -> None:
    made = recipe(NAMING)
    first = whole(made, *made.own_fields([NAME], [""], ["mine"]))
    second = whole(made, *made.own_fields([RunName("runs/b")], [""], [""]))
    assert first.docker.environment["WHO"] == "01abcdefghjkmnpqrs/mine"
    assert second.docker.environment["WHO"] == "b/digits-ns/b"
    assert not runs_pb2.LaunchSpec.FromString(made.kind.spec).HasField("docker")


@pytest.mark.parametrize("queue_spec", [queues_pb2.QueueSpec(), NAMING])
def test_a_run_taken_apart_is_the_same_run_again(queue_spec: queues_pb2.QueueSpec) -> None:
    made = recipe(queue_spec, author="ann")
    spec = whole(made, *made.own_fields([NAME], [""], ["mine"]))
    text = queue_spec.SerializeToString()
    ended = NewRun(spec, runs_pb2.PRIORITY_HIGH, {}, {"a": "b"}, None, "", text)
    kind, own = taken_apart(ended)
    assert runs_pb2.LaunchSpec.FromString(kind.spec + own) == spec
    assert kind.digest == made.kind.digest
    assert (kind.queue, kind.priority, kind.labels) == ("queues/default", runs_pb2.PRIORITY_HIGH, {"a": "b"})

    again = repeat_run(ended, RunName("runs/again"))
    assert (again.retry_of, again.spec.run, again.spec.config_json) == (NAME, "runs/again", spec.config_json)
    assert taken_apart(again)[0].digest == kind.digest


def test_what_a_run_reads_is_its_kinds_and_stays_when_it_is_repeated() -> None:
    first, second = "artifacts/a/versions/v1", "artifacts/b/versions/v0"
    read = [
        jobs_pb2.ArtifactInput(name=name, artifact=artifact)
        for name, artifact in (("x", second), ("y", first), ("z", second))
    ]
    queue_spec = queues_pb2.QueueSpec().SerializeToString()
    made = Recipe(check(submission(), "run"), VERSION, queue_spec, inputs=read)
    assert made.kind.inputs == (first, second)
    assert made.kind.digest != recipe().kind.digest and recipe().kind.inputs == ()
    spec = whole(made, *made.own_fields([NAME], [""], ["mine"]))
    assert list(spec.inputs) == read
    new = NewRun(spec, runs_pb2.PRIORITY_LOW, {}, {}, None, "", queue_spec)
    kind, own = taken_apart(repeat_run(new, RunName("runs/again")))
    assert kind.inputs == made.kind.inputs
    assert list(runs_pb2.LaunchSpec.FromString(kind.spec + own).inputs) == read


def test_a_build_has_what_makes_its_image_and_no_more_however_often_it_is_repeated() -> None:
    image = docker_pb2.DockerImageOptions(base_image="base:${author}")
    template = docker_pb2.DockerTemplate(gpus="2", environment={"WHO": "${run_id}"}, image=image)
    queue_spec = queues_pb2.QueueSpec(docker=template).SerializeToString()
    version = jobs_pb2.JobVersion()
    version.CopyFrom(VERSION)
    version.spec.inputs.add(name="data", artifact="artifacts/a/versions/v1")
    asked = check(submission(build_only=True, author="ann"), "run")
    assert not asked_inputs(version.spec, asked, "run.inputs").artifacts
    made = Recipe(asked, version, queue_spec)
    spec = whole(made, *made.own_fields([NAME], [""], [""]))
    ended = NewRun(spec, runs_pb2.PRIORITY_LOW, {}, {}, None, "", queue_spec)
    for one in (spec, repeat_run(ended, RunName("runs/again")).spec):
        only = docker_pb2.DockerImageOptions(base_image="base:ann")
        assert (one.build_only, one.docker) == (True, docker_pb2.DockerOptions(image=only))
    assert (made.kind.shape, spec.display_name) == (0, "build-digits-pqrs")


def test_images_are_built_as_the_queue_lets_submissions_say() -> None:
    job = jobs_pb2.DockerfileBuild(path="Dockerfile", build_args={"A": "1", "B": "2"})
    version, plain = jobs_pb2.JobVersion(), VERSION
    version.CopyFrom(plain)
    version.spec.dockerfile.CopyFrom(job)
    allowed = docker_pb2.DockerImageOptions(dockerfile_override=True)
    lets = queues_pb2.QueueSpec(docker=docker_pb2.DockerTemplate(image=allowed))

    def built(
        version: jobs_pb2.JobVersion, given: jobs_pb2.DockerfileBuild | None, queue: queues_pb2.QueueSpec
    ) -> jobs_pb2.DockerfileBuild | None:
        checked = check(submission(dockerfile=given), "run")
        made = Recipe(checked, version, queue.SerializeToString())
        spec = runs_pb2.LaunchSpec.FromString(made.kind.spec)
        return spec.dockerfile if spec.HasField("dockerfile") else None

    argument = jobs_pb2.DockerfileBuild(build_args={"B": "3"})
    assert built(plain, None, lets) is None
    assert built(version, None, queues_pb2.QueueSpec()) == job
    over = jobs_pb2.DockerfileBuild(path="Dockerfile", build_args={"A": "1", "B": "3"})
    assert built(version, argument, lets) == over
    other = jobs_pb2.DockerfileBuild(path="other")
    assert built(plain, other, lets) == built(version, other, lets) == other
    image = jobs_pb2.JobVersion(spec=jobs_pb2.JobSpec(image=jobs_pb2.ImageSource(reference="a")))
    many = jobs_pb2.DockerfileBuild(build_args={f"C{number}": "" for number in range(63)})
    for of, asked, queue, field, problem in (
        (version, many, lets, "run.dockerfile.build_args", "65 are too many"),
        (version, argument, queues_pb2.QueueSpec(), "run.dockerfile", "dockerfile_override"),
        (plain, argument, lets, "run.dockerfile.path", "the job has no Dockerfile"),
        (image, other, lets, "run.dockerfile", "the job is an image"),
        (version, jobs_pb2.DockerfileBuild(path="/x"), lets, "run.dockerfile.path", "no path in the source"),
    ):
        with pytest.raises(InvalidArgument, match=problem) as caught:
            built(of, asked, queue)
        assert caught.value.metadata["field"] == field


def test_wrong_parameters_are_named_with_their_run() -> None:
    with pytest.raises(InvalidArgument, match=r"runs\[3\]\.lr: must be a number"):
        recipe().own_fields([NAME], ['{"lr": "fast"}'], [""], "runs[3].")


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    kept: RecentlyUsed[str, int] = RecentlyUsed(3)
    for number, key in enumerate("abc"):
        kept.keep(key, number)
    assert kept.get("a") == 0
    kept.keep("d", 3)
    assert [key in kept for key in "abcd"] == [True, False, True, True]
    kept.keep("c", 9, weight=2)
    assert [key in kept for key in "acd"] == [False, True, True]
    assert kept.get("c") == 9
    kept.keep("huge", 1, weight=4)
    assert kept.get("huge") is None
    kept.keep("a", 1, weight=3)
    assert kept.get("a") == 1
