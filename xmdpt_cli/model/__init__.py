"""X-MDPT: the reference model, its fast computation, model folders and published checkpoints."""

from xmdpt_cli.model.config import SIZES, parameter_counts
from xmdpt_cli.model.extensions import TokenConditions
from xmdpt_cli.model.xmdpt import XMDPT, Mask

__all__ = ["SIZES", "XMDPT", "Mask", "TokenConditions", "parameter_counts"]
