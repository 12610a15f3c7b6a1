"""The plan of ``xmdpt finetune-vae``, checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.encoders.identity import same_weights
from xmdpt_cli.encoders.tiny_decoder import TinyDecoder
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.metrics.download import choose, download
from xmdpt_cli.metrics.lpips_metric import ALEXNET, LpipsNetwork
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.training.distributed import SINGLE_PROCESS, Distributed
from xmdpt_cli.vae_training.config import VaeConfig, settle
from xmdpt_cli.vae_training.examples import DatasetExamples

_WITHOUT_LPIPS = "(off here needs --lpips 0 beside it: training without LPIPS)"
_ALIKE = 0.01  # of the latents' deviation: above float16's rounding, below another encoder


@dataclass(frozen=True)
class Plan:
    """The settings and data of a checked training."""

    config: VaeConfig  # settled
    vae: VAE
    decoder: Decoder  # that is trained: the VAE, or a tiny decoder of its latents
    train: DatasetExamples
    test: DatasetExamples | None
    measured: int  # test images


def make_plan(
    config: VaeConfig,
    data: str | Path,
    vae: VAE,
    limit: int | None = None,
    tiny: TinyDecoder | None = None,
) -> Plan:
    """Complete ``config`` and check that dataset and VAE fit together.

    ``limit``: number of test images to measure; None: all. ``tiny``: the decoder to train in place
    of the VAE's. Raises XmdptError if ``data`` is not a
    dataset, and if its latents are those of another encoder.
    """
    dataset = PairDataset(data, "train")
    cached = config.cached_latents and not config.all_weights
    heads = config.face_weight != 1
    train = DatasetExamples(dataset, cached=cached, heads=heads)
    try:
        test = DatasetExamples(PairDataset(dataset.store, "test"), cached=cached)
    except XmdptError:
        test = None
    if not config.all_weights:
        check_encoder(vae, dataset)
    count = 0 if test is None else min(len(test), limit or len(test))
    return Plan(settle(config, len(train)), vae, tiny or vae, train, test, count)


def check_encoder(vae: VAE, dataset: PairDataset) -> None:
    """XmdptError unless ``vae``'s encoder is the one that made the dataset's latents.

    With another weights file (a fine-tuned decoder, another file format), its moments of some
    images are compared with the stored ones.
    """
    made, this = dataset.manifest["encoders"]["vae"], vae.describe()
    if same_weights(made, this):
        return
    examples = DatasetExamples(dataset)
    indices = sorted({0, len(examples) // 2, len(examples) - 1})
    rows = np.array([dataset.table.row(*examples.images.views[i]) for i in indices])
    side = dataset.resolution // vae.factor
    alike = dataset.column("moments").shape == (2 * vae.channels, side, side)
    if alike:
        stored = examples.moments(indices, np.zeros(len(rows), np.bool_))
        assert stored is not None
        now = vae.encode_moments(np.stack([examples.images[i] for i in indices])).cpu()
        means = [moments.chunk(2, dim=1)[0] for moments in (stored, now)]
        alike = float((means[0] - means[1]).abs().mean()) <= _ALIKE * float(means[0].std())
    if not alike:
        raise XmdptError(
            f"{dataset.path} was prepared with another encoder: {made['id']} "
            f"(sha256 {str(made['sha256'])[:12]}), not {this['id']} ({this['sha256'][:12]})",
            "give --vae the VAE that the dataset was prepared with, or prepare the dataset again",
        )


def lpips_networks(
    config: VaeConfig,
    weights: str | None,
    toy: bool,
    device: str,
    dist: Distributed = SINGLE_PROCESS,
    progress: Progress = silent,
) -> tuple[LpipsNetwork | None, LpipsNetwork | None, list[str]]:
    """The LPIPS to train with, the LPIPS to measure with, and notes for the user.

    ``weights`` as in ``xmdpt evaluate``: AlexNet's file, ``toy``, ``off``, or None: the published
    file, for a ``toy`` dataset always the random trunk, so that its values are the same everywhere.
    Raises XmdptError with a hint if the file cannot be found or downloaded.
    """
    if weights == "off":
        if config.lpips:
            raise ConfigError(
                f"no LPIPS network to train with (lpips {config.lpips:g})",
                "train without it: --lpips 0, or name the weights: --alexnet-weights PATH",
            )
        return None, None, []
    if weights is None and toy:
        weights = "toy"
    try:
        dist.run_on_main(lambda: download(choose({ALEXNET: weights}), progress))
    except XmdptError as err:
        if weights is None and config.lpips and dist.is_main:
            raise XmdptError(err.message, f"{err.hint}\n{_WITHOUT_LPIPS}") from None
        raise
    network = LpipsNetwork(weights, device)
    notes = []
    if network.toy:
        why = "toy dataset: " if toy else ""
        use = "training and measuring" if config.lpips else "measuring"
        notes.append(f"{why}{use} with LPIPS of a random AlexNet, named {network.metric}")
    return (network if config.lpips else None), network, notes
