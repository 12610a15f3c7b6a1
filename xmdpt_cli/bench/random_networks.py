"""Networks and inputs with the real shapes and random values, for measurements of speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.diffusion.solvers import POLICY
from xmdpt_cli.model import XMDPT, kernels
from xmdpt_cli.model.checkpoint import published_metadata

if TYPE_CHECKING:  # importing them loads transformers
    from xmdpt_cli.encoders.dino import Dino
    from xmdpt_cli.encoders.tiny_decoder import TinyDecoder
    from xmdpt_cli.encoders.vae import VAE
    from xmdpt_cli.sampling.sampler import Sampler


#: a distilled model has the guidance scale as an input and no MIPNet
STUDENT: dict[str, Any] = {"predictor": "none", "guidance_embed": True}
FEW = 4  # steps of the distilled model of ``random_student``


def random_xmdpt(size: str, pixels: int, **settings: Any) -> XMDPT:
    """X-MDPT of ``size`` in float32 on the CPU, without zero weights: with the initial values of
    adaLN-Zero the blocks would have no effect. ``settings``: as in ``XMDPT``."""
    torch.manual_seed(0)
    model = XMDPT.from_size(size, latent_size=pixels // 8, **settings)
    randomise(model)
    return model


def randomise(model: XMDPT) -> None:
    """Add normal noise with a standard deviation of 0.02 to every parameter."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))


class Inputs(NamedTuple):
    """Conditions and start noise of N images."""

    pose: Tensor  # (N, L, 768)
    source: Tensor  # (N, L, 1536)
    latents: Tensor  # (N, C, h, w)
    noise: Tensor  # (N, C, h, w)

    @classmethod
    def random(cls, model: XMDPT, count: int, seed: int = 0) -> Inputs:
        """On the CPU, tokens in bf16 as datasets hold them."""
        rng = torch.Generator().manual_seed(seed)
        pose = torch.randn(count, *model.canet.pose_shape, generator=rng).bfloat16()
        source = torch.randn(count, *model.canet.source_shape, generator=rng).bfloat16()
        latents, noise = (torch.randn(count, *model.latent_shape, generator=rng) for _ in range(2))
        return cls(pose, source, latents, noise)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Inputs:
        """Conditions in ``dtype``; the noise stays in fp32, as ``xmdpt sample`` keeps it."""
        pose, source, latents = (x.to(device, dtype) for x in self[:3])
        return Inputs(pose, source, latents, self.noise.to(device))


def random_dino(size: str, device: torch.device) -> Dino:
    """DINOv2 with the shape of facebook/dinov2-giant or -base; "thin": base with one layer; or a
    tiny one; in float32."""
    from transformers import Dinov2Config, Dinov2Model

    from xmdpt_cli.encoders.dino import Dino
    from xmdpt_cli.encoders.weights import Origin

    shapes: dict[str, dict[str, Any]] = {
        "giant": {
            "hidden_size": 1536,
            "num_hidden_layers": 40,
            "num_attention_heads": 24,
            "use_swiglu_ffn": True,
        },
        "base": {},
        "thin": {"num_hidden_layers": 1},
        "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    }
    network = Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **shapes[size]))
    return Dino(network.to(device), Origin("local", f"random dinov2-{size}"))


def dinov2(size: str, device: torch.device, dtype: torch.dtype) -> Callable[..., object]:
    """``random_dino`` as a function: images (N, 3, 224, 224) -> 257 tokens.

    The weights stay in float32; another ``dtype`` is used by autocast, as in ``xmdpt prepare`` and
    the published code.
    """
    net = random_dino(size, device).net

    def tokens(images: Tensor) -> object:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return net(images)

    return tokens


def sd_vae(device: torch.device | str, dtype: torch.dtype = torch.float32, narrow: int = 1) -> Any:
    """A VAE shaped like stabilityai/sd-vae-ft-mse (f = 8, 4 channels), widths over ``narrow``."""
    from diffusers import AutoencoderKL

    network = AutoencoderKL(
        block_out_channels=tuple(width // narrow for width in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    # not diffusers' ``to``, which warns about layers to be kept in fp32: this network has none
    return nn.Module.to(network.eval().requires_grad_(False), device, dtype)


def taesd(device: torch.device | str, dtype: torch.dtype = torch.float32, narrow: int = 1) -> Any:
    """A tiny decoder shaped like madebyollin/taesd (f = 8, 4 channels), widths over ``narrow``."""
    from xmdpt_cli.encoders.tiny_decoder import WIDTH, tiny_network

    network = tiny_network(4, 8, WIDTH // narrow).eval().requires_grad_(False)
    return nn.Module.to(network, device, dtype)


def random_vae(device: torch.device, narrow: int = 1) -> VAE:
    """``sd_vae`` as ``xmdpt sample`` uses it, in float32."""
    from xmdpt_cli.encoders.vae import VAE
    from xmdpt_cli.encoders.weights import Origin

    torch.manual_seed(0)
    return VAE(sd_vae(device, narrow=narrow), Origin("local", "random weights"))


def random_tiny_decoder(device: torch.device, narrow: int = 1) -> TinyDecoder:
    """``taesd`` as ``xmdpt sample`` uses it, in float32."""
    from xmdpt_cli.encoders.tiny_decoder import TinyDecoder
    from xmdpt_cli.encoders.weights import Origin

    latents: Any = {"scale": 0.18215}  # of sd-vae-ft-mse; nothing else of its record is read
    origin = Origin("local", "random weights")
    return TinyDecoder(taesd(device, narrow=narrow), origin, latents, None)


def random_sampler(size: str, pixels: int, device: torch.device, dtype: torch.dtype) -> Sampler:
    """A sampler as ``Sampler.load`` returns, with ``random_xmdpt``."""
    model = random_xmdpt(size, pixels)
    return _sampler(model, published_metadata(model, pixels), device, dtype)


def random_student(size: str, pixels: int, device: torch.device, dtype: torch.dtype) -> Sampler:
    """``random_sampler`` of a model that was distilled to ``FEW`` steps."""
    model = random_xmdpt(size, pixels, **STUDENT)
    metadata = published_metadata(model, pixels)
    sampling = {**metadata["sampling"], "steps": FEW, "solver": POLICY}
    distilled = {"stage": "steps", "steps": FEW, "guidance": [2.0, 2.0], "power": sampling["power"]}
    of_student = {"prediction": "v", "sampling": sampling, "distilled": distilled}
    return _sampler(model, {**metadata, **of_student}, device, dtype)


def _sampler(
    model: XMDPT, metadata: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Sampler:
    from xmdpt_cli.sampling.sampler import Sampler

    model.to(device, dtype)
    kernels.prepare(model)
    return Sampler(model, Schedule(metadata["schedule"], metadata["prediction"]), metadata)
