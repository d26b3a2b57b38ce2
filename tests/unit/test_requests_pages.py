"""Pages of lists and their tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import InvalidArgument
from towline.requests import pages


def test_a_token_leads_on_and_only_in_its_own_list() -> None:
    token, too_large = (pages.next_token(b"queue a", key) for key in (17, 2**63))
    assert pages.page_start(b"queue a", token, int) == 17
    assert pages.page_start(b"queue a", "", int) is None
    with pytest.raises(InvalidArgument, match="another filter"):
        pages.page_start(b"queue b", token, int)
    for forged in ("x", "é", "e30", token[:-3], pages.next_token(b"queue a", "17"), too_large):
        with pytest.raises(InvalidArgument, match="page_token"):
            pages.page_start(b"queue a", forged, int)


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (1000, 1000), (100_000, 1000)])
def test_pages_are_bounded(asked: int, given: int) -> None:
    assert pages.page_size(asked) == given


def test_a_negative_page_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="page_size"):
        pages.page_size(-1)


@given(st.text(max_size=40), st.sampled_from([str, int]))
def test_any_token_is_read_or_refused(token: str, kind: type) -> None:
    try:
        pages.page_start(b"jobs", token, kind)
    except InvalidArgument as error:
        assert error.metadata == {"field": "page_token"}
