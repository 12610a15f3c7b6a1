"""The held-out pairs of a prepared dataset, generated with a model and measured.

What the experiments beside this file share. LPIPS is computed with a random trunk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import eval_batches
from xmdpt_cli.diffusion import start_noise
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.evaluate import ImagePair, Networks, evaluate_pairs
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.metrics.pixel_metrics import psnr
from xmdpt_cli.report.evaluation_json import to_json
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.encoders import vae_for
from xmdpt_cli.sampling.sampler import Sampler, SamplingConfig
from xmdpt_cli.toy.measures import TOY_METRICS

LPIPS = "lpips_alex_v0.1_toy"
#: metric -> whether more is better
MEASURES = {
    "ssim_256": True,
    "psnr": True,
    LPIPS: False,
    "torso_colour_error": False,
    "silhouette_iou": True,
}
#: PSNR in dB of equal images, in means
LARGEST_PSNR = 60.0


class HeldOut:
    """One model, and the held-out pairs of one dataset."""

    def __init__(self, data: str, model: Path, limit: int | None = None, batch: int = 16) -> None:
        self.sampler, self.dataset = Sampler.load(model), PairDataset(data, "test")
        self.vae = vae_for(self.sampler, self.dataset)
        tokens = self.sampler.model.conditioning == "tokens"
        scale = float(self.sampler.metadata["encoders"]["vae"]["scale"])
        self.networks = Networks(LpipsNetwork("toy"))
        self.parts: list[Conditions] = []
        self.pairs: list[ImagePair] = []
        for rows in eval_batches(self.dataset, batch, limit, pose_maps=tokens):
            self.parts.append(Conditions.of_batch(rows, scale))
            for i in range(len(rows.pairs)):
                self.pairs.append(
                    ImagePair(
                        generated=rows.source_images[i].numpy(),
                        ground_truth=rows.target_images[i].numpy(),
                        keypoints=rows.target_keypoints[i].numpy(),
                        name=rows.pairs[i],
                    )
                )

    def generate(self, config: SamplingConfig) -> list[ImageArray]:
        """An image of each pair; the noise follows from the seed and the pair's number."""
        images: list[ImageArray] = []
        for conditions in self.parts:
            first = len(images)
            positions = list(range(first, first + len(conditions.pose_tokens)))
            noise = start_noise(self.sampler.model.latent_shape, config.seed, positions)
            images += list(self.vae.decode(self.sampler.latents(noise, conditions, config)))
        return images

    def evaluate(self, images: list[ImageArray], intervals: bool = False) -> dict[str, Any]:
        """The evaluation of the images as ``to_json`` returns it."""
        pairs = self._with(images)
        extra = TOY_METRICS if self.dataset.manifest["toy"] else ()
        report = evaluate_pairs(
            pairs, protocol="native", networks=self.networks, extra=extra, intervals=intervals
        )
        return to_json(report)

    def scores(self, images: list[ImageArray]) -> dict[str, float]:
        """``MEASURES`` and ``sharpness`` of the images, by name."""
        found = self.evaluate(images)["rows"]["generated"]
        scores = {name: found[name] for name in MEASURES if found.get(name) is not None}
        return {**scores, "sharpness": self.sharpness(images)}

    def sharpness(self, images: list[ImageArray]) -> float:
        """The strength of the images' edges relative to the ground truth's: blur lowers it."""
        pairs = self._with(images)
        return float(np.mean([edges(pair.generated) / edges(pair.ground_truth) for pair in pairs]))

    def _with(self, images: list[ImageArray]) -> list[ImagePair]:
        return [pair._replace(generated=new) for pair, new in zip(self.pairs, images, strict=True)]


def edges(image: ImageArray) -> float:
    """Mean absolute difference of neighbouring pixels."""
    pixels = image.astype(np.float64)
    return float(np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean())


def mean_psnr(images: list[ImageArray], others: list[ImageArray]) -> float:
    """Mean PSNR in dB of images against others; equal images count ``LARGEST_PSNR``."""
    values = [psnr(a, b) for a, b in zip(images, others, strict=True)]
    return float(np.mean([min(value, LARGEST_PSNR) for value in values]))
