"""Pages of lists. A token is the name of the last resource of the page before, made opaque."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, NoReturn

from towline import names
from towline.errors import InvalidArgument
from towline_registry.core.versions import number_of

__all__ = ["MAX_PAGE_BYTES", "after_job", "before_version", "size", "token"]

DEFAULT_SIZE: Final = 50
MAX_SIZE: Final = 1000
# A page ends early rather than pass this; a message may have 16 MiB and a version about 3.
MAX_PAGE_BYTES: Final = 8 * 1024 * 1024


def size(wanted: int) -> int:
    """Give the number of resources on a page: 0 means 50, more than 1000 means 1000."""
    if wanted < 0:
        raise InvalidArgument.field("page_size", f"{wanted} is negative; 0 takes the default")
    return min(wanted or DEFAULT_SIZE, MAX_SIZE)


def token(last: str) -> str:
    """Make the token of the page that follows the resource named `last`."""
    return urlsafe_b64encode(last.encode()).decode()


def after_job(page_token: str) -> str:
    """Read a token of the list of jobs: the last name seen, "" at the start."""
    if not page_token:
        return ""
    name = _read(page_token)
    try:
        return names.job(name)
    except InvalidArgument:
        _refuse()


def before_version(page_token: str, parent: str) -> int | None:
    """Read a token of the versions of `parent`: the last number seen, None at the start."""
    if not page_token:
        return None
    owner, _, version = _read(page_token).partition("/versions/")
    number = number_of(version)
    if owner != parent or number is None:
        _refuse()
    return number


def _read(page_token: str) -> str:
    try:
        return urlsafe_b64decode(page_token).decode()
    except ValueError:
        _refuse()


def _refuse() -> NoReturn:
    raise InvalidArgument.field(
        "page_token", "this list gave no such token; take next_page_token of the page before, or none"
    ) from None
