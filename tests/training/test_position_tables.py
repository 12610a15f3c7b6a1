"""Datasets, runs and models of two position tables: distinguished, resumed, never mixed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hashes import hashes
from hub_dino import make_dino
from small_data import CONFIG

from xmdpt_cli.cli.app import run
from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import load_pairs
from xmdpt_cli.data.sampler import PairIndices
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.encoders.bundle import Encoders, load_encoders
from xmdpt_cli.encoders.dino import Dino
from xmdpt_cli.encoders.identity import FOLDERS
from xmdpt_cli.encoders.vae import VAE, to_signed
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.checkpoint import published_metadata, read_metadata
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.sampling.dataset_images import generate
from xmdpt_cli.sampling.encoders import LazyEncoders
from xmdpt_cli.sampling.ground_truth import DatasetGroundTruth
from xmdpt_cli.sampling.sampler import Sampler, SamplingConfig
from xmdpt_cli.toy.synthetic import make_synthetic
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.online import find_encoders

SIZE = 64
RECIPE = replace(CONFIG, steps=2, batch_size=2, checkpoint_every=1)
BEFORE = "was prepared by an earlier version"


class Work:
    """``old`` and ``new`` datasets of the same images and networks, and a run on each."""

    def __init__(self, root: Path) -> None:
        self.root, self.raw, self.encoders = root, root / "raw", root / "encoders"
        make_synthetic(self.raw, people_train=3, people_test=1, views=2, height=64, workers=1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = AutoencoderKL(
                block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            )  # fmt: skip
        net.save_pretrained(self.encoders / "vae")
        for part, shape in (("dino_source", "giant"), ("dino_pose", "base")):
            make_dino(self.encoders / part, shape, layers=1)
        places = [self.encoders / name for name in ("vae", "dino_source", "dino_pose")]
        vae, source, pose = places
        before = [Dino.load(place, positions="transformers") for place in (source, pose)]
        self.prepare("new", load_encoders(*places))
        self.prepare("old", Encoders(VAE.load(vae), *before))
        self.notes: dict[str, list[str]] = {"old": [], "new": []}
        for name, notes in self.notes.items():
            train(RECIPE, root / name, root / f"run-{name}", warn=notes.append)

    def prepare(self, name: str, encoders: Encoders) -> None:
        out, listing = self.root / name, find_dataset(self.raw)
        prepare_dataset(listing, out, size=SIZE, encoder=encoders, items_per_shard=2)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tmp_path_factory.mktemp("tables"))


def tokens(data: Path) -> torch.Tensor:
    dataset = PairDataset(data, "test")
    return load_pairs(dataset, PairIndices.listed([0])).source_tokens[0].float()


def test_datasets_record_their_position_table(work: Work) -> None:
    old, new = (PairDataset(work.root / n, "test").manifest["encoders"] for n in ("old", "new"))
    for part in ("source", "pose"):
        assert new[part] == {**old[part], "position_table": "hub"}
    assert new["vae"] == old["vae"]
    made, before = tokens(work.root / "new"), tokens(work.root / "old")
    assert 0.005 < float((made - before).norm() / made.norm()) < 0.2


def test_preparing_does_not_resume_with_another_table(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(work.root / "old")
    given = ["--encoders", str(work.encoders), "--size", str(SIZE)]
    out = str(work.root / "old")
    assert run(["prepare", "--root", str(work.raw), "--out", out, *given]) == 1
    output = " ".join(capsys.readouterr().err.split())
    assert (
        "started by an earlier version, which resized DINOv2's position table otherwise" in output
    )
    assert f"xmdpt prepare --check {out} --repair --root ROOT" in output
    assert hashes(work.root / "old") == before


def test_a_finished_dataset_of_another_table_is_used_unchanged(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command with this version has nothing to do, and notes the difference."""
    copy = Path(shutil.copytree(work.root / "old", tmp_path / "old"))
    before, now = hashes(copy), load_encoders(*(work.encoders / n for n in FOLDERS))
    listing = find_dataset(work.raw)
    prepare_dataset(listing, copy, size=SIZE, encoder=now, items_per_shard=2)
    assert hashes(copy) == before
    assert run(["prepare", "--check", str(copy)]) == 0
    assert "was prepared by an earlier version" in " ".join(capsys.readouterr().err.split())
    (copy / "train-000001.tar").unlink()
    with pytest.raises(XmdptError, match="was started by an earlier version"):
        prepare_dataset(listing, copy, size=SIZE, encoder=now, items_per_shard=2)


def test_an_unfinished_dataset_is_finished_with_its_own_table(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that the hint of the refusal names."""
    for name in ("old", "new"):
        whole = hashes(work.root / name)
        part = Path(shutil.copytree(work.root / name, tmp_path / name))
        for file in ("dataset.json", "train-000001.tar", "train-000001.tar.index.json"):
            (part / file).unlink(missing_ok=file.endswith("index.json"))
        for index in part.glob("train-000001*"):
            index.unlink()
        words = ["prepare", "--check", str(part), "--repair", "--root", str(work.raw)]
        assert run([*words, "--encoders", str(work.encoders)]) == 0, capsys.readouterr().err
        made = hashes(part)
        assert {k: v for k, v in made.items() if k.endswith(".tar")} == {
            k: v for k, v in whole.items() if k.endswith(".tar")
        }
        assert made["dataset.json"] == whole["dataset.json"]


def test_training_on_an_older_dataset_warns_and_resumes(work: Work, tmp_path: Path) -> None:
    assert work.notes["new"] == []
    (note,) = work.notes["old"]
    assert BEFORE in note
    assert f"xmdpt prepare --root ROOT --out NEW --size {SIZE}" in note
    run_folder = Path(shutil.copytree(work.root / "run-old", tmp_path / "run"))
    made = json.loads((run_folder / "run.json").read_text())
    del made["position_tables"]  # as an earlier version wrote it
    (run_folder / "run.json").write_text(json.dumps(made))
    assert train(replace(RECIPE, steps=3), work.root / "old", run_folder).steps == 3
    for data in (work.root / "new", work.root / "old"):
        (run_folder / "run.json").write_text(json.dumps(made))
        if data.name == "old":
            train(replace(RECIPE, steps=4), data, run_folder)
            continue
        with pytest.raises(XmdptError, match="holds another run") as error:
            train(replace(RECIPE, steps=4), data, run_folder, force=True)
        assert "DINOv2 tokens of another position table" in error.value.message
        assert "source transformers -> hub, pose transformers -> hub" in error.value.message
        assert "--force cannot change data" in error.value.hint


def test_two_tables_are_not_mixed_in_one_run(work: Work, tmp_path: Path) -> None:
    run_folder = Path(shutil.copytree(work.root / "run-new", tmp_path / "run"))
    with pytest.raises(XmdptError, match="tokens of another position table") as error:
        train(replace(RECIPE, steps=3), work.root / "old", run_folder)
    assert "source hub -> transformers" in error.value.message


@pytest.mark.parametrize("name", ["old", "new"])
def test_encoding_online_makes_the_cached_tokens(work: Work, name: str) -> None:
    dataset = PairDataset(work.root / name, "test")
    encoders = find_encoders(dataset.manifest, dataset.path)
    pair = dataset.pairs[0]
    image = np.array(dataset.image(pair.key, pair.source))
    made = encoders.source.tokens(to_signed(image[None]))[0]
    stored = tokens(work.root / name)
    torch.testing.assert_close(made, stored, rtol=2**-7, atol=1e-3)
    other = tokens(work.root / ("new" if name == "old" else "old"))
    assert float((made - other).norm()) > 5 * float((made - stored).norm())


def test_a_model_is_sampled_with_the_table_it_was_trained_with(work: Work) -> None:
    for name, positions in (("old", "transformers"), ("new", "hub")):
        model = work.root / f"run-{name}" / "model"
        networks = LazyEncoders(read_metadata(model), model, encoders=work.encoders)
        assert (networks.source.positions, networks.pose.positions) == (positions, positions)
    metadata = published_metadata(XMDPT(depth=4, width=32, heads=2, source_width=72, pose_width=48))
    networks = LazyEncoders(metadata, encoders=work.encoders)
    assert networks.source.positions == "hub"
    for part in ("source", "pose"):  # converted by an earlier version
        del metadata["encoders"][part]["position_table"]
    assert LazyEncoders(metadata, encoders=work.encoders).pose.positions == "hub"


@pytest.mark.parametrize(
    ("model", "data", "messages"),
    [
        ("new", "new", []),
        ("old", "old", [BEFORE]),
        ("old", "new", ["the model was trained on tokens of an earlier version"]),
        ("new", "old", [BEFORE, "the model was trained on the published tokens"]),
    ],
)
def test_sampling_names_tokens_that_do_not_fit(
    work: Work, tmp_path: Path, model: str, data: str, messages: list[str]
) -> None:
    sampler = Sampler.load(work.root / f"run-{model}" / "model")
    dataset, vae = PairDataset(work.root / data, "test"), VAE.load(work.encoders / "vae")
    notes: list[str] = []
    more: dict[str, Any] = {"limit": 1, "notify": notes.append}
    generate(
        sampler, dataset, vae, tmp_path, SamplingConfig(steps=1, guidance=1.0, power=1.0), **more
    )
    assert len(notes) == len(messages)
    for note, start in zip(notes, messages, strict=True):
        assert start in note
    about = DatasetGroundTruth(work.root / data, "test", tmp_path).notes
    assert (about != []) == (data == "old")


def test_sampling_and_evaluating_an_older_dataset_warn(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = str(work.root / "old"), str(tmp_path / "out")
    model = ["--model", str(work.root / "run-old" / "model")]
    vae = ["--vae", str(work.encoders / "vae")]
    words = ["--data", data, *model, *vae, "--out", out, "--limit", "1", "--steps", "1"]
    assert run(["sample", *words]) == 0, capsys.readouterr().err
    assert BEFORE in " ".join(capsys.readouterr().err.split())
    assert run(["evaluate", "--data", data, "--generated", out, "--ssim", "--limit", "1"]) == 0
    output = capsys.readouterr()
    assert BEFORE in " ".join((output.out + output.err).split())
