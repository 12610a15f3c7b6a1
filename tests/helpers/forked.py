"""Processes that have torch, diffusers, torchmetrics and xmdpt imported when they start.

A new interpreter spends 4 to 8 s of CPU time on these imports. The processes here are forks of one
server process, multiprocessing's forkserver, which imports them once and has no state of the tests.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch._dynamo",  # torch.optim imports it
        "accelerate",
        "transformers",
        "diffusers.models.autoencoders.autoencoder_kl",
        "xmdpt_cli.cli.app",
        "xmdpt_cli.metrics.collection",
        "xmdpt_cli.prepare.pipeline",
        "xmdpt_cli.sampling.pipeline",
        "xmdpt_cli.training.loop",
        "xmdpt_cli.vae_training.finetune",
    ]
)


def _enter(
    outputs: list[Path], folder: Path, environment: dict[str, str],
    target: Callable[..., object], arguments: tuple[object, ...],
) -> None:  # fmt: skip
    gc.freeze()  # what is imported is no garbage: a collection would copy its memory
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


class Forked:
    """A process that calls ``target(*arguments)``; it has the methods of ``subprocess.Popen``.

    It starts in the current folder, with the current environment and ``env``.
    """

    def __init__(
        self,
        target: Callable[..., object],
        *arguments: object,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="xmdpt-forked-")
        self._outputs = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for path in self._outputs:
            path.touch()
        environment = {**os.environ, **(env or {})}
        given = (self._outputs, Path.cwd(), environment, target, arguments)
        self._process = CONTEXT.Process(target=_enter, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float = 120) -> int:
        """The exit code, negative for a signal. AssertionError after ``timeout`` seconds."""
        self._process.join(timeout)
        assert self.returncode is not None, f"runs after {timeout} s: {self.stderr}"
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for the end; stdout and stderr."""
        self.wait(timeout)
        return self.stdout, self.stderr

    @property
    def stdout(self) -> str:
        """What was written until now."""
        return self._outputs[0].read_text()

    @property
    def stderr(self) -> str:
        return self._outputs[1].read_text()

    def wait_for(self, text: str, timeout: float = 120) -> None:
        """Wait until stdout has ``text``. AssertionError if the process ends before."""
        deadline = time.monotonic() + timeout
        while text not in self.stdout:
            assert self.returncode is None, self.stderr
            assert time.monotonic() < deadline, f"no {text!r} on stdout: {self.stderr}"
            time.sleep(0.01)


def xmdpt(*words: object) -> None:
    """``xmdpt WORDS``, as ``target``: ends the process."""
    from xmdpt_cli.__main__ import main

    sys.argv = ["xmdpt", *map(str, words)]
    main()


def start_ranks(count: int, target: Callable[..., object], *arguments: object) -> list[Forked]:
    """The processes of one group, with torchrun's variables; they end each for itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [
        Forked(target, *arguments, env={**world, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]


def run_ranks(count: int, target: Callable[..., object], *arguments: object) -> list[Forked]:
    """Start the processes of one group and wait. AssertionError unless all exit with 0."""
    ranks = start_ranks(count, target, *arguments)
    try:
        for rank in ranks:
            assert rank.wait(300) == 0, "\n".join(rank.stderr for rank in ranks)
    finally:
        for rank in ranks:
            rank.kill()
    return ranks
