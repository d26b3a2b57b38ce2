"""Jobs and artifacts of a running registry by one set of calls: for tests of what both have alike."""

import json
from dataclasses import dataclass
from typing import Any

from towline.v1 import artifacts_pb2, jobs_pb2
from towline_testing.registry import Registry, digest_of, new_id

DATA = b"one"


@dataclass(frozen=True)
class Kind:
    """Jobs, or artifacts; messages and methods are called "…Job…" or "…Artifact…"."""

    registry: Registry
    word: str

    @property
    def series(self) -> str:
        return f"{self.word}s/a"

    def name(self, version: str, series: str | None = None) -> str:
        return f"{series or self.series}/versions/{version}"

    async def make(self, number: int, series: str | None = None, **fields: Any) -> Any:
        """Send the content with a number, the same each time, and give the version."""
        if self.word == "job":
            spec = jobs_pb2.JobSpec(
                image=jobs_pb2.ImageSource(reference="alpine:3"), config_json=json.dumps({"n": number})
            )
            return (await self.registry.create(series or self.series, spec, **fields)).job_version
        await self.registry.upload(DATA)
        file = artifacts_pb2.ArtifactFile(path=str(number), digest=digest_of(DATA), size_bytes=len(DATA))
        values = {"request_id": new_id(), "type": "dataset"} | fields
        request = artifacts_pb2.CreateArtifactVersionRequest(
            artifact=series or self.series, files=[file], **values
        )
        return (await self.registry.artifacts.CreateArtifactVersion(request)).artifact_version

    async def get(self, version: str) -> Any:
        return self._version(await self._call("Get{}Version", name=self.name(version)))

    async def versions(self) -> list[str]:
        page = await self._call("List{}Versions", parent=self.series)
        return [each.name.rpartition("/")[2] for each in getattr(page, f"{self.word}_versions")]

    async def listed(self) -> list[Any]:
        return list(getattr(await self._call("List{}s"), f"{self.word}s"))

    async def set_alias(self, version: str, alias: str, expected: str = "", **fields: Any) -> Any:
        values = {"request_id": new_id(), "alias": alias, "expected": expected} | fields
        return self._version(await self._call("Set{}Alias", name=self.name(version), **values))

    async def delete_alias(self, alias: str) -> None:
        await self._call("Delete{}Alias", request_id=new_id(), name=self.name(alias))

    async def delete(self, version: str, **fields: Any) -> None:
        await self._call("Delete{}Version", **{"request_id": new_id(), "name": self.name(version)} | fields)

    async def set_retention(self, **rules: Any) -> Any:
        """Set rules; without any, keep everything."""
        policy = jobs_pb2.RetentionPolicy(**rules) if rules else None
        answer = await self._call("Set{}Retention", request_id=new_id(), name=self.series, retention=policy)
        return getattr(answer, self.word)

    async def _call(self, form: str, **fields: Any) -> Any:
        method = form.format(self.word.capitalize())
        module: Any = jobs_pb2 if self.word == "job" else artifacts_pb2
        stub: Any = self.registry.jobs if self.word == "job" else self.registry.artifacts
        return await getattr(stub, method)(getattr(module, f"{method}Request")(**fields))

    def _version(self, answer: Any) -> Any:
        return getattr(answer, f"{self.word}_version")
