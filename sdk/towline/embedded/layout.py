"""The data folder of `towline up`: what lies where."""

from dataclasses import dataclass
from pathlib import Path

from towline.errors import FailedPrecondition
from towline.runtime.endpoints import data_dir

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Paths below one data folder, which is absolute."""

    root: Path

    @classmethod
    def of(cls, named: Path | None) -> "Layout":
        """Take the folder named, or the default one."""
        return cls((named or data_dir()).expanduser().absolute())

    @property
    def is_default(self) -> bool:
        """Whether clients find this folder without being told."""
        return self == Layout.of(None)

    @property
    def lock(self) -> Path:
        """Locked for as long as a supervisor lives."""
        return self.root / "lock"

    @property
    def state(self) -> Path:
        """Which processes run, and the addresses they had last."""
        return self.root / "state.json"

    @property
    def endpoints(self) -> Path:
        """Where clients find the services; there only while all of them are up."""
        return self.root / "endpoints.json"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's data."""
        return self.root / "postgres"

    @property
    def objects(self) -> Path:
        """The registry's blobs."""
        return self.root / "objects"

    @property
    def spool(self) -> Path:
        """The registry's uploads in progress."""
        return self.root / "spool"

    @property
    def agent(self) -> Path:
        """The agent's journal and outbox."""
        return self.root / "agent"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.root / "logs"

    @property
    def addresses(self) -> Path:
        """Files in which the services tell the address they listen on."""
        return self.root / "addresses"

    def log(self, process: str) -> Path:
        """Give the log file of a process."""
        return self.logs / f"{process}.log"

    def address_file(self, service: str) -> Path:
        """Give the file in which a service tells its address."""
        return self.addresses / service

    def make(self) -> None:
        """Make the folders.

        Raises:
            FailedPrecondition: The place is not a folder or cannot be written; reason DATA_DIR_UNUSABLE.
        """
        try:
            # Others may pass through, not look: PostgreSQL runs as another user where we are root.
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            for folder in (self.objects, self.agent, self.logs, self.addresses):
                folder.mkdir(mode=0o700, exist_ok=True)
            self.lock.touch(mode=0o600)
        except OSError as error:
            raise FailedPrecondition(
                f"{self.root} cannot be used as data folder ({error.strerror}: {error.filename}); "
                "give another with --data-dir",
                reason="DATA_DIR_UNUSABLE",
            ) from error
