"""Latents -> images: what the VAE's decoder and a tiny decoder share.

Shapes: N batch, C latent channels, f pixels per latent position, h = H/f, w = W/f.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import Self

from xmdpt_cli.encoders import weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

# pixels per forward pass, and bytes of activations for each in float32: 4 GB in all
CHUNK_PIXELS = 16 * 256 * 256
BYTES_A_PIXEL = 4096


def to_images(signed: torch.Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) in [-1, 1] -> uint8 (N, H, W, 3), rounded and clipped."""
    bytes_ = signed.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(bytes_.permute(0, 2, 3, 1).cpu().numpy())


class Decoder(weights.FrozenNetwork):
    """A frozen network of diffusers that decodes latents. Subclasses: ``VAE``, ``TinyDecoder``."""

    net: AutoencoderKL | AutoencoderTiny

    def __init__(self, net: AutoencoderKL | AutoencoderTiny, origin: weights.Origin) -> None:
        self.net = net.eval().requires_grad_(False)
        self.origin = origin
        self.chunk_pixels = CHUNK_PIXELS  # per forward pass; fewer need less memory
        #: bf16: the decoder's autocast type on a GPU, on average 0.5 of 255 from float32
        self.decode_dtype = torch.float32
        self._compiled_for = 0

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load from a hub id or a local diffusers folder. XmdptError with what to fetch."""
        raise NotImplementedError

    @property
    def scale(self) -> float:
        """Latents are the posterior's samples times this."""
        raise NotImplementedError

    @property
    def factor(self) -> int:
        """Pixels per latent position and axis, f."""
        return int(2 ** (len(self.net.config.block_out_channels) - 1))

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return int(self.net.config.latent_channels)

    @property
    def net_scale(self) -> float:
        """Latents are divided by this before ``net.decode``, as diffusers' pipelines do."""
        return float(self.net.config.scaling_factor)

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
            part = latents[start : start + step].to(self.device, torch.float32) / self.net_scale
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

    def write(self, folder: Path) -> None:
        """Write the files of a diffusers folder into ``folder``."""
        # else diffusers writes the local path, which must not be published
        self.net.register_to_config(_name_or_path=Path(self.origin.id).name)
        self.net.save_pretrained(folder)

    def save(self, folder: str | Path) -> None:
        """Write a diffusers folder, atomically; a toy stays marked as one."""
        weights.save_folder(folder, self.write, self.origin)
