"""CANet, TDNet, MIPNet and published checkpoints."""

from xmdpt_cli.model.conditioning import Context
from xmdpt_cli.model.mipnet import Mask
from xmdpt_cli.model.xmdpt import SIZES, XMDPT, Passes

__all__ = ["SIZES", "XMDPT", "Context", "Mask", "Passes"]
