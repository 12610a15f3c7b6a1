"""The published model's own numbers (recorded on a processor in fp32), computed on this device."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from xmdpt_cli.bench.gpu_check.rows import NOT_RUN, Row, Setting, at_most
from xmdpt_cli.diffusion import Losses, Schedule, sample, training_loss
from xmdpt_cli.model import XMDPT, Mask, kernels
from xmdpt_cli.model.fast import training_passes
from xmdpt_cli.model.published import from_published, published_tensors

FILE, NORMS = "dev_a.safetensors", "dev_a.gradnorms.json"
#: largest differences over the largest value: of outputs, of 50 DDIM steps, of losses, of gradient
#: norms. TF32 and bf16 keep 10 and 7 bits of a product's operands.
LIMITS = {
    "fp32": (1e-4, 1e-3, 1e-4, 1e-3),
    "fp32 with TF32 convolutions": (5e-3, 2e-2, 5e-3, 2e-2),
    "bf16": (5e-2, 1e-1, 2e-2, 0.15),
}


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
    for name, limits in LIMITS.items():
        if "TF32" in name and setting.where.type != "cuda":
            continue
        with _tf32("TF32" in name):
            model = from_published(state).eval().to(setting.where)
            yield from _outputs(name, model, known, limits, name == "bf16")
            model = from_published(state).eval().to(setting.where)  # as before it was rounded
            yield from _training(name, model, known, norms, limits, name == "bf16")


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value; NaN where one is none."""
    return float((found.float() - expected.float()).abs().max() / expected.abs().max())


@torch.no_grad()
def _outputs(
    name: str, model: XMDPT, known: Mapping[str, Tensor], limits: tuple[float, ...], bf16: bool
) -> Iterator[Row]:
    """Forward passes and DDIM, in the model's type as ``xmdpt sample`` computes them."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    net = model.to(dtype)
    given = [known[f"in.{key}"].to(dtype) for key in ("dino_tgt_pose", "dino_src_img", "src_img")]
    condition = net.condition(*given)
    x, t = known["in.x"].to(dtype), known["in.t"]
    one = relative(net(x, t, condition), known["out.eps_cond"])
    dropped = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    none = relative(net(x, t, condition, keep=dropped), known["out.eps_uncond"])
    mask = Mask.random(known["in.mask_noise"], 0.3)
    masked = net.forward_masked(x, t, condition, given[2], mask)
    worst = max(one, none, relative(masked, known["out.eps_masked"]))
    yield at_most(f"{name}: outputs", worst, limits[0], note="largest difference / largest value")
    for steps in (10, 50):
        out = sample(net, known["in.z"], condition, steps=steps, guidance=2.0, power=0.01)
        error = relative(out, known[f"out.ddim{steps}"])
        yield at_most(f"{name}: {steps} DDIM steps, guided", error, limits[1])


def _training(
    name: str,
    model: XMDPT,
    known: Mapping[str, Tensor],
    norms: Mapping[str, float],
    limits: tuple[float, ...],
    bf16: bool,
) -> Iterator[Row]:
    """The losses and every gradient's norm; in bf16 by autocast, as ``xmdpt train`` computes."""
    with torch.autocast(known["in.x"].device.type, torch.bfloat16, enabled=bf16):
        losses = _losses(model, known)
    losses.total.backward()
    named = losses._asdict()
    worst = max(
        relative(named[key].detach().reshape(-1), known[f"out.train_{key}"])
        for key in ("mse", "vb", "masked_mse", "masked_vb", "total")
    )
    yield at_most(f"{name}: losses", worst, limits[2])
    ours = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    ratios = [
        abs(float(gradient.float().norm()) / norms[key] - 1)
        for key, gradient in published_tensors(ours).items()
        if norms[key] > 1e-6 * max(norms.values())
    ]
    note = f"of {len(ratios)} tensors, the worst"
    yield at_most(f"{name}: norms of gradients", max(ratios), limits[3], note=note)
    model.zero_grad()


def _losses(model: XMDPT, known: Mapping[str, Tensor]) -> Losses:
    kernels.prepare(model)
    names = ("dino_tgt_pose", "dino_src_img", "src_img")
    condition = model.condition(*(known[f"in.{key}"].float() for key in names))
    schedule = Schedule().to(known["in.x"].device)
    clean, t, noise = known["in.x0"], known["in.t"], known["in.noise"]
    noisy = schedule.add_noise(clean, noise, t)
    passes = training_passes(
        model,
        noisy,
        t,
        condition,
        keep=known["in.keep_unmasked"],
        mask=Mask.random(known["in.mask_noise"], 0.3),
        masked_latents=noisy,
        keep_masked=known["in.keep_masked"],
        source_latents=known["in.src_img"],
    )
    return training_loss(
        passes.out, clean, t, noise, masked_out=passes.masked_out, masked_noise=noise,
        schedule=schedule,
    )  # fmt: skip


def default_folder() -> Path | None:
    """Where the recorded numbers lie beside a checkout."""
    for near in Path(__file__).resolve().parents:
        for folder in (near / "shared" / "golden", near.parent / "shared" / "golden"):
            if (folder / FILE).is_file():
                return folder
    return None
