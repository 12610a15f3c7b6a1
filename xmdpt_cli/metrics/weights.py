"""Files of network weights: where they lie, whether they are the published ones, their tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xmdpt_cli.errors import XmdptError

TOY_SEED = 0


def fill_random(network: nn.Module, seed: int) -> None:
    """He-normal convolutions, zero biases, batch norms that pass through; same seed, same bytes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                std = (2.0 / module.weight[0].numel()) ** 0.5
                module.weight.normal_(0.0, std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    assert all(p.device.type != "meta" for p in network.parameters())


def local_weights(given: str | Path | None, url: str, option: str) -> Path:
    """``given``, or the file that torch hub would have stored for ``url``; XmdptError if neither.

    ``option`` is the command line's name for ``given``, for the hint.
    """
    hub = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    path = Path(given) if given is not None else hub
    if not path.is_file():
        raise XmdptError(
            f"no weights at {path}", f"fetch {url}\nto {hub}\nor name your copy with {option} PATH"
        )
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a plain torch.save state dict."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as err:  # the two readers raise a dozen kinds on files that are no weights
        reason = str(err).partition("\n")[0] or type(err).__name__
        raise XmdptError(f"not a file of weights: {path} ({reason})") from None


def identity(path: Path, url: str) -> str:
    """File name and SHA-256, and whether that is the published file of ``url``.

    torch hub's file names end in the first digits of their SHA-256.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    published = digest.hexdigest().startswith(Path(url).stem.rsplit("-", 1)[1])
    remark = "" if published else " (not the published file)"
    return f"{path.name} sha256:{digest.hexdigest()}{remark}"
