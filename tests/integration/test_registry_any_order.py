"""Versions and aliases after any calls in any order are as a model of a few lines has them."""

import random
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest

from towline_testing.both_services import both_services
from towline_testing.registry import error_of
from towline_testing.registry_kinds import Kind

CONTENTS, WORDS, CALLS = range(4), ("prod", "best"), 60


class Model:
    """What a series is: contents by number, of those that are left, and where words point."""

    def __init__(self) -> None:
        self.count = 0
        self.left: dict[int, int] = {}
        self.words: dict[str, int] = {}

    def find(self, word: str) -> int | None:
        if not self.left:
            return None
        number = self.words.get(word, int(word[1:]) if word.startswith("v") else None)
        return number if number in self.left else None

    def make(self, content: int) -> int:
        same = [number for number, each in self.left.items() if each == content]
        number = max(same) if same else self.count
        self.count += not same
        self.left[number] = content
        self.words["latest"] = number
        return number

    def set_alias(self, word: str, alias: str, expected: str | None) -> int | str:
        number = self.find(word)
        if number is None:
            return "NOT_FOUND"
        now = f"v{self.words[alias]}" if alias in self.words else "none"
        if expected not in (None, now):
            return "ALIAS_MOVED"
        self.words[alias] = number
        return number

    def delete_alias(self, alias: str) -> str | None:
        return None if self.left and self.words.pop(alias, None) is not None else "NOT_FOUND"

    def delete(self, word: str) -> str | None:
        number = self.find(word)
        if number is None:
            return "NOT_FOUND"
        if any(at == number for alias, at in self.words.items() if alias != "latest"):
            return "IN_USE"
        del self.left[number]
        if self.words["latest"] == number:
            del self.words["latest"]
            if self.left:
                self.words["latest"] = max(self.left)
        return None

    def aliases(self, number: int) -> list[str]:
        return sorted(word for word, at in self.words.items() if at == number)


@pytest.fixture
async def kinds(database_url: str, tmp_path: Path) -> AsyncIterator[list[Kind]]:
    async with both_services(database_url, tmp_path) as both:
        yield [Kind(both.registry, word) for word in ("job", "artifact")]


async def outcome(kind: Kind, call: Awaitable[Any]) -> Any:
    """The number of the version that is answered, None for an empty answer, or what is wrong."""
    try:
        answer = await call
    except grpc.RpcError as failure:
        reason = error_of(failure).reason
        return "NOT_FOUND" if reason.endswith("_NOT_FOUND") else reason
    return int(answer.name.removeprefix(kind.name("v"))) if answer else None


@pytest.mark.parametrize("seed", range(2))
async def test_any_calls_in_any_order(kinds: list[Kind], seed: int) -> None:
    for kind in kinds:
        rng, model = random.Random(seed), Model()
        for _ in range(CALLS):
            word = rng.choice([*WORDS, "latest", *(f"v{number}" for number in range(model.count + 1))])
            version = f"v{rng.randrange(model.count + 1)}"
            alias = rng.choice(WORDS)
            match rng.randrange(6):
                case 0 | 1:
                    content = rng.choice(CONTENTS)
                    assert await outcome(kind, kind.make(content)) == model.make(content)
                case 2 | 3:
                    expected = rng.choice([None, "none", version])
                    told = kind.name(expected) if expected == version else expected or ""
                    assert await outcome(kind, kind.set_alias(word, alias, told)) == model.set_alias(
                        word, alias, expected
                    )
                case 4:
                    assert await outcome(kind, kind.delete_alias(alias)) == model.delete_alias(alias)
                case 5:
                    assert await outcome(kind, kind.delete(version)) == model.delete(version)
            await same(kind, model)


async def same(kind: Kind, model: Model) -> None:
    if not model.left:
        assert await kind.listed() == []
        return
    [listed] = await kind.listed()
    assert (listed.latest_version, listed.version_count) == (
        kind.name(f"v{model.words['latest']}"),
        model.count,
    )
    assert await kind.versions() == [f"v{number}" for number in sorted(model.left, reverse=True)]
    for number in model.left:
        assert list((await kind.get(f"v{number}")).aliases) == model.aliases(number)
