"""Schedule, training loss, sampler. The model comes in as a callable."""

from xmdpt_cli.diffusion.loss import Losses, training_loss
from xmdpt_cli.diffusion.sampler import sample, start_noise
from xmdpt_cli.diffusion.schedule import Schedule

__all__ = ["Losses", "Schedule", "sample", "start_noise", "training_loss"]
