"""Train a VAE on pictures: a toy from its pass-through start, or a real one's decoder.

The paper fine-tunes the decoder of sd-vae-ft-mse on the training pictures for 77 epochs (sec.
4.1: "the face is distorted if not"); its loss is not published. The loss here is
L1 + 2 MSE on [-1, 1], the foreground counted more, and a light KL term where the encoder learns.

A step depends on the seed and its own number only, so an interrupted run continues exactly.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.encoders.vae import VAE, posterior_mean, to_signed
from xmdpt_cli.encoders.weights import Origin, save_folder, state_sha256
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture
from xmdpt_cli.progress import Progress, silent

# For toys at 64 px. Measured on drawn people, same time each: 300 steps of 4 pictures 27.2 dB,
# 600 of 2 27.8, 1200 of 1 27.9; at 4e-3 half a decibel less; 1800 of 2: 29.1 dB.
# Four numbers for 4x4 pixels is tight: the best linear code of that size gives 23.0 dB.
TOY_LR = 2e-3
# Latent-diffusion autoencoders were trained at 4.5e-6 per picture of the batch (CompVis configs).
FINE_TUNE_LR_PER_PICTURE = 4.5e-6
WARM_UP = 0.05  # of the steps
RECORD = "xmdpt_training.json"


class Pictures(Protocol):
    """Pictures of one size by index: an array (M, H, W, 3), or anything that reads lazily."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Picture: ...


@dataclass(frozen=True)
class VAEStats:
    """What a training run reports. PSNR in dB on the held-out pictures, None without any."""

    steps: int
    pictures: int
    decoder_only: bool
    loss_first: float
    loss_last: float
    psnr_before: float | None
    psnr: float | None
    scaling_factor: float
    seconds: float


@dataclass(frozen=True)
class _Settings:
    """All that decides the result: what a run that continues must agree on."""

    steps: int
    batch_size: int
    lr: float
    seed: int
    decoder_only: bool
    foreground_weight: float
    kl_weight: float
    latent_noise: float
    pictures: str
    start: str


def train_vae(
    vae: VAE,
    pictures: Pictures,
    *,
    out: str | Path,
    held_out: NDArray[np.uint8] | None = None,
    steps: int = 600,
    batch_size: int = 2,
    lr: float | None = None,
    seed: int = 0,
    decoder_only: bool = False,
    foreground_weight: float = 3.0,
    kl_weight: float = 1e-6,
    latent_noise: float = 0.0,
    save_every: int = 500,
    progress: Progress = silent,
) -> VAEStats:
    """Train ``vae`` in place and write it to the folder ``out``, whole or not at all.

    ``decoder_only`` is the paper's way: encoder and latents stay exactly as they are.
    ``foreground_weight`` is for plain backgrounds (drawn people, DeepFashion): pixels that
    differ from the border's colour count that many times; 1 counts all alike. ``lr`` defaults
    to what suits a toy or a fine-tuning. ``latent_noise`` is Gaussian noise on what the decoder
    reads, in standard deviations of the latents, so that small errors of generated latents stay
    small in the picture. A toy's scaling factor is set to 1 / standard
    deviation of its latents.

    The same call continues an interrupted run (from ``<out>.resume.pt``) and returns the
    record of a finished one. Raises XmdptError when ``out`` holds something else, when the
    pictures do not suit, and when the loss is no longer a number.
    """
    out = Path(out)
    if len(pictures) == 0:
        raise XmdptError("no pictures to train the VAE on")
    if vae.dtype != torch.float32:
        raise XmdptError(f"a VAE is trained in float32, this one is loaded as {vae.dtype}")
    if lr is None:
        lr = TOY_LR if vae.origin.toy else FINE_TUNE_LR_PER_PICTURE * batch_size
    settings = _Settings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        decoder_only=decoder_only,
        foreground_weight=foreground_weight,
        kl_weight=kl_weight,
        latent_noise=latent_noise,
        pictures=_digest(pictures),
        start=state_sha256(vae.net),
    )
    done = _finished(vae, out, settings)
    if done is not None:
        return done
    started = time.monotonic()
    before = None if held_out is None else reconstruction_psnr(vae, held_out)
    first, last = _run(vae, pictures, settings, _resume_path(out), save_every, progress)
    if vae.origin.toy and not decoder_only:
        _set_scale(vae, pictures)
    stats = VAEStats(
        steps=steps,
        pictures=len(pictures),
        decoder_only=decoder_only,
        loss_first=first,
        loss_last=last,
        psnr_before=before,
        psnr=None if held_out is None else reconstruction_psnr(vae, held_out),
        scaling_factor=vae.scale,
        seconds=time.monotonic() - started,
    )
    _finish(vae, out, settings, stats)
    return stats


def reconstruction_psnr(vae: VAE, pictures: NDArray[np.uint8]) -> float:
    """Encode to the posterior's mean, decode: PSNR in dB per uint8 picture, then the mean."""
    decoded = vae.decode(posterior_mean(vae.encode_moments(pictures), vae.scale))
    error = (decoded.astype(np.float64) - pictures.astype(np.float64)) / 255.0
    mse = np.maximum((error**2).mean(axis=(1, 2, 3)), 1e-10)  # equal pictures: 100 dB
    return float((-10.0 * np.log10(mse)).mean())


def _run(
    vae: VAE,
    pictures: Pictures,
    settings: _Settings,
    resume: Path,
    save_every: int,
    progress: Progress,
) -> tuple[float, float]:
    """All steps, from the last saved one. Returns the first loss and the mean of the last 50."""
    net = vae.net
    trained = [net.decoder, net.post_quant_conv]
    if not settings.decoder_only:
        trained += [net.encoder, net.quant_conv]
    parameters = [p for part in trained if part is not None for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.0, fused=True)
    losses = _load_state(vae, optimizer, resume, settings)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        for step in range(len(losses), settings.steps):
            batch, noise = _draw(vae, pictures, settings, step)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * _lr_factor(step, settings.steps)
            loss = _loss(vae, batch, noise, settings)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise XmdptError(
                    f"VAE training lost its way: loss {losses[-1]} at step {step}",
                    f"start again with a lower learning rate than {settings.lr:g}",
                )
            progress("vae", step + 1, settings.steps, loss=losses[-1])
            if (step + 1) % save_every == 0 and step + 1 < settings.steps:
                _save_state(vae, optimizer, resume, settings, losses)
    finally:
        net.requires_grad_(False)
    return losses[0], float(np.mean(losses[-50:]))


def _loss(vae: VAE, batch: torch.Tensor, noise: torch.Tensor, settings: _Settings) -> torch.Tensor:
    """Pictures (N, 3, H, W) in [-1, 1] and unit noise (N, C, h, w) -> one number."""
    with torch.set_grad_enabled(not settings.decoder_only):
        mean, log_variance = vae.net.encode(batch).latent_dist.parameters.chunk(2, dim=1)
        log_variance = log_variance.clamp(-30.0, 20.0)
        # the posterior's noise and ours, independent of each other: their variances add
        variance = log_variance.exp() + (settings.latent_noise * mean.detach().std()) ** 2
        latents = mean + variance.sqrt() * noise  # (N, C, h, w)
    error = vae.net.decode(latents).sample - batch
    weight = 1.0 + (settings.foreground_weight - 1.0) * _foreground(batch)
    loss = (weight * (error.abs() + 2.0 * error.square())).mean()
    if not settings.decoder_only:
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
        loss = loss + settings.kl_weight * kl.sum(dim=(1, 2, 3)).mean()
    return loss


def _foreground(batch: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) -> (N, 1, H, W): 1 where a pixel differs from the border's median colour."""
    border = torch.cat([batch[:, :, 0], batch[:, :, -1], batch[..., 0], batch[..., -1]], dim=2)
    background = border.median(dim=2).values[..., None, None]  # (N, 3, 1, 1)
    return ((batch - background).abs().amax(dim=1, keepdim=True) > 0.06).to(batch.dtype)


def _lr_factor(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _draw(
    vae: VAE, pictures: Pictures, settings: _Settings, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures of one step, half of them mirrored, and their noise: functions of the step."""
    count, size = len(pictures), settings.batch_size
    chosen = [_index(settings.seed, count, step * size + i) for i in range(size)]
    rng = np.random.default_rng([settings.seed, 1, step])
    batch = np.stack([np.asarray(pictures[index]) for index in chosen])
    mirrored = rng.random(size) < 0.5
    batch[mirrored] = batch[mirrored][:, :, ::-1]
    height, width = batch.shape[1] // vae.factor, batch.shape[2] // vae.factor
    noise = rng.standard_normal((size, vae.channels, height, width), dtype=np.float32)
    signed = to_signed(batch).to(vae.device, vae.dtype)
    return signed, torch.from_numpy(noise).to(vae.device, vae.dtype)


def _index(seed: int, count: int, position: int) -> int:
    """Which picture stands at this position of an endless row of shuffled epochs."""
    epoch, offset = divmod(position, count)
    return int(_epoch_order(seed, count, epoch)[offset])


@lru_cache(maxsize=2)
def _epoch_order(seed: int, count: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch]).permutation(count)


def _some(pictures: Pictures, at_most: int) -> NDArray[np.uint8]:
    """Up to ``at_most`` pictures, evenly spaced."""
    indices = np.linspace(0, len(pictures) - 1, min(at_most, len(pictures)))
    return np.stack([np.asarray(pictures[int(index)]) for index in indices])


def _set_scale(vae: VAE, pictures: Pictures) -> None:
    """scaling_factor = 1 / standard deviation of the latents, as latent diffusion defines it."""
    latents = posterior_mean(vae.encode_moments(_some(pictures, 256)), 1.0)
    vae.net.register_to_config(scaling_factor=1.0 / float(latents.std()))


def _digest(pictures: Pictures) -> str:
    """Tells one training set from another without reading all of it: count and 64 pictures."""
    some = _some(pictures, 64)
    text = f"{len(pictures)} {some.shape} ".encode()
    return hashlib.sha256(text + np.ascontiguousarray(some).tobytes()).hexdigest()


def _resume_path(out: Path) -> Path:
    return out.with_name(out.name + ".resume.pt")


def _save_state(
    vae: VAE,
    optimizer: torch.optim.Optimizer,
    path: Path,
    settings: _Settings,
    losses: list[float],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    state = {
        "settings": asdict(settings),
        "losses": losses,
        "net": vae.net.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, part)
    part.replace(path)


def _load_state(
    vae: VAE, optimizer: torch.optim.Optimizer, path: Path, settings: _Settings
) -> list[float]:
    """Put back what an interrupted run saved. Returns its losses, one a step."""
    if not path.is_file():
        return []
    state = torch.load(path, map_location=vae.device, weights_only=True)
    if state["settings"] != asdict(settings):
        raise XmdptError(
            f"an interrupted VAE training with other settings is in the way: {path}",
            "delete that file to start anew, or repeat the earlier call to continue it",
        )
    vae.net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    return list(state["losses"])


def _finished(vae: VAE, out: Path, settings: _Settings) -> VAEStats | None:
    """The record of a finished run with these settings, its weights put into ``vae``."""
    if not out.exists():
        return None
    record = out / RECORD
    saved = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    if saved.get("settings") != asdict(settings):
        raise XmdptError(
            f"not overwriting {out}: it is not the result of this training",
            "choose another folder, or delete that one",
        )
    trained = VAE.load(out, device=vae.device, dtype=vae.dtype)
    vae.net, vae.origin = trained.net, trained.origin
    return VAEStats(**saved["stats"])


def _finish(vae: VAE, out: Path, settings: _Settings, stats: VAEStats) -> None:
    record = {"settings": asdict(settings), "stats": asdict(stats)}

    def write(part: Path) -> None:
        vae.net.save_pretrained(part)
        (part / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    save_folder(out, write, toy_id=vae.origin.id if vae.origin.toy else None)
    if not vae.origin.toy:
        vae.origin = Origin("local", str(out), files=sorted(out.glob("*.safetensors")))
    _resume_path(out).unlink(missing_ok=True)
