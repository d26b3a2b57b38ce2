"""The whole of Towline as real processes, each of which a test may kill and start again."""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from towline.client import Client, Endpoints
from towline_testing.ports import free_port
from towline_testing.programs import Program


@dataclass
class Stack:
    """Registry, queue and one agent on loopback, with state in one folder.

    Ports are chosen once, so a service that is started again is found where it was.
    """

    folder: Path
    database_url: str
    agent: str = "node-1"
    slots: int = 4
    queues: tuple[str, ...] = ("default",)
    ports: dict[str, int] = field(default_factory=dict)
    programs: dict[str, Program] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ports = {name: free_port() for name in ("registry", "queue")}

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints(registry=self.address("registry"), queue=self.address("queue"))

    @property
    def client_environment(self) -> dict[str, str]:
        """What a person's shell has; for the CLI and training scripts."""
        return os.environ | {
            "TOWLINE_REGISTRY_ADDRESS": self.address("registry"),
            "TOWLINE_QUEUE_ADDRESS": self.address("queue"),
        }

    def client(self) -> Client:
        return Client(self.endpoints)

    def address(self, service: str) -> str:
        return f"127.0.0.1:{self.ports[service]}"

    def start(self, *services: str) -> None:
        """Start services and wait until each one serves."""
        for service in services:
            ready = self.folder / f"{service}.address"
            settings = self._settings(service) | {f"TOWLINE_{service.upper()}_ADDRESS_FILE": str(ready)}
            command = [sys.executable, "-m", f"towline_{service}"]
            self.programs[service] = Program(service, command, settings, self.folder, ready)
            self.programs[service].start()

    def kill(self, service: str) -> None:
        """End a service as a crash does."""
        self.programs.pop(service).kill()

    def stop(self, service: str) -> int:
        """End a service as an operator does; returns its exit status."""
        return self.programs.pop(service).stop()

    def stop_all(self) -> None:
        for service in ("agent", "queue", "registry"):
            if service in self.programs:
                self.kill(service)

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def _settings(self, service: str) -> dict[str, str]:
        match service:
            case "registry":
                return {
                    "TOWLINE_REGISTRY_LISTEN": self.address("registry"),
                    "TOWLINE_REGISTRY_DATABASE_URL": self.database_url,
                    "TOWLINE_REGISTRY_BLOB_URL": (self.folder / "blobs").as_uri(),
                    "TOWLINE_REGISTRY_SPOOL_DIR": str(self.folder / "spool"),
                    "TOWLINE_REGISTRY_QUEUE_ADDRESS": self.address("queue"),
                }
            case "queue":
                return {
                    "TOWLINE_QUEUE_LISTEN": self.address("queue"),
                    "TOWLINE_QUEUE_DATABASE_URL": self.database_url,
                    "TOWLINE_QUEUE_REGISTRY_ADDRESS": self.address("registry"),
                }
            case "agent":
                settings = {
                    "TOWLINE_AGENT_AGENT": self.agent,
                    "TOWLINE_AGENT_DATA_DIR": str(self.folder / self.agent),
                    "TOWLINE_AGENT_QUEUE_ADDRESS": self.address("queue"),
                    "TOWLINE_AGENT_REGISTRY_ADDRESS": self.address("registry"),
                    "TOWLINE_AGENT_QUEUES": json.dumps(list(self.queues)),
                    "TOWLINE_AGENT_SLOTS": str(self.slots),
                    "TOWLINE_AGENT_GPUS": "none",
                }
                if bundle := os.environ.get("SSL_CERT_FILE"):
                    settings["TOWLINE_AGENT_BUILD_CA_BUNDLE"] = bundle
                return settings
        raise ValueError(service)
