"""The VAE (diffusers' AutoencoderKL): images -> posterior moments, latents -> images.

Shapes: N batch, C latent channels (4), f downsampling factor (8, toy 4), h = H/f, w = W/f.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.encoders import weights
from xmdpt_cli.errors import XmdptError

if TYPE_CHECKING:  # imported in ``load``: training on stored features does not need it
    from diffusers import AutoencoderKL

DEFAULT_VAE = "stabilityai/sd-vae-ft-mse"  # published code
HINT = "give the folder as `--vae DIR`"
# pixels per forward pass, and bytes of activations for each in float32: 4 GB in all
CHUNK_PIXELS = 16 * 256 * 256
BYTES_A_PIXEL = 4096


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


def to_images(signed: torch.Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) in [-1, 1] -> uint8 (N, H, W, 3), rounded and clipped."""
    bytes_ = signed.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(bytes_.permute(0, 2, 3, 1).cpu().numpy())


def posterior_mean(moments: torch.Tensor, scale: float) -> torch.Tensor:
    """Moments (N, 2C, h, w) -> scaled latents (N, C, h, w) float32, without noise."""
    return moments.float().chunk(2, dim=1)[0] * scale


def sample_posterior(moments: torch.Tensor, noise: torch.Tensor, scale: float) -> torch.Tensor:
    """Moments (N, 2C, h, w) and standard normal (N, C, h, w) -> scaled latents, float32.

    The log-variance is clipped to [-30, 20] as AutoencoderKL does.
    """
    mean, log_variance = moments.float().chunk(2, dim=1)
    return (mean + log_variance.clamp(-30.0, 20.0).mul(0.5).exp() * noise) * scale


class VAE(weights.FrozenNetwork):
    """A frozen AutoencoderKL. Latents are scaled by ``scale``, moments are not."""

    net: AutoencoderKL

    def __init__(self, net: AutoencoderKL, origin: weights.Origin) -> None:
        self.net = net.eval().requires_grad_(False)
        self.origin = origin
        self.chunk_pixels = CHUNK_PIXELS  # per forward pass; fewer need less memory
        #: bf16: the decoder's autocast type on a GPU, on average 0.5 of 255 from float32
        self.decode_dtype = torch.float32
        self._compiled_for = 0

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
        return float(self.net.config.scaling_factor)

    @property
    def factor(self) -> int:
        """Pixels per latent position and axis, f."""
        return int(2 ** (len(self.net.config.block_out_channels) - 1))

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return int(self.net.config.latent_channels)

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

    def compile_decoder(self, count: int) -> None:
        """Use torch.compile for the decoder on a GPU, in batches of ``count`` images or of as many
        as ``chunk_pixels`` allows; smaller batches are padded, as in ``Sampler.compile``."""
        if self.device.type == "cuda":
            self.net.decoder.to(memory_format=torch.channels_last)  # the layout of tensor cores
            self.net.decoder.compile(dynamic=False)
            self._compiled_for = count

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """Scaled latents (N, C, h, w) -> uint8 (N, H, W, 3)."""
        height, width = (int(side) * self.factor for side in latents.shape[2:])
        step = max(1, self.chunk_pixels // (height * width))
        half = self.decode_dtype != torch.float32 and self.device.type == "cuda"
        out = np.empty((len(latents), height, width, 3), dtype=np.uint8)
        for start in range(0, len(latents), step):
            part = latents[start : start + step].to(self.device, torch.float32) / self.scale
            missing = min(self._compiled_for, step) - len(part)
            if missing > 0:
                part = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                signed = self.net.decode(part.to(self.dtype).contiguous()).sample
            out[start : start + step] = to_images(signed[: len(out) - start])
        return out

    def describe(self) -> dict[str, Any]:
        """JSON-ready record: ``Origin.describe``, scale, factor and channels."""
        return self.origin.describe(
            self.net, scale=self.scale, factor=self.factor, channels=self.channels
        )

    def save(self, folder: str | Path) -> None:
        """Write a diffusers folder, atomically; a toy stays marked as one."""
        # else diffusers writes the local path, which must not be published
        self.net.register_to_config(_name_or_path=Path(self.origin.id).name)
        weights.save_folder(folder, self.net.save_pretrained, self.origin)
