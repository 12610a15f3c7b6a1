"""Image metrics as ``torchmetrics.Metric``, and the evaluation protocols of the literature.

Names are loaded on first use::

    from xmdpt_cli.metrics import SSIM256, protocol_metrics
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmdpt_cli.utils.lazy import lazy_names

_NAMES = {
    "base": ("ImageMetric", "PairMetric"),
    "collection": ("ProtocolMetrics", "protocol_metrics"),
    "evaluate": ("ImagePair", "Networks", "evaluate_pairs"),
    "evaluation": ("Evaluation",),
    "features": ("FeatureExtractor", "inception_features"),
    "fid": ("FID", "FeatureDistribution"),
    "kid": ("KID",),
    "lpips_metric": ("LPIPS", "LpipsNetwork"),
    "pixel_metrics": ("L1", "MAE", "PSNR"),
    "protocols": ("Protocol", "get_protocol"),
    "reference_set": ("ReferenceSet",),
    "registry": ("register",),
    "ssim": ("SSIM", "SSIM256", "SSIMW51"),
}
__all__ = [
    "FID",
    "KID",
    "L1",
    "LPIPS",
    "MAE",
    "PSNR",
    "SSIM",
    "SSIM256",
    "SSIMW51",
    "Evaluation",
    "FeatureDistribution",
    "FeatureExtractor",
    "ImageMetric",
    "ImagePair",
    "LpipsNetwork",
    "Networks",
    "PairMetric",
    "Protocol",
    "ProtocolMetrics",
    "ReferenceSet",
    "evaluate_pairs",
    "get_protocol",
    "inception_features",
    "protocol_metrics",
    "register",
]

if TYPE_CHECKING:  # what a type checker and an editor see; nothing of it runs
    from xmdpt_cli.metrics.base import ImageMetric, PairMetric
    from xmdpt_cli.metrics.collection import ProtocolMetrics, protocol_metrics
    from xmdpt_cli.metrics.evaluate import ImagePair, Networks, evaluate_pairs
    from xmdpt_cli.metrics.evaluation import Evaluation
    from xmdpt_cli.metrics.features import FeatureExtractor, inception_features
    from xmdpt_cli.metrics.fid import FID, FeatureDistribution
    from xmdpt_cli.metrics.kid import KID
    from xmdpt_cli.metrics.lpips_metric import LPIPS, LpipsNetwork
    from xmdpt_cli.metrics.pixel_metrics import L1, MAE, PSNR
    from xmdpt_cli.metrics.protocols import Protocol, get_protocol
    from xmdpt_cli.metrics.reference_set import ReferenceSet
    from xmdpt_cli.metrics.registry import register
    from xmdpt_cli.metrics.ssim import SSIM, SSIM256, SSIMW51
else:
    __getattr__ = lazy_names(
        __name__, {name: f"{__name__}.{module}" for module in _NAMES for name in _NAMES[module]}
    )


def __dir__() -> list[str]:
    return __all__
