"""Schedule, training loss, guidance, solvers, sampler. Nothing here imports the model."""

from xmdpt_cli.diffusion.guidance import Guided
from xmdpt_cli.diffusion.loss import Losses, training_loss
from xmdpt_cli.diffusion.sampler import StepResult, sample, start_noise
from xmdpt_cli.diffusion.schedule import Schedule
from xmdpt_cli.diffusion.solvers import SOLVERS, SPACINGS, spacing_of

__all__ = [
    "SOLVERS",
    "SPACINGS",
    "Guided",
    "Losses",
    "Schedule",
    "StepResult",
    "sample",
    "spacing_of",
    "start_noise",
    "training_loss",
]
