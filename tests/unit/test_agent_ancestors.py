"""Which environment a new one is made from."""

import json
from dataclasses import replace

from towline_agent.core.ancestors import LABEL_ENVIRONMENT, Ancestor, closest, label_of
from towline_agent.core.keys import EnvironmentKey

JOB = "jobs/digits"
LINES = tuple(f"package{number}==1.0" for number in range(8))
KEY = EnvironmentKey("sha256:base", "3.11", LINES, ("https://index",), "0.9", complete=True)
NEWER = replace(KEY, requirements=("package0==1.1", *LINES[1:]))


def image(name: str, key: EnvironmentKey = KEY, job: str = JOB, ancestor: Ancestor | None = None) -> Ancestor:
    read = Ancestor.read(name, {LABEL_ENVIRONMENT: label_of(key, job, ancestor)})
    assert read
    return read


def test_the_one_that_differs_least_is_taken() -> None:
    far = image("far", replace(KEY, requirements=LINES[:6]))
    near = image("near")
    assert closest(NEWER, JOB, [far, near]) == near
    assert closest(NEWER, JOB, []) is None


def test_of_equals_the_one_with_fewer_layers_is_taken() -> None:
    first = image("first")
    later = image("later", ancestor=first)
    assert (first.depth, later.depth) == (0, 1)
    assert closest(NEWER, JOB, [later, first]) == first


def test_what_differs_in_more_than_its_requirements_is_no_ancestor() -> None:
    others = (
        replace(KEY, base_image_id="sha256:other"),
        replace(KEY, python="3.12"),
        replace(KEY, index_urls=("https://other",)),
        replace(KEY, uv_version="0.10"),
        replace(KEY, recipe=99),
    )
    assert closest(NEWER, JOB, [image("other", key) for key in others]) is None
    assert closest(NEWER, JOB, [image("of another job", job="jobs/other")]) is None


def test_a_new_start_is_made_when_much_differs_or_layers_pile_up() -> None:
    assert closest(replace(KEY, requirements=LINES[2:]), JOB, [image("a quarter")]) is not None
    assert closest(replace(KEY, requirements=LINES[4:]), JOB, [image("half")]) is None
    deep = image("deep")
    for _ in range(8):
        deep = image("deep", ancestor=deep)
    assert closest(NEWER, JOB, [deep]) is None


def test_only_whole_lists_of_versions_descend() -> None:
    near = [image("near")]
    assert closest(replace(NEWER, complete=False), JOB, near) is None
    assert closest(replace(NEWER, wheels=("a-1-py3-none-any.whl sha256:0",)), JOB, near) is None
    assert closest(replace(NEWER, lock="uv.lock"), JOB, near) is None
    commit = ("package0 @ git+https://host/repo@abc", *LINES[1:])
    assert closest(replace(NEWER, requirements=commit), JOB, near) is None


def test_labels_of_other_programs_are_nobody() -> None:
    for label in ("", "{", "[]", json.dumps({"family": ""})):
        assert Ancestor.read("x", {LABEL_ENVIRONMENT: label}) is None
    assert Ancestor.read("x", {}) is None
