"""What goes first when room is needed, what never goes, and when a node takes no runs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.v1 import leases_pb2
from towline_agent.core import budgets, space
from towline_agent.core.budgets import StoredImage
from towline_agent.core.capacity import Capacity
from towline_agent.core.image_names import left_by_push, may_go
from towline_agent.core.intake import Intake
from towline_agent.core.space import Disk

GIB = 2**30
KEY = "ab" * 32


def image(name: str, layers: str, size: int, created_at: float = 0.0) -> StoredImage:
    return StoredImage(name, (f"towline/job:{name}",), {}, tuple(layers), size, created_at)


BASE = image("base", "b", 100)
ENVIRONMENT = image("environment", "be", 500)
ONE, TWO = image("one", "bes", 510), image("two", "bet", 520)
OTHER = image("other", "bo", 130)
ALL = [ONE, BASE, OTHER, TWO, ENVIRONMENT]


def ids(images: list[StoredImage]) -> list[str]:
    return [one.id for one in images]


def test_an_image_is_as_large_as_what_it_adds_to_the_one_that_it_was_made_from() -> None:
    assert budgets.kept_bytes(ALL, {"one", "two", "environment", "other"}) == {
        "one": 10,
        "two": 20,
        "environment": 400,
        "other": 30,
    }
    # Without its base on the node it is all of it.
    assert budgets.kept_bytes([ENVIRONMENT], {"environment"}) == {"environment": 500}


def test_two_images_of_the_same_layers_are_as_large_as_one() -> None:
    again = image("again", "b", 100, created_at=1.0)
    assert budgets.kept_bytes([again, BASE], {"again", "base"}) == {"base": 100, "again": 0}


def test_what_was_used_longest_ago_goes_first_and_after_all_that_was_made_from_it() -> None:
    used = {"base": 1.0, "environment": 2.0, "one": 9.0, "two": 4.0, "other": 5.0}
    order = ids(budgets.leaving(ALL, used, ()))
    # The environment was used whenever one of its images was, and the base as well.
    assert order == ["two", "other", "one", "environment", "base"]


def test_what_is_in_use_stays_and_so_does_what_it_was_made_from() -> None:
    used = dict.fromkeys(["base", "environment", "one", "two", "other"], 1.0)
    assert ids(budgets.leaving(ALL, used, {"one"})) == ["other", "two"]


def test_what_is_not_ours_stays_and_so_does_what_it_was_made_from() -> None:
    used = dict.fromkeys(["base", "environment", "two", "other"], 1.0)
    assert ids(budgets.leaving(ALL, used, ())) == ["other", "two"]
    assert budgets.leaving(ALL, {}, ()) == []


_CHAINS = st.lists(st.text("ab", min_size=1, max_size=4), unique=True, max_size=12)


@given(chains=_CHAINS, data=st.data())
def test_nothing_ever_goes_before_what_was_made_from_it_nor_while_that_is_in_use(
    chains: list[str], data: st.DataObject
) -> None:
    images = [image(layers, layers, 10 * len(layers)) for layers in chains]
    ours = data.draw(st.sets(st.sampled_from(chains))) if chains else set()
    in_use = data.draw(st.sets(st.sampled_from(chains))) if chains else set()
    used = {layers: data.draw(st.floats(0, 9)) for layers in ours}
    left = set(chains)
    for one in budgets.leaving(images, used, in_use):
        left.remove(one.id)
        assert one.id in ours - in_use
        assert not [layers for layers in left if layers.startswith(one.id)]
    # All that stays is not ours, in use, or has something made from it that stays.
    for layers in left & (ours - in_use):
        assert [other for other in left if other != layers and other.startswith(layers)]


@pytest.mark.parametrize(
    ("names", "pulled_as", "may"),
    [
        (["towline/job:abc"], [], True),
        ([], [], True),
        (["towline/job:abc", f"images.example:5000/ours:{KEY}"], [], True),
        (["towline/job:abc", "mine:latest"], [], False),
        (["images.example:5000/ours-not:1"], [], False),
        (["python:3.11-slim"], ["python:3.11-slim"], True),
        (["python:3.11-slim"], ["docker.io/library/python:3.11-slim"], True),
        (["busybox:latest"], ["busybox"], True),
        (["python@sha256:" + "0" * 64], ["python@sha256:" + "0" * 64], True),
        (["python:3.11-slim", "base:mine"], ["python:3.11-slim"], False),
        (["python:3.12-slim"], ["python:3.11-slim"], False),
        (["towline/python:3.11"], [], False),
        (["python:3.11-slim", "towline/python:3.11"], ["python:3.11-slim"], False),
        (["images.example:5000/ours:mine"], [], False),
        (["images.example:5000/ours@sha256:" + "0" * 64], [], True),
        (["python@sha256:" + "0" * 64], ["python:3.11-slim"], True),
        (["other@sha256:" + "0" * 64], ["python:3.11-slim"], False),
        (["python@sha256:" + "0" * 64], ["python@sha256:" + "1" * 64], False),
    ],
)
def test_only_images_whose_every_name_is_the_agents_doing_may_go(
    names: list[str], pulled_as: list[str], may: bool
) -> None:
    assert may_go(names, pulled_as, "images.example:5000/ours") is may


def test_a_name_that_only_a_push_gives_is_known() -> None:
    assert left_by_push(f"images.example:5000/ours:{KEY}", "images.example:5000/ours")
    for name in ("images.example:5000/ours:v1", f"images.example/ours:{KEY}", f"towline/job:{KEY[:40]}"):
        assert not left_by_push(name, "images.example:5000/ours")
    assert not left_by_push(f":{KEY}", "")


def disk(free: float, total: float = 500, path: str = "/var/lib/docker") -> Disk:
    return Disk(path, "its Docker Engine keeps its data", int(free * GIB), int(total * GIB))


def test_a_twentieth_of_a_disk_is_kept_free_and_10_gib_at_most_unless_set() -> None:
    assert space.floor(disk(1, total=100), None) == 5 * GIB
    assert space.floor(disk(1, total=8000), None) == 10 * GIB
    assert space.floor(disk(1), 7) == 7
    assert space.shortage([disk(12), disk(4)], None) == 6 * GIB
    assert space.shortage([disk(12)], None) == 0
    assert space.shortage([disk(0)], 0) == 0
    # Images are not on the agent's own disk: that they go would help nobody.
    own = replace(disk(1, path="/home/agent"), clears=False)
    assert space.shortage([disk(12), own], None) == space.shortage([own], None) == 0
    assert "/home/agent" in space.lacking([disk(12), own], None, "")
    assert space.lacking([disk(0)], 0, "") == ""


def test_runs_lack_room_below_a_half_and_have_it_again_somewhat_above() -> None:
    assert space.lacking([disk(5)], None, "") == ""
    said = space.lacking([disk(40, path="/data"), disk(4.5)], None, "")
    where = "its Docker Engine keeps its data (/var/lib/docker)"
    assert said == f"only 4.5 of 10.0 GiB to be kept free are left where {where}"
    # Word for word the same while it lasts: each other word would be written to a database.
    assert space.lacking([disk(4.2)], None, said) == said
    assert space.lacking([disk(5.9)], None, said) == said
    assert space.lacking([disk(6.1)], None, said) == ""
    assert "/data" in space.lacking([disk(4.9, path="/data"), disk(6.1)], None, said)


def test_a_node_says_what_keeps_it_from_taking_runs_and_offers_nothing_meanwhile() -> None:
    intake = Intake(Capacity(2, ()))
    grant = leases_pb2.Grant()
    grant.spec.docker.SetInParent()

    def says(why: str) -> None:
        assert intake.withheld == why
        assert intake.credits([]).slots == (0 if why else 2)
        assert intake.refusal(grant, []) == why

    says("its Docker Engine does not answer")
    intake.engine(ready=True)
    says("")
    before = intake.generation
    intake.space("its disk is full")
    says("its disk is full")
    intake.space("its disk is full")
    assert intake.generation == before + 1
    intake.tick(intake.disk_failed(now=1.0) - 0.1)
    says("its data folder cannot be written")
    intake.tick(intake.next_tick)
    says("its disk is full")
    intake.space("")
    says("")
    intake.drain()
    assert (intake.withheld, intake.refusal(grant, [])) == ("", "the agent drains")
