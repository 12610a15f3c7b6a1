"""Image metrics as ``torchmetrics.Metric``, and the evaluation protocols of the literature.

Names are loaded when first asked for::

    from xmdpt_cli.metrics import SSIM256, protocol_metrics
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_HOMES = {
    "FID": "fid",
    "KID": "kid",
    "L1": "pixel_metrics",
    "LPIPS": "lpips_metric",
    "MAE": "pixel_metrics",
    "PSNR": "pixel_metrics",
    "SSIM": "ssim",
    "SSIM256": "ssim",
    "SSIMW51": "ssim",
    "Evaluation": "evaluation",
    "FeatureDistribution": "fid",
    "FeatureExtractor": "features",
    "ImageMetric": "base",
    "ImagePair": "evaluate",
    "LpipsNetwork": "lpips_metric",
    "Networks": "evaluate",
    "PairMetric": "base",
    "Protocol": "protocols",
    "ProtocolMetrics": "collection",
    "ReferenceSet": "reference_set",
    "evaluate_pairs": "evaluate",
    "get_protocol": "protocols",
    "inception_features": "features",
    "protocol_metrics": "collection",
    "register": "registry",
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

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
