"""The command `towline`: parse, call the client, print. What is decided is decided elsewhere.

    app                    the commands and how a call of them ends
    stack                  up, down, status
    jobs, queues, runs,    the commands of these names
    submit, agents, stopping
    artifacts,             `towline artifact`: files to and from the registry; names, versions, lineage
    artifact_records, artifact_pages
    job_diffs, job_imports `towline job diff`, `towline job import-wandb`
    job_versions, version_life     aliases, deletion, retention
    tracking, track        `towline track` and `towline sync`; the program that is tracked
    following              `--follow`: states and log as they come
    pages, words           what people read: pages of facts, tables, states and durations in words
    output, failures       standard output and standard error, for people and for programs
    values, durations,     what people write, read into values and messages
    yaml_files, queue_files, submission, selection
    options, completion    options that several commands share, and names for the shell
    exit_codes             what the exit code says

Everything that brings grpc or rich with it is imported by the command that needs it: `--help` and
completion must be quick.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        if sys.argv[1:2] == ["track"] and (status := _track(sys.argv[2:])) is not None:
            sys.exit(status)
        from importlib.util import find_spec

        if any(find_spec(module) is None for module in ("typer", "rich", "yaml")):
            sys.stderr.write("error: the command needs packages of its own: pip install 'towline[cli]'\n")
            sys.exit(2)
        from towline.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # during the imports: later ones are the command's own
        code = 130
    sys.exit(code)


def _track(words: list[str]) -> int | None:
    """Run `towline track` without what the other commands import: the program is to start at once."""
    from towline.cli import track
    from towline.errors import TowlineError

    try:
        return track.quick(words)
    except TowlineError as error:
        from towline.cli import failures

        return failures.show(error, as_json=False)
