"""Generation of a test set: files that depend only on the inputs."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from forked import Forked, run_ranks, xmdpt
from PIL import Image
from small_set import CONFIG, SIZE, Small, images, make_model, make_small, within_a_level

from xmdpt_cli.cli.app import run
from xmdpt_cli.data.table import PairRef
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process
from xmdpt_cli.model.denoiser import predict
from xmdpt_cli.sampling import png_writer
from xmdpt_cli.sampling import sampler as sampler_module
from xmdpt_cli.sampling.dataset_images import generate
from xmdpt_cli.sampling.sample_names import sample_name
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.storage.ranks import World
from xmdpt_cli.toy.encoders import toy_vae


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def whole(small: Small) -> Path:
    """Generated in batches of 3, the last one smaller."""
    out = small.root / "whole"
    assert small.generate(out, batch_size=3)["complete"]
    return out


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the generated batches."""
    sizes: list[int] = []
    original = Sampler.latents

    def latents(self: Sampler, noise: torch.Tensor, *more: Any) -> torch.Tensor:
        sizes.append(len(noise))
        return original(self, noise, *more)

    monkeypatch.setattr(Sampler, "latents", latents)
    return sizes


def no_rest(out: Path) -> bool:
    return not [p.name for p in out.iterdir() if p.name.startswith(".") or p.suffix == ".part"]


def test_file_names_equal_those_of_published_results() -> None:
    """As in the published results of PIDM and CFLD."""
    pair = PairRef("WOMEN-Blouses_Shirts-id_00000001-02", "1_front", "7_additional", 0)
    first, second = "fashionWOMENBlouses_Shirtsid0000000102_1front", "_7additional"
    assert sample_name(pair) == f"{first}_2_{first.removesuffix('_1front')}{second}.png"


def test_all_pairs_and_the_record_are_written(small: Small, whole: Path) -> None:
    names = [sample_name(pair) for pair in small.dataset.pairs]
    assert len(names) > 9
    assert set(images(whole)) == set(names)
    record = json.loads((whole / "samples.json").read_text())
    assert record["complete"] == names
    assert record["sampling"]["seed"] == 3
    assert record["toy"] is True
    assert Image.open(whole / "sheet.png").width > 4 * 128
    assert no_rest(whole)


def test_a_png_stores_how_it_was_generated(small: Small, whole: Path) -> None:
    pair = small.dataset.pairs[4]
    path = whole / sample_name(pair)
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        read, info = np.asarray(image), dict(image.info)
    assert read.shape == (SIZE, SIZE, 3)
    assert (cv2.imread(str(path))[..., ::-1] == read).all()
    metadata = json.loads(info["xmdpt"])
    assert metadata["sampling"] == {
        "steps": 2, "guidance": 2.0, "power": 0.01, "seed": 3, "solver": "ddim",
        "spacing": "linspace", "interval": [0.0, 1.0], "cache": 1,
    }  # fmt: skip
    assert (metadata["position"], metadata["pair"]) == (pair.position, pair.name())
    sheet = Image.open(whole / "sheet.png").info
    assert json.loads(sheet["xmdpt"])["sampling"] == metadata["sampling"]
    assert "not a photograph" in sheet["Source"]
    for file in whole.iterdir():
        assert str(small.root).encode() not in file.read_bytes(), file
    assert metadata["model"] == small.sampler.identity
    assert metadata["vae"] == small.vae.describe()["sha256"]
    assert metadata["precision"] == "float32"
    assert "toy" in info["Source"]
    assert info["Software"].startswith("xmdpt ")


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_images_do_not_depend_on_the_batch_size(
    small: Small, whole: Path, tmp_path: Path, size: int
) -> None:
    """Equal up to rounding: other shapes change the order of sums."""
    small.generate(tmp_path / "o", batch_size=size)
    assert within_a_level(whole, tmp_path / "o")


def test_images_do_not_depend_on_their_neighbours(
    small: Small, whole: Path, tmp_path: Path
) -> None:
    """Equal to the bit in batches of one size, in other rows and beside other images."""
    names = [sample_name(pair) for pair in small.dataset.pairs]
    out = tmp_path / "o"
    small.generate(out, limit=1, batch_size=3)  # all others move up by one
    small.generate(out, limit=7, batch_size=3)
    generated = images(whole)
    assert {n: generated[n] for n in names[1:7]} == {n: images(out)[n] for n in names[1:7]}


def test_a_seed_changes_every_image(small: Small, whole: Path, tmp_path: Path) -> None:
    small.generate(tmp_path / "o", replace(CONFIG, seed=4))
    other, same = images(tmp_path / "o"), images(whole)
    assert all(
        (np.asarray(Image.open(whole / n)) != np.asarray(Image.open(tmp_path / "o" / n))).any()
        for n in same
    )
    assert other.keys() == same.keys()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-300]),
    "its last byte lost": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "its end lost": lambda path: path.write_bytes(path.read_bytes()[:-12]),
    "a byte flipped": lambda path: path.write_bytes(_flipped(path.read_bytes())),
    "other size": lambda path: Image.new("RGB", (SIZE, SIZE + 1)).save(path),
    "no PNG": lambda path: Image.new("RGB", (SIZE, SIZE)).save(path, "JPEG"),
    "no image": lambda path: path.write_text("no image"),
}


def _flipped(data: bytes) -> bytes:
    at = len(data) - 40  # among the last rows of pixels
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_only_damaged_images_are_generated_again(
    small: Small, whole: Path, tmp_path: Path, counted: list[int]
) -> None:
    out = tmp_path / "o"
    small.generate(out, batch_size=1)
    before, names = images(out), list(images(out))
    counted.clear()
    assert small.generate(out, batch_size=1)["generated"] == 0
    assert counted == []
    for name, damage in zip(names, DAMAGE.values(), strict=False):
        damage(out / name)
    kept = {name: (out / name).stat().st_mtime_ns for name in names[len(DAMAGE) :]}
    assert small.generate(out, batch_size=1)["complete"]
    assert counted == [1] * len(DAMAGE)
    assert images(out) == before
    assert kept == {name: (out / name).stat().st_mtime_ns for name in kept}


def test_parts_together_equal_one_process(small: Small, tmp_path: Path, counted: list[int]) -> None:
    """Equal to the bit with the same batch size; the last process writes sheet and record."""
    small.generate(tmp_path / "one", batch_size=2)
    out = tmp_path / "o"
    for rank, last in ((2, False), (0, False), (1, True)):
        counted.clear()
        record = small.generate(out, batch_size=2, shard=World(rank, 3))
        assert record["complete"] is record["finished"] is last
        assert (out / "sheet.png").exists() is last
        assert sum(counted) == record["generated"] == len(range(rank, len(small.dataset), 3))
    assert images(out) == images(tmp_path / "one")
    assert (out / "sheet.png").read_bytes() == (tmp_path / "one/sheet.png").read_bytes()
    one, other = (json.loads((f / "samples.json").read_text()) for f in (tmp_path / "one", out))
    assert one == other
    assert no_rest(out)


def test_more_parts_than_pairs(small: Small, tmp_path: Path) -> None:
    record = small.generate(tmp_path / "o", limit=1, shard=World(2, 3))
    assert (record["images"], record["complete"]) == (0, False)
    assert small.generate(tmp_path / "o", limit=1, shard=World(0, 3))["finished"]


def test_each_part_is_locked(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "o"
    small.generate(out, limit=3, shard=World(0, 3))
    for held, shard in (
        (".lock-1-of-3", World(1, 3)),  # twice the same
        (".lock-1-of-3", World()),  # one for all beside a part
        (".lock", World(1, 3)),
        (".lock-0-of-2", World(1, 3)),  # split into another number of parts
    ):
        with only_process(out, held), pytest.raises(XmdptError, match="another process"):
            small.generate(out, limit=3, shard=shard)
    with only_process(out, ".lock-1-of-3"):
        small.generate(out, limit=3, shard=World(2, 3))
    (out / ".lock").touch()  # what a killed process leaves holds nothing
    assert small.generate(out, limit=3, shard=World(1, 3))["complete"]
    assert no_rest(out)


def test_other_settings_are_refused_by_name(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "o"
    small.generate(out, limit=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for config, message in (
        (replace(CONFIG, seed=5), r"seed \(there 3, now 5\)"),
        (replace(CONFIG, steps=3), r"steps \(there 2, now 3\)"),
        (replace(CONFIG, solver="unipc"), r"solver \(there ddim, now unipc\)"),
        (replace(CONFIG, interval=(0.1, 1.0)), "interval"),
        (replace(CONFIG, cache=2), r"cache \(there 1, now 2\)"),
    ):
        with pytest.raises(XmdptError, match=f"differs: {message}"):
            small.generate(out, config)
    make_model(small.root, "other", seed=1)
    given = (small.dataset, small.vae, out, CONFIG)
    with pytest.raises(XmdptError, match=r"differs: model$"):
        generate(Sampler.load(small.root / "other"), *given)
    with pytest.raises(XmdptError, match=r"differs: precision$"):
        generate(Sampler.load(small.root / "model", precision="bf16"), *given)
    with pytest.raises(XmdptError, match=r"differs: vae$"):
        generate(small.sampler, small.dataset, toy_vae(SIZE, seed=1), out, CONFIG)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_folders_with_other_files_are_refused(small: Small, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("a year of work")
    with pytest.raises(XmdptError, match="not empty"):
        small.generate(tmp_path)
    (tmp_path / "samples.json").write_text("{")
    with pytest.raises(XmdptError, match=r"samples\.json is not valid JSON"):
        small.generate(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"thesis.tex", "samples.json"}


def test_a_limited_run_can_be_completed_later(small: Small, whole: Path, tmp_path: Path) -> None:
    out, total = tmp_path / "o", len(small.dataset)
    record = small.generate(out, limit=3, batch_size=3)
    assert (record["images"], record["complete"]) == (3, True)
    low = Image.open(out / "sheet.png").height
    record = small.generate(out, batch_size=3)
    assert (record["images"], record["generated"], record["complete"]) == (total, total - 3, True)
    assert Image.open(out / "sheet.png").height > low
    assert images(out) == images(whole)
    # fewer, or more than there are, take nothing away
    for limit in (2, 10**6):
        record = small.generate(out, limit=limit, batch_size=3)
        assert (record["generated"], record["complete"]) == (0, True)
    assert len(json.loads((out / "samples.json").read_text())["complete"]) == total


def fails_above(rows: int, err: Exception) -> Callable[..., torch.Tensor]:
    original = Sampler.latents

    def latents(self: Sampler, noise: torch.Tensor, *more: Any) -> torch.Tensor:
        if len(noise) > rows:
            raise err
        return original(self, noise, *more)

    return latents


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't "
                 "allocate memory: you tried to allocate 8 bytes. Error code 12"),
    MemoryError(),
]  # fmt: skip


@pytest.mark.parametrize("err", NO_MEMORY, ids=lambda err: type(err).__name__)
def test_out_of_memory_continues_with_smaller_batches(
    small: Small, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, err: Exception
) -> None:
    monkeypatch.setattr(Sampler, "latents", fails_above(2, err))
    sizes: list[int] = []
    work = Sampler.latents

    def latents(self: Sampler, noise: torch.Tensor, *more: Any) -> torch.Tensor:
        sizes.append(len(noise))
        return work(self, noise, *more)

    monkeypatch.setattr(Sampler, "latents", latents)
    message: list[str] = []
    small.generate(tmp_path / "o", batch_size=8, notify=message.append)
    assert within_a_level(whole, tmp_path / "o")
    assert message == ["out of memory: continuing with batches of 4"]
    assert sizes[:2] == [8, 4]
    assert set(sizes[2:-1]) == {2}  # and never more again


def test_compiled_for_one_batch_size(
    small: Small, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch is padded, so there is one graph; out of memory adds another."""
    sampler = Sampler.load(small.root / "model")
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(
        sampler_module,
        "compile_sampling",
        lambda model: setattr(
            model, "predict", torch.compile(predict, dynamic=False, backend=backend)
        ),
    )
    sampler.compile(5)
    given = (sampler, small.dataset, small.vae)
    generate(*given, tmp_path / "o", CONFIG, batch_size=5)
    assert len(small.dataset) % 5 != 0
    assert len(graphs) == 1
    assert within_a_level(whole, tmp_path / "o")

    original, sizes = Sampler._latents, []

    def latents(self: Sampler, noise: torch.Tensor, *more: Any) -> torch.Tensor:
        sizes.append(len(noise))
        if len(noise) > 2:
            raise NO_MEMORY[0]
        return original(self, noise, *more)

    monkeypatch.setattr(Sampler, "_latents", latents)
    generate(*given, tmp_path / "less", CONFIG, batch_size=5)
    assert sizes == [5] + [2] * (len(small.dataset) // 2)
    assert len(graphs) == 2
    assert within_a_level(whole, tmp_path / "less")


def test_out_of_memory_with_one_image_is_an_error_with_a_hint(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sampler, "latents", fails_above(0, NO_MEMORY[0]))
    with pytest.raises(XmdptError, match="single image") as caught:
        small.generate(tmp_path / "o", batch_size=4)
    assert "Tried to allocate" in caught.value.message
    assert "smaller model" in caught.value.hint


def test_other_errors_are_not_taken_for_out_of_memory(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sampler, "latents", fails_above(0, RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        small.generate(tmp_path / "o")


def test_a_full_disk_is_an_error_and_the_run_can_be_resumed(
    small: Small, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is raised on a writer thread; the command ends with a known error and resumes."""
    write, room = Path.write_bytes, threading.Semaphore(5)

    def full(path: Path, data: bytes) -> int:
        if not room.acquire(blocking=False):
            write(path, data[:100])
            raise OSError(28, "No space left on device")
        return write(path, data)

    out = tmp_path / "o"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(XmdptError, match="No space left on device") as caught:
            small.generate(out, batch_size=3)
    assert caught.value.exit_code == 1
    assert "then resumes" in caught.value.hint
    assert len(images(out)) == 5
    assert no_rest(out)
    assert small.generate(out, batch_size=3)["generated"] == len(small.dataset) - 5
    assert within_a_level(whole, out)


def test_images_generated_before_an_error_are_kept(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are in the queue of the writer when the third batch is interrupted."""
    original, batches = Sampler.latents, iter([True, True, False])
    save = png_writer.save_bytes

    def latents(self: Sampler, *given: Any) -> torch.Tensor:
        if not next(batches):
            raise KeyboardInterrupt
        return original(self, *given)

    def slow(path: Path, data: bytes) -> None:
        time.sleep(0.05)
        save(path, data)

    monkeypatch.setattr(Sampler, "latents", latents)
    monkeypatch.setattr(png_writer, "save_bytes", slow)
    with pytest.raises(KeyboardInterrupt):
        small.generate(tmp_path / "o", batch_size=4)
    assert len(images(tmp_path / "o")) == 8


def command(small: Small, out: Path, *more: object) -> list[str]:
    words = ["sample", "--data", small.root / "data", "--model", small.root / "model"]
    words += ["--out", out, "--device", "cpu", "--seed", 3, *more]
    return [str(word) for word in words]


def test_killed_and_interrupted_runs_resume(small: Small, whole: Path, tmp_path: Path) -> None:
    out, slow = tmp_path / "o", ("--steps", 20, "--batch-size", 1)  # so that there is a middle
    small.generate(tmp_path / "undisturbed", replace(CONFIG, steps=20), batch_size=1)
    for how, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        process, already = Forked(xmdpt, *command(small, out, *slow)), len(images(out))
        while process.poll() is None and len(images(out)) == already:
            time.sleep(0.02)
        process.send_signal(how)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == code, stderr
        assert already < len(images(out)) < len(small.dataset)
    assert "completed work is kept" in stderr
    assert run(command(small, out, *slow)) == 0
    assert within_a_level(tmp_path / "undisturbed", out)
    assert no_rest(out)


def test_two_ranks_generate_the_images_of_one_process(
    small: Small, whole: Path, tmp_path: Path
) -> None:
    """One result on stdout, by the last process."""
    words = command(small, tmp_path / "o", "--batch-size", 3, "--json")
    ranks = run_ranks(2, xmdpt, *words)
    record = json.loads("".join(rank.stdout for rank in ranks))
    assert (record["complete"], record["images"]) == (True, len(small.dataset))
    assert within_a_level(whole, tmp_path / "o")
    assert (tmp_path / "o/samples.json").read_text() == (whole / "samples.json").read_text()
    assert no_rest(tmp_path / "o")
    assert "sample: " in ranks[0].stderr  # the first process prints the progress
    assert "sample: " not in ranks[1].stderr


def test_parts_that_start_together(small: Small, tmp_path: Path) -> None:
    """Started at the same time, five times: no errors, and one part writes the result."""
    for attempt in range(5):
        out, finished, errors = tmp_path / str(attempt), [], []
        gate = threading.Barrier(3)

        def part(rank: int, out=out, finished=finished, errors=errors, gate=gate) -> None:
            gate.wait()
            try:
                finished.append(small.generate(out, limit=3, shard=World(rank, 3))["finished"])
            except Exception as err:
                errors.append(err)

        threads = [threading.Thread(target=part, args=(rank,)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert sum(finished) == 1
        assert no_rest(out)


def test_the_command_with_another_vae(
    small: Small, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.vae.save(tmp_path / "vae")
    words = command(small, tmp_path / "o", "--batch-size", 3, "--vae", tmp_path / "vae", "--json")
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["images"] == len(small.dataset)
    assert images(tmp_path / "o") == images(whole)
    seed = words.index("--seed") + 1
    assert run([*words[:seed], "4", *words[seed + 1 : -1]]) == 1
    assert "seed (there 3, now 4)" in capsys.readouterr().err
    assert run([*words[:-1], "--shard", "3/3"]) == 2
    toy_vae(SIZE, seed=5).save(tmp_path / "tuned")
    words[words.index(str(tmp_path / "vae"))] = str(tmp_path / "tuned")
    assert run(words) == 1
    assert "differs: vae" in capsys.readouterr().err


def test_the_vae_is_given_or_of_the_model_or_of_the_dataset(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The VAE of the model folder, of the dataset, or of the training's dataset."""
    data, model = tmp_path / "data", tmp_path / "model"
    shutil.copytree(small.root / "data", data, ignore=shutil.ignore_patterns("encoders"))
    shutil.copytree(small.root / "model", model)

    def used(out: str, *more: str) -> str:
        words = ["sample", "--model", str(model), "--data", str(data), "--limit", "1"]
        if run([*words, "--out", str(tmp_path / out), *more]):
            return capsys.readouterr().err
        capsys.readouterr()
        return str(json.loads((tmp_path / out / "samples.json").read_text())["vae"])

    missing = used("a")
    assert f"{data} was prepared with a toy VAE" in missing
    assert "--vae ENCODERS/vae" in missing
    metadata = json.loads((model / "xmdpt.json").read_text())
    (model / "xmdpt.json").write_text(json.dumps({**metadata, "data": str(small.root / "data")}))
    made = [toy_vae(SIZE, seed=seed) for seed in (5, 6, 7)]
    there = [vae.describe()["sha256"] for vae in made]
    assert used("a") == small.vae.describe()["sha256"]
    for vae, place in zip(
        made, (data / "encoders/vae", model / "vae", tmp_path / "v"), strict=True
    ):
        vae.save(place)
    assert used("b") == there[1]
    assert used("c", "--vae", str(tmp_path / "v")) == there[2]
    shutil.rmtree(model / "vae")
    assert used("d") == there[0]
