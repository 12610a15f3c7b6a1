"""A protocol of the literature as a ``torchmetrics.MetricCollection``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torchmetrics import MetricCollection

from xmdpt_cli.metrics.base import ImageMetric, Resize
from xmdpt_cli.metrics.features import FeatureExtractor
from xmdpt_cli.metrics.fid import FID, FeatureDistribution
from xmdpt_cli.metrics.kid import KID
from xmdpt_cli.metrics.lpips_metric import LPIPS, LpipsNetwork
from xmdpt_cli.metrics.pixel_metrics import L1, MAE, PSNR
from xmdpt_cli.metrics.pixels import Once
from xmdpt_cli.metrics.protocols import LOWEST, Protocol, get_protocol
from xmdpt_cli.metrics.ssim import SSIM, SSIM256, SSIMW51

#: creates a metric, called with ``resize=``; for example a subclass of ``ImageMetric``
Factory = Callable[..., ImageMetric]


class ProtocolMetrics(MetricCollection):
    """The metrics of one protocol. ``update`` takes images of any size: the protocol resizes.

    Keys are the metrics' names, with ``_`` for the dots that torch does not allow there. Resized
    images and features are made once for all metrics.
    """

    def __init__(self, protocol: Protocol, metrics: Sequence[ImageMetric], once: Once) -> None:
        # no compute groups: they are found by equal states, which two metrics may have by chance
        super().__init__({metric.key: metric for metric in metrics}, compute_groups=False)
        self.protocol, self._once = protocol, once

    @property
    def metrics(self) -> list[ImageMetric]:
        """All metrics, in the order of their keys."""
        return list(self.values())  # type: ignore[arg-type]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """``update(generated, ground_truth)``: uint8 (N, 3, H, W), each batch of one size. Further
        arguments of a metric's ``update`` are passed by name, such as ``keypoints=``."""
        with self._once.open():
            super().update(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As ``update``; returns the values of this batch."""
        with self._once.open():
            return super().forward(*args, **kwargs)


def protocol_metrics(
    protocol: str | Protocol,
    *,
    height: int = LOWEST,
    lpips: LpipsNetwork | None = None,
    features: FeatureExtractor | None = None,
    reference: FeatureDistribution | None = None,
    kid: bool = False,
    only: Collection[str] = (),
    extra: Sequence[Factory] = (),
    once: Once | None = None,
    **kwargs: Any,
) -> ProtocolMetrics:
    """The metrics of a protocol, by name (``protocols.NAMES``) for images of ``height``::

        metrics = protocol_metrics("cfld", lpips=LpipsNetwork(), features=inception_features())
        for generated, ground_truth in batches:  # uint8 (N, 3, H, W)
            metrics.update(generated, ground_truth)
        metrics.compute()  # {"ssim_w51": tensor(0.71), ..., "fid_tvinception": tensor(7.4)}

    Without ``lpips`` there is no LPIPS, without ``features`` no FID. ``reference``: what FID
    compares with, by default the ground truth images. ``only``: kinds of metrics ("ssim", "psnr",
    "lpips", "fid", "kid", "l1", "mae"), by default all; ``extra`` metrics are made in any case.
    ``once``: shared with other collections that are updated with the same batches. ``kwargs``: of
    every ``torchmetrics.Metric``, such as ``sync_on_compute``.
    """
    chosen = get_protocol(protocol, height) if isinstance(protocol, str) else protocol
    once = once or Once()
    resize = Resize(chosen.generated, chosen.ground_truth, once)
    path = chosen.pixelwise
    plain = resize if path is None else Resize(path, path, once)
    metrics: list[ImageMetric] = (
        [SSIM(resize=plain, **kwargs)]
        if chosen.wang
        else [SSIMW51(resize=plain, **kwargs), SSIM256(chosen.sigma, resize=plain, **kwargs)]
    )
    metrics += [
        PSNR(resize=plain, **kwargs),
        L1(resize=plain, **kwargs),
        MAE(resize=plain, **kwargs),
    ]
    if lpips is not None:
        metrics.append(LPIPS(lpips, chosen.lpips_signed, resize=resize, **kwargs))
    if features is not None:
        metrics.append(FID(features, reference, resize=resize, **kwargs))
        metrics += [KID(features, reference, resize=resize, **kwargs)] if kid else []
    if only:
        metrics = [metric for metric in metrics if metric.kind in only]
    metrics += [make(resize=resize, **kwargs) for make in extra]
    return ProtocolMetrics(chosen, metrics, once)
