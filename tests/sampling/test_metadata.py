"""Metadata of generated images in every format, without paths of the machine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image
from stick_people import FIGURE
from toy_models import leaning, make_encoders, make_model, person, write_pose

from xmdpt_cli import __version__
from xmdpt_cli.cli.app import run
from xmdpt_cli.images import save_png
from xmdpt_cli.sampling.animation import write_animation
from xmdpt_cli.sampling.hub import without_paths
from xmdpt_cli.sampling.pipeline import XMDPTPipeline

SECRET = "home-of-zoe"  # a folder that a published file must not name
METADATA = {"inputs": ["<&\"'>é"], "sampling": {"steps": 3}, "toy": True}


def walk() -> list[Any]:
    return [np.full((32, 22, 3), 40 * i, np.uint8) for i in range(4)]


def xmp_fields(data: bytes) -> dict[str, str]:
    """The attributes of an XMP packet, without namespaces."""
    [packet] = re.findall(rb"<x:xmpmeta.*</x:xmpmeta>", data, re.DOTALL)
    [description] = ElementTree.fromstring(packet)[0]
    return {name.rsplit("}")[-1]: value for name, value in description.attrib.items()}


def test_webp(tmp_path: Path) -> None:
    write_animation(tmp_path / "a.webp", walk(), 10, METADATA)
    with Image.open(tmp_path / "a.webp") as image:
        assert image.n_frames == 4  # type: ignore[attr-defined]
        metadata = xmp_fields(image.info["xmp"])
    assert metadata["CreatorTool"] == f"xmdpt {__version__}"
    assert "not a photograph (toy model" in metadata["source"]
    assert metadata["DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert json.loads(metadata["metadata"]) == METADATA


def test_gif(tmp_path: Path) -> None:
    many = {**METADATA, "inputs": ["x" * 64] * 50}  # more than one block of a comment
    write_animation(tmp_path / "a.gif", walk(), 10, many)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 4  # type: ignore[attr-defined]
        metadata = json.loads(image.info["comment"])
    assert metadata["Software"] == f"xmdpt {__version__}"
    assert "not a photograph" in metadata["Source"]
    assert json.loads(metadata["xmdpt"]) == many


def test_mp4_still_plays(tmp_path: Path) -> None:
    write_animation(tmp_path / "a.mp4", walk(), 10, METADATA)
    data = (tmp_path / "a.mp4").read_bytes()
    assert json.loads(xmp_fields(data)["metadata"]) == METADATA
    kinds, at = [], 0  # the boxes fill the file to its end
    while at < len(data):
        kinds.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4], "big")
    assert at == len(data)
    assert kinds[-1] == b"uuid"
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == 4


def test_the_pipelines_images(pipe_of: Callable[[str], XMDPTPipeline], tmp_path: Path) -> None:
    pipe = pipe_of("keys")
    more = {"source": person(), "source_keypoints": FIGURE, "seed": 5, "num_images": 2}
    first, second = pipe(pose=FIGURE, **more)
    metadata = [json.loads(image.info["xmdpt"]) for image in (first, second)]
    assert metadata[0] == {**metadata[1], "image": 0}
    assert metadata[0]["sampling"]["seed"] == 5
    assert metadata[0]["model"] == pipe.sampler.identity
    assert "not a photograph" in first.info["Source"]
    assert first.info["Software"] == f"xmdpt {__version__}"
    [other] = pipe(pose=leaning(0.1), **{**more, "num_images": 1})
    assert json.loads(other.info["xmdpt"])["inputs"] != metadata[0]["inputs"]
    save_png(tmp_path / "a" / "x.png", first)
    with Image.open(tmp_path / "a" / "x.png") as image:
        for key in ("Software", "Source", "xmdpt"):
            assert image.info[key] == first.info[key]
        assert (np.asarray(image) == np.asarray(first)).all()
    save_png(tmp_path / "plain.png", person())
    assert "xmdpt" not in Image.open(tmp_path / "plain.png").info


def test_images_of_a_generator_store_no_seed(pipe_of: Callable[[str], XMDPTPipeline]) -> None:
    import torch

    own = torch.Generator().manual_seed(1)
    [image] = pipe_of("keys")(person(), FIGURE, source_keypoints=FIGURE, generator=own)
    assert json.loads(image.info["xmdpt"])["sampling"]["seed"] is None


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recognisable name that holds the model and all inputs."""
    folder = tmp_path_factory.mktemp("x") / SECRET
    folder.mkdir()
    make_encoders(folder / "encoders")
    made = make_model(folder / "run" / "model", folder / "encoders", "keys")
    metadata = json.loads((made / "xmdpt.json").read_text())
    metadata["encoders"]["vae"] |= {"kind": "local", "id": str(folder / "encoders" / "vae")}
    (made / "xmdpt.json").write_text(json.dumps(metadata))
    (folder / "run" / "config.toml").write_text(
        f'[train]\ndata = "{folder}/data"\nvae = "~/{SECRET}/vae"\nsize = "S"\n'
    )
    person().save(folder / "person.png")
    two = [{"keypoints": (leaning(d) * (88, 128)).tolist()} for d in (0, 0.1)]
    size = {"width": 100, "height": 150}
    (folder / "person_keypoints.json").write_text(json.dumps({"people": two, **size}))
    write_pose(folder / "a.json", leaning(0.1))
    (folder / "two.json").write_text(json.dumps({"people": two, **size}))
    (folder / "list.csv").write_text("source,pose,out\nperson.png,two.json,b/x.png\n")
    return folder


def test_no_file_contains_a_path(secret: Path, tmp_path: Path) -> None:
    model = ["sample", "--model", secret / "run"]
    own = [*model, "--source", secret / "person.png", "--pose", secret / "two.json"]
    for suffix in ("webp", "gif", "mp4"):
        words = [*own, "--out", secret / "out" / "own"]
        words += ["--animate", secret / "out" / f"walk.{suffix}", "--pose", secret / "a.json"]
        assert run([str(word) for word in words]) == 0
    words = [*model, "--pairs", secret / "list.csv", "--out", secret / "out" / "pairs"]
    assert run([str(word) for word in words]) == 0
    pipe = XMDPTPipeline.from_pretrained(secret / "run")
    [image] = pipe(secret / "person.png", secret / "a.json")
    save_png(secret / "out" / "python.png", image)
    pipe.save_pretrained(secret / "out" / "published")
    card = (secret / "out" / "published" / "README.md").read_text()
    assert 'data = "data"' in card
    assert 'vae = "vae"' in card
    assert 'size = "S"' in card
    shutil.move(secret / "out", tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".png", ".webp", ".gif", ".mp4", ".json", ".md"}
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    sheet = tmp_path / "out" / "own" / "sheet.png"
    assert json.loads(Image.open(sheet).info["xmdpt"])["sampling"]["steps"] == 3


def test_paths_are_removed_from_a_configuration() -> None:
    text = "\n".join(
        [
            "# it's a comment",
            'data = "/mnt/disk/fashion \\"x\\"/256"',
            'vae = "stabilityai/sd-vae-ft-mse"',
            'near = "data/256"',
            'windows = "C:\\\\Users\\\\zoe\\\\data"',
            "above = '../other/data'",
            'many = ["/a/b", "s3://bucket/x", "S-256"]',
            'url = "file:///mnt/data/"',
        ]
    )
    assert without_paths(text).splitlines() == [
        "# it's a comment",
        'data = "256"',
        'vae = "stabilityai/sd-vae-ft-mse"',
        'near = "data/256"',
        'windows = "data"',
        "above = 'data'",
        'many = ["b", "s3://bucket/x", "S-256"]',
        'url = "data"',
    ]
