"""Rank and world size of this process, from the variables that torchrun and accelerate set.

All commands refuse variables that are incomplete or contradict each other, and name them: otherwise
a process could do only part of the work, or all of it beside other processes.
"""

from __future__ import annotations

import os
import re

from xmdpt_cli.errors import ConfigError

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_HINT = "start the processes with torchrun; to work alone: unset "


def rank_and_size() -> tuple[int, int]:
    """RANK and WORLD_SIZE; (0, 1) if neither is set.

    ConfigError, naming the variables, if one is missing, empty or not a number, or if they
    contradict each other.
    """
    numbers = {name: _number(name) for name in _NUMBERS if name in os.environ}
    rank, size = numbers.get("RANK"), numbers.get("WORLD_SIZE")
    if rank is None and size in (None, 1) and not numbers.get("LOCAL_RANK"):
        return 0, 1
    missing = [name for name in ("RANK", "WORLD_SIZE") if name not in numbers]
    if rank is None or size is None:
        given = " and ".join(f"{name}={os.environ[name]}" for name in numbers)
        raise ConfigError(f"{given} set, but {' and '.join(missing)} missing", _alone(numbers))
    local, here = numbers.get("LOCAL_RANK", 0), numbers.get("LOCAL_WORLD_SIZE", size)
    if not (rank < size and local <= rank and local < here <= size):
        given = " and ".join(f"{name}={value}" for name, value in numbers.items())
        raise ConfigError(
            f"{given} contradict each other",
            "RANK counts from 0 to WORLD_SIZE - 1, LOCAL_RANK within one machine; "
            + _alone(numbers),
        )
    return rank, size


def local_rank() -> int:
    """LOCAL_RANK, the rank of this process on its machine, in a group over the network.

    ConfigError that names the variables which are missing or not an address.
    """
    _, size = rank_and_size()
    names = ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if not os.environ.get(name, "").strip()]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} missing",
            "start with torchrun, or unset RANK and WORLD_SIZE to work alone",
        )
    if not 0 < _number("MASTER_PORT") < 65536:
        raise ConfigError(
            f"MASTER_PORT={os.environ['MASTER_PORT']} is no port", "ports are 1 to 65535"
        )
    return _number("LOCAL_RANK")


def _number(name: str) -> int:
    value = os.environ[name].strip()
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        problem = f"is {value!r}, not a number" if value else "is empty"
        raise ConfigError(f"the variable {name} {problem}", f"{_HINT}{name}")
    return int(value)


def _alone(numbers: dict[str, int]) -> str:
    return _HINT + " ".join(numbers)
