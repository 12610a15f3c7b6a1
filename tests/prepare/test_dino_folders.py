"""Datasets and models of DINOv2 whose position table is resized, as that of the published ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from hashes import hashes
from hub_dino import SHAPES, hub_tokens, make_dino

from xmdpt_cli.cli.app import run
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import load_pairs
from xmdpt_cli.data.sampler import PairIndices
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.encoders.bundle import load_encoders
from xmdpt_cli.encoders.identity import FOLDERS
from xmdpt_cli.encoders.vae import to_signed
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.checkpoint import published_metadata
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.sampling.encoders import LazyEncoders
from xmdpt_cli.toy.synthetic import make_synthetic
from xmdpt_cli.training.online import find_encoders

SIZE = 64


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw/, encoders/ and the dataset data/."""
    root = tmp_path_factory.mktemp("dino")
    make_synthetic(root / "raw", people_train=3, people_test=1, views=2, height=64, workers=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    vae.save_pretrained(root / "encoders" / "vae")
    for part, shape in (("dino_source", "giant"), ("dino_pose", "base")):
        make_dino(root / "encoders" / part, shape, layers=1)
    encoders = load_encoders(*(root / "encoders" / name for name in FOLDERS))
    listing = find_dataset(root / "raw")
    prepare_dataset(listing, root / "data", size=SIZE, encoder=encoders, items_per_shard=2)
    return root


def test_stored_and_online_tokens_are_those_of_torch_hub(work: Path) -> None:
    dataset = PairDataset(work / "data", "test")
    pair = dataset.pairs[0]
    image = to_signed(np.array(dataset.image(pair.key, pair.source))[None])
    given = F.interpolate(image, size=(224, 224), mode="bicubic", align_corners=False)
    folder, heads = work / "encoders" / "dino_source", int(SHAPES["giant"]["num_attention_heads"])
    expected, other = (hub_tokens(folder, given, heads, offset)[0] for offset in (0.1, 0.0))
    stored = load_pairs(dataset, PairIndices.listed([0])).source_tokens[0].double()
    torch.testing.assert_close(stored, expected, rtol=2**-7, atol=1e-3)
    assert float((stored - other).norm()) > 5 * float((stored - expected).norm())
    online = find_encoders(dataset.manifest, dataset.path).source.tokens(image)[0]
    torch.testing.assert_close(online.double(), expected, rtol=1e-4, atol=1e-5)


def test_an_unfinished_dataset_is_finished_as_recorded(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = PairDataset(work / "data", "test").manifest["encoders"]
    assert [recorded[part]["position_table"] for part in ("source", "pose")] == ["hub", "hub"]
    part = shutil.copytree(work / "data", tmp_path / "data")
    (part / "dataset.json").unlink()
    for file in list(part.glob("train-000001*")):
        file.unlink()
    words = ["prepare", "--check", str(part), "--repair", "--root", str(work / "raw")]
    assert run([*words, "--encoders", str(work / "encoders")]) == 0, capsys.readouterr().err
    made, whole = hashes(part), hashes(work / "data")
    assert {name: made[name] for name in whole} == whole


def test_a_published_model_is_sampled_with_the_table_of_torch_hub(work: Path) -> None:
    model = XMDPT(depth=4, width=32, heads=2, source_width=72, pose_width=48)
    metadata = published_metadata(model)
    networks = LazyEncoders(metadata, encoders=work / "encoders")
    assert networks.source.describe()["position_table"] == "hub"
    metadata["encoders"]["pose"]["position_table"] = "bilinear"
    with pytest.raises(XmdptError, match="recorded as 'bilinear', which this version does not"):
        _ = networks.pose
