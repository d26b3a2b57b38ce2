"""Images by content: what requests say about them, checked; pure."""

import re
from typing import Final, NamedTuple

from towline import names
from towline.errors import InvalidArgument
from towline.names import AgentName
from towline.requests.images import repository
from towline.v1 import images_pb2
from towline_registry.core import digests
from towline_registry.core.digests import Digest

__all__ = ["MAX_DETAIL_CHARACTERS", "Key", "build_id", "builder", "key", "reference"]

MAX_DETAIL_CHARACTERS: Final = 1024
_MAX_BUILD_ID_CHARACTERS: Final = 64

_BY_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Key(NamedTuple):
    """Which image: where it is pushed to, and the digest of what goes into it."""

    repository: str
    digest: Digest


def key(message: images_pb2.ImageKey) -> Key:
    """Check the key of an image; InvalidArgument names the field."""
    return Key(
        repository(message.repository, "key.repository"), digests.checked(message.digest, "key.digest")
    )


def reference(text: str, of: Key) -> str:
    """Check that a reference names an image of a repository by digest; InvalidArgument names the field."""
    name, _, digest = text.partition("@")
    if name != of.repository or not _BY_DIGEST.fullmatch(digest):
        raise InvalidArgument.field(
            "reference", f"{text[:512]!r}: write {of.repository}@sha256:… as the container registry gave it"
        )
    return text


def builder(text: str) -> AgentName:
    """Check the name of an agent that builds; InvalidArgument names the field."""
    return names.agent(text, "builder")


def build_id(text: str) -> str:
    """Check what tells a build from others of its agent; InvalidArgument names the field."""
    if not 0 < len(text) <= _MAX_BUILD_ID_CHARACTERS or not text.isprintable():
        raise InvalidArgument.field(
            "build_id", f"give 1 to {_MAX_BUILD_ID_CHARACTERS} random characters, such as a UUID"
        )
    return text
