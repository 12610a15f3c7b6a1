"""A tiny decoder (diffusers' AutoencoderTiny): scaled latents -> images, at a fraction of the cost.

Published form (TAESD, https://github.com/madebyollin/taesd): factor 8, 4 latent channels, width 64:
1.22 M parameters and 35.3 GFLOP per image of 256 px, where sd-vae's decoder has 622.

It decodes the latents of one VAE. Latents of different VAEs can have the same shape and need
different decoders, so the folder records in ``LATENTS`` which VAE's latents it was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import TypedDict

from xmdpt_cli.encoders import weights
from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.encoders.identity import VAERecord, encoder_difference
from xmdpt_cli.encoders.places import LATENTS
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.utils import records

if TYPE_CHECKING:  # imported where it is needed: diffusers takes seconds
    from diffusers import AutoencoderTiny

PUBLISHED = "madebyollin/taesd"  # of Stable Diffusion's latents, which are sd-vae-ft-mse's
WIDTH = 64  # channels of every layer of the published form
_BLOCKS = 3  # per resolution; the highest has one
_HINT = "make one: xmdpt finetune-vae --decoder tiny --data DATA"
START_HINT = "name its folder: --start DIR"
_NO_ENCODER = """\
**This folder has no encoder.** AutoencoderTiny needs one to be loaded, so there is a placeholder
whose weights are NaN: `encode` returns NaN. Encode with the VAE named above."""
_PUBLISHED_ENCODER = "The encoder is that of `{start}`, unchanged."


class LatentsRecord(TypedDict):
    """xmdpt_latents.json."""

    latents: VAERecord  # of the VAE whose latents are decoded
    start: str | None  # the AutoencoderTiny it started from; None: random weights, no encoder


class TinyDecoder(Decoder):
    """A frozen AutoencoderTiny of which only the decoder is used.

    ``net.decode`` takes scaled latents (``scaling_factor`` is 1), as in diffusers' pipelines.
    """

    net: AutoencoderTiny

    def __init__(
        self, net: AutoencoderTiny, origin: weights.Origin, latents: VAERecord, start: str | None
    ) -> None:
        """``latents``: record of the VAE whose latents are decoded. ``start``: the network that it
        started from, whose encoder it has; None: random weights."""
        super().__init__(net, origin)
        self.latents, self.start = latents, start

    @property
    def scale(self) -> float:
        """Of the VAE's latents."""
        return float(self.latents["scale"])

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> TinyDecoder:
        """Load what ``xmdpt finetune-vae --decoder tiny`` wrote, from a folder or hub id.

        Raises XmdptError for another kind of network, and for one that does not record its latents.
        """
        net, origin = load_network(source, dtype)
        file = origin.files[0].parent / LATENTS
        if not file.is_file():
            raise XmdptError(
                f"{source} does not record which VAE's latents it decodes ({LATENTS})",
                f"train it on a dataset's: xmdpt finetune-vae --decoder tiny --start {source}",
            )
        record = records.read(LatentsRecord, file, "copy the folder again")
        return cls(net.to(device), origin, record["latents"], record["start"])

    @classmethod
    def untrained(
        cls,
        latents: VAERecord,
        start: str | Path | None = None,
        *,
        width: int = WIDTH,
        seed: int = 0,
    ) -> TinyDecoder:
        """A decoder to be trained: the AutoencoderTiny in ``start``, or one with random weights.

        ``latents``: record of the VAE. A decoder of a toy's latents is a toy. Raises XmdptError if
        ``start`` is not found, and ConfigError if its latents have another shape.
        """
        channels, factor = latents["channels"], latents["factor"]
        name = f"tiny-decoder-{width}-seed{seed}" if start is None else Path(start).name
        if start is None:
            net = tiny_network(channels, factor, width, seed)
            origin, named = weights.Origin("local", name), None
        else:
            net, origin = load_network(start, hint=START_HINT)
            named = str(start) if weights.is_hub_id(start) else name
        if latents["toy"]:
            origin = weights.Origin("toy", f"toy-{name}")
        made = cls(net, origin, latents, named)
        if (made.channels, made.factor) != (channels, factor):
            raise ConfigError(
                f"{start} decodes latents of {made.channels} channels and factor {made.factor}; "
                f"the dataset's have {channels} channels and factor {factor}",
                "start from random weights: --start none",
            )
        return made

    def check_latents(self, made: Mapping[str, Any], user: str) -> None:
        """XmdptError unless it decodes the latents of ``made``, the VAE's record of ``user`` ("the
        model")."""
        differs = encoder_difference(made, self.latents)
        if differs:
            raise XmdptError(
                f"the tiny decoder {self.origin.id} decodes the latents of another VAE than those "
                f"of {user} ({differs})",
                f"{_HINT}; or decode with the VAE: leave out --vae",
            )

    def describe(self) -> dict[str, Any]:
        """As ``Decoder.describe``, with ``decoder``: "tiny"."""
        return {**super().describe(), "decoder": "tiny"}

    def write(self, folder: Path) -> None:
        """A folder for diffusers, with ``LATENTS`` and a README.md that states what it is."""
        super().write(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        del config["block_out_channels"]  # diffusers writes it and warns about it when loading
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        record = LatentsRecord(latents=self.latents, start=self.start)
        (folder / LATENTS).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(self.card(), encoding="utf-8")

    def about(self) -> str:
        """One sentence for the record of its training."""
        begun = f"from {self.start}, whose encoder it has" if self.start else "from random weights"
        none = "" if self.start else "; no encoder: its weights are NaN"
        return f"a tiny decoder of the latents of {self.latents['id']}, trained {begun}{none}"

    def card(self) -> str:
        """README.md of the folder."""
        made, count = self.latents, sum(p.numel() for p in self.net.decoder.parameters())
        encoder = _NO_ENCODER if self.start is None else _PUBLISHED_ENCODER.format(start=self.start)
        toy = "**Toy**: of a VAE that was not trained on photographs.\n\n" if made["toy"] else ""
        return (
            "# A tiny decoder\n\n"
            f"{toy}An `AutoencoderTiny` of diffusers, whose decoder ({count:,} parameters) decodes "
            f"the latents of `{made['id']}` (sha256 {made['sha256']}), times {made['scale']:g}: "
            f"{made['channels']} channels, factor {made['factor']}. Trained by "
            "`xmdpt finetune-vae --decoder tiny`.\n\n"
            f"{encoder}\n\n"
            "```python\nfrom diffusers import AutoencoderTiny\n\n"
            'images = AutoencoderTiny.from_pretrained("DIR").decode(scaled_latents).sample\n```\n'
        )


def load_network(
    source: str | Path, dtype: torch.dtype = torch.float32, hint: str = _HINT
) -> tuple[AutoencoderTiny, weights.Origin]:
    """Any AutoencoderTiny in a folder or at a hub id. XmdptError with what to fetch; ``hint`` ends
    it."""
    from diffusers import AutoencoderTiny

    origin = weights.find(
        source, what="tiny decoder", stem="diffusion_pytorch_model", revision=None, hint=hint
    )
    net = weights.load_net(
        AutoencoderTiny,
        origin,
        what="tiny decoder",
        key="_class_name",
        value="AutoencoderTiny",
        dtype=dtype,
    )
    return net, origin


def tiny_network(channels: int, factor: int, width: int = WIDTH, seed: int = 0) -> AutoencoderTiny:
    """An AutoencoderTiny with a random decoder for C ``channels`` and factor f, and no encoder.

    ``factor`` is a power of 2; ``width`` channels in every layer. The encoder is a placeholder of
    one channel whose weights are NaN, so that it cannot be used unnoticed.
    """
    from diffusers import AutoencoderTiny

    stages = factor.bit_length()  # resolutions, from that of the latents to that of the image
    if factor != 2 ** (stages - 1):
        raise ConfigError(f"a tiny decoder enlarges by a power of 2, not by {factor}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = AutoencoderTiny(
            latent_channels=channels,
            decoder_block_out_channels=(width,) * stages,
            num_decoder_blocks=(*(_BLOCKS,) * (stages - 1), 1),
            encoder_block_out_channels=(1,) * stages,
            num_encoder_blocks=(0,) * stages,
        )
    with torch.no_grad():
        for parameter in net.encoder.parameters():
            parameter.fill_(torch.nan)
    return net


def load_decoder(
    source: str | Path,
    latents: Mapping[str, Any],
    user: str,
    *,
    device: str | torch.device = "cpu",
) -> VAE | TinyDecoder:
    """The VAE or the tiny decoder in a folder or at a hub id, in float32.

    ``latents``: the VAE's record of ``user`` ("the model"), whose latents are decoded. XmdptError
    if it is not found, and for a tiny decoder of other latents.
    """
    if is_tiny(source):
        return load_tiny(source, latents, user, device=device)
    return VAE.load(source, device=device)


def load_tiny(
    source: str | Path,
    latents: Mapping[str, Any],
    user: str,
    *,
    device: str | torch.device = "cpu",
) -> TinyDecoder:
    """The tiny decoder in a folder or at a hub id; see ``load_decoder``."""
    tiny = TinyDecoder.load(source, device=device)
    tiny.check_latents(latents, user)
    return tiny


def is_tiny(source: str | Path) -> bool:
    """Whether a folder or hub id contains an AutoencoderTiny. XmdptError if it is not found."""
    config = VAE.find(source).files[0].parent / "config.json"
    try:
        return bool(
            json.loads(config.read_text(encoding="utf-8"))["_class_name"] == "AutoencoderTiny"
        )
    except (ValueError, TypeError, KeyError):
        return False  # broken: ``VAE.load`` names what is wrong
