"""CANet, TDNet, MIPNet and published checkpoints."""

from xmdpt_cli.model.networks import Context
from xmdpt_cli.model.xmdpt import SIZES, XMDPT

__all__ = ["SIZES", "XMDPT", "Context"]
