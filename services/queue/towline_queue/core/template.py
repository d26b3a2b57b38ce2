"""A queue's Docker template: read, checked, and filled in for one run.

The administrator's template is the only source of container options; a submission fills the blanks
that the template leaves, and nothing else.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Final, TypeVar

from towline.requests.json_values import dump
from towline.requests.violations import Violations
from towline.v1 import docker_pb2, jobs_pb2, queues_pb2
from towline_queue.core import container_fields, placeholders, quantities
from towline_queue.core.placeholders import IMAGE, MACROS, Text, Unfilled
from towline_queue.core.variables import Declarations

__all__ = ["Template", "template_of"]

_T = TypeVar("_T")
_DEFAULT_PIDS: Final = 4096
_DEFAULT_SHM: Final = 1024**3
_MAX_SPEC_BYTES: Final = 256 * 1024
# What macros stand for while a template is checked: ordinary values of the right form.
_EXAMPLES: Final = {name: "x" for name in MACROS if name != IMAGE}

_IMAGE_PATH: Final = "docker.image."
_OF_THE_RUN: Final = frozenset({"run_id", "run_name"})


@lru_cache(maxsize=256)
def template_of(spec: bytes) -> "Template":
    """Return the template of a serialized QueueSpec, read once per content."""
    return Template(queues_pb2.QueueSpec.FromString(spec))


class Template:
    """A checked template.

    Args:
        spec: What the administrator set.

    Raises:
        InvalidArgument: With all that is wrong, by path such as "docker.memory"; reason INVALID_TEMPLATE.
    """

    def __init__(self, spec: queues_pb2.QueueSpec) -> None:
        violations = Violations("INVALID_TEMPLATE")
        if spec.ByteSize() > _MAX_SPEC_BYTES:
            violations.add("spec", f"is larger than {_MAX_SPEC_BYTES} bytes")
            violations.check()
        self._docker = spec.docker
        self._variables = Declarations(spec.variables, violations)
        self._texts: dict[str, Text] = {}
        for path, text in _texts(spec.docker):
            self._read(path, text, violations)
        filling = _Filling(self._texts, self._variables.defaults, _EXAMPLES)
        _options(self._docker, filling)
        for path, problem in filling.problems.items():
            violations.add(path, problem)
        violations.check()
        self.dockerfile_override = spec.docker.image.dockerfile_override
        """Whether submissions may say how images are built."""
        self.names_the_run = any(text.macros & _OF_THE_RUN for text in self._texts.values())
        """Whether what it makes differs from run to run of one submission."""
        image = (text.variables for path, text in self._texts.items() if path.startswith(_IMAGE_PATH))
        self._image_variables = frozenset[str]().union(*image)

    @property
    def image_needs(self) -> frozenset[str]:
        """Names of the variables that a submission must give for the image to be known."""
        return self._image_variables - self._variables.defaults.keys()

    def _read(self, path: str, text: str, violations: Violations) -> None:
        try:
            parsed = placeholders.parse(text)
        except ValueError as error:
            violations.add(path, str(error))
            return
        self._texts[path] = parsed
        for name in sorted(parsed.variables):
            if name not in self._variables:
                violations.add(path, f"{{{{{name}}}}} is not declared; add a variable {name!r}")
        if IMAGE in parsed.macros and not path.startswith("docker.environment"):
            violations.add(
                path, f"${{{IMAGE}}} is known only once the image is there: use it in environment values"
            )

    def resolve(
        self,
        given: Mapping[str, str],
        hints: jobs_pb2.ResourceHints,
        macros: Mapping[str, str],
        prefix: str = "",
        *,
        build_only: bool = False,
    ) -> docker_pb2.DockerOptions:
        """Fill the template for one run.

        Args:
            given: The submission's variables, JSON text by name.
            hints: What the job asks for; fills the variable `gpus` where the submission does not.
            macros: Value by name, of all macros but `image`.
            prefix: Put before each path in an error, such as "runs[3].".
            build_only: Fill only what says how the image is made; only the variables in that need a value.

        Raises:
            InvalidArgument: With all violations by the variable's name; reason INVALID_VARIABLE.
        """
        violations = Violations("INVALID_VARIABLE")
        wishes = {"gpus": dump(hints.gpus)} if hints.gpus > 0 else {}
        needed = self._image_variables if build_only else None
        filling = _Filling(self._texts, self._variables.fill(given, wishes, violations, needed), macros)
        if build_only:
            options = docker_pb2.DockerOptions(image=_image_options(self._docker.image, filling))
        else:
            options = _options(self._docker, filling)
        for path, problem in filling.problems.items():
            names = sorted(self._texts[path].variables) if path in self._texts else []
            for name in names or [path]:
                violations.add(name, f"{path}: {problem}" if names else problem)
        violations.check(prefix)
        return options


class _Filling:
    """Texts being filled in: gives each field's value, and gathers what is wrong by path.

    A field with a placeholder that has no value is left out without a complaint: it is not known
    yet, or the variable has been complained about.
    """

    def __init__(
        self, texts: Mapping[str, Text], variables: Mapping[str, str], macros: Mapping[str, str]
    ) -> None:
        self._texts = texts
        self._variables = variables
        self._macros = macros
        self.problems: dict[str, str] = {}

    def get(self, path: str, read: Callable[[str], _T], default: _T) -> _T:
        """Return the field as `read` understands it; `default` where it is empty, unknown or wrong."""
        text = self._texts.get(path)
        if text is None:
            return default
        try:
            filled = text.fill(self._variables, self._macros)
            return read(filled) if filled else default
        except Unfilled:
            return default
        except ValueError as error:
            self.problems.setdefault(path, str(error))
            return default

    def check(self, path: str, check: Callable[[str], None], value: str) -> None:
        """Check a value that is no template text; a ValueError is about `path`."""
        try:
            check(value)
        except ValueError as error:
            self.problems.setdefault(path, str(error))


def _texts(docker: docker_pb2.DockerTemplate) -> Iterator[tuple[str, str]]:
    """Give every text of the template in which placeholders and macros may stand, by path."""
    for name in ("memory", "cpus", "pids", "shm_size", "gpus", "network", "user"):
        yield f"docker.{name}", getattr(docker, name)
    for key in sorted(docker.environment):
        yield f"docker.environment.{key}", docker.environment[key]
    for index, mount in enumerate(docker.mounts):
        yield f"docker.mounts[{index}].source", mount.source
        yield f"docker.mounts[{index}].target", mount.target
    for index, capability in enumerate(docker.capabilities):
        yield f"docker.capabilities[{index}]", capability
    for key in sorted(docker.ulimits):
        yield f"docker.ulimits.{key}", docker.ulimits[key]
    yield "docker.image.base_image", docker.image.base_image


def _options(docker: docker_pb2.DockerTemplate, filling: _Filling) -> docker_pb2.DockerOptions:
    """Make the options of a template; what is wrong is in `filling.problems`."""
    options = docker_pb2.DockerOptions(
        memory_bytes=filling.get("docker.memory", quantities.memory, 0),
        nano_cpus=filling.get("docker.cpus", quantities.cores, 0),
        pids_limit=filling.get("docker.pids", quantities.pids, _DEFAULT_PIDS),
        shm_size_bytes=filling.get("docker.shm_size", container_fields.shm_size, _DEFAULT_SHM),
        gpus=filling.get("docker.gpus", quantities.gpus, 0),
        network=filling.get("docker.network", container_fields.network, ""),
        user=filling.get("docker.user", container_fields.user, ""),
        read_only_root=docker.read_only_root,
        image=_image_options(docker.image, filling),
    )
    for key in sorted(docker.environment):
        path = f"docker.environment.{key}"
        filling.check(path, container_fields.check_environment_name, key)
        options.environment[key] = filling.get(path, container_fields.environment_value, "")
    for key in sorted(docker.ulimits):
        path = f"docker.ulimits.{key}"
        filling.check(path, container_fields.check_ulimit_name, key)
        options.ulimits[key] = filling.get(path, quantities.limit, -1)
    for index in range(len(docker.capabilities)):
        capability = filling.get(f"docker.capabilities[{index}]", container_fields.capability, "")
        if capability and capability not in options.capabilities:
            options.capabilities.append(capability)
    targets: set[str] = set()
    for index, mount in enumerate(docker.mounts):
        path = f"docker.mounts[{index}]"
        filling.check(f"{path}.source", container_fields.check_given, mount.source)
        filling.check(f"{path}.target", container_fields.check_given, mount.target)
        source = filling.get(f"{path}.source", container_fields.mount_source, "")
        target = filling.get(f"{path}.target", container_fields.mount_target, "")
        if target and target in targets:
            filling.problems.setdefault(f"{path}.target", f"{target!r} is the target of another mount")
        targets.add(target)
        options.mounts.add(source=source, target=target, writable=mount.writable)
    return options


def _image_options(image: docker_pb2.DockerImageOptions, filling: _Filling) -> docker_pb2.DockerImageOptions:
    return docker_pb2.DockerImageOptions(
        base_image=filling.get(f"{_IMAGE_PATH}base_image", container_fields.image_reference, ""),
        pull_policy=image.pull_policy,
    )
