"""The node's GPUs: as NVML tells, as the settings list, or none."""

import logging
from collections.abc import Iterator

import pynvml

from towline.errors import InvalidArgument
from towline.v1 import leases_pb2

__all__ = ["cuda_version", "find"]

_log = logging.getLogger(__name__)


def find(setting: str) -> tuple[leases_pb2.Gpu, ...]:
    """Return the GPUs to use.

    Args:
        setting: "auto", "none", or UUIDs with commas between them.

    Raises:
        InvalidArgument: A UUID is listed twice, or looks like none.
    """
    if setting == "none":
        return ()
    if setting == "auto":
        return _by_nvml()
    ids = [word.strip() for word in setting.split(",") if word.strip()]
    for gpu_id in ids:
        if not gpu_id.startswith(("GPU-", "MIG-")) or ids.count(gpu_id) > 1:
            raise InvalidArgument.field(
                "TOWLINE_AGENT_GPUS",
                f"{gpu_id!r} is not a UUID as `nvidia-smi -L` prints them, or is listed twice; "
                'write "auto", "none" or UUIDs',
            )
    known = {gpu.id: gpu for gpu in _by_nvml()}
    return tuple(known.get(gpu_id, leases_pb2.Gpu(id=gpu_id)) for gpu_id in ids)


def cuda_version(setting: str) -> str:
    """Return the newest version of CUDA that the node's driver serves, "X.Y"; empty: no GPU is used here.

    Args:
        setting: See `find`.
    """
    if setting == "none":
        return ""
    try:
        pynvml.nvmlInit()
        try:
            number = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return ""
    return f"{number // 1000}.{number % 1000 // 10}"


def _by_nvml() -> tuple[leases_pb2.Gpu, ...]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.info("no NVIDIA GPUs on this node: %s", error)
        return ()
    try:
        return tuple(_gpus())
    except pynvml.NVMLError as error:
        _log.warning("the node's GPUs are not used, NVML failed: %s", error)
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpus() -> Iterator[leases_pb2.Gpu]:
    for index in range(pynvml.nvmlDeviceGetCount()):
        device = pynvml.nvmlDeviceGetHandleByIndex(index)
        parts = list(_mig_devices(device))
        # A GPU cut into MIG devices cannot be used whole.
        for handle in parts or [device]:
            yield leases_pb2.Gpu(
                id=_text(pynvml.nvmlDeviceGetUUID(handle)),
                model=_text(pynvml.nvmlDeviceGetName(device)),
                memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            )


def _mig_devices(device: object) -> Iterator[object]:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(device)
    except pynvml.NVMLError:  # a GPU without MIG
        return
    if current != pynvml.NVML_DEVICE_MIG_ENABLE:
        return
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        try:
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index)
        except pynvml.NVMLError:  # an empty place
            continue


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
