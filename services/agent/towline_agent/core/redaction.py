"""Logs without secrets."""

import re
from collections.abc import Collection, Iterable
from typing import Final

__all__ = ["Redactor", "logins_of", "words_of"]

_LONGEST_LINE: Final = 64 * 1024
# Shorter ones are in every log.
_SHORTEST_LINE: Final = 4
_SHORTEST_WORD: Final = 8
_BETWEEN_WORDS: Final = re.compile(rb"[\s\"'=,:;@/]+")
# A password may have any of the others itself.
_BETWEEN_VALUES: Final = re.compile(rb"[\s\"']+")


def logins_of(urls: Iterable[str]) -> set[bytes]:
    """Return what is secret in URLs: their logins and passwords."""
    logins = {url.partition("://")[2].partition("/")[0].rpartition("@")[0] for url in urls}
    return {word.encode() for login in logins for word in (login, login.partition(":")[2]) if word}


def words_of(secret: bytes) -> set[bytes]:
    """Return what is secret in a file with a secret: its lines, and their longer values and words."""
    lines = {line.strip() for line in secret.splitlines()}
    values = {value for line in lines for value in _BETWEEN_VALUES.split(line)}
    values |= {value.partition(b"=")[2] for value in values}
    words = values.union(*(_BETWEEN_WORDS.split(line) for line in lines))
    long = {word for word in words if len(word) >= _SHORTEST_WORD}
    return {line for line in lines if len(line) >= _SHORTEST_LINE} | long


class Redactor:
    """Takes secrets out of a log, line by line, so that none is missed at the seam of two pieces.

    A line without end is shown, too: what is held back of it is bounded.

    Args:
        secrets: What is not to be shown, without line ends.
    """

    def __init__(self, secrets: Collection[bytes]) -> None:
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)
        self._line = b""

    def feed(self, data: bytes) -> bytes:
        """Return what can be shown so far."""
        if not self._secrets:
            return data
        whole, newline, self._line = (self._line + data).rpartition(b"\n")
        shown = self.clean(whole + newline)
        if len(self._line) > _LONGEST_LINE:
            # All but what may be the beginning of a secret.
            line = self.clean(self._line)
            seam = max(len(line) - len(self._secrets[0]) + 1, 0)
            shown, self._line = shown + line[:seam], line[seam:]
        return shown

    def end(self) -> bytes:
        """Return the rest."""
        line, self._line = self._line, b""
        return self.clean(line)

    def clean(self, text: bytes) -> bytes:
        """Return a text that stands by itself, without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, b"****")
        return text
