"""Images that were made elsewhere: the base images of environments, and those that jobs name."""

from collections.abc import Sequence

from towline.errors import InvalidArgument, NotFound
from towline.v1 import docker_pb2, leases_pb2, runs_pb2
from towline_agent.core import recipe
from towline_agent.core.failures import failed
from towline_agent.core.platforms import serves
from towline_agent.engine.port import Engine
from towline_agent.node_images import Ready
from towline_agent.pulls import pulled
from towline_agent.telling import Tell

__all__ = ["BaseImages"]


class BaseImages:
    """Finds images that were made elsewhere, and pulls those that are not here.

    Args:
        engine: The engine.
        candidates: Base images to look for, in order; {version} becomes "X.Y".
    """

    def __init__(self, engine: Engine, candidates: Sequence[str]) -> None:
        self._engine = engine
        self._candidates = candidates
        self._platform = ""

    async def platform(self) -> str:
        """Return what the engine runs and builds for, such as "linux/amd64"."""
        # An engine keeps its platform: what is asked before every run is asked once.
        self._platform = self._platform or await self._engine.platform()
        return self._platform

    async def elsewhere(self, wanted: str) -> leases_pb2.AttemptResult | None:
        """Return the result of an attempt that wants a platform which the engine has not; None: it has.

        Args:
            wanted: As JobSpec.platform has it; empty: any.
        """
        if not wanted:
            return None
        has = await self.platform()
        if serves(has, wanted):
            return None
        return failed(
            runs_pb2.FAILURE_CAUSE_IMAGE_PULL,
            f"The job is for the platform {wanted}, and the engine of this agent runs {has}; submit it to a "
            f"queue whose agents run {wanted}, or record the job for {has} (--platform).",
        )

    async def present(
        self,
        reference: str,
        policy: docker_pb2.PullPolicy.ValueType,
        tell: Tell,
        *,
        platform: str = "",
    ) -> Ready | leases_pb2.AttemptResult:
        """Return the image of this name, pulled where the policy says so, or why it cannot be had.

        Args:
            reference: Its name.
            policy: When it is pulled; one that is here and of another platform counts as absent.
            tell: Told what is done.
            platform: What it is to be of, which the engine has; empty: any.
        """
        try:
            found = await self._engine.image(reference)
            if found and not serves(found.platform, platform):
                found = None
            if found and policy != docker_pb2.PULL_POLICY_ALWAYS:
                return Ready(found, runs_pb2.IMAGE_OUTCOME_REUSED)
            if policy == docker_pb2.PULL_POLICY_NEVER:
                return failed(
                    runs_pb2.FAILURE_CAUSE_IMAGE_PULL,
                    f"Image {reference} is not on the node and the queue's pull policy is NEVER; "
                    "bring it there or allow pulling.",
                )
            await pulled(self._engine, reference, tell)
        except (NotFound, InvalidArgument) as error:
            return failed(
                runs_pb2.FAILURE_CAUSE_IMAGE_PULL,
                f"Image {reference} cannot be pulled: {error.message}",
            )
        here = await self._engine.image(reference)
        if here is None:
            return failed(
                runs_pb2.FAILURE_CAUSE_IMAGE_PULL,
                f"Image {reference} was pulled but is not there; was it removed at the same moment?",
            )
        if not serves(here.platform, platform):
            return failed(
                runs_pb2.FAILURE_CAUSE_IMAGE_PULL,
                f"Image {reference} is for {here.platform}, and the job for {platform}; name an image that "
                "has this platform, or record the job without it (--platform any).",
            )
        same = found is not None and found.id == here.id
        return Ready(here, runs_pb2.IMAGE_OUTCOME_REUSED if same else runs_pb2.IMAGE_OUTCOME_PULLED)

    async def base(self, spec: runs_pb2.LaunchSpec, tell: Tell) -> Ready | leases_pb2.AttemptResult:
        """Return the image that an environment is made of: the queue's, or the first of the agent's."""
        python = recipe.python_version(spec.job.python)
        chosen, platform = spec.docker.image.base_image, spec.job.platform
        names = [chosen] if chosen else self._candidates
        candidates = [name.replace("{version}", python) for name in names]
        for reference in candidates:
            found = await self._engine.image(reference)
            if found and serves(found.platform, platform):
                return Ready(found, runs_pb2.IMAGE_OUTCOME_REUSED)
        refusals = []
        for reference in candidates:
            got = await self.present(
                reference, docker_pb2.PULL_POLICY_IF_NOT_PRESENT, tell, platform=platform
            )
            if isinstance(got, Ready):
                return got
            refusals.append(got.failure.message)
        return failed(
            runs_pb2.FAILURE_CAUSE_IMAGE_PULL,
            f"There is no base image for Python {python} on this node. {' '.join(refusals)} Bring one "
            "of them to the node, name another in the queue's template (image.base_image), or record the job "
            "with a Python version that has one.",
        )
