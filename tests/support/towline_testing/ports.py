"""Ports that nobody listens on."""

import random
import socket

# Below those that kernels give to whoever asks for any: between here and its use, nobody gets it by chance.
_LOWEST, _HIGHEST = 16_384, 32_767
# Not seeded by anybody, so that the workers of one run choose differently.
_random = random.SystemRandom()


def free_port() -> int:
    """Give a port of 127.0.0.1 that was free just now."""
    while True:
        port = _random.randint(_LOWEST, _HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
