"""Files of network weights: their location, identity and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import expanded, sha256_of
from xmdpt_cli.metrics.download import Published, download
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.utils.weights_files import (
    UnreadableError,
    check_state_dict,
    check_whole,
    read_tensors,
)

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


def fill(
    network: nn.Module,
    weights: str | Path | None,
    published: Published,
    what: str,
    progress: Progress = silent,
    unused: tuple[str, ...] = (),
) -> str:
    """Fill ``network`` and return the description of its weights.

    ``weights``: a file, None for the published one, or ``"toy"`` for seeded random weights.
    ``what``: the name of the network in errors. ``unused``: prefixes of tensors that the network
    does not have. Raises XmdptError if the file is missing or does not fit.
    """
    if weights == "toy":
        fill_random(network, TOY_SEED)
        return f"{published.name}, random weights, seed {TOY_SEED}"
    path = weights_file(weights, published, progress)
    state = {k: v for k, v in read_weights(path).items() if not k.startswith(unused)}
    check_weights(state, network.state_dict(), what, path, published.url)
    nn.Module.load_state_dict(network, state, assign=True)
    return identity(path, published)


def weights_file(given: str | Path | None, network: Published, progress: Progress = silent) -> Path:
    """``given``, or the published file of ``network``: from torch hub's folder, else downloaded.

    Raises XmdptError with a hint if the file is missing and cannot be downloaded.
    """
    if given is None:
        download([network], progress)
        check_whole(network.path, "delete it, then give the same command again")
        return network.path
    path = expanded(given)
    if not path.is_file():
        raise XmdptError(
            f"no weights at {path}",
            f"leave out {network.option} to use the published file, or name your copy of "
            f"{network.url}",
        )
    check_whole(path, f"fetch {network.url}")
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a plain torch.save state dict."""
    hint = "name a complete copy of the published file"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(read_tensors(path, hint))
    except UnreadableError as err:
        raise XmdptError(f"not a file of weights: {path} ({err.reason})", hint) from None
    except Exception as err:  # safetensors raises many types for invalid files
        reason = str(err).partition("\n")[0] or type(err).__name__
        raise XmdptError(f"not a file of weights: {path} ({reason})", hint) from None


def check_weights(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], network: str, path: Path, url: str
) -> None:
    """XmdptError unless ``state`` fits ``network``. Counters of batch norms, which older files
    lack, may be missing."""

    def without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: v for k, v in tensors.items() if not k.endswith(".num_batches_tracked")}

    what = f"not the weights of {network}: {path}"
    check_state_dict(without_counters(state), without_counters(expected), what, f"fetch {url}")


def identity(path: Path, network: Published) -> str:
    """File name and SHA-256, and whether that is the published file of ``network``."""
    digest = sha256_of(path)
    remark = "" if digest.startswith(network.sha256) else " (not the published file)"
    return f"{path.name} sha256:{digest}{remark}"
