"""What a page's ``<!-- workspace: ... -->`` can ask for, and the networks that pages name.

``WorkspaceItems`` makes each item once, with the product's own code, in one folder; a page gets
copies. An item is a function ``make_NAME(items)`` in ITEMS that writes its path.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from docs_blocks import Page, PageError
from stick_people import FIGURE
from toy_models import leaning, person, write_pose

#: of the published networks: width, attention heads
DINO = {"small": (384, 6), "base": (768, 12), "large": (1024, 16), "giant": (1536, 24)}
VAE = "stabilityai/sd-vae-ft-mse"
PHOTOGRAPH = (176, 256)
REPO = Path(__file__).resolve().parents[2]


class WorkspaceItems:
    """A folder with the items that were made. ``run`` runs a line of ``xmdpt``, or raises."""

    def __init__(self, folder: Path, run: Callable[[str], None]) -> None:
        self.folder, self.run = folder, run
        folder.mkdir(parents=True)

    def copy_into(self, workspace: Path, page: Page) -> None:
        """Copy the items of a page into its workspace. PageError for an unknown one."""
        for name in page.workspace:
            if name not in ITEMS:
                known = ", ".join(ITEMS)
                raise PageError(f"{page.path}: no such workspace item: {name}; there are {known}")
            copy(self.make(name), workspace / name)

    def make(self, name: str) -> Path:
        """The path of an item, made if it is not there yet."""
        make = ITEMS[name]
        path = self.folder / name
        if not path.exists():
            before = Path.cwd()
            os.chdir(self.folder)
            try:
                make(self)
            except BaseException:
                shutil.rmtree(path, ignore_errors=True)  # no half of it for other pages
                raise
            finally:
                os.chdir(before)
            assert path.exists(), f"{name} was not written"
        return path


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder; big files, which are never written in place, as hard links."""

    def one(a: str, b: str) -> None:
        link = a.endswith((".tar", ".safetensors"))
        (os.link if link else shutil.copy2)(a, b)

    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=one, dirs_exist_ok=True)
    else:
        one(str(source), str(target))


# items: written into the current folder


def make_deepfashion(items: WorkspaceItems) -> None:
    items.run("xmdpt synth --out DeepFashion --people 2 --test-people 2 --views 2")


def make_my_people(items: WorkspaceItems) -> None:
    """my-people/NAME/VIEW.jpg, each with its keypoints VIEW.json beside it."""
    for hue, name in enumerate(("anna", "ben", "carla")):
        folder = Path("my-people", name)
        folder.mkdir(parents=True)
        for view in ("front", "side"):
            photograph(hue).save(folder / f"{view}.jpg")
            pose = leaning(0.0 if view == "front" else 0.1)
            write_pose(folder / f"{view}.json", pose, PHOTOGRAPH)


def make_data(items: WorkspaceItems) -> None:
    items.make("DeepFashion")
    items.run("xmdpt prepare --root DeepFashion --out data/256")


def make_run(size: str) -> Callable[[WorkspaceItems], None]:
    def make(items: WorkspaceItems) -> None:
        items.make("data/256")
        items.run(f"xmdpt train --size {size} --data data/256 --out runs/{size}")

    return make


def make_samples(items: WorkspaceItems) -> None:
    items.make("runs/B")
    items.run("xmdpt sample --model runs/B --data data/256 --out samples/B")


def make_checkpoint(items: WorkspaceItems) -> None:
    from xmdpt_cli.model import XMDPT
    from xmdpt_cli.model.published import to_published

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(to_published(XMDPT.from_size("S")), "ema_0.9999_300000.pt")


def make_converted(items: WorkspaceItems) -> None:
    items.make("ema_0.9999_300000.pt")
    items.run("xmdpt convert ema_0.9999_300000.pt --out models/S")


def make_vae(items: WorkspaceItems) -> None:
    """A VAE in diffusers format with another decoder than the published one's."""
    save_vae(Path("vae-deepfashion"), seed=1)


def photograph(hue: int = 0) -> object:
    return person(hue, *PHOTOGRAPH)


def make_walk(items: WorkspaceItems) -> None:
    """OpenPose's form, a sequence of four frames."""
    width, height = PHOTOGRAPH
    frames = []
    for lean in (-0.1, 0.0, 0.1, 0.2):
        rows = np.column_stack([leaning(lean) * PHOTOGRAPH, np.ones(18)])
        frames.append({"people": [{"pose_keypoints_2d": rows.reshape(-1).tolist()}]})
    walk = {"frames": frames, "canvas_width": width, "canvas_height": height}
    Path("walk.json").write_text(json.dumps(walk))


def make_pose_image(items: WorkspaceItems) -> None:
    from PIL import Image

    from xmdpt_cli.pose.drawing import draw_pose

    Image.fromarray(draw_pose(FIGURE * 256, 256)).save("pose.png")


def make_list(items: WorkspaceItems) -> None:
    Path("list.csv").write_text("source,pose\nperson.jpg,pose.json\nperson2.jpg,pose.json\n")


ITEMS: dict[str, Callable[[WorkspaceItems], object]] = {
    "DeepFashion": make_deepfashion,
    "my-people": make_my_people,
    "data/256": make_data,
    "runs/B": make_run("B"),
    "runs/S": make_run("S"),
    "samples/B": make_samples,
    "models/S": make_converted,
    "ema_0.9999_300000.pt": make_checkpoint,
    "vae-deepfashion": make_vae,
    "person.jpg": lambda items: photograph(0).save("person.jpg"),
    "person2.jpg": lambda items: photograph(1).save("person2.jpg"),
    "pose.json": lambda items: write_pose(Path("pose.json"), leaning(0.05), PHOTOGRAPH),
    "walk.json": make_walk,
    "pose.png": make_pose_image,
    "list.csv": make_list,
    "keypoints": lambda items: copy(REPO / "docs/keypoints", Path("keypoints")),
}


# the hub: small networks of random weights under the published names


def make_hub(folder: Path) -> Path:
    """A cache of the Hugging Face hub with the VAE and all sizes of DINOv2."""
    save_vae(snapshot(folder, VAE), seed=0)
    for size in DINO:
        save_dino(snapshot(folder, f"facebook/dinov2-{size}"), size)
    return folder


def snapshot(hub: Path, name: str) -> Path:
    """The folder of a repository's files, as huggingface_hub lays out its cache."""
    commit = "0" * 39 + "1"
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    return repository / "snapshots" / commit


def save_dino(folder: Path, size: str) -> None:
    """The published width and number of tokens, without blocks: normalised patch embeddings."""
    from transformers import Dinov2Config, Dinov2Model

    width, heads = DINO[size]
    config = Dinov2Config(
        hidden_size=width, num_attention_heads=heads, num_hidden_layers=0,
        image_size=518, patch_size=14,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)


def save_vae(folder: Path, seed: int) -> None:
    """The published factor, latent channels and scale, and 8 channels in all layers."""
    from sd_vae import sd_vae

    net = sd_vae(
        layers_per_block=1,
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=256,
        scaling_factor=0.18215,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.nn.init.normal_(net.decoder.conv_out.bias, std=0.01)
    net.save_pretrained(folder)
