"""`towline job build`: a job's image, before anybody needs it."""

from typing import Annotated

import typer

from towline.cli import options
from towline.cli.submit import carry_out

__all__ = ["build"]


def build(
    job: options.JobName,
    queue: options.QueueOption = "default",
    variables: options.Variables = None,
    priority: options.Priority = None,
    max_wait: options.MaxWait = None,
    dockerfile: options.OtherDockerfile = "",
    build_args: options.BuildArgs = None,
    target: options.Target = "",
    follow: Annotated[
        bool,
        typer.Option(
            "--follow/--no-follow", "-f", help="Show states and the build's log until the image is there."
        ),
    ] = True,
    json: options.Json = False,
) -> int:
    """Have an agent of a queue get a job's image, and run nothing.

    What it builds is there for every later run: on that node, and on all of them where agents share a
    container registry. It needs no GPU, and of the queue's variables only those of the image. The exit code
    says whether the image is there; with --no-follow it prints the id of the run that builds.
    """
    from towline.cli import submission

    wishes = submission.Wishes(
        variables=variables or (),
        priority=priority,
        max_wait=max_wait,
        dockerfile=dockerfile,
        build_args=build_args or (),
        target=target,
    )
    wanted = submission.build(job, queue, wishes)
    wanted.build_only = True
    return carry_out(wanted, follow=follow, as_json=json)
