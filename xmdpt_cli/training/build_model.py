"""The model of a configuration, in the sizes of the dataset's features."""

from __future__ import annotations

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.config import TrainConfig

#: MDTv2's blocks behind the side interpolater: 6 for S, 4 otherwise (published code)
MDTV2_DECODE_LAYERS = {"tiny": 2, "mini": 2, "S": 6}


def build_model(config: TrainConfig, dataset: PairDataset) -> XMDPT:
    """An untrained XMDPT of the configured size that fits the dataset's features."""
    # from the index: no shard is read, since a resumed run's first shard may be broken
    channels, side = dataset.column("moments").shape[0] // 2, dataset.column("moments").shape[1]
    pose_length, pose_width = dataset.column("pose_tokens").shape
    source_length, source_width = dataset.column("source_tokens").shape
    if side % config.patch:
        raise ConfigError(
            f"--patch {config.patch} does not divide the latents' side, which is {side}",
            "the paper's: --patch 2",
        )
    tokens = (side // config.patch) ** 2
    if config.predictor != "none" and tokens * (1 - config.mask_ratio - config.mask_span) < 1:
        raise ConfigError(
            f"mask_ratio {config.mask_ratio + config.mask_span:g} hides all {tokens} tokens of the "
            "masked pass",
            "a smaller --mask-ratio",
        )
    published = MDTV2_DECODE_LAYERS.get(config.size, 4) if config.backbone == "mdtv2" else 2
    return XMDPT.from_size(
        config.size,
        latent_size=side,
        latent_channels=channels,
        patch=config.patch,
        decode_layers=config.decode_layers or published,
        mask_ratio=config.mask_ratio,
        pose_length=pose_length,
        pose_width=pose_width,
        source_length=source_length,
        source_width=source_width,
        predictor=config.predictor,
        condition_parts=config.condition_parts,
        aggregation=config.aggregation,
        backbone=config.backbone,
        conditioning=config.conditioning,
        vae_factor=dataset.resolution // side,
        repa_width=source_width if config.repa_weight else 0,
        repa_layer=config.repa_layer,
        repa_projection=config.repa_projector,
        positions=config.positions,
        qk_norm=config.qk_norm,
    )
