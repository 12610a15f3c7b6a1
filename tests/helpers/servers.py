"""Real servers on loopback for tests: OpenSSH's sshd and nginx, started and stopped by the test.

Each serves one folder on a free port. ``stop`` and ``start`` again on the same port play a server
that goes away and comes back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def binary(name: str) -> str:
    """The path of a server's program, or the test is skipped by its name."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


class Server:
    """A process that listens on ``port`` of 127.0.0.1."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.command, self.port, self.log = command, port, log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            # its own process group: whoever serves a connection ends with it
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(200):
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise AssertionError(f"{self.command[0]} does not listen: {self.log.read_text()}")

    def stop(self) -> None:
        """Kill it with every connection it serves, as a power cut would."""
        if self.process is not None:
            for pid in _group(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def _group(leader: int) -> list[int]:
    """A process and its descendants (sshd puts each connection into a session of its own)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (entry / "stat").read_text()
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [leader]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


@contextlib.contextmanager
def sshd(folder: Path, read_only: bool = False) -> Iterator[tuple[Server, Path]]:
    """(server, private key that it lets in); files go wherever the user may write."""
    program = binary("sshd")
    folder.mkdir(parents=True, exist_ok=True)
    for key in ("host_key", "user_key"):
        subprocess.run(
            [binary("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)],
            check=True,
        )
    with contextlib.suppress(OSError):  # privilege separation wants it; Debian's service makes it
        Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\n"
        "ListenAddress 127.0.0.1\n"
        f"HostKey {folder / 'host_key'}\n"
        f"AuthorizedKeysFile {folder / 'user_key.pub'}\n"
        f"PidFile {folder / 'sshd.pid'}\n"
        "StrictModes no\n"
        "UsePAM no\n"
        "PasswordAuthentication no\n"
        "PermitRootLogin yes\n"
        "MaxStartups 100\n"
        f"Subsystem sftp internal-sftp {'-R' if read_only else ''}\n"
    )
    server = Server([program, "-D", "-e", "-f", str(config)], port, folder / "sshd.log")
    server.start()
    try:
        yield server, folder / "user_key"
    finally:
        server.stop()


@contextlib.contextmanager
def nginx(
    folder: Path, served: Path, name: str = "", password: str = ""
) -> Iterator[tuple[Server, str]]:
    """(server, URL of ``served``): range requests, no listing of folders. ``name``: who alone is
    let in, with this password."""
    program = binary("nginx")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = " ".join(
        f"{kind}_temp_path {folder / kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    guard = ""
    if name:
        (folder / "users").write_text(f"{name}:{{PLAIN}}{password}\n")
        guard = f"auth_basic data; auth_basic_user_file {folder / 'users'};"
    config.write_text(
        f"{user} worker_processes 1; daemon off; pid {folder / 'nginx.pid'};\n"
        "events { worker_connections 128; }\n"
        f"http {{ access_log off; sendfile on; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port}; root {served}; {guard} }} }}\n"
    )
    command = [program, "-p", str(folder), "-c", str(config), "-e", "stderr"]
    server = Server(command, port, folder / "nginx.log")
    server.start()
    try:
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.stop()
