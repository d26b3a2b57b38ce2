"""Container registries not on loopback, where engines want TLS: logins, and what may be lacking."""

import base64
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from towline.errors import InvalidArgument, NotFound
from towline_agent.credentials import Credentials
from towline_agent.engine.docker import DockerEngine, connecting
from towline_testing.container_registry import ContainerRegistry, container_registry
from towline_testing.engine import docker, image_id

pytestmark = pytest.mark.docker


@pytest.fixture
def address() -> str:
    """This machine's address on the engine's bridge."""
    (network,) = json.loads(docker("network", "inspect", "bridge"))
    # An engine that made the bridge itself, when it started, does not tell its address there.
    bridge = network["Options"]["com.docker.network.bridge.name"]
    shown = subprocess.run(["ip", "-json", "-4", "address", "show", bridge], capture_output=True, check=True)
    found: str = json.loads(shown.stdout)[0]["addr_info"][0]["local"]
    return found


@pytest.fixture
def closed(address: str, tmp_path: Path) -> Iterator[ContainerRegistry]:
    with container_registry(tmp_path / "closed", auth="htpasswd", tls=True, address=address) as served:
        yield served


@pytest.fixture
async def engine(closed: ContainerRegistry) -> AsyncIterator[DockerEngine]:
    async with connecting(None, Credentials(closed.login_file())) as connected:
        yield connected


@pytest.fixture
def trusted(closed: ContainerRegistry) -> Iterator[None]:
    """The engine's machine has the certificate, as an operator puts it there."""
    folder = Path("/etc/docker/certs.d", closed.host)
    folder.mkdir(parents=True)
    shutil.copyfile(closed.folder / "certificate.pem", folder / "ca.crt")
    try:
        yield
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def image(closed: ContainerRegistry) -> Iterator[str]:
    """An image of one empty file that is called as one of that registry's."""
    reference = f"{closed.repository()}:1"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(uuid4().hex))
    subprocess.run(["docker", "import", "-", reference], input=buffer.getvalue(), check=True)
    yield reference
    if image_id(reference):
        docker("rmi", reference)


@pytest.mark.usefixtures("trusted")
async def test_an_image_goes_there_and_back_over_tls_with_a_login(
    engine: DockerEngine, closed: ContainerRegistry, image: str
) -> None:
    digest = await engine.push(image, lambda _: None)
    assert [f"sha256:{manifest}" for manifest in closed.manifests()] == [digest]
    pushed = await engine.image(image)
    await engine.remove_image(image)
    await engine.pull(f"{closed.repository()}@{digest}", lambda _: None)
    assert await engine.image(f"{closed.repository()}@{digest}") == pushed
    await engine.remove_image(f"{closed.repository()}@{digest}")


async def test_an_authority_that_the_engine_does_not_know_is_told_with_its_place(
    engine: DockerEngine, closed: ContainerRegistry, image: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"x509: .*/etc/docker/certs.d/{closed.host}/ca.crt"):
        await engine.push(image, lambda _: None)
    with pytest.raises(NotFound, match=f"x509: .*/etc/docker/certs.d/{closed.host}/ca.crt"):
        await engine.pull(f"{closed.repository()}:2", lambda _: None)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("password", ["", "wrong"])
async def test_a_login_that_is_lacking_or_wrong_is_told(
    closed: ContainerRegistry, image: str, tmp_path: Path, password: str
) -> None:
    file = tmp_path / "login.json"
    if password:
        login = base64.b64encode(f"ada:{password}".encode()).decode()
        file.write_text(json.dumps({"auths": {closed.host: {"auth": login}}}))
    async with connecting(None, Credentials(file)) as engine:
        with pytest.raises(InvalidArgument, match=f"docker login {closed.host}"):
            await engine.push(image, lambda _: None)
        with pytest.raises(NotFound, match=f"docker login {closed.host}"):
            await engine.pull(f"{closed.repository()}:2", lambda _: None)


async def test_a_registry_without_tls_elsewhere_is_told_with_the_engine_s_setting(
    engine: DockerEngine, address: str, tmp_path: Path
) -> None:
    with (
        container_registry(tmp_path / "plain", address=address) as plain,
        pytest.raises(NotFound, match=f"name {plain.host} in the engine's insecure-registries"),
    ):
        await engine.pull(f"{plain.repository()}:1", lambda _: None)
