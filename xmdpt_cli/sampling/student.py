"""What a distilled model can sample: the settings that its training fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xmdpt_cli.diffusion.solvers import POLICY, SOLVERS
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.utils.counts import counted

if TYPE_CHECKING:
    from xmdpt_cli.sampling.sampler import SamplingConfig


def solvers_of(distilled: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The solvers that the model can sample with; ``distilled`` as in ``check_student``."""
    few_steps = distilled is not None and distilled["steps"] is not None
    return (POLICY,) if few_steps else SOLVERS


def student_summary(distilled: Mapping[str, Any]) -> str:
    """What a student can sample, in a few words: "4 steps, guidance 1 to 3"."""
    steps, (low, high) = distilled["steps"], distilled["guidance"]
    number = "any number of steps" if steps is None else counted(steps, "step")
    return f"{number}, guidance {low:g} to {high:g}"


def check_student(config: SamplingConfig, distilled: Mapping[str, Any] | None) -> None:
    """ConfigError for settings that the model cannot sample with.

    ``distilled``: of the model's metadata; None: an ordinary model, which takes all settings but
    the solver of students. A student of few steps was trained at the timesteps of its own number
    of steps only, at one power and with guidance in all steps.
    """
    if distilled is None:
        if config.solver == POLICY:
            raise ConfigError(
                f"solver {POLICY!r} is that of models distilled to few steps, which this is not",
                "distil it (xmdpt distill), or use --solver unipc",
            )
        return
    if config.cache > 1:
        raise ConfigError(
            "a cache saves nothing with a distilled model, which has no unconditional branch",
            "leave the cache out",
        )
    low, high = distilled["guidance"]
    if not low <= config.guidance <= high:
        raise ConfigError(
            f"guidance {config.guidance:g} is outside the range {low:g} to {high:g} that this "
            "model was distilled for",
            f"choose a scale in it, or use its teacher, {distilled['teacher']['name']}",
        )
    steps = distilled["steps"]
    if steps is None:
        if config.solver == POLICY:
            raise ConfigError(
                f"solver {POLICY} cannot be used: the guidance of this model was distilled, not "
                "its steps",
                f"choose one of {', '.join(SOLVERS)}",
            )
        if low > 1 and (config.interval, config.power) != ((0.0, 1.0), distilled["power"]):
            raise ConfigError(
                f"an interval or another power uses guidance scales below {low:g}, for which this "
                "model was not distilled",
                f"leave it out, or use its teacher, {distilled['teacher']['name']}",
            )
        return
    fixed = {
        "steps": (config.steps, steps),
        "solver": (config.solver, POLICY),
        "power": (config.power, distilled["power"]),
        "interval": (config.interval, (0.0, 1.0)),
    }
    for name, (value, own) in fixed.items():
        if value != own:
            only = "" if name == "steps" else f" with {name} {_shown(own)}"
            raise ConfigError(
                f"{name} {_shown(value)} cannot be used: this model was distilled to "
                f"{counted(steps, 'step')}{only}",
                "leave the setting out (--paper sets it, too), or use its teacher, "
                f"{distilled['teacher']['name']}",
            )


def _shown(value: object) -> str:
    """A setting as the command line takes it: an interval as ``0:0.6``."""
    return ":".join(f"{end:g}" for end in value) if isinstance(value, tuple) else str(value)
