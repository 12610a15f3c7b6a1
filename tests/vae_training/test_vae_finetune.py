"""Fine-tuning a VAE on a prepared dataset: results, resuming, and errors."""

from __future__ import annotations

import json
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from forked import Forked, run_ranks
from PIL import Image
from safetensors import SafetensorError
from skimage.metrics import peak_signal_noise_ratio
from vae_data import SIZE, WEIGHTS, equal, is_encoder, make_dataset, tensors

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.encoders.vae import VAE, posterior_mean
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.metrics.lpips_metric import ALEXNET
from xmdpt_cli.toy.encoders import toy_vae
from xmdpt_cli.training import checkpoint
from xmdpt_cli.training.distributed import Distributed
from xmdpt_cli.vae_training import finetune as vae_finetune
from xmdpt_cli.vae_training import trainer as vae_trainer
from xmdpt_cli.vae_training.config import VaeConfig
from xmdpt_cli.vae_training.examples import DatasetImages
from xmdpt_cli.vae_training.finetune import FineTuned, finetune
from xmdpt_cli.vae_training.plan import Plan, lpips_networks, make_plan
from xmdpt_cli.vae_training.tiny import start_tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("vae-finetune"))


def settings(**changes: Any) -> VaeConfig:
    made = {"steps": 6, "batch_size": 2, "learning_rate": 1e-3, "lpips": 0.0, "seed": 1}
    return VaeConfig(**{**made, "checkpoint_every": 2, "log_every": 2, **changes})


def plan_for(config: VaeConfig, data: Path, vae: VAE | None = None) -> Plan:
    vae, tiny = vae or VAE.load(data.parent / "vae"), None
    if config.tiny:
        tiny, _ = start_tiny(PairDataset(data), vae, None)
    return make_plan(config, data, vae, tiny=tiny)


def run(data: Path, out: Path, vae: VAE | None = None, **changes: Any) -> FineTuned:
    config = settings(**changes)
    plan = plan_for(config, data, vae)
    perceptual, lpips, notes = lpips_networks(config, None, True, "cpu")
    return finetune(plan, out, perceptual=perceptual, lpips=lpips, notes=notes)


@pytest.fixture(scope="module")
def finished(data: Path) -> tuple[FineTuned, Path]:
    """An uninterrupted training with the default settings: its result and its folder."""
    return run(data, data.parent / "finished"), data.parent / "finished"


def logged(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_only_the_decoder_changes_and_the_record_proves_it(
    data: Path, finished: tuple[FineTuned, Path]
) -> None:
    done, vae = finished
    before, after = tensors(data.parent / "vae"), tensors(vae)
    for name in before:
        assert torch.equal(before[name], after[name]) == is_encoder(name), name
    record = json.loads((vae / "xmdpt_training.json").read_text())
    assert record["encoder"]["before"] == record["encoder"]["after"] == done.encoder["after"]
    assert record["start"]["sha256"] == VAE.load(data.parent / "vae").describe()["sha256"]
    assert record["sha256"] == VAE.load(vae).describe()["sha256"]  # as samples name it
    assert record["trained_on"]["images"] == 12
    assert not done.toy
    assert not VAE.load(vae).origin.toy


def test_a_changed_encoder_is_an_error_and_nothing_is_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = vae_trainer.VaeTrainer.step

    def spoiling(self: vae_trainer.VaeTrainer, batch: Any) -> Any:
        with torch.no_grad():
            self.vae.net.encoder.conv_in.weight[0, 0, 0, 0] += 1e-6
        return step(self, batch)

    monkeypatch.setattr(vae_trainer.VaeTrainer, "step", spoiling)
    with pytest.raises(XmdptError, match="encoder has changed"):
        run(data, tmp_path / "vae", steps=1)
    left = {p.name for p in (tmp_path / "vae").iterdir()}
    assert not left & {"config.json", WEIGHTS, "xmdpt_training.json", "report.json"}


def test_diffusers_alone_loads_the_vae(finished: tuple[FineTuned, Path]) -> None:
    vae = finished[1]
    net, info = AutoencoderKL.from_pretrained(vae, output_loading_info=True)
    assert not any(info.values()), info
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        signed = net.decode(latents / net.config.scaling_factor).sample
    theirs = np.clip((signed.numpy() + 1) * 127.5, 0, 255)
    ours = VAE.load(vae).decode(latents)
    assert np.abs(theirs[0].transpose(1, 2, 0) - ours[0]).max() < 0.51


def test_the_report_measures_the_test_images_before_and_after(data: Path, tmp_path: Path) -> None:
    done = run(data, tmp_path / "vae", steps=40, lpips=0.1, face_weight=3.0)
    report = json.loads((tmp_path / "vae/report.json").read_text())
    images = DatasetImages(PairDataset(data, "test"))
    assert report["counts"] == {"before": len(images), "after": len(images)}
    ground_truth = np.stack([images[i] for i in range(len(images))])
    for row, folder in (("before", data.parent / "vae"), ("after", tmp_path / "vae")):
        vae = VAE.load(folder)
        rebuilt = vae.decode(posterior_mean(vae.encode_moments(ground_truth), vae.scale))
        each = [peak_signal_noise_ratio(a, b) for a, b in zip(ground_truth, rebuilt, strict=True)]
        # half-precision moments: a few grey values differ by one
        assert report["rows"][row]["psnr"] == pytest.approx(np.mean(each), abs=0.02)
    before, after = report["rows"]["before"], report["rows"]["after"]
    assert after["psnr"] > before["psnr"] + 0.5
    assert after["psnr_face"] > before["psnr_face"]
    assert after["ssim_256"] > before["ssim_256"]
    assert "lpips_alex_v0.1_toy" in before
    assert "lpips_alex_v0.1" not in before
    assert report["toy"] == ["lpips_alex_v0.1_toy"]
    assert any("random AlexNet" in note for note in report["notes"])
    assert (done.stats.psnr_before, done.stats.psnr) == (before["psnr"], after["psnr"])
    sheet = np.asarray(Image.open(tmp_path / "vae/before_after.png"))
    assert (sheet[30:60, 10:40] == ground_truth[0][2, 2]).all(
        axis=-1
    ).mean() > 0.5  # its background
    rows = logged(tmp_path / "vae")
    assert [row["step"] for row in rows] == [1, *range(2, 41, 2)]
    assert {"loss", "l1", "mse", "lpips", "learning_rate"} <= rows[0].keys()
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_larger_face_weight_improves_faces(data: Path, tmp_path: Path) -> None:
    faces = {}
    for weight in (1.0, 20.0):
        report = run(data, tmp_path / str(weight), steps=60, face_weight=weight).report
        assert report is not None
        faces[weight] = report.rows["after"]["psnr_face"]
    assert faces[20.0] > faces[1.0] + 0.1, faces  # dB


def test_bf16_training_is_close_to_float32(
    data: Path, finished: tuple[FineTuned, Path], tmp_path: Path
) -> None:
    scratch = {"vae": toy_vae(SIZE, 1), "all_weights": True}
    whole_scratch = run(data, tmp_path / "scratch-fp32", **scratch)
    scratch["vae"] = toy_vae(SIZE, 1)
    for name, whole, more in (("decoder", finished[0], {}), ("scratch", whole_scratch, scratch)):
        done = run(data, tmp_path / name, precision="bf16", **more)
        assert all(value.dtype == torch.float32 for value in tensors(tmp_path / name).values())
        assert done.stats.loss_first != whole.stats.loss_first
        assert done.stats.loss_first == pytest.approx(whole.stats.loss_first, rel=0.05)
        assert done.stats.loss_last == pytest.approx(whole.stats.loss_last, rel=0.1)


def test_a_killed_training_resumes_to_the_same_bytes(data: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle; with EMA, LPIPS and face weight."""
    changes = {"steps": 30, "ema": 0.9, "lpips": 0.1, "face_weight": 2.0, "checkpoint_every": 3}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = Forked(partial(run, data, killed, **changes))
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints/latest").is_file() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "config.json").exists()
    run(data, killed, **changes)
    run(data, whole, **changes)
    assert (killed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert (killed / "report.json").read_bytes() == (whole / "report.json").read_bytes()
    assert (killed / "before_after.png").read_bytes() == (whole / "before_after.png").read_bytes()
    losses = [[row["loss"] for row in logged(out)] for out in (killed, whole)]
    assert len(losses[0]) == len(losses[1])
    assert losses[0][-1] == losses[1][-1]
    assert sorted(p.name for p in killed.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_other_settings_and_other_folders_are_refused(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path / "vae", steps=2)
    again = run(data, tmp_path / "vae", steps=2)
    assert (again.stats, again.encoder) == (first.stats, first.encoder)
    assert again.report is not None
    assert first.report is not None
    assert again.report.rows == first.report.rows
    with pytest.raises(XmdptError, match=r"learning_rate: 0.001 -> 0.5; face_weight: 1.0 -> 2.0"):
        run(data, tmp_path / "vae", steps=2, learning_rate=0.5, face_weight=2.0)
    with pytest.raises(XmdptError, match="the VAE it starts from"):
        run(data, tmp_path / "vae", vae=VAE.load(tmp_path / "vae"), steps=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.txt").write_text("mine")
    with pytest.raises(XmdptError, match="holds no VAE training"):
        run(data, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["precious.txt"]


def test_a_folder_is_locked_by_one_process(data: Path, tmp_path: Path) -> None:
    with only_process(tmp_path / "vae"), pytest.raises(XmdptError, match="another process"):
        run(data, tmp_path / "vae")
    run(data, tmp_path / "vae", steps=1)


def test_latents_of_another_encoder_are_refused_by_name(data: Path, tmp_path: Path) -> None:
    made = toy_vae(SIZE, seed=5)
    with torch.no_grad():
        made.net.encoder.conv_out.weight.mul_(1.5)
    made.net.save_pretrained(tmp_path / "other")
    with pytest.raises(XmdptError, match="another encoder") as error:
        run(data, tmp_path / "out", vae=VAE.load(tmp_path / "other"))
    assert str(data.parent / "vae") in error.value.message
    assert str(tmp_path / "other") in error.value.message
    assert not (tmp_path / "out").exists()
    with pytest.raises(XmdptError, match="another encoder"):
        run(data, tmp_path / "out", vae=toy_vae(256))  # another factor altogether
    # a fine-tuned VAE has the same encoder: it can be fine-tuned again
    run(data, tmp_path / "once", steps=1)
    run(data, tmp_path / "twice", vae=VAE.load(tmp_path / "once"), steps=1)
    assert not equal(tensors(tmp_path / "once"), tensors(tmp_path / "twice"))


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(
    data: Path,
    finished: tuple[FineTuned, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses, calls = vae_trainer.vae_losses, []

    def poisoned(*args: Any, **options: Any) -> Any:
        calls.append(1)
        terms = losses(*args, **options)
        return {**terms, "loss": terms["loss"] * float("nan")} if len(calls) == 4 else terms

    with monkeypatch.context() as patch:
        patch.setattr(vae_trainer, "vae_losses", poisoned)
        with pytest.raises(XmdptError, match="diverged: loss nan, gradient nan at step 3"):
            run(data, tmp_path / "run")
    run(data, tmp_path / "run")
    assert equal(tensors(tmp_path / "run"), tensors(finished[1]))


def test_a_full_disk_is_an_error_and_the_run_resumes(
    data: Path,
    finished: tuple[FineTuned, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save, calls = checkpoint.save_file, []

    def full(*args: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 3:  # the weights of the second checkpoint
            raise SafetensorError("No space left on device")
        save(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(XmdptError, match="No space left") as error:
            run(data, tmp_path / "run")
    assert "make room" in error.value.hint
    with open(tmp_path / "run/metrics.jsonl", "a") as log:
        log.write('{"step": 3, "lo')  # what a full disk leaves of a line
    run(data, tmp_path / "run")
    assert equal(tensors(tmp_path / "run"), tensors(finished[1]))
    assert [row["step"] for row in logged(tmp_path / "run")] == [1, 2, 4, 6]


def test_a_training_stopped_after_the_last_step_only_publishes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vae_finetune.folder, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "run", ema=0.9)
    assert not (tmp_path / "run/config.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(vae_trainer.VaeTrainer, "step", killed)
        done = run(data, tmp_path / "run", ema=0.9)
    whole = run(data, tmp_path / "whole", ema=0.9)
    assert equal(tensors(tmp_path / "run"), tensors(tmp_path / "whole"))
    assert (done.stats.loss_first, done.stats.loss_last) == (
        whole.stats.loss_first,
        whole.stats.loss_last,
    )
    assert done.report == whole.report


def test_a_broken_checkpoint_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int, /, **info: Any) -> None:
        if (stage, done) == ("vae", 4):
            raise KeyboardInterrupt

    plan = make_plan(settings(), data, VAE.load(data.parent / "vae"))
    with pytest.raises(KeyboardInterrupt):
        finetune(plan, tmp_path / "run", progress=stop)
    (step,) = (tmp_path / "run/checkpoints").glob("step_*")
    weights = step / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(
        XmdptError, match=rf"cannot continue from .*{step.name}: {weights.name}"
    ) as error:
        run(data, tmp_path / "run")
    assert f"rm -r {step}" in error.value.hint


def test_a_training_of_an_earlier_format_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    (tmp_path / "run/state.safetensors").touch()
    with pytest.raises(XmdptError, match=r"earlier version \(state\.safetensors\)"):
        run(data, tmp_path / "run")


def test_a_small_vae_from_scratch(data: Path, tmp_path: Path) -> None:
    done = run(data, tmp_path / "vae", vae=toy_vae(SIZE, 1), steps=40, all_weights=True)
    vae = VAE.load(tmp_path / "vae")
    assert done.toy
    assert vae.origin.toy
    assert not equal(tensors(tmp_path / "vae"), tensors(data.parent / "vae"))
    assert done.encoder["before"] != done.encoder["after"]
    images = DatasetImages(PairDataset(data))
    moments = vae.encode_moments(np.stack([images[i] for i in range(len(images))]))
    assert float(posterior_mean(moments, vae.scale).std()) == pytest.approx(1.0, abs=1e-3)
    assert done.report is not None
    assert done.report.rows["after"]["psnr"] > done.report.rows["before"]["psnr"] + 1.0
    record = json.loads((tmp_path / "vae/xmdpt_training.json").read_text())
    assert "from scratch: a toy" in record["what"]
    assert record["sha256"] == VAE.load(tmp_path / "vae").describe()["sha256"]
    assert record["trained_on"]["data"] == data.name  # no path: the folder may be published


def test_missing_lpips_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(XmdptError, match="alexnet, for LPIPS, is not on this machine") as error:
        lpips_networks(settings(lpips=0.1), None, False, "cpu")
    assert ALEXNET.url in error.value.hint
    assert str(tmp_path / "hub/checkpoints") in error.value.hint
    assert "--lpips 0" in error.value.hint
    # only to measure with, it is needed as well: no random numbers unasked
    with pytest.raises(XmdptError, match="is not on this machine") as error:
        lpips_networks(settings(lpips=0.0), None, False, "cpu")
    assert "--alexnet-weights off" in error.value.hint
    for weights, toy_data in (("toy", False), (None, True)):
        perceptual, metric, notes = lpips_networks(settings(lpips=0.0), weights, toy_data, "cpu")
        assert perceptual is None
        assert metric is not None
        assert metric.metric == "lpips_alex_v0.1_toy"
        assert "random AlexNet" in notes[0]
    assert lpips_networks(settings(lpips=0.0), "off", False, "cpu") == (None, None, [])
    with pytest.raises(ConfigError, match="no LPIPS network"):
        lpips_networks(settings(lpips=0.1), "off", False, "cpu")


MODES: dict[str, dict[str, Any]] = {
    "decoder": {"lpips": 0.1, "ema": 0.5, "face_weight": 2.0},
    "all": {"all_weights": True, "latent_noise": 0.5},
    "tiny": {"decoder": "tiny", "full_share": 0.5},
}


def member(data: Path, out: Path) -> None:
    dist = Distributed.init("cpu", "ddp")
    for name, changes in MODES.items():
        config = settings(**changes, batch_size=4)
        plan = plan_for(config, data, toy_vae(SIZE, 1) if config.all_weights else None)
        perceptual, lpips, _ = lpips_networks(config, None, True, "cpu")
        finetune(plan, out / name, perceptual=perceptual, lpips=lpips, dist=dist)
    try:
        finetune(plan, out / "mine", dist=dist)
    except XmdptError as err:
        (out / f"rank-{dist.rank}.txt").write_text(f"{err.message}|{err.hint}")


def test_two_processes_equal_one(data: Path, tmp_path: Path) -> None:
    """Up to rounding; and both get an error that only the first can find."""
    (tmp_path / "two/mine").mkdir(parents=True)
    (tmp_path / "two/mine/precious.txt").write_text("mine")
    run_ranks(2, member, data, tmp_path / "two")
    start = tensors(data.parent / "vae")
    for name, changes in MODES.items():
        vae = toy_vae(SIZE, 1) if name == "all" else None
        run(data, tmp_path / "one" / name, vae=vae, **{**changes, "batch_size": 4})
        folders = [tmp_path / number / name for number in ("one", "two")]
        one, two = map(tensors, folders)
        for key in one:
            if name == "tiny" and is_encoder(key):  # there is none
                continue
            torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-4)
            if name == "decoder" and not is_encoder(key) and one[key].ndim > 1:
                assert not torch.equal(one[key], start[key])
        rows = [json.loads((folder / "report.json").read_text())["rows"] for folder in folders]
        # the same weights are measured before: to the last digit, however many measure
        before, after = list(rows[0])[:2]
        assert rows[0][before] == rows[1][before]
        for metric, value in rows[0][after].items():
            if value is not None:  # windows larger than these images
                assert rows[1][after][metric] == pytest.approx(value, rel=1e-3), metric
        losses = [[row["loss"] for row in logged(folder)] for folder in folders]
        assert [row["step"] for row in logged(folders[1])] == [1, 2, 4, 6]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    errors = [(tmp_path / f"two/rank-{rank}.txt").read_text() for rank in range(2)]
    assert errors[0] == errors[1]
    assert "holds no VAE training" in errors[0]
    assert errors[0].endswith("|choose another --out")
