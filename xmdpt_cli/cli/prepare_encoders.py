"""The networks that ``xmdpt prepare`` needs: encoders, and OpenPose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli.console import Talk, duration
from xmdpt_cli.progress import Progress

if TYPE_CHECKING:
    from xmdpt_cli.cli.prepare_options import PrepareOptions
    from xmdpt_cli.datasets.listing import Listing
    from xmdpt_cli.encoders.bundle import Encoders
    from xmdpt_cli.encoders.openpose import OpenPose
    from xmdpt_cli.prepare.features import FeatureEncoder
    from xmdpt_cli.prepare.record import Record
    from xmdpt_cli.storage.ranks import World


TOY_HINT = "to try the workflow without pretrained encoders: --encoders toy (no real results)"


def find_networks(listing: Listing, chosen: PrepareOptions) -> None:
    """XmdptError that names all networks that are needed and not found."""
    from xmdpt_cli.datasets.beside_keypoints import UNUSABLE
    from xmdpt_cli.encoders.dino import DEFAULT_POSE, DEFAULT_SOURCE, Dino
    from xmdpt_cli.encoders.identity import PARTS
    from xmdpt_cli.encoders.missing import Needed, find_all
    from xmdpt_cli.encoders.openpose import BODY_FILE, DEFAULT_OPENPOSE, find_body
    from xmdpt_cli.encoders.vae import DEFAULT_VAE, VAE
    from xmdpt_cli.pose.formats.beside_images import WANTED

    needed = []
    if chosen.encoders == "pretrained":
        for name, given, find in (
            ("vae", chosen.vae or DEFAULT_VAE, VAE.find),
            ("source", chosen.dino_source or DEFAULT_SOURCE, Dino.find),
            ("pose", chosen.dino_pose or DEFAULT_POSE, Dino.find),
        ):
            folder, option, what = PARTS[name]
            needed.append(Needed(what, option, folder, partial(find, given), given))
    without = listing.without_keypoints()
    if without:
        network = chosen.openpose or DEFAULT_OPENPOSE
        unusable = [one.file for one in listing.problems if one.reason.startswith(UNUSABLE)]
        first = f", the first being {unusable[0]}" if unusable else ""
        broken = f"; {len(unusable)} keypoints files cannot be used{first}" if unusable else ""
        needed.append(
            Needed(
                "OpenPose",
                "--openpose",
                "openpose",
                partial(find_body, network),
                network,
                BODY_FILE,
                why=f"for {without} of {listing.images()} images, which have no keypoints{broken}",
                without=f"put keypoints beside the images: {WANTED}",
            )
        )
    find_all(needed, TOY_HINT if chosen.encoders == "pretrained" else "")


def pretrained(chosen: PrepareOptions, device: str) -> Encoders:
    """The pretrained encoders in float32; on a GPU the two DINOv2 under bfloat16 autocast."""
    import torch

    from xmdpt_cli.encoders.bundle import Encoders, load_encoders
    from xmdpt_cli.encoders.dino import DEFAULT_POSE, DEFAULT_SOURCE
    from xmdpt_cli.encoders.vae import DEFAULT_VAE

    fast = torch.bfloat16 if device.startswith("cuda") else None
    if chosen.encoders != "pretrained":
        return Encoders.load(chosen.encoders, device=device, dino_autocast=fast)
    return load_encoders(
        chosen.vae or DEFAULT_VAE,
        chosen.dino_source or DEFAULT_SOURCE,
        chosen.dino_pose or DEFAULT_POSE,
        device=device,
        dino_autocast=fast,
    )


def recorded(record: Record, given: Mapping[str, Any], device: str) -> FeatureEncoder:
    """Load the encoders that a dataset's record names; XmdptError if they are other ones."""
    from xmdpt_cli.encoders.bundle import Encoders
    from xmdpt_cli.encoders.dino import Dino
    from xmdpt_cli.encoders.vae import VAE

    names = ("vae", "source", "pose")
    places = {name: record.place(name, given) for name in names}
    made = record.content["encoders"]
    loaded = Encoders(
        VAE.load(places["vae"], device=device),
        Dino.load_recorded(made["source"], places["source"], device=device),
        Dino.load_recorded(made["pose"], places["pose"], device=device),
    )
    for name in names:
        record.refuse_network(name, getattr(loaded, name).describe(), places[name])

    class Recorded:
        """The encoders with their recorded description, since their paths may differ now."""

        encode = staticmethod(loaded.encode)

        def describe(self) -> dict[str, Any]:
            return dict(made)

    return Recorded()


def say_toys(talk: Talk, outs: dict[int, str], given: int | None) -> None:
    """Print how long training the toy VAEs takes, unless they exist."""
    from xmdpt_cli.toy.train_encoders import default_steps, vae_seconds

    for size, out in outs.items():
        if not (Path(out) / "encoders" / "vae" / "config.json").is_file():
            steps = given or default_steps(size)
            seconds = vae_seconds(size, steps)
            talk.say(
                f"plan: first train the toy VAE for {size} px, {steps} steps: about "
                f"{duration(seconds)} (measured on a few steps)"
            )


def train_toys(
    listing: Listing, chosen: PrepareOptions, world: World, progress: Progress
) -> dict[int, Encoders]:
    """Toy encoders by size. Rank 0 trains them; the other ranks wait for the files."""
    from xmdpt_cli.encoders.bundle import Encoders
    from xmdpt_cli.encoders.identity import FOLDERS
    from xmdpt_cli.storage.ranks import ProcessGroup
    from xmdpt_cli.storage.stores import LocalStore
    from xmdpt_cli.toy.train_encoders import make_toy_encoders

    made = {}
    for size, out in chosen.outs.items():
        folder = Path(out) / "encoders"
        if world.rank == 0:
            made[size] = make_toy_encoders(
                listing, folder, size=size, seed=chosen.seed, vae_steps=chosen.vae_steps,
                limit=chosen.limit, progress=progress,
            ).encoders  # fmt: skip
            continue
        group = ProcessGroup(LocalStore(out), world)
        group.wait(partial(_all_there, folder, FOLDERS), "the toy encoders")
        made[size] = Encoders.load(folder)
    return made


def _all_there(folder: Path, parts: Sequence[str]) -> bool | None:
    return all((folder / part / "config.json").is_file() for part in parts) or None


def find_openpose(listing: Listing, source: str | None, device: str) -> OpenPose | None:
    """OpenPose if some images have no keypoints, else None."""
    if not listing.without_keypoints():
        return None
    from xmdpt_cli.encoders.openpose import DEFAULT_OPENPOSE, OpenPose
    from xmdpt_cli.utils.devices import cores

    return OpenPose.load(source or DEFAULT_OPENPOSE, device=device, threads=cores())
