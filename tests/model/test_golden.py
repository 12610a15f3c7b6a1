"""The published model's own numbers: outputs, losses, gradients, samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from xmdpt_cli.diffusion import sample, training_loss
from xmdpt_cli.diffusion.guidance import guidance_scale
from xmdpt_cli.diffusion.loss import loss_terms
from xmdpt_cli.diffusion.schedule import Schedule
from xmdpt_cli.diffusion.solvers import timestep_list
from xmdpt_cli.model import XMDPT, Mask
from xmdpt_cli.model.fast import training_passes
from xmdpt_cli.model.published import from_published, published_name

Shared = Callable[[str], Path]


@pytest.fixture(scope="module")
def golden(shared: Shared) -> dict[str, Tensor]:
    return load_file(shared("golden/dev_a.safetensors"))


@pytest.fixture(scope="module")
def model(golden: dict[str, Tensor]) -> XMDPT:
    state = {k[6:]: v for k, v in golden.items() if k.startswith("state.")}
    return from_published(state).eval()


@pytest.fixture(scope="module")
def condition(model: XMDPT, golden: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.condition(
            golden["in.dino_tgt_pose"].float(),
            golden["in.dino_src_img"].float(),
            golden["in.src_img"],
        )


def mask(golden: dict[str, Tensor]) -> Mask:
    return Mask.random(golden["in.mask_noise"], 0.3)


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
def test_forward(model: XMDPT, golden: dict[str, Tensor], condition: Tensor) -> None:
    x, t = golden["in.x"], golden["in.t"]
    assert relative(model(x, t, condition), golden["out.eps_cond"]) < 1e-5
    assert (
        relative(
            model(x, t, condition, keep=torch.zeros(3, dtype=torch.bool)), golden["out.eps_uncond"]
        )
        < 1e-5
    )


@torch.no_grad()
def test_forward_masked(model: XMDPT, golden: dict[str, Tensor], condition: Tensor) -> None:
    out = model.forward_masked(
        golden["in.x"], golden["in.t"], condition, golden["in.src_img"], mask(golden)
    )
    assert relative(out, golden["out.eps_masked"]) < 1e-5


@pytest.mark.parametrize("power", [0.01, 1.0])
@torch.no_grad()
def test_guided(model: XMDPT, golden: dict[str, Tensor], condition: Tensor, power: float) -> None:
    rows = []
    for i, t in enumerate(golden["in.t"].tolist()):
        scale = guidance_scale(t, 2.0, power)
        denoise = model.denoiser(condition[i : i + 1], [t], [scale])
        rows.append(denoise(golden["in.x"][i : i + 1], 0))
    assert relative(torch.cat(rows), golden[f"out.cfg_scale2_pow{power}"]) < 1e-5


@torch.no_grad()
def test_one_row_alone_equals_its_row_in_a_batch(
    model: XMDPT, golden: dict[str, Tensor], condition: Tensor
) -> None:
    args = [golden[f"in.{k}"] for k in ("dino_tgt_pose", "dino_src_img", "src_img")]
    x, t = golden["in.x"], golden["in.t"]
    batch = model(x, t, condition)
    masked = model.forward_masked(x, t, condition, args[2], mask(golden))
    for i in range(3):
        one = slice(i, i + 1)
        alone = model.condition(*(a[one] for a in args))
        assert relative(alone, condition[one]) < 1e-5
        assert relative(model(x[one], t[one], alone), batch[one]) < 1e-5
        out = model.forward_masked(
            x[one], t[one], alone, args[2][one], Mask(*(ids[one] for ids in mask(golden)))
        )
        assert relative(out, masked[one]) < 1e-5


def test_training_loss_and_every_gradient(
    model: XMDPT, golden: dict[str, Tensor], shared: Shared
) -> None:
    model.zero_grad()
    condition = model.condition(
        golden["in.dino_tgt_pose"], golden["in.dino_src_img"], golden["in.src_img"]
    )
    clean, t, noise = golden["in.x0"], golden["in.t"], golden["in.noise"]
    noisy = Schedule().add_noise(clean, noise, t)  # here both passes have the same noise
    passes = training_passes(
        model, noisy, t, condition, keep=golden["in.keep_unmasked"], mask=mask(golden),
        masked_latents=noisy, keep_masked=golden["in.keep_masked"],
        source_latents=golden["in.src_img"],
    )  # fmt: skip
    losses = training_loss(
        passes.out, clean, t, noise, masked_out=passes.masked_out, masked_noise=noise
    )
    torch.testing.assert_close(losses.mse, golden["out.train_mse"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses.vb, golden["out.train_vb"], rtol=1e-4, atol=0)
    assert losses.masked_mse is not None
    assert losses.masked_vb is not None
    torch.testing.assert_close(losses.masked_mse, golden["out.train_masked_mse"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses.masked_vb, golden["out.train_masked_vb"], rtol=1e-4, atol=0)
    torch.testing.assert_close(
        losses.total.reshape(1), golden["out.train_total"], rtol=1e-4, atol=0
    )

    losses.total.backward()  # type: ignore[no-untyped-call]
    norms = json.loads(shared("golden/dev_a.gradnorms.json").read_text())
    ours = {published_name(name): p.grad for name, p in model.named_parameters()}
    assert set(ours) == set(norms)
    for name, grad in ours.items():
        assert grad is not None
        assert float(grad.norm()) == pytest.approx(norms[name], rel=1e-4), name
    model.zero_grad()


@torch.no_grad()
def test_the_loss_at_the_ends(
    model: XMDPT, golden: dict[str, Tensor], condition: Tensor, shared: Shared
) -> None:
    ends = load_file(shared("golden/dev_a_ends.safetensors"))
    clean, noise, t = 2 * golden["in.x0"], golden["in.noise"], ends["in.t"]
    assert t.tolist() == [0, 1, 999]
    noisy = Schedule().add_noise(clean, noise, t)
    mse, vb = loss_terms(model(noisy, t, condition), clean, noise, t)
    torch.testing.assert_close(mse, ends["out.mse"], rtol=1e-4, atol=0)
    torch.testing.assert_close(vb, ends["out.vb"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("steps", [10, 50])
def test_ddim(model: XMDPT, golden: dict[str, Tensor], condition: Tensor, steps: int) -> None:
    listed = golden[f"out.timesteps{steps}"].tolist()
    assert sorted(timestep_list(steps)) == sorted(listed)
    out = sample(model, golden["in.z"], condition, steps=steps, guidance=2.0, power=0.01)
    assert relative(out, golden[f"out.ddim{steps}"]) < 1e-4
