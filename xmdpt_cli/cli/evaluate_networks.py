"""The networks of ``xmdpt evaluate``: which are needed, downloaded, loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.evaluate_options import EvaluateOptions

if TYPE_CHECKING:
    from xmdpt_cli.metrics.download import Published
    from xmdpt_cli.metrics.evaluate import Networks
    from xmdpt_cli.training.distributed import Distributed


def find_networks(chosen: EvaluateOptions, dist: Distributed, talk: Talk) -> None:
    """Choose the networks of the metrics and download missing ones, before minutes of work.

    Random weights are used if requested, and for a toy dataset, with a warning. Raises XmdptError
    that names all networks that are not found.
    """
    from xmdpt_cli.data.manifest import read_manifest
    from xmdpt_cli.metrics.download import choose, download
    from xmdpt_cli.metrics.features import require_torch_fidelity
    from xmdpt_cli.storage.stores import open_store

    toy = chosen.data is not None and bool(read_manifest(open_store(chosen.data)).get("toy"))
    needed = _needed(chosen)
    for name, (network, random) in needed.items():
        if toy and getattr(chosen, name) is None:
            setattr(chosen, name, network.toys[-1])
            talk.warn(
                f"toy dataset: {network.use} with random weights, named {random} "
                f"(for the published ones: {network.option} PATH)"
            )
    if "tf_inception_weights" in needed and chosen.tf_inception_weights not in ("off", "toyconv"):
        require_torch_fidelity()
    off = [needed[name][0] for name in needed if getattr(chosen, name) == "off"]
    if chosen.only and off:
        options = ", ".join(f"{network.option} off" for network in off)
        talk.warn(f"metrics that need a network are left out: {options}")
    values = {needed[name][0]: getattr(chosen, name) for name in needed}
    with talk.progress() as progress:
        dist.run_on_main(lambda: download(choose(values), progress))


def load_networks(chosen: EvaluateOptions, device: str) -> Networks:
    """Load the LPIPS and FID networks that ``find_networks`` chose."""
    from xmdpt_cli.metrics.evaluate import Networks
    from xmdpt_cli.metrics.features import inception_features, tensorflow_features, toy_features
    from xmdpt_cli.metrics.lpips_metric import LpipsNetwork

    needed = _needed(chosen)
    perceptual = None
    if "alexnet_weights" in needed and chosen.alexnet_weights != "off":
        perceptual = LpipsNetwork(chosen.alexnet_weights, device)
    features = {}
    for kind, name, load in (
        ("torchvision", "inception_weights", inception_features),
        ("tensorflow", "tf_inception_weights", tensorflow_features),
    ):
        given = getattr(chosen, name)
        if name in needed and given != "off":
            features[kind] = toy_features(device) if given == "toyconv" else load(given, device)
    return Networks(perceptual, features, chosen.kid)


def _needed(chosen: EvaluateOptions) -> dict[str, tuple[Published, str]]:
    """The networks of the chosen metrics: option -> file, and name with random weights."""
    from xmdpt_cli.metrics.features import INCEPTION, TF_INCEPTION
    from xmdpt_cli.metrics.lpips_metric import ALEXNET
    from xmdpt_cli.metrics.protocols import PROTOCOLS, get_protocol

    every = not chosen.only
    needed = {}
    if every or chosen.lpips:
        needed["alexnet_weights"] = (ALEXNET, "lpips_alex_v0.1_toy")
    if every or chosen.fid or chosen.kid:
        names = chosen.protocols or ["native"]
        names = list(PROTOCOLS) if "all" in names else names
        kinds = {get_protocol(name).inception for name in names}
        if "torchvision" in kinds:
            needed["inception_weights"] = (INCEPTION, "fid_toyconv")
        if "tensorflow" in kinds:
            needed["tf_inception_weights"] = (TF_INCEPTION, "fid_toyconv")
    return needed
