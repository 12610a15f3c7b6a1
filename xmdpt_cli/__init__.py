"""xmdpt: pose-guided person image synthesis with cross-view masked diffusion transformers.

The public names are loaded when first asked for, so that importing the package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "XMDPT": "xmdpt_cli.model",
    "from_published": "xmdpt_cli.model.published",
    "Schedule": "xmdpt_cli.diffusion",
    "sample": "xmdpt_cli.diffusion",
    "save_png": "xmdpt_cli.images",
    "training_loss": "xmdpt_cli.diffusion",
    "draw_pose": "xmdpt_cli.pose.drawing",
    "PairDataset": "xmdpt_cli.data.loader",
    "Sampler": "xmdpt_cli.sampling.sampler",
    "XMDPTPipeline": "xmdpt_cli.sampling.pipeline",
    "XmdptError": "xmdpt_cli.errors",
}
__all__ = [
    "XMDPT",
    "PairDataset",
    "Sampler",
    "Schedule",
    "XMDPTPipeline",
    "XmdptError",
    "__version__",
    "draw_pose",
    "from_published",
    "sample",
    "save_png",
    "training_loss",
]


if TYPE_CHECKING:  # what a type checker and an editor see; nothing of it runs
    from xmdpt_cli.data.loader import PairDataset
    from xmdpt_cli.diffusion import Schedule, sample, training_loss
    from xmdpt_cli.errors import XmdptError
    from xmdpt_cli.images import save_png
    from xmdpt_cli.model import XMDPT
    from xmdpt_cli.model.published import from_published
    from xmdpt_cli.pose.drawing import draw_pose
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline
    from xmdpt_cli.sampling.sampler import Sampler
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
