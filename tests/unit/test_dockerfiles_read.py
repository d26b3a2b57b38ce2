"""Dockerfiles as they are read before they are built, their contexts, and what builders tell."""

import base64
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from towline.capture.dockerfiles import DockerfileWish, find
from towline.errors import InvalidArgument, NotFound
from towline.requests.dockerfiles import overridden, problems
from towline.v1 import jobs_pb2
from towline_agent.core.contexts import copy_context
from towline_agent.core.dockerfile import BuildKey, Dockerfile, ignored, read
from towline_agent.core.dockerfile_failures import dockerfile_failure
from towline_agent.core.redaction import Redactor, words_of
from towline_agent.engine.build_port import BuildEvent, Output, Refused, StepBegan, StepEnded
from towline_agent.engine.buildkit import BuildKitOutput
from towline_agent.engine.buildkit_pb2 import Status, Vertex, VertexLog
from towline_agent.engine.classic_builds import ClassicOutput

HERE = "Dockerfile.towline"


def build(path: str = HERE, *, target: str = "", **build_args: str) -> jobs_pb2.DockerfileBuild:
    return jobs_pb2.DockerfileBuild(path=path, build_args=build_args, target=target)


MANY = """\
# syntax=docker/dockerfile:1
ARG TAG=3.11
ARG IMAGE=python:${TAG}-slim
FROM $IMAGE AS Build
ARG TAG=not-this
RUN --mount=type=cache,target=/c --mount=type=secret,id=tok <<EOF
FROM nothing
EOF
COPY --from=busybox:1 /bin/busybox /b
FROM build AS last
RUN --mount=type=bind,from=alpine:3,target=/a --mount=type=secret,target=/run/x/netrc true
COPY --from=0 /x /y
FROM scratch
COPY --from=last / /
"""


@pytest.mark.parametrize(
    ("text", "how", "bases", "secrets", "buildkit"),
    [
        ("FROM a:1\nRUN x \\\n  FROM y\n", build(), ["a:1"], [], ""),
        (
            MANY,
            build(),
            ["python:3.11-slim", "busybox:1", "alpine:3"],
            ["netrc", "tok"],
            "RUN --mount (line 6)",
        ),
        (
            MANY,
            build(TAG="3.13"),
            ["python:3.13-slim", "busybox:1", "alpine:3"],
            ["netrc", "tok"],
            "RUN --mount (line 6)",
        ),
        (MANY, build(target="build"), ["python:3.11-slim", "busybox:1"], ["tok"], "RUN --mount (line 6)"),
        (MANY, build(target="0"), ["python:3.11-slim", "busybox:1"], ["tok"], "RUN --mount (line 6)"),
        ("FROM a\nCOPY <<x /y\nz\nx\n", build(), ["a"], [], "COPY << (line 2)"),
        ("FROM --platform=linux/amd64 ${B:-c}\nADD --link x /\n", build(), ["c"], [], "ADD --link (line 2)"),
        ("FROM scratch\n", build(), [], [], ""),
        ("FROM a-$TARGETARCH:${TARGETVARIANT:-x}\n", build(), ["a-amd64:x"], [], ""),
    ],
)
def test_what_a_dockerfile_needs(
    text: str, how: jobs_pb2.DockerfileBuild, bases: list[str], secrets: list[str], buildkit: str
) -> None:
    assert read(text, how, "linux/amd64") == Dockerfile(tuple(bases), tuple(secrets), buildkit)


@pytest.mark.parametrize(
    ("text", "how", "problem"),
    [
        ("", build(), "Dockerfile.towline: it has no FROM"),
        ("FROM a\nRUNN b\n", build("x/D"), "x/D: on line 2: unknown instruction: RUNN"),
        ("ARG B\n\nFROM $B\n", build(), r"line 3: FROM \$B names no image; give the build argument"),
        ("FROM a AS one\nFROM b\n", build(target="two"), "it has no stage 'two'; it has one, 1"),
        ("FROM a\n", build(target="1"), "it has no stage '1'; it has 0"),
        ("FROM a\nRUN <<EOF\nx\n", build(), "on line 2: unterminated heredoc"),
        ("FROM a\nRUN " + "[" * 5000 + "\n", build(), "recursion"),
        ("FROM " + "${A:-" * 600 + "x" + "}" * 600 + "\n", build(), "recursion|failed to process"),
        (
            "".join(f"ARG A{at}=xx${{A{at - 1}}}${{A{at - 1}}}\n" for at in range(60)) + "FROM $A59\n",
            build(),
            "line 11: a value of more than 4096 characters; shorten it",
        ),
    ],
)
def test_what_is_no_dockerfile_says_where(text: str, how: jobs_pb2.DockerfileBuild, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        read(text, how, "linux/amd64")


def tree(**files: str) -> Callable[[str], bytes]:
    def find(path: str) -> bytes:
        try:
            return files[path].encode()
        except KeyError:
            raise NotFound("no such file", reason="SOURCE_FILE_NOT_FOUND") from None

    return find


def test_the_ignore_file_beside_the_dockerfile_goes_first() -> None:
    files = {
        ".dockerignore": "data\n",
        "d/Dockerfile.dockerignore": "# none\n/*.bin\n!a.bin\nlogs\n!logs/keep\n",
    }
    left_out = ignored("d/Dockerfile", tree(**files))
    assert [
        path for path in ("data", "a.bin", "b.bin", "x/b.bin", "logs/x", "logs/keep") if left_out(path)
    ] == [
        "b.bin",
        "logs/x",
    ]
    assert ignored("Dockerfile", tree(**files))("data/x")
    assert not ignored("Dockerfile", tree())("data")
    with pytest.raises(InvalidArgument, match=r"\.dockerignore: Invalid ignore pattern"):
        ignored("Dockerfile", tree(**{".dockerignore": "a[\n"}))


def archive(*members: tuple[str, str, str], mtime: int = 0) -> io.BytesIO:
    """A source archive of (kind, path, content or target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        for kind, path, what in members:
            info = tarfile.TarInfo(f"workspace/{path}" if path else "workspace")
            info.uid, info.mtime = 1000, mtime
            info.type = {"d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE}.get(
                kind, tarfile.REGTYPE
            )
            info.linkname = f"workspace/{what}" if kind == "h" else what if kind == "l" else ""
            info.size = len(what) if kind == "f" else 0
            made.addfile(info, io.BytesIO(what.encode()))
    buffer.seek(0)
    return buffer


def test_a_context_has_what_is_not_left_out_and_a_digest_of_nothing_else() -> None:
    one = [
        ("d", "", ""),
        ("f", "a", "1"),
        ("f", "big", "xx"),
        ("h", "same", "big"),
        ("l", "link", "a"),
        ("f", "D", "F"),
    ]
    target = io.BytesIO()
    digest = copy_context(archive(*one), target, "workspace", lambda path: path in ("big", "D"), {"D"})
    target.seek(0)
    with tarfile.open(fileobj=target) as made:
        found = {member.name: member for member in made}
        assert list(found) == ["a", "same", "link", "D"]
        shared = made.extractfile(found["same"])
        assert shared is not None and shared.read() == b"xx"
        assert found["link"].linkname == "a"
        assert {(member.uid, member.mtime) for member in found.values()} == {(0, 946_684_800)}
    other = [*one[:2], ("f", "big", "yyy"), ("f", "same", "xx"), *one[4:]]
    assert digest == copy_context(
        archive(*other, mtime=7), io.BytesIO(), "workspace", lambda path: path in ("big", "D"), {"D"}
    )
    assert digest != copy_context(archive(*one), io.BytesIO(), "workspace", lambda _: False, ())


def test_everything_that_goes_in_is_in_the_key() -> None:
    fields = {
        "platform": "linux/amd64",
        "dockerfile": "FROM a",
        "context": "sha256:0",
        "build_args": {"A": "1"},
        "target": "",
        "bases": {"a": "x"},
    }
    other = {
        "dockerfile": "FROM b",
        "context": "sha256:1",
        "build_args": {},
        "target": "t",
        "bases": {"a": "y"},
    }
    keys = {BuildKey(**fields).digest()}
    keys |= {BuildKey(**{**fields, name: value}).digest() for name, value in other.items()}
    keys.add(BuildKey(**{**fields, "platform": "linux/arm64"}).digest())
    assert len(keys) == len(other) + 2


def trace(*vertexes: Vertex, logs: tuple[tuple[str, bytes], ...] = ()) -> dict[str, str]:
    status = Status(vertexes=vertexes, logs=[VertexLog(vertex=name, msg=data) for name, data in logs])
    return {"id": "moby.buildkit.trace", "aux": base64.b64encode(status.SerializeToString()).decode()}


def vertex(digest: str, name: str, *, began: int = 0, ended: int = 0, **fields: object) -> Vertex:
    made = Vertex(digest=digest, name=name, **fields)  # type: ignore[arg-type] # what a test gives
    if began:
        made.started.FromSeconds(began)
    if ended:
        made.completed.FromSeconds(ended)
    return made


def test_what_buildkit_tells() -> None:
    output = BuildKitOutput()
    told: list[BuildEvent] = []
    for item in (
        trace(vertex("i", "[internal] load metadata", began=1, ended=2), vertex("a", "[1/2] RUN x")),
        trace(vertex("a", "[1/2] RUN x", began=2), vertex("b", "[b 1/1] RUN y", began=2)),
        trace(logs=(("a", b"one\n"), ("a", b"two\n"), ("b", b"three"))),
        trace(
            vertex("a", "[1/2] RUN x", began=2, ended=5),
            vertex("c", "[2/2] COPY", began=5, ended=5, cached=True),
        ),
        trace(vertex("b", "[b 1/1] RUN y", began=2, ended=6, error="context canceled: context canceled")),
        trace(vertex("d", "[d 1/1] RUN z", began=2, ended=6, error="exit code: 3")),
        {"error": "executor failed running [z]: exit code: 3", "errorDetail": {}},
    ):
        told += output.feed(item)
    assert told == [
        StepBegan("[1/2] RUN x"),
        StepBegan("[b 1/1] RUN y"),
        Output(b"[1/2] RUN x:\n"),
        Output(b"one\n"),
        Output(b"two\n"),
        Output(b"[b 1/1] RUN y:\n"),
        Output(b"three"),
        StepEnded("[1/2] RUN x", cached=False, seconds=3.0),
        StepBegan("[2/2] COPY"),
        StepEnded("[2/2] COPY", cached=True, seconds=0.0),
        StepBegan("[d 1/1] RUN z"),
        Refused("[d 1/1] RUN z", "executor failed running [z]: exit code: 3"),
    ]


def test_what_the_classic_builder_tells() -> None:
    output = ClassicOutput()
    lines = [
        *("Step 1/4 : FROM a", "\n", " ---> aaaaaaaaaaaa\n", "Step 2/4 : RUN x", "\n", " ---> Using cache\n"),
        *(" ---> bbbbbbbbbbbb\n", "Step 3/4 : RUN y", "\n", " ---> Running in 123456789abc\n", "said\n"),
        *(
            "Removing intermediate container 123456789abc\n",
            " ---> cccccccccccc\n",
            "Step 4/4 : LABEL z=1",
            "\n",
        ),
        *(" ---> Running in 123456789abd\n", " ---> dddddddddddd\n", "Successfully built dddddddddddd\n"),
    ]
    told = [event for line in lines for event in output.feed({"stream": line})]
    assert told == [
        StepBegan("[1/4] FROM a"),
        StepEnded("[1/4] FROM a", cached=False),
        StepBegan("[2/4] RUN x"),
        StepEnded("[2/4] RUN x", cached=True),
        StepBegan("[3/4] RUN y"),
        Output(b"said\n"),
        StepEnded("[3/4] RUN y", cached=False),
        StepBegan("[4/4] LABEL z=1"),
        StepEnded("[4/4] LABEL z=1", cached=False),
    ]
    assert output.images == ["cccccccccccc"], "neither the base, nor what was there, nor the image itself"


@pytest.mark.parametrize("line", ["from a", "FROM\ta AS b", "From --platform=linux/amd64 a"])
def test_the_base_is_never_what_the_classic_builder_has_left(line: str) -> None:
    """It tells of steps in the Dockerfile's own words, and what it has left is removed."""
    output = ClassicOutput()
    for said in (f"Step 1/2 : {line}", "\n", " ---> aaaaaaaaaaaa\n", "Step 2/2 : RUN x", "\n"):
        list(output.feed({"stream": said}))
    list(output.feed({"error": "The command 'x' returned a non-zero code: 1"}))
    assert not output.images


@pytest.mark.parametrize(
    ("step", "why", "message"),
    [
        (
            "[2/3] RUN x",
            "executor failed running [x]: exit code: 7",
            "step `[2/3] RUN x` of D failed: exit code 7. ",
        ),
        (
            "[2/3] RUN x",
            "The command 'x' returned a non-zero code: 9",
            "step `[2/3] RUN x` of D failed: exit code 9. ",
        ),
        ("", "dockerfile parse error.", "D cannot be built: dockerfile parse error. "),
    ],
)
def test_a_failure_names_the_step(step: str, why: str, message: str) -> None:
    assert message in dockerfile_failure("D", step, why, "tail").failure.message


def test_what_is_in_a_secret_is_masked() -> None:
    redactor = Redactor(words_of(b"machine index.example\n  login ada password correct-horse\nab\n"))
    shown = redactor.feed(b"x correct-horse y\nlogin ada password correct-horse\nab ada\n") + redactor.end()
    assert shown == b"x **** y\n****\nab ada\n"
    secret = b'password = p@ss:w0rd\n{"key":"ab/cd+ef=gh"}\ntoken=x:y/z;1,2\n'
    redactor = Redactor(words_of(secret))
    assert redactor.clean(b"a p@ss:w0rd b ab/cd+ef=gh c x:y/z;1,2") == b"a **** b **** c ****"


@pytest.mark.parametrize(
    ("how", "fields"),
    [
        (build(A="1"), []),
        (jobs_pb2.DockerfileBuild(), []),
        (build("/etc/D"), ["path"]),
        (build("a/../D"), ["path"]),
        (build("a//D"), ["path"]),
        (build("x" * 1025), ["path"]),
        (build(**{"A-B": "1"}), ["build_args"]),
        (build(A="x" * 4097), ["build_args[A]"]),
        (build(**{f"A{number}": "" for number in range(65)}), ["build_args"]),
        (build(target="a b"), ["target"]),
    ],
)
def test_what_may_be_asked_for(how: jobs_pb2.DockerfileBuild, fields: list[str]) -> None:
    assert [field for field, _ in problems(how)] == fields


def test_a_submission_goes_over_the_job() -> None:
    job = build(A="1", B="2", target="t")
    assert overridden(job, build("", B="3", C="4")) == build(A="1", B="3", C="4", target="t")
    assert overridden(job, build("", target="u")) == build(A="1", B="2", target="u")
    assert overridden(job, build("other", B="3")) == build("other", B="3")


def test_a_projects_own_dockerfile_is_found(tmp_path: Path) -> None:
    (tmp_path / "ignored").touch()
    nothing = DockerfileWish()
    assert find(nothing, tmp_path, ["a/Dockerfile.towline"]) is None
    found = find(nothing, tmp_path, [HERE])
    assert found is not None and found.message() == build()
    found = find(DockerfileWish(tmp_path / "d" / "D", {"A": "1"}, "t"), tmp_path, [HERE, "d/D"])
    assert found is not None and found.message() == build("d/D", A="1", target="t")
    for wish, problem in (
        (DockerfileWish(build_args={"A": "1"}), "--build-arg: goes with a Dockerfile"),
        (DockerfileWish(target="t"), "--target: goes with a Dockerfile"),
        (DockerfileWish(tmp_path / "none"), "--dockerfile: .*none: there is no such file"),
        (DockerfileWish(tmp_path / "ignored"), "it is left out of the snapshot"),
        (DockerfileWish(tmp_path.parent / "D"), "lies outside of the source tree"),
    ):
        with pytest.raises(InvalidArgument, match=problem):
            find(wish, tmp_path, [])
