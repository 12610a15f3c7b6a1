"""xmdpt: pose-guided person image synthesis with cross-view masked diffusion transformers.

The public names are loaded on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmdpt_cli.utils.lazy import lazy_names

__version__ = "0.2.0"

_MODULES = {
    "XMDPT": "xmdpt_cli.model",
    "from_published": "xmdpt_cli.model.published",
    "Schedule": "xmdpt_cli.diffusion",
    "sample": "xmdpt_cli.diffusion",
    "save_png": "xmdpt_cli.images",
    "training_loss": "xmdpt_cli.diffusion",
    "metrics": "xmdpt_cli.metrics",
    "draw_pose": "xmdpt_cli.pose.drawing",
    "PairDataset": "xmdpt_cli.data.dataset",
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
    "metrics",
    "sample",
    "save_png",
    "training_loss",
]


if TYPE_CHECKING:  # for type checkers and editors; not executed
    from xmdpt_cli import metrics
    from xmdpt_cli.data.dataset import PairDataset
    from xmdpt_cli.diffusion import Schedule, sample, training_loss
    from xmdpt_cli.errors import XmdptError
    from xmdpt_cli.images import save_png
    from xmdpt_cli.model import XMDPT
    from xmdpt_cli.model.published import from_published
    from xmdpt_cli.pose.drawing import draw_pose
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline
    from xmdpt_cli.sampling.sampler import Sampler
else:
    __getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
