"""The three frozen encoders that turn images and pose images into features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xmdpt_cli.encoders import weights
from xmdpt_cli.encoders.dino import DEFAULT_POSE, DEFAULT_SOURCE, Dino, pose_input
from xmdpt_cli.encoders.identity import FOLDERS, PARTS
from xmdpt_cli.encoders.vae import DEFAULT_VAE, VAE, to_signed
from xmdpt_cli.errors import XmdptError


@dataclass(frozen=True)
class Encoders:
    """The VAE, the DINOv2 of source images, and the DINOv2 of pose images."""

    vae: VAE
    source: Dino
    pose: Dino

    def encode(
        self, images: NDArray[np.uint8], poses: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        """Images and their pose images, uint8 (N, H, W, 3) each -> features on the CPU.

        ``moments`` (N, 2C, h, w) unscaled, float16 if finite in it, else float32;
        ``source_tokens`` (N, L, D) and ``pose_tokens`` (N, L', D') bfloat16, without loss: the
        model casts them to bfloat16 in its first layer.
        """
        return {
            "moments": moments_of(self.vae, images),
            "source_tokens": source_tokens_of(self.source, images),
            "pose_tokens": pose_tokens_of(self.pose, poses),
        }

    def describe(self) -> dict[str, Any]:
        """JSON-ready: the record of each network, and whether any of them is a toy."""
        parts = {part: getattr(self, part).describe() for part in PARTS}
        return {**parts, "toy": any(part["toy"] for part in parts.values())}

    def save(self, folder: str | Path) -> None:
        """Write ``vae/``, ``dino_source/`` and ``dino_pose/`` into ``folder``, atomically."""

        def write(temporary: Path) -> None:
            for part, names in PARTS.items():
                getattr(self, part).save(temporary / names.folder)

        weights.save_folder(folder, write)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        dino_autocast: torch.dtype | None = None,
    ) -> Encoders:
        """Load what ``save`` wrote. Raises XmdptError naming the missing parts."""
        folder = Path(folder)
        missing = [n for n in FOLDERS if not (folder / n / "config.json").is_file()]
        if missing:
            raise XmdptError(
                f"not a folder of encoders: {folder} has no "
                f"{', '.join(f'{name}/config.json' for name in missing)}",
                f"it should hold {', '.join(f'{name}/' for name in FOLDERS)}",
            )
        vae, source, pose = (folder / name for name in FOLDERS)
        return load_encoders(
            vae, source, pose, device=device, dtype=dtype, dino_autocast=dino_autocast
        )


def moments_of(vae: VAE, images: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> (N, 2C, h, w) on the CPU: float16 if finite in it, else float32."""
    moments = vae.encode_moments(images).cpu()
    half = moments.half()
    return half if bool(half.isfinite().all()) else moments


def source_tokens_of(dino: Dino, images: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> bfloat16 (N, L, D) on the CPU."""
    return dino.tokens(to_signed(images)).bfloat16().cpu()


def pose_tokens_of(dino: Dino, poses: NDArray[np.uint8]) -> torch.Tensor:
    """Pose images uint8 (N, H, W, 3) -> bfloat16 (N, L, D) on the CPU."""
    return dino.tokens(pose_input(poses)).bfloat16().cpu()


def load_encoders(
    vae: str | Path = DEFAULT_VAE,
    source: str | Path = DEFAULT_SOURCE,
    pose: str | Path = DEFAULT_POSE,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    dino_autocast: torch.dtype | None = None,
) -> Encoders:
    """Load each network from a hub id or folder; the defaults are the published ones.

    ``dino_autocast``: autocast type of both DINOv2. Their tokens are stored in bfloat16 anyway; the
    VAE's moments are not, since bfloat16 would round latents to three digits.
    """
    return Encoders(
        vae=VAE.load(vae, device=device, dtype=dtype),
        source=Dino.load(source, device=device, dtype=dtype, autocast=dino_autocast),
        pose=Dino.load(pose, device=device, dtype=dtype, autocast=dino_autocast),
    )
