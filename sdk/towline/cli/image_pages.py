"""How the image of an attempt came about, for people."""

from collections.abc import Iterator

from towline.cli import words
from towline.names import short
from towline.v1 import runs_pb2

__all__ = ["outcome", "steps"]


def outcome(attempt: runs_pb2.Attempt) -> str:
    """Write how an attempt got its image: "image built (1f2e…), 412.0 MiB, in 12.3 s"; "" if nobody knows."""
    image = attempt.image
    if not attempt.image_outcome:
        return f"no image after {words.duration(image.duration.ToTimedelta())}" if image.steps else ""
    parts = [f"image {words.lower(runs_pb2.ImageOutcome.Name(attempt.image_outcome), 'IMAGE_OUTCOME_')}"]
    if digest := attempt.image_id.removeprefix("sha256:")[:12]:
        parts[0] += f" ({digest})"
    builders = [step.builder for step in image.steps if step.builder]
    if builders and attempt.image_outcome == runs_pb2.IMAGE_OUTCOME_PULLED:
        parts.append(f"built by {short(builders[-1])}")
    if image.size_bytes:
        parts.append(words.size(image.size_bytes))
    if image.steps:
        parts.append(f"in {words.duration(image.duration.ToTimedelta())}")
    return ", ".join(parts)


def steps(image: runs_pb2.AttemptImage) -> Iterator[str]:
    """Write what was done for an image, a line for each step: how long it took, what, of how much."""
    for step in image.steps:
        yield f"{words.duration(step.duration.ToTimedelta()):>9}  {step.name}{_amount(step)}"


def _amount(step: runs_pb2.ImageStep) -> str:
    parts = []
    if step.pieces:
        cached = f", {step.cached_pieces:,} of them cached" if step.cached_pieces else ""
        parts.append(f"{step.pieces:,}{cached}")
    if step.transferred_bytes:
        parts.append(words.size(step.transferred_bytes))
    if step.builder:
        parts.append(f"built by {short(step.builder)}")
    return f": {', '.join(parts)}" if parts else ""
