"""Logins of container registries, as Docker's client keeps them."""

import base64
import json
import re
from pathlib import Path

import pytest

from towline.errors import InvalidArgument
from towline_agent.credentials import Credentials, login_of

HUB = "https://index.docker.io/v1/"


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("debian", HUB),
        ("library/debian:12", HUB),
        ("docker.io/library/debian", HUB),
        ("images.example/towline@sha256:0", "images.example"),
        ("images:5000/towline:1", "images:5000"),
        ("localhost/towline", "localhost"),
        ("[::1]:5000/towline", "[::1]:5000"),
    ],
)
def test_a_reference_names_its_registry(reference: str, registry: str) -> None:
    assert login_of(reference) == registry


async def login(file: Path, reference: str = "images:5000/towline") -> object:
    return json.loads(base64.urlsafe_b64decode(await Credentials(file).header(reference)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def replace(file: Path, text: str) -> None:
    file.write_text(text)


def write(file: Path, **config: object) -> None:
    replace(file, json.dumps(config))


async def test_without_a_file_or_a_login_nobody_is_named(file: Path) -> None:
    assert await login(file) == {}
    write(file, auths={"other:5000": {"auth": "eDp5"}})
    assert await login(file) == {}
    write(file, auths={"images:5000": None}, credHelpers=None)
    assert await login(file) == {}


async def test_a_password_may_have_colons_and_a_token_goes_first(file: Path) -> None:
    auth = base64.b64encode(b"me:a:b").decode()
    write(file, auths={"images:5000": {"auth": auth}, HUB: {"auth": auth, "identitytoken": "t"}})
    assert await login(file) == {"username": "me", "password": "a:b", "serveraddress": "images:5000"}
    assert await login(file, "debian") == {"identitytoken": "t", "serveraddress": HUB}


async def test_a_helper_is_asked(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    replace(
        helper, '#!/bin/sh\nread registry\nprintf \'{"Username": "me", "Secret": "of %s"}\' "$registry"\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    write(file, credsStore="none", credHelpers={"images:5000": "test"})
    expected = {"username": "me", "password": "of images:5000", "serveraddress": "images:5000"}
    assert await login(file) == expected
    replace(helper, "#!/bin/sh\necho credentials not found in native keychain\nexit 1\n")
    assert await login(file) == {}
    replace(helper, "#!/bin/sh\necho nonsense\n")
    with pytest.raises(InvalidArgument, match="docker-credential-test answers what is no login"):
        await login(file)
    with pytest.raises(InvalidArgument, match="docker-credential-none cannot be started"):
        await login(file, "debian")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": []}',
        '{"auths": {"images:5000": "me"}}',
        '{"auths": {"images:5000": {"auth": "%%"}}}',
        '{"auths": {"images:5000": {"auth": 1}}}',
        '{"credHelpers": "test"}',
    ],
)
async def test_a_file_that_is_wrong_is_named(file: Path, text: str) -> None:
    replace(file, text)
    with pytest.raises(InvalidArgument, match=re.escape(str(file))):
        await login(file)
