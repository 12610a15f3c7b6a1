"""The published model's own outputs (recorded on a CPU in fp32), computed on this device."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from xmdpt_cli.bench.gpu_check.rows import NOT_RUN, Row, Setting, at_most
from xmdpt_cli.diffusion import Schedule, sample
from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.model.published import from_published, published_tensors
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.step import Inputs, TrainStep

FILE, NORMS = "dev_a.safetensors", "dev_a.gradnorms.json"
#: limits of outputs, of DDIM, of losses (largest difference / largest value), and of the norms of
#: gradients (relative). TF32 and bf16 keep 10 and 7 bits of a product's operands.
LIMITS = {
    "fp32": (1e-4, 1e-3, 1e-4, 1e-3),
    "fp32 with TF32 convolutions": (5e-3, 2e-2, 5e-3, 2e-2),
    "bf16": (5e-2, 1e-1, 2e-2, 0.15),
}
CONDITIONS = "in.dino_tgt_pose", "in.dino_src_img", "in.src_img"


def goldens(setting: Setting) -> Iterator[Row]:
    """In fp32 without and with TF32 (torch's default for convolutions), and in bf16."""
    folder = setting.goldens or default_folder()
    if folder is None or not (folder / FILE).is_file():
        place = FILE if folder is None else str(folder / FILE)
        yield Row("goldens", verdict=NOT_RUN, note=f"{place} not found: give its folder, --goldens")
        return
    golden = load_file(folder / FILE)
    norms = json.loads((folder / NORMS).read_text(encoding="utf-8"))
    known = {key: value.to(setting.where) for key, value in golden.items()}
    state = {key[6:]: value for key, value in golden.items() if key.startswith("state.")}
    for name in LIMITS:
        if "TF32" in name and setting.where.type != "cuda":
            continue
        with allow_tf32("TF32" in name):
            # a model each: the first is rounded to its type
            yield from _outputs(name, from_published(state).eval().to(setting.where), known)
            yield from _training(name, from_published(state).eval().to(setting.where), known, norms)


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Whether convolutions may use TF32 within this context."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value; NaN if any difference is NaN."""
    return float((found.float() - expected.float()).abs().max() / expected.abs().max())


@torch.no_grad()
def _outputs(name: str, model: XMDPT, known: Mapping[str, Tensor]) -> Iterator[Row]:
    """Forward passes and DDIM, in the model's type as ``xmdpt sample`` computes them."""
    limit, ddim_limit, *_ = LIMITS[name]
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    net = model.to(dtype)
    pose, source, latents = (known[key].to(dtype) for key in CONDITIONS)
    condition = net.condition(pose, source, latents)
    x, t = known["in.x"].to(dtype), known["in.t"]
    dropped = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    mask = Mask.random(known["in.mask_noise"], 0.3)
    worst = max(
        relative(net(x, t, condition), known["out.eps_cond"]),
        relative(net(x, t, condition, keep=dropped), known["out.eps_uncond"]),
        relative(net.forward_masked(x, t, condition, latents, mask), known["out.eps_masked"]),
    )
    yield at_most(f"{name}: outputs", worst, limit, note="largest difference / largest value")
    for steps in (10, 50):
        out = sample(net, known["in.z"], condition, steps=steps, guidance=2.0, power=0.01)
        error = relative(out, known[f"out.ddim{steps}"])
        yield at_most(f"{name}: {steps} DDIM steps, guided", error, ddim_limit)


def _training(
    name: str, model: XMDPT, known: Mapping[str, Tensor], norms: Mapping[str, float]
) -> Iterator[Row]:
    """The losses and every gradient's norm; in bf16 by autocast, as ``xmdpt train`` computes."""
    *_, limit, norm_limit = LIMITS[name]
    step = TrainStep(model, TrainConfig(), Schedule().to(known["in.x"].device))
    step.autocast = name == "bf16"
    pose, source, latents = (known[key].float() for key in CONDITIONS)
    losses = step(
        Inputs(
            target=known["in.x0"],
            source=latents,
            noise=known["in.noise"],
            masked_noise=None,
            timesteps=known["in.t"],
            keep=known["in.keep_unmasked"],
            keep_masked=known["in.keep_masked"],
            pose_tokens=pose,
            source_tokens=source,
            mask=Mask.random(known["in.mask_noise"], 0.3),
            pose_maps=None,
            target_tokens=None,
        )
    )
    losses.total.backward()
    worst = max(
        relative(getattr(losses, key).detach().reshape(-1), known[f"out.train_{key}"])
        for key in ("mse", "vb", "masked_mse", "masked_vb", "total")
    )
    yield at_most(f"{name}: losses", worst, limit)
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    found = {
        key: float(gradient.float().norm())
        for key, gradient in published_tensors(gradients).items()
    }
    errors = norm_errors(found, norms, by_layer=name == "bf16")
    worst_key = max(errors, key=errors.__getitem__)
    note = f"of {len(errors)} tensors, the worst: {worst_key}"
    yield at_most(f"{name}: norms of gradients", errors[worst_key], norm_limit, note=note)


def norm_errors(
    found: Mapping[str, float], norms: Mapping[str, float], by_layer: bool
) -> dict[str, float]:
    """Relative errors of the norms that are not negligible, by parameter.

    The three biases of CANet's token-axis convolutions are single numbers, sums of terms that
    cancel: in bf16 their rounding error is not small relative to themselves. ``by_layer`` takes
    it relative to the gradient of the complete layer, weight and bias.
    """
    errors = {}
    for key, norm in norms.items():
        if key not in found or norm <= 1e-6 * max(norms.values()):
            continue
        layer = norm
        if by_layer and key.startswith("conv1d_") and key.endswith(".bias"):
            layer = math.hypot(norm, norms[key.removesuffix("bias") + "weight"])
        errors[key] = abs(found[key] - norm) / layer
    return errors


def default_folder() -> Path | None:
    """The folder of recorded numbers beside a checkout, if there is one."""
    for parent in Path(__file__).resolve().parents:
        for folder in (parent / "shared" / "golden", parent.parent / "shared" / "golden"):
            if (folder / FILE).is_file():
                return folder
    return None
