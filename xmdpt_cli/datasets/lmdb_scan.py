"""Reads an LMDB environment once from end to end, in a separate process.

A damaged environment does not raise an error: it ends the process that reads it (SIGBUS, SIGSEGV,
an assertion of the library). An environment that this process has read can be read by others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from signal import Signals

from xmdpt_cli.errors import XmdptError

DATA = "data.mdb"
# The last pages of an intact file may never have been written; more missing than this means that
# the file was cut off.
_PAGES_TO_SPARE = 64


def scan(folder: str) -> Iterator[tuple[bytes, int]]:
    """Every key with the size of its value, in order. Raises XmdptError if one cannot be read."""
    command = [sys.executable, "-m", __name__, folder]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode < 0:
        raise XmdptError(
            f"the LMDB environment {folder} is damaged: reading it ended a process by "
            f"{Signals(-done.returncode).name}",
            "copy it again",
        )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or ["?"]
        raise XmdptError(f"cannot read images from LMDB: {reason[-1]}", "copy it again")
    for line in done.stdout.splitlines():
        key, size = line.split()
        yield bytes.fromhex(key.decode()), int(size)


def main(folder: str) -> None:
    """Write a line for each key, in hexadecimal digits, and the size of its value in bytes."""
    import lmdb  # type: ignore[import-untyped, unused-ignore]

    try:
        environment = lmdb.open(folder, readonly=True, lock=False, readahead=False, create=False)
        pages = environment.info()["last_pgno"] + 1 - _PAGES_TO_SPARE
        size, psize = os.stat(os.path.join(folder, DATA)).st_size, environment.stat()["psize"]
    except (OSError, lmdb.Error) as err:
        sys.exit(f"not an LMDB environment: {folder} ({err})")
    if size < pages * psize:
        sys.exit(f"{folder}/{DATA} is cut off: {size} bytes")
    left = environment.stat()["entries"]
    with environment.begin(buffers=True) as transaction:
        for key, value in transaction.cursor():
            left -= 1
            if left < 0:
                sys.exit(f"{folder}/{DATA} is damaged: its tree of pages contains a cycle")
            _ = value and (value[0], value[-1])  # the pages between lie between these in the file
            sys.stdout.write(f"{bytes(key).hex()} {len(value)}\n")
    if left:
        sys.exit(f"{folder}/{DATA} is damaged: {left} of its entries are not reached")


if __name__ == "__main__":
    main(sys.argv[1])
