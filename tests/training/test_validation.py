"""Validation: fixed pairs, values that depend only on the weights, one contact sheet."""

from __future__ import annotations

import copy
import dataclasses
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from small_data import CONFIG, PixelEncoder, same, weights
from torch.nn.functional import cosine_similarity

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import eval_batches
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.diffusion import Schedule, start_noise
from xmdpt_cli.diffusion.loss import loss_terms
from xmdpt_cli.encoders.vae import posterior_mean
from xmdpt_cli.images import load_image
from xmdpt_cli.model import XMDPT
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.report import contact_sheet, validation_sheet
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.sampler import Sampler, SamplingConfig
from xmdpt_cli.toy.synthetic import make_synthetic
from xmdpt_cli.training import validation_metrics, validation_pairs
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.ema import Ema
from xmdpt_cli.training.logger import MetricsLogger, read
from xmdpt_cli.training.loop import train
from xmdpt_cli.training.task import TrainTask
from xmdpt_cli.training.validation import Validator, is_validation_step
from xmdpt_cli.training.validation_metrics import similarity, validation_losses
from xmdpt_cli.training.validation_pairs import (
    evenly,
    read_pairs,
    read_views,
    stratified,
)

CPU, SCALE, SIDE = torch.device("cpu"), 1.5, 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairDataset:
    root = tmp_path_factory.mktemp("validation")
    make_synthetic(root / "raw", people_train=3, people_test=5, views=4, height=64, workers=1)
    prepare_dataset(find_dataset(root / "raw"), root / "data", size=SIDE, encoder=PixelEncoder())
    return PairDataset(root / "data")


def model_of(conditioning: str = "vector", seed: int = 0) -> XMDPT:
    """A tiny model whose zero-initialised layers have values: else its output is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XMDPT.from_size(
            "tiny", latent_size=8, pose_length=65, pose_width=3, source_length=65, source_width=3,
            conditioning=conditioning, vae_factor=4,
        )  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    return model


def make_validator(
    data: PairDataset, out: Path, conditioning: str = "vector", seed: int = 0, **options: Any
) -> Validator:
    config = TrainConfig(
        conditioning=conditioning,
        seed=seed,
        validation_pairs=3,
        sampling_steps=3,
        sampling_solver="ddim",
        guidance=1.5,
        power=1.0,
    )
    return Validator(out, TrainTask(config, data), **options)


def test_evenly_spaced_pairs_and_timesteps() -> None:
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert evenly(3, 8) == [0, 1, 2]
    for quartile in range(4):
        times = sorted(stratified(5, 1000, quartile))
        assert times == [250 * quartile + offset for offset in (25, 75, 125, 175, 225)]


def test_validation_noise_depends_only_on_the_pair() -> None:
    both = start_noise((4, 8, 8), 3, [5, 0])
    assert torch.equal(both[0], start_noise((4, 8, 8), 3, [5])[0])
    assert torch.equal(both[1], start_noise((4, 8, 8), 3, [1, 0])[1])
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize("conditioning", ["vector", "tokens"])
def test_validation_loss_is_the_mean_over_pairs_and_quartiles(
    data: PairDataset, conditioning: str
) -> None:
    """Against the same sum pair by pair, from the model and the loss's terms."""
    test = PairDataset(data.path, "test")
    positions = evenly(len(test), 9)
    model, schedule = model_of(conditioning).eval(), Schedule("cosine", "v")
    tokens = conditioning == "tokens"
    found = validation_losses(model, read_pairs(test, positions, SCALE, tokens), schedule, CPU)
    times = [stratified(9, 1000, q) for q in range(4)]
    mse, vb = np.zeros((4, 9)), np.zeros((4, 9))
    for i, batch in enumerate(eval_batches(test, 1, pose_maps=tokens)):
        if i not in positions:
            continue
        row = positions.index(i)
        clean, source = (
            posterior_mean(m, SCALE) for m in (batch.target_moments, batch.source_moments)
        )
        for q in range(4):
            t = torch.tensor([times[q][row]])
            noise = start_noise((4, 8, 8), 1 + q, [i])
            noisy = schedule.add_noise(clean, noise, t)
            with torch.no_grad():
                condition = model.condition(batch.pose_tokens, batch.source_tokens, source)
                maps = batch.pose_maps(CPU)
                more = model.token_conditions(source, *maps) if tokens else None
                out = model(noisy, t, condition, more)
            terms = loss_terms(out, clean, noise, t, schedule)
            mse[q, row], vb[q, row] = float(terms[0]), float(terms[1])
    for q in range(4):
        assert found[f"val_mse_q{q + 1}"] == pytest.approx(mse[q].mean(), rel=1e-4)
        assert found[f"val_vb_q{q + 1}"] == pytest.approx(vb[q].mean(), rel=1e-4)
    assert found["val_loss"] == pytest.approx(mse.mean() + vb.mean(), rel=1e-4)
    assert found["val_loss"] == found["val_mse"] + found["val_vb"]


def test_condition_similarity_of_views_and_of_other_people(data: PairDataset) -> None:
    test = PairDataset(data.path, "test")
    model = model_of().eval()
    read_once = read_views(test, list(range(len(test))), SCALE, 16)
    assert read_once is not None
    assert read_once.source.shape[:2] == (3, 5)  # five people
    found = similarity(model, read_once, CPU)

    def condition(pose: tuple[str, str], source: tuple[str, str]) -> torch.Tensor:
        with torch.no_grad():
            return model.condition(
                test.tensor(*pose, "pose_tokens")[None],
                test.tensor(*source, "source_tokens")[None],
                posterior_mean(test.tensor(*source, "moments")[None], SCALE),
            ).double()

    keys = list(dict.fromkeys(pair.key for pair in test.pairs))
    same, other = [], []
    for i, key in enumerate(keys):
        pair = next(p for p in test.pairs if p.key == key)
        views = [v for k, v in test.views() if k == key]
        third = min(set(views) - {pair.source, pair.target}, default=pair.target)
        next_key = keys[(i + 1) % len(keys)]
        stranger = next(p for p in test.pairs if p.key == next_key).source
        own = condition((key, pair.target), (key, pair.source))
        same.append(cosine_similarity(own, condition((key, pair.target), (key, third))))
        other.append(cosine_similarity(own, condition((key, pair.target), (next_key, stranger))))
    assert found["condition_similarity_views"] == pytest.approx(float(torch.cat(same).mean()))
    assert found["condition_similarity_people"] == pytest.approx(float(torch.cat(other).mean()))
    assert found["condition_similarity_views"] != found["condition_similarity_people"]


def test_validation_depends_only_on_the_weights(data: PairDataset, tmp_path: Path) -> None:
    """The values change with the weights of the EMA, and a copy gives the same: nothing of an
    earlier validation is kept. Random states and modes of the training are unchanged."""
    ema, raw = Ema(model_of(), 0.5, False), model_of(seed=1)
    log, validator = MetricsLogger(tmp_path, 0, 1), make_validator(data, tmp_path)
    first = validator.validate(ema.model, 2, log)
    again = validator.validate(ema.model, 2, log)
    assert first == again
    ema.update(raw, 1)
    moved = validator.validate(ema.model, 4, log)
    assert moved["val_loss"] != first["val_loss"]
    fresh = model_of(seed=2)
    fresh.load_state_dict(ema.model.state_dict())
    fresh.train()
    fresh.tdnet.blocks[1].eval()
    modes = [m.training for m in fresh.modules()]
    states = (torch.get_rng_state(), np.random.get_state()[1], random.getstate())
    assert validator.validate(fresh, 4, log) == moved
    assert [m.training for m in fresh.modules()] == modes
    assert all(p.grad is None for p in fresh.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    log.close()


def test_validation_does_not_depend_on_the_batch_size(
    data: PairDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = PairDataset(data.path, "test")
    rows = read_pairs(test, evenly(len(test), 9), SCALE, False)
    model, found = model_of().eval(), []
    for chunk in (8, 3):
        monkeypatch.setattr(validation_pairs, "CHUNK", chunk)
        monkeypatch.setattr(validation_metrics, "CHUNK", chunk)
        found.append(validation_losses(model, rows, Schedule(), CPU))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("conditioning", ["vector", "tokens"])
def test_validation_images_equal_sampling(
    data: PairDataset, tmp_path: Path, conditioning: str
) -> None:
    """Source, pose and ground truth of the pairs, and the image that sampling generates."""
    test, model = PairDataset(data.path, "test"), model_of(conditioning)
    seen: list[torch.Tensor] = []

    def decode(latents: torch.Tensor) -> NDArray[np.uint8]:
        seen.append(latents)
        return np.full((len(latents), SIDE, SIDE, 3), 77, np.uint8)

    log = MetricsLogger(tmp_path, 0, 1)
    validator = make_validator(data, tmp_path, conditioning, seed=9, decode=decode)
    validator.validate(model, 2, log)
    log.close()
    shown = np.asarray(load_image(tmp_path / "samples/step_0000002.png"))
    assert shown.shape == (3 * SIDE, 4 * SIDE, 3)
    sampler = Sampler(copy.deepcopy(model), Schedule(), {})
    for row, position in enumerate(evenly(len(test), 3)):
        pair = test.pairs[position]
        cells = shown[row * SIDE : (row + 1) * SIDE]
        assert (cells[:, :SIDE] == test.image(pair.key, pair.source)).all()
        assert (cells[:, SIDE : 2 * SIDE] == test.pose_map(pair.key, pair.target)).all()
        assert (cells[:, 2 * SIDE : 3 * SIDE] == test.image(pair.key, pair.target)).all()
        assert (cells[:, 3 * SIDE :] == 77).all()
        batch = list(eval_batches(test, 1, pose_maps=True))[position]
        latents = sampler.latents(
            start_noise((4, 8, 8), 9, [position]),
            Conditions.of_batch(batch, SCALE),
            SamplingConfig(3, 1.5, 1.0),
        )
        torch.testing.assert_close(seen[0][row : row + 1], latents, rtol=1e-4, atol=1e-4)


def test_a_killed_run_resumes_to_the_same_sheet_and_log(data: PairDataset, tmp_path: Path) -> None:
    def steps(out: Path, done: int, until: int) -> None:
        log, validator = MetricsLogger(out, done, 1), make_validator(data, out, done=done)
        if is_validation_step(2, 7, done) and not log.has(done, "val_loss"):
            validator.validate(model_of(seed=done), done, log)
        for step in range(done + 1, until + 1):
            if is_validation_step(2, 7, step):
                validator.validate(model_of(seed=step), step, log)
        log.close()

    steps(tmp_path / "whole", 0, 7)
    steps(tmp_path / "parts", 0, 6)
    assert (tmp_path / "parts/samples/step_0000006.png").is_file()
    steps(tmp_path / "parts", 4, 4)  # the last checkpoint was at 4
    assert not (tmp_path / "parts/samples/step_0000006.png").exists()
    steps(tmp_path / "parts", 4, 7)
    names = {p.name for p in (tmp_path / "whole/samples").iterdir()}
    assert names == {"sheet.png", *(f"step_000000{i}.png" for i in (2, 4, 6, 7))}
    for name in names:
        first, second = (tmp_path / run / "samples" / name for run in ("whole", "parts"))
        assert first.read_bytes() == second.read_bytes(), name
    whole, parts = (read(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts"))
    assert whole == parts
    assert [line["step"] for line in whole] == [2, 4, 6, 7]
    assert {f"val_{kind}_q{q}" for kind in ("mse", "vb") for q in range(1, 5)} <= whole[0].keys()
    # an interrupt during a validation: the checkpoint exists, the values do not
    (tmp_path / "parts/metrics.jsonl").write_text("")
    steps(tmp_path / "parts", 6, 6)
    assert [line["step"] for line in read(tmp_path / "parts/metrics.jsonl")] == [6]


def test_the_sheet_adds_columns_and_is_thinned(tmp_path: Path) -> None:
    side, rows = 16, 2
    for number in range(1, 31):
        cells = [[np.full((side, side, 3), n, np.uint8) for n in (1, 2, 3, 100 + number)]] * rows
        sheet = validation_sheet.write_step(tmp_path, 10 * number, cells)
        shown = min(number, 12)
        width = contact_sheet.GAP + (3 + shown) * (128 + contact_sheet.GAP)
        assert sheet.shape == (contact_sheet.HEADER + rows * (128 + contact_sheet.GAP), width, 3)
        middle = contact_sheet.HEADER + 64
        colours = [
            int(sheet[middle, contact_sheet.GAP + i * (128 + contact_sheet.GAP) + 64, 0])
            for i in range(3 + shown)
        ]
        steps = [colour - 100 for colour in colours[3:]]
        assert colours[:3] == [1, 2, 3]
        assert steps[0] == 1
        assert steps[-1] == number
        assert steps == sorted(set(steps))
        gaps = [after - before for before, after in pairwise(steps)]
        assert max(gaps, default=0) <= -(-number // 11)
    assert (np.asarray(load_image(tmp_path / "sheet.png")) == sheet).all()
    # images of other pairs, or broken ones, are left out
    Image.fromarray(np.zeros((side, 4 * side, 3), np.uint8)).save(tmp_path / "step_0000005.png")
    (tmp_path / "step_0000006.png").write_bytes(b"no image")
    assert (validation_sheet.write_step(tmp_path, 300, cells) == sheet).all()


def test_missing_vae_and_missing_test_pairs_give_warnings(
    data: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    validator = make_validator(data, tmp_path, warn=messages.append)
    assert len(messages) == 1
    assert "no VAE" in messages[0]
    log = MetricsLogger(tmp_path, 0, 1)
    validator.validate(model_of(), 2, log)
    log.close()
    shown = np.asarray(load_image(tmp_path / "samples/step_0000002.png"))[:, 3 * SIDE :]
    # latents of 8 x 8 enlarged to 32: blocks of one colour
    assert (shown[::4, ::4].repeat(4, axis=0).repeat(4, axis=1) == shown).all()
    assert len(np.unique(shown)) > 3
    counts = {**data.manifest["counts"], "test": {"pairs": 0}}
    monkeypatch.setitem(data.manifest, "counts", counts)
    messages.clear()
    validator = make_validator(data, tmp_path, warn=messages.append)
    assert "no test pairs" in messages[0]
    assert len(validator.generated.positions) == 3


def test_images_reach_tensorboard(data: PairDataset, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLogger(tmp_path, 0, 1)
    make_validator(data, tmp_path).validate(model_of(), 2, log)
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (image,) = events.Images("samples")
    assert image.step == 2
    with Image.open(tmp_path / "samples/sheet.png") as sheet:
        assert (image.width, image.height) == sheet.size
    assert [e.step for e in events.Scalars("val_mse_q3")] == [2]


def test_validation_and_interrupts_do_not_change_the_run(
    data: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation does not change the weights; runs interrupted in it end with the same files."""
    plain = dataclasses.replace(
        CONFIG, steps=5, conditioning="tokens", sampling_steps=2, validation_pairs=2
    )
    watched = dataclasses.replace(plain, validate_every=2)
    train(plain, data.path, tmp_path / "plain")
    assert not (tmp_path / "plain/samples").exists()
    train(watched, data.path, tmp_path / "whole")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "whole"))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("xmdpt_cli.training.task.validation_losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(watched, data.path, tmp_path / "parts")
    train(dataclasses.replace(watched, steps=4), data.path, tmp_path / "parts")
    train(watched, data.path, tmp_path / "parts")
    train(watched, data.path, tmp_path / "parts")  # nothing is left to do
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "parts"))
    runs = tmp_path / "whole", tmp_path / "parts"
    lines, others = ([r for r in read(run / "metrics.jsonl") if "val_loss" in r] for run in runs)
    assert lines == others
    assert [line["step"] for line in lines] == [2, 4, 5]
    for name in ("sheet.png", *(f"step_000000{i}.png" for i in (2, 4, 5))):
        first, second = (run / "samples" / name for run in runs)
        assert first.read_bytes() == second.read_bytes(), name


def test_mfu_is_logged_for_known_peaks(
    data: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Share of the peak = FLOPs a pair x pairs a second / peak, whatever the recipe."""
    monkeypatch.setattr("xmdpt_cli.training.loop.peak_flops", lambda *_: 1e12)
    config = dataclasses.replace(CONFIG, steps=2, conditioning="tokens", mask_span=0.2)
    shown: dict[str, Any] = {}
    train(config, data.path, tmp_path / "run", progress=lambda *_, **info: shown.update(info))
    lines = read(tmp_path / "run/metrics.jsonl")
    flops = [
        float(line["mfu"] or 0) * 1e12 / float(line["images_per_second"] or 1) for line in lines
    ]
    assert flops[0] == pytest.approx(flops[1])
    # 4 layers of 128 on 16 tokens and 16 keys of the source: 2 passes, forward and backward
    blocks = 2 * 3 * 4 * 24 * 16 * 128**2
    assert blocks < flops[0] < 3 * blocks
    assert shown["mfu"] == lines[-1]["mfu"]
