"""Random streams: every draw names the stream it comes from."""

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator

import numpy as np
import torch


def stream_seed(seed: int, *stream: str | int) -> int:
    """Derive the seed of a named stream, in [0, 2**63).

    Args:
        seed: The experiment's seed.
        stream: The consumer's address, such as ``"bif", "chain", 2``. Equal addresses give equal streams;
            different ones are independent for every practical purpose (SHA-256).
    """
    address = json.dumps([seed, *stream]).encode()
    return int.from_bytes(hashlib.sha256(address).digest()[:8], "big") >> 1


def make_generator(seed: int, *stream: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the generator of a named stream on a device.

    Example:
        >>> first, again, other = (make_generator(0, "bif", "chain", chain) for chain in (0, 0, 1))
        >>> draws = [torch.rand((), generator=generator).item() for generator in (first, again, other)]
        >>> draws[0] == draws[1], draws[0] == draws[2]
        (True, False)
    """
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *stream))


def fork_generator(generator: torch.Generator, device: torch.device | str = "cpu") -> torch.Generator:
    """Make an independent generator whose seed is the next draw of another one (which moves on by one draw)."""
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device).item()
    return torch.Generator(device=device).manual_seed(int(seed))


@contextlib.contextmanager
def isolated_random_state(generator: torch.Generator) -> Iterator[None]:
    """Run code that only knows the global random states (torch, numpy, random), seeded from a stream of ours.

    The global states are restored afterwards, also on error.
    """
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device).item())
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
