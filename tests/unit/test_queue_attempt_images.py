"""What agents tell of how an image came about is kept within bounds, whatever they tell."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from towline.v1 import runs_pb2
from towline_queue.core.attempt_images import kept


def test_what_is_told_is_kept() -> None:
    step = runs_pb2.ImageStep(
        name="pull python:3.11",
        duration=Duration(seconds=2, nanos=5),
        pieces=7,
        cached_pieces=3,
        transferred_bytes=2**40,
        builder="agents/one",
    )
    image = runs_pb2.AttemptImage(size_bytes=5, duration=Duration(seconds=3), steps=[step])
    assert runs_pb2.AttemptImage.FromString(kept(image)) == image


def test_what_is_out_of_bounds_is_brought_within_them() -> None:
    wrong = runs_pb2.ImageStep(
        name="x" * 10_000,
        duration=Duration(seconds=-1),
        pieces=-1,
        cached_pieces=-1,
        transferred_bytes=-1,
        builder="b" * 10_000,
    )
    told = runs_pb2.AttemptImage(
        size_bytes=-1, duration=Duration(seconds=2**62, nanos=5), steps=[wrong] * 10_000
    )
    image = runs_pb2.AttemptImage.FromString(kept(told))
    assert len(image.steps) == 32 and image.size_bytes == 0
    assert image.duration.ToTimedelta() == timedelta(days=10_000)
    assert image.steps[0] == runs_pb2.ImageStep(name="x" * 256, duration=Duration(), builder="b" * 256)
    odd = runs_pb2.AttemptImage(duration=Duration(seconds=1, nanos=-5))
    assert runs_pb2.AttemptImage.FromString(kept(odd)).duration.ToTimedelta() == timedelta()
