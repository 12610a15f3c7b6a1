"""The sizes and choices of X-MDPT, and the checks of its arguments and inputs.

Each check raises ConfigError with the name and the value of what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from xmdpt_cli.errors import ConfigError

if TYPE_CHECKING:
    from xmdpt_cli.model.extensions import TokenConditions
    from xmdpt_cli.model.xmdpt import XMDPT, MIPNet

#: (depth, D, H); S, B, L: paper sec. 4.1; XL: published code only; tiny, mini: ours, for toy data
SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (4, 128, 4),
    "mini": (5, 192, 6),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
#: parts of the condition vector: vL, vG, vP (paper Table 2e)
CONDITION_PARTS = ("local", "global", "pose")
#: how they become one vector (Table 2e)
AGGREGATIONS = ("add", "mlp", "concat")
#: blocks that predict the masked tokens, in order (Table 2a, d); "self" alone is MDT's
PREDICTORS: dict[str, tuple[str, ...]] = {
    "none": (),
    "self": ("self",),
    "cross": ("cross",),
    "cross-self": ("cross", "self"),
    "self-cross": ("self", "cross"),
}


def built_with(model: XMDPT) -> dict[str, Any]:
    """The arguments that the model was built with, defaults included."""
    arguments = model._hub_mixin_config
    assert isinstance(arguments, dict)
    return arguments


def parameter_counts(model: XMDPT) -> dict[str, int]:
    """The number of parameters in "training", in "inference" (without MIPNet and REPA's projector)
    and as the "paper" counts them: without MIPNet's blocks, the position embeddings, the bias
    tables of TDNet and REPA's projector, but with the mask token."""
    counts = {"training": 0, "inference": 0, "paper": 0}
    uncounted = ("mipnet.sideblocks", "tdnet.pos_embed", "tdnet.decoder_pos_embed")
    for name, parameter in model.named_parameters():
        table = name.startswith("tdnet.") and name.endswith("bias_table")
        repa = name.startswith("repa_projector.")
        counts["training"] += parameter.numel()
        if not (repa or name.startswith("mipnet.")):
            counts["inference"] += parameter.numel()
        if not (repa or table or name.startswith(uncounted)):
            counts["paper"] += parameter.numel()
    return counts


# arguments of XMDPT


def check_sizes(
    depth: int,
    width: int,
    heads: int,
    latent_size: int,
    patch: int,
    decode_layers: int,
    mask_ratio: float,
) -> None:
    if latent_size % patch or width % heads or width % 4:
        raise ConfigError(
            f"sizes do not fit: latents {latent_size}, patch {patch}, width {width}, heads {heads}"
        )
    if not 0 < decode_layers < depth:
        raise ConfigError(
            f"decode_layers lies between 1 and {depth - 1} of {depth} blocks, not {decode_layers}"
        )
    if not 0 <= mask_ratio < 1:
        raise ConfigError(f"mask_ratio lies in [0, 1), not {mask_ratio}")


def check_choices(
    predictor: str,
    parts: Sequence[str],
    aggregation: str,
    backbone: str,
    conditioning: str,
    positions: str = "bias",
) -> None:
    check_choice("predictor", predictor, PREDICTORS)
    check_choice("aggregation", aggregation, AGGREGATIONS)
    check_choice("backbone", backbone, ("plain", "mdtv2"))
    check_choice("conditioning", conditioning, ("vector", "tokens"))
    check_choice("positions", positions, ("bias", "rope"))
    if set(parts) - set(CONDITION_PARTS) or len(set(parts)) != len(parts):
        raise ConfigError(
            f"condition_parts are some of {', '.join(CONDITION_PARTS)}, not {'+'.join(parts)!r}"
        )


def check_blocks(encoder_depth: int, backbone: str, repa_layer: int) -> None:
    if backbone == "mdtv2" and encoder_depth % 2:
        raise ConfigError(
            "backbone 'mdtv2' pairs its encoder blocks: depth minus decode_layers "
            f"must be even, not {encoder_depth}"
        )
    if not 0 < repa_layer <= encoder_depth:
        raise ConfigError(
            f"repa_layer lies between 1 and {encoder_depth}, the number of blocks before the "
            f"predictor, not {repa_layer}",
            f"--repa-layer {encoder_depth // 2 or 1}",
        )


def check_rotary(positions: str, features: int) -> None:
    if positions == "rope" and features % 4:
        raise ConfigError(
            "positions 'rope' turns pairs of features on two axes: width / heads must be a "
            f"multiple of 4, not {features}"
        )


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is one of {', '.join(choices)}, not {value!r}")


# inputs of its passes


def check_inputs(
    model: XMDPT,
    latents: Tensor,
    condition: Tensor,
    tokens: TokenConditions | None,
    cfg_scales: object = None,
) -> None:
    check_latents(latents, model.latent_shape, "latents")
    expected = (len(latents), model.width)
    if condition.shape != expected:
        raise ConfigError(f"condition is {tuple(condition.shape)}, not {expected}")
    if (tokens is not None) != (model.tokens is not None):
        given = "without token conditions" if tokens is None else "with token conditions"
        raise ConfigError(f"conditioning={model.conditioning!r} does not fit a call {given}")
    if (cfg_scales is not None) != (model.guidance_embed is not None):
        needs = "takes no" if cfg_scales is not None else "needs a"
        raise ConfigError(f"this model {needs} guidance scale as an input")


def check_latents(latents: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(latents.shape[1:]) != shape:
        raise ConfigError(
            f"{name} are {tuple(latents.shape)}, this model was built for "
            f"(N, {', '.join(map(str, shape))})",
            "use data prepared at the resolution the model was made for",
        )


def check_pose_maps(source_latents: Tensor, pixels: int, *pose_maps: Tensor) -> None:
    expected = (len(source_latents), 3, pixels, pixels)
    for pose_map in pose_maps:
        if pose_map.shape != expected:
            raise ConfigError(
                f"a pose map {tuple(pose_map.shape)} does not lie on the latent grid "
                f"{tuple(source_latents.shape)}: expected {expected}"
            )


def check_mipnet(model: XMDPT, source_latents: Tensor) -> MIPNet:
    """The model's MIPNet, which the masked pass needs."""
    if model.mipnet is None:
        raise ConfigError("this model was built without MIPNet: it cannot run the masked pass")
    check_latents(source_latents, model.latent_shape, "source_latents")
    return model.mipnet
