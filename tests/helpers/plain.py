"""Training written down from the paper's equations, once more and plainly: fp32, one process, no
class, nothing shared with the package but the starting weights, the batches and their random
numbers. What it gives is what the real loop must give.

Numbers of equations: paper (X-MDPT) eq. n; DDPM, improved DDPM as named. N rows, T tokens, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

W = dict[str, Tensor]


def linear(w: W, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def embed(w: W, latents: Tensor) -> Tensor:
    """2 x 2 patches through a linear, plus the position embedding."""
    n, c, h, _ = latents.shape
    patches = latents.reshape(n, c, h // 2, 2, h // 2, 2).permute(0, 2, 4, 1, 3, 5)
    flat = patches.reshape(n, (h // 2) ** 2, c * 4)
    weight = w["tdnet.x_embedder.proj.weight"].flatten(1)
    return flat @ weight.T + w["tdnet.x_embedder.proj.bias"] + w["tdnet.pos_embed"]


def project(w: W, name: str, x: Tensor) -> Tensor:
    x = layer_norm(gelu(linear(w, f"{name}.0", x)), 1e-12)
    return x * w[f"{name}.2.weight"] + w[f"{name}.2.bias"]


def over_tokens(w: W, name: str, x: Tensor) -> Tensor:
    """The convolution over the token axis: a weighted sum of tokens -> (N, D)."""
    x = (w[f"{name}.0.weight"][0, :, 0][None, :, None] * x).sum(dim=1) + w[f"{name}.0.bias"]
    return layer_norm(gelu(x), 1e-12) * w[f"{name}.2.weight"] + w[f"{name}.2.bias"]


def canet(w: W, pose: Tensor, image: Tensor, source: Tensor) -> Tensor:
    """Paper sec. 3: vP + vG + vL through a last projection."""
    v_pose = over_tokens(w, "canet.conv1d_pose", project(w, "canet.mlp_dino_pose", pose.float()))
    v_global = over_tokens(
        w, "canet.conv1d_global", project(w, "canet.mlp_dino_img", image.float())
    )
    v_local = over_tokens(w, "canet.conv1d_local", embed(w, source))
    return project(w, "canet.mlp_final", v_pose + v_global + v_local)


def timestep(w: W, t: Tensor) -> Tensor:
    i = torch.arange(128)
    angle = t[:, None].float() * torch.exp(-math.log(10000) * i / 128)
    x = torch.cat([angle.cos(), angle.sin()], dim=1)
    return linear(w, "tdnet.t_embedder.mlp.2", silu(linear(w, "tdnet.t_embedder.mlp.0", x)))


def bias_of(w: W, block: str, side: int) -> Tensor:
    """(H, T, T): a number for every offset of query and key."""
    table = w[f"{block}.attn.rel_pos_bias.relative_position_bias_table"].T
    place = torch.arange(side * side)
    y, x = place // side, place % side
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return table[:, (dy + side - 1) * (2 * side - 1) + dx + side - 1]


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int) -> Tensor:
    """q (N, K, D), k and v (N, S, D), bias (N or 1, H, K, S)."""
    out = []
    for one in zip(*(x.chunk(heads, dim=2) for x in (q, k, v)), bias.unbind(1), strict=True):
        qh, kh, vh, b = one
        scores = torch.einsum("nkd,nsd->nks", qh, kh) / math.sqrt(qh.shape[2]) + b
        weights = (scores - scores.amax(dim=2, keepdim=True)).exp()
        out.append(torch.einsum("nks,nsd->nkd", weights / weights.sum(dim=2, keepdim=True), vh))
    return torch.cat(out, dim=2)


def block(
    w: W, name: str, x: Tensor, c: Tensor, bias: Tensor, heads: int, other: Any = None
) -> Any:
    """adaLN-Zero; ``other``: what a cross block reads."""
    s1, a1, g1, s2, a2, g2 = linear(w, f"{name}.adaLN_modulation.1", silu(c))[:, None].chunk(
        6, dim=2
    )
    h = layer_norm(x, 1e-6) * (1 + a1) + s1
    if other is None:
        q, k, v = linear(w, f"{name}.attn.qkv", h).chunk(3, dim=2)
    else:
        q = linear(w, f"{name}.attn.to_q", h)
        k, v = linear(w, f"{name}.attn.to_kv", other).chunk(2, dim=2)
    x = x + g1 * linear(w, f"{name}.attn.proj", attention(q, k, v, bias, heads))
    h = layer_norm(x, 1e-6) * (1 + a2) + s2
    h = linear(w, f"{name}.mlp.fc2", gelu_tanh(linear(w, f"{name}.mlp.fc1", h)))
    return x + g2 * h


def one_pass(
    w: W,
    noisy: Tensor,
    t: Tensor,
    c_cond: Tensor,
    source: Tensor,
    kept: Any,
    depth: int,
    heads: int,
) -> Tensor:
    """Paper fig. 2: TDNet, with MIPNet before its decoder where ``kept`` (N, K) is given."""
    side = noisy.shape[2] // 2
    n, tokens = len(noisy), side * side
    c = timestep(w, t) + c_cond
    biases = [bias_of(w, f"tdnet.blocks.{i}", side)[None] for i in range(depth)]
    x = embed(w, noisy)
    if kept is None:
        for i in range(depth - 2):
            x = block(w, f"tdnet.blocks.{i}", x, c, biases[i], heads)
        x = x + w["tdnet.decoder_pos_embed"]
    else:
        rows = torch.arange(n)[:, None]
        x = x[rows, kept]
        for i in range(depth - 2):
            picked = biases[i][0][:, kept[:, :, None], kept[:, None, :]].transpose(0, 1)
            x = block(w, f"tdnet.blocks.{i}", x, c, picked, heads)
        with torch.no_grad():
            view = embed(w, source)
            for i in range(depth - 2):
                view = block(w, f"tdnet.blocks.{i}", view, c, biases[i], heads)
        whole = w["mipnet.mask_token"].repeat(n, tokens, 1)
        whole = whole.index_put((rows, kept), x) + w["tdnet.decoder_pos_embed"]
        side_blocks = ("mipnet.sideblocks.0", "mipnet.sideblocks_cross.0")
        own, cross = (bias_of(w, name, side)[None] for name in side_blocks)
        new = block(w, side_blocks[0], whole, c, own, heads)
        new = block(w, side_blocks[1], new, c, cross, heads, view)
        there = torch.zeros(n, tokens, 1, dtype=torch.bool)
        there[rows, kept] = True
        x = torch.where(there, whole, new)
    for i in range(depth - 2, depth):
        x = block(w, f"tdnet.blocks.{i}", x, c, biases[i], heads)
    shift, scale = linear(w, "tdnet.final_layer.adaLN_modulation.1", silu(c))[:, None].chunk(
        2, dim=2
    )
    x = linear(w, "tdnet.final_layer.linear", layer_norm(x, 1e-6) * (1 + scale) + shift)
    x = x.reshape(n, side, side, 2, 2, 8).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(n, 8, 2 * side, 2 * side)


BETA = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
ABAR = torch.cumprod(1 - BETA, 0)
BEFORE = torch.cat([torch.ones(1, dtype=torch.float64), ABAR[:-1]])
POSTERIOR = BETA * (1 - BEFORE) / (1 - ABAR)  # DDPM eq. 7


def pick(table: Tensor, t: Tensor) -> Tensor:
    return table[t].float()[:, None, None, None]


def loss_of(out: Tensor, clean: Tensor, noisy: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Improved DDPM eq. 16 with the bound in bits per dimension: (N,)."""
    eps, v = out[:, :4], out[:, 4:]
    mse = (eps - noise).square().mean(dim=(1, 2, 3))
    log_posterior = torch.cat([POSTERIOR[1:2], POSTERIOR[1:]]).log()
    of_clean = pick(BETA * BEFORE.sqrt() / (1 - ABAR), t)
    of_noisy = pick((1 - BEFORE) * (1 - BETA).sqrt() / (1 - ABAR), t)
    guess = (noisy - pick((1 - ABAR).sqrt(), t) * eps.detach()) / pick(ABAR.sqrt(), t)
    mean, true = of_clean * guess + of_noisy * noisy, of_clean * clean + of_noisy * noisy
    f = (v + 1) / 2  # improved DDPM eq. 15
    log, true_log = (
        f * pick(BETA.log(), t) + (1 - f) * pick(log_posterior, t),
        pick(log_posterior, t),
    )
    kl = 0.5 * (log - true_log - 1 + (true_log - log).exp() + (true - mean) ** 2 / log.exp())
    vb = kl.mean(dim=(1, 2, 3)) / math.log(2)
    # the discretised likelihood at t = 0 (tests/diffusion holds it against its own definition)
    from xmdpt_cli.diffusion.loss import discretised_log_likelihood

    likelihood = discretised_log_likelihood(clean, clean - mean, 0.5 * log)
    nll = -likelihood.mean(dim=(1, 2, 3)) / math.log(2)
    return mse + torch.where(t == 0, nll, vb)


def step_loss(
    w: W, batch: Any, scale: float, drop: float, ratio: float, depth: int, heads: int
) -> Any:
    """Paper eq. 5 on one batch."""
    random = batch.step_noise

    def latents(moments: Tensor, normal: Tensor) -> Tensor:
        mean, log_variance = moments[:, :4], moments[:, 4:]
        return (mean + (log_variance / 2).exp() * normal) * scale

    clean = latents(batch.target_moments, random.target)
    source = latents(batch.source_moments, random.source)
    t = (random.uniform[:, 0] * 1000).long()
    condition = canet(w, batch.pose_tokens, batch.source_tokens, source)
    keep = (random.uniform[:, 1:] >= drop).float()
    tokens = random.tokens.shape[1]
    kept = random.tokens.argsort(dim=1)[:, : int(tokens * (1 - ratio))]
    total = torch.zeros(())
    for column, shown, noise in ((0, None, random.noise), (1, kept, random.masked_noise)):
        noisy = pick(ABAR.sqrt(), t) * clean + pick((1 - ABAR).sqrt(), t) * noise
        c = condition * keep[:, column : column + 1]
        out = one_pass(w, noisy, t, c, source, shown, depth, heads)
        total = total + loss_of(out, clean, noisy, noise, t).mean()
    return total


def train_plainly(start: W, batches: Any, steps: int, rate: float, decay: float, **how: Any) -> Any:
    """AdamW (betas 0.9, 0.999, eps 1e-8, no decay) and EMA by their formulas.

    Returns the losses and the averaged weights.
    """
    w = {k: v.clone().requires_grad_() for k, v in start.items()}
    average = {k: v.clone() for k, v in start.items()}
    first = {k: torch.zeros_like(v) for k, v in start.items()}
    second = {k: torch.zeros_like(v) for k, v in start.items()}
    losses = []
    for step in range(1, steps + 1):
        loss = step_loss(w, batches(step - 1), **how)
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, list(w.values()))
        with torch.no_grad():
            for (name, weight), g in zip(w.items(), gradients, strict=True):
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g * g
                m, v = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
                weight -= rate * m / (v.sqrt() + 1e-8)
                average[name] = decay * average[name] + (1 - decay) * weight
    return losses, average
