"""UUIDs as the database's driver has them."""

from uuid import UUID

import pytest

from towline_queue.storage.uuids import read_uuid

CANONICAL = "4925bae8-55fb-4319-8cc3-e5856ad9b9f2"


@pytest.mark.parametrize(
    "text",
    [
        CANONICAL,
        CANONICAL.upper(),
        CANONICAL.replace("-", ""),
        f"{{{CANONICAL}}}",
        f"urn:uuid:{CANONICAL}",
    ],
)
def test_what_python_takes_is_read_and_equal_to_its_own(text: str) -> None:
    read = read_uuid(text)
    assert isinstance(read, UUID)
    assert {read: 1}[UUID(text)] == 1
    assert UUID(text) == read
    assert str(read) == CANONICAL


@pytest.mark.parametrize("text", ["", "x", CANONICAL[:-1], CANONICAL + "0", "g" * 32])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        read_uuid(text)
