"""What the tests of the documentation make small, in one place, and nothing else.

The lines of the pages run as they stand, with images of 256 px and under the published names of
models and encoders. Small are the widths and depths of the networks, the numbers of people and
steps (``OPTIONS``), and what ``xmdpt bench`` repeats.

``python docs_small.py xmdpt|python ARGUMENTS`` is that command, small.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import huggingface_hub.constants
import pytest
from docs_blocks import PageError
from forked import Forked, start_ranks, xmdpt

#: (depth, width, heads), all different, so that a size is recognised by its weights
SIZES = {"S": (4, 64, 2), "B": (4, 96, 3), "L": (4, 160, 5), "XL": (4, 192, 6)}

#: Options whose values are replaced, on a line and, as variables, where a line does not name them.
OPTIONS: dict[str, dict[str, str]] = {
    "demo": {"people": "2", "train-steps": "2", "vae-steps": "2"},
    "synth": {"people": "2", "test-people": "2"},
    "prepare": {"vae-steps": "2"},
    "train": {"steps": "2", "batch-size": "2", "sampling-steps": "2"},
    "distill": {"steps": "2", "batch-size": "2"},
    "finetune-vae": {"steps": "2", "batch-size": "2"},
    "bench": {"size": "tiny", "rounds": "1"},
    "bench train": {"size": "tiny", "rounds": "1", "batch-size": "2"},
    "bench latency": {"size": "tiny", "rounds": "1"},
    "bench encode": {"rounds": "1", "batch-size": "1"},
    "bench data": {"rounds": "1", "gigabytes": "0.02", "items": "4", "batch-size": "2"},
    "bench scale": {"size": "tiny", "rounds": "1", "processes": "2", "batch-size": "1"},
}  # fmt: skip
#: replaced only where a line names them
ON_A_LINE: dict[str, dict[str, str]] = {
    "sample": {"steps": "3"},
    "train": {"accumulate": "2"},
    "bench scale": {"steps": "1"},
}
#: the networks of the metrics have random weights
VARIABLES = {
    "XMDPT_EVALUATE_ALEXNET_WEIGHTS": "toy",
    "XMDPT_EVALUATE_INCEPTION_WEIGHTS": "toyconv",
    "XMDPT_EVALUATE_TF_INCEPTION_WEIGHTS": "toyconv",
    "XMDPT_FINETUNE_VAE_ALEXNET_WEIGHTS": "toy",
    "XMDPT_BENCH_COMPILE": "false",
    "XMDPT_BENCH_TRAIN_COMPILE": "false",
}


def variables() -> dict[str, str]:
    """Every setting of OPTIONS as a variable, and VARIABLES."""
    return VARIABLES | {
        f"XMDPT_{command}_{option}".upper().replace(" ", "_").replace("-", "_"): value
        for command, options in OPTIONS.items()
        for option, value in options.items()
    }


def small(arguments: Sequence[str]) -> list[str]:
    """The arguments of ``xmdpt`` with the values of OPTIONS and ON_A_LINE in place of their own."""
    words = list(arguments)
    below = " ".join(words[:2])
    command = below if below in OPTIONS else " ".join(words[:1])
    if command == "bench" and "--roof" in words:  # computes, and measures nothing
        return words
    values = OPTIONS.get(command, {}) | ON_A_LINE.get(command, {})
    for i, word in enumerate(words[:-1]):
        if word.removeprefix("--") in values and word.startswith("--") and words[i + 1] != "auto":
            words[i + 1] = values[word.removeprefix("--")]
    return words


def apply(patch: pytest.MonkeyPatch) -> None:
    """Make the networks small in this process, and OpenPose one that sees somebody everywhere."""
    from stick_people import with_network

    from xmdpt_cli.encoders.openpose import OpenPose
    from xmdpt_cli.model import SIZES as REAL

    for name, size in SIZES.items():
        patch.setitem(REAL, name, size)
    patch.setattr("xmdpt_cli.training.footprint.LONG", 0.05)  # seconds of a step that is measured
    patch.setattr(OpenPose, "load", lambda *_, **__: with_network(_somebody()))


def apply_to_demo(patch: pytest.MonkeyPatch) -> None:
    from xmdpt_cli.toy.demo import Scale

    patch.setattr("xmdpt_cli.toy.demo.Scale", partial(Scale, test_people=2))


def apply_to_bench(patch: pytest.MonkeyPatch) -> None:
    """One call per turn, and small probes of the machine."""
    from xmdpt_cli.bench import machine, timing

    patch.setitem(machine._SIDE, "cpu", 256)
    patch.setitem(machine._COPIED, "cpu", 1 << 20)
    patch.setattr(timing, "_TURN", 1e-9)


def _somebody() -> Any:
    """A network that sees one standing person in every image."""
    from stick_people import StickPeople, standing

    class Everywhere(dict[int, Any]):
        def get(self, key: int, default: Any = None) -> Any:
            return [standing(0.25, 0.75)]

    return StickPeople(Everywhere())


def main(program: str, *arguments: str) -> None:
    """``xmdpt`` or ``python``, as the whole work of a process."""
    if "HF_HUB_CACHE" in os.environ:  # read when it was imported, which a forked process did not
        huggingface_hub.constants.HF_HUB_CACHE = os.environ["HF_HUB_CACHE"]
    apply(pytest.MonkeyPatch())
    if "demo" in arguments:
        apply_to_demo(pytest.MonkeyPatch())
    if "bench" in arguments:
        apply_to_bench(pytest.MonkeyPatch())
    if program == "python" and arguments[:2] == ("-m", "xmdpt_cli"):
        program, arguments = "xmdpt", arguments[2:]
    if program == "xmdpt":
        os.environ.update(variables())  # a line may set them: XMDPT_TRAIN_STEPS=1000 xmdpt train
        xmdpt(*small(arguments))
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        script = arguments[0]
        sys.argv = [script, *arguments[1:]]
        sys.path[0] = os.path.dirname(os.path.abspath(script))
        runpy.run_path(script, run_name="__main__")


def start(words: Sequence[str]) -> list[Forked]:
    """The process of ``python ...``; of ``torchrun --nproc-per-node N -m xmdpt_cli ...``, two."""
    program, *arguments = words
    if program == "python":
        return [Forked(main, *words)]
    options, _, rest = " ".join(arguments).partition(" -m xmdpt_cli ")
    if not re.fullmatch(r"--nproc[-_]per[-_]node[ =]\d+", options):
        raise PageError(f"only torchrun --nproc-per-node N -m xmdpt_cli is tested, not {options}")
    return start_ranks(2, main, "xmdpt", *rest.split())


if __name__ == "__main__":
    main(*sys.argv[1:])
