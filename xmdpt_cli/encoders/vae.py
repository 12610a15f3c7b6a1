"""The VAE (diffusers' AutoencoderKL): images -> posterior moments, latents -> images.

Shapes: N batch, C latent channels (4), f downsampling factor (8, toy 4), h = H/f, w = W/f.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.encoders import weights
from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.errors import XmdptError

if TYPE_CHECKING:  # imported in ``load``: training on stored features does not need it
    from diffusers import AutoencoderKL

DEFAULT_VAE = "stabilityai/sd-vae-ft-mse"  # published code
HINT = "give the folder as `--vae DIR`"


def channels_first(images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3), an array or a tensor on any device -> float32 (N, 3, H, W), 0 to 255.

    Contiguous, not a view: networks keep the layout of their input, and on CPUs torch's GroupNorm
    loses digits with channels-last tensors (3.1e-3 of the moments at 512 px, against 9e-6).
    """
    if not isinstance(images, torch.Tensor):
        images = torch.from_numpy(np.ascontiguousarray(images))
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"expected uint8 (N, H, W, 3), got {images.dtype} {tuple(images.shape)}")
    return images.permute(0, 3, 1, 2).contiguous().float()


def to_signed(images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [-1, 1]."""
    return channels_first(images).div(127.5).sub(1.0)


def posterior_mean(moments: torch.Tensor, scale: float) -> torch.Tensor:
    """Moments (N, 2C, h, w) -> scaled latents (N, C, h, w) float32, without noise."""
    return moments.float().chunk(2, dim=1)[0] * scale


def sample_posterior(moments: torch.Tensor, noise: torch.Tensor, scale: float) -> torch.Tensor:
    """Moments (N, 2C, h, w) and standard normal (N, C, h, w) -> scaled latents, float32.

    The log-variance is clipped to [-30, 20] as AutoencoderKL does.
    """
    mean, log_variance = moments.float().chunk(2, dim=1)
    return (mean + log_variance.clamp(-30.0, 20.0).mul(0.5).exp() * noise) * scale


class VAE(Decoder):
    """A frozen AutoencoderKL. Latents are scaled by ``scale``, moments are not."""

    net: AutoencoderKL

    @classmethod
    def load(
        cls,
        source: str | Path = DEFAULT_VAE,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> VAE:
        """Load from a hub id or a local diffusers folder. XmdptError with what to fetch."""
        from diffusers import AutoencoderKL

        origin = cls.find(source, revision)
        net = weights.load_net(
            AutoencoderKL, origin, what="VAE", key="_class_name", value="AutoencoderKL", dtype=dtype
        )
        return cls(net.to(device), origin)

    @staticmethod
    def find(source: str | Path, revision: str | None = None) -> weights.Origin:
        """Locate its files, downloading them if needed; no weights are read. XmdptError as
        ``load``."""
        return weights.find(
            source, what="VAE", stem="diffusion_pytorch_model", revision=revision, hint=HINT
        )

    @property
    def scale(self) -> float:
        """Latents are multiplied by this after encoding (0.18215 for sd-vae-ft-mse).

        The config's value: the published code has 0.18215 in one place and 0.1825 in another.
        """
        return self.net_scale

    @torch.no_grad()
    def encode_moments(self, images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """uint8 (N, H, W, 3) -> float32 (N, 2C, h, w): mean, then log-variance, unscaled.

        A tensor may be on any device. H and W must be multiples of f (XmdptError).
        """
        height, width = images.shape[1:3]
        if height % self.factor or width % self.factor:
            raise XmdptError(
                f"images of {height}x{width} do not divide by the VAE's factor {self.factor}"
            )
        step = max(1, self.chunk_pixels // (height * width))
        parts = []
        for start in range(0, len(images), step):
            signed = to_signed(images[start : start + step]).to(self.device, self.dtype)
            parts.append(self.net.encode(signed).latent_dist.parameters.float())
        if not parts:
            shape = (0, 2 * self.channels, height // self.factor, width // self.factor)
            return torch.zeros(shape, device=self.device)
        return torch.cat(parts)  # (N, 2C, h, w)
