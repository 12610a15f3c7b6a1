"""The workspace: what is found in the current folder, and the errors if nothing fits."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from xmdpt_cli.cli import workspace
from xmdpt_cli.cli.app import run
from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.next_command import evaluate_command
from xmdpt_cli.cli.status import read_status
from xmdpt_cli.cli.workspace_defaults import choose_for_sampling, preview_decoder, samples_folder
from xmdpt_cli.cli.workspace_links import dataset_of, dataset_of_run, tuned_vae
from xmdpt_cli.errors import XmdptError


def record(path: Path, content: dict[str, Any], age: int = 0) -> None:
    """A JSON record, written ``age`` seconds before a fixed time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    when = 1_000_000_000 - age
    os.utime(path, (when, when))


def dataset(name: str, age: int = 0, resolution: int = 256) -> Path:
    marks = {"train": f"a{name}", "test": f"b{name}"}
    shards = [{"sha256": mark, "split": split} for split, mark in marks.items()]
    counts = {split: {"images": 4, "pairs": 2, "items": 1} for split in ("train", "test")}
    manifest = {"format": "xmdpt-dataset", "resolution": resolution, "toy": False, "counts": counts}
    record(Path("data") / name / "dataset.json", {**manifest, "shards": shards}, age)
    return Path("data") / name


def model(path: str, age: int = 0, begun_with: Path | None = None, **more: Any) -> Path:
    metadata = {"format": "xmdpt-model", "resolution": 256, "trained_steps": 100, "toy": False}
    folder = Path(path) if path.startswith("models") else Path(path) / "model"
    record(folder / "xmdpt.json", {**metadata, **more}, age)
    if begun_with is not None:
        manifest = json.loads((begun_with / "dataset.json").read_text())
        record(Path(path) / "run.json", {"data": [s["sha256"] for s in manifest["shards"]]})
    return Path(path)


def test_the_newest_is_taken_by_its_record() -> None:
    dataset("256", age=10)
    dataset("512", age=5, resolution=512)
    newest, reason = workspace.newest_dataset()
    assert (newest.path, reason) == (Path("data/512"), "newest of 2")
    assert workspace.newest_dataset(256)[0].path == Path("data/256")
    model("runs/B", age=3)
    model("models/ema", age=8)
    assert workspace.newest_model()[0].path == Path("runs/B")
    os.utime("models/ema/xmdpt.json")  # written again
    assert workspace.newest_model()[0].path == Path("models/ema")


def test_two_equally_new_models_are_an_error() -> None:
    model("runs/A", age=3)
    model("runs/B", age=3)
    model("runs/C", age=30)
    with pytest.raises(XmdptError, match=r"runs/A and runs/B are equally new") as caught:
        workspace.newest_model()
    assert caught.value.hint == "choose one: --model runs/A"
    model("runs/D", age=1)
    assert workspace.newest_model()[0].path == Path("runs/D")


def test_other_folders_in_data_are_ignored() -> None:
    """``data/`` may contain other files and folders."""
    with pytest.raises(XmdptError, match="no prepared dataset in data/") as caught:
        workspace.newest_dataset()
    assert "xmdpt prepare --root DEEPFASHION" in caught.value.hint
    Path("DeepFashion").mkdir()
    for name in ("photos", "broken", "list"):
        (Path("data") / name).mkdir(parents=True)
    Path("data/notes.txt").write_text("mine")
    Path("data/broken/dataset.json").write_text("{")
    Path("data/list/dataset.json").write_text("[]")
    record(Path("data/other/dataset.json"), {"format": "somebody's"})
    with pytest.raises(XmdptError, match="no prepared dataset") as caught:
        workspace.newest_dataset()
    assert "xmdpt prepare --root DeepFashion" in caught.value.hint
    shutil.rmtree("data")
    Path("data").write_text("a file")
    with pytest.raises(XmdptError, match="no prepared dataset"):
        workspace.newest_dataset()


def test_an_unfinished_dataset_is_named() -> None:
    record(Path("data/256/prepare.json"), {})
    with pytest.raises(XmdptError, match="data/256 is not finished") as caught:
        workspace.newest_dataset()
    assert "it resumes" in caught.value.hint


def test_a_run_without_a_model_shows_how_to_resume() -> None:
    dataset("256")
    with pytest.raises(XmdptError, match="no model") as caught:
        workspace.newest_model()
    assert "xmdpt train --size B" in caught.value.hint
    Path("runs/B").mkdir(parents=True)
    Path("runs/B/config.toml").write_text("[train]\nsize = 'B'\n")
    with pytest.raises(XmdptError, match="runs/B has no model yet") as caught:
        workspace.newest_model()
    assert "xmdpt train --config runs/B/config.toml --out runs/B" in caught.value.hint


def test_a_distillation_that_lost_its_model_is_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    """It was killed after its last checkpoint, before the model was written."""
    folder = Path("runs/B-1-steps")
    (folder / "checkpoints/step_0000009").mkdir(parents=True)
    settings = "[distill]\nstage = 'steps'\nstudent_steps = 1\nsteps = 9\n"
    (folder / "config.toml").write_text(settings)
    record(folder / "run.json", {"teacher": "0" * 64})
    resume = f"xmdpt distill --config {folder}/config.toml --out {folder}"
    assert run(["status"]) == 0
    output = capsys.readouterr().out
    assert "step 9 of 9, distilled: 1 step\n" in output
    assert f"next: {resume}\n" in output
    for command in ("sample", "distill"):  # no dataset is missed
        assert run([command, "--model", str(folder)]) == 1
        error = capsys.readouterr().err
        assert f"{folder} has no model yet" in error
        assert f"hint: resume it: {resume}" in error
    (folder / "config.toml").write_text(settings.replace("steps = 9", "steps = 4"))  # given later
    assert run(["status"]) == 0
    assert "step 9, distilled: 1 step\n" in capsys.readouterr().out


def test_a_run_uses_its_own_dataset_although_another_is_newer() -> None:
    own = dataset("256", age=9)
    dataset("512", age=1, resolution=512)
    run_folder = model("runs/B", begun_with=own)
    found = dataset_of_run(run_folder)
    assert found is not None
    assert found.path == own
    assert dataset_of(workspace.models()[0])[0] == own
    own.rename("data/deepfashion")  # moved within the workspace: found by its shards
    assert dataset_of(workspace.models()[0])[0] == Path("data/deepfashion")


def test_a_run_without_its_dataset_is_an_error(tmp_path: Path) -> None:
    own = dataset("256")
    dataset("512", resolution=512)
    run_folder = model("runs/B", begun_with=own, data=str(own.resolve()))
    shutil.move(str(own), tmp_path / "elsewhere")
    with pytest.raises(XmdptError, match="runs/B was trained on is not found") as caught:
        dataset_of(workspace.models()[0])
    assert "data/256" in caught.value.message
    assert "--data DIR" in caught.value.hint
    with pytest.raises(XmdptError, match="runs/B was trained on is not in data/"):
        dataset_of_run(run_folder)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("http://me:***@host/d", "type the password again: --data 'http://me:***@host/d'"),
        ("http://me:secret@host/d", "type the password again: --data 'http://me:***@host/d'"),
        ("s3://bucket/d", "name it: --data s3://bucket/d"),
    ],
)
def test_a_run_that_was_trained_from_a_url_names_it(url: str, hint: str) -> None:
    run_folder = model("runs/B", begun_with=dataset("256"))
    shutil.rmtree("data")
    record(run_folder / "places.json", {"data": url, "encoders": {}})
    metadata = json.loads((run_folder / "model/xmdpt.json").read_text())
    record(run_folder / "model/xmdpt.json", {**metadata, "encoders": {}})
    for find in (
        lambda: dataset_of(workspace.models()[0]),
        lambda: dataset_of_run(run_folder),
    ):
        with pytest.raises(XmdptError) as caught:
            find()
        named = url.replace("secret", "***")
        assert caught.value.message == f"runs/B was trained on {named}"
        assert caught.value.hint == hint


def test_a_converted_model_takes_the_newest_dataset_of_its_size() -> None:
    model("models/ema", resolution=256)
    dataset("512", resolution=512)
    with pytest.raises(XmdptError, match="no prepared dataset of 256 px") as caught:
        dataset_of(workspace.models()[0])
    assert "--resolution 256" in caught.value.hint
    dataset("256", age=50)
    assert dataset_of(workspace.models()[0]) == (Path("data/256"), "newest of 1")


def test_a_vae_is_used_only_for_its_own_dataset() -> None:
    dataset("256")
    dataset("512", resolution=512)

    def vae(name: str, images: list[str], finished: bool = True, **settings: Any) -> None:
        record(Path("vae") / name / "run.json", {"images": images, "settings": settings})
        if finished:
            record(Path("vae") / name / "xmdpt_training.json", {})

    vae("begun", ["a256"], finished=False)
    vae("scratch", ["a256"], all_weights=True)
    assert tuned_vae("data/256") is None
    vae("256", ["a256"])
    assert tuned_vae("data/256") == Path("vae/256")
    assert tuned_vae("data/512") is None
    assert tuned_vae("s3://somewhere/256") is None
    vae("tiny", ["a256"], decoder="tiny")  # not by itself: its images differ
    assert tuned_vae("data/256") == Path("vae/256")
    assert tuned_vae("data/256", tiny=True) is None
    record(Path("vae-tiny/256/run.json"), {"images": ["a256"], "settings": {"decoder": "tiny"}})
    record(Path("vae-tiny/256/xmdpt_training.json"), {})
    assert tuned_vae("data/256", tiny=True) == Path("vae-tiny/256")
    kinds = {vae["path"]: (vae["kind"], vae["finished"]) for vae in read_status().vaes}
    assert kinds == {
        "vae/256": ("decoder fine-tuned", True),
        "vae/begun": ("decoder fine-tuned", False),
        "vae/scratch": ("trained from scratch", True),
        "vae/tiny": ("tiny decoder", True),
        "vae-tiny/256": ("tiny decoder", True),
    }


def test_a_tiny_decoder_is_the_models_or_that_of_its_dataset() -> None:
    dataset("256")
    begun = model("runs/B", begun_with=Path("data/256"))
    talk = Talk(False, quiet=True)

    def chosen(vae: str | None) -> tuple[str | None, Path]:
        found = choose_for_sampling(talk, "runs/B", "data/256", vae, None)
        return found.vae, found.out

    with pytest.raises(XmdptError, match="no tiny decoder in the model's folder") as error:
        chosen("tiny")
    assert "finetune-vae --decoder tiny" in error.value.hint
    record(Path("vae-tiny/256/run.json"), {"images": ["a256"], "settings": {"decoder": "tiny"}})
    record(Path("vae-tiny/256/xmdpt_training.json"), {})
    record(Path("vae-tiny/256/xmdpt_latents.json"), {})
    assert chosen(None) == (None, Path("samples/B"))
    assert chosen("tiny") == ("vae-tiny/256", Path("samples/B-tiny"))
    assert chosen("vae-tiny/256") == ("vae-tiny/256", Path("samples/B-tiny"))
    assert preview_decoder("runs/B", None) == "vae-tiny/256"
    beside = begun / "model/vae-tiny"
    record(beside / "config.json", {})
    assert chosen("tiny") == (str(beside), Path("samples/B-tiny"))
    assert preview_decoder("runs/B", None) is None  # the pipeline finds the model's own


def test_samples_of_another_step_get_another_folder() -> None:
    assert samples_folder("runs/B", 100) == Path("samples/B")
    record(Path("samples/B/samples.json"), {"trained_steps": 100})
    record(Path("runs/B/run.json"), {})
    assert samples_folder("runs/B/model", 100) == Path("samples/B")
    assert samples_folder("runs/B", 200) == Path("samples/B-step_0000200")
    assert samples_folder("me/mine", None) == Path("samples/mine")


def test_the_model_of_the_demo_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    from xmdpt_cli.cli.demo import demo

    assert inspect.signature(demo).parameters["out"].default == workspace.DEMO
    (workspace.DEMO / "run-tokens").mkdir(parents=True)  # interrupted: no model yet
    assert workspace.demo_model() is None
    model("xmdpt-demo/run-tokens", age=5)
    assert workspace.demo_model() == Path("xmdpt-demo/run-tokens")
    model("xmdpt-demo/run-vector", age=2)
    assert workspace.demo_model() == Path("xmdpt-demo/run-vector")
    assert run(["status"]) == 0
    assert "xmdpt-demo/run-vector  try it: xmdpt ui" in capsys.readouterr().out
    assert run(["sample"]) == 1
    assert "hint: use the demo's: --model xmdpt-demo/run-vector" in capsys.readouterr().err


def test_the_next_command_evaluates_the_samples_just_generated() -> None:
    folder = Path("samples/B")
    assert "--generated" not in evaluate_command("data/256", folder, "test", default=True)
    for out in (folder, Path("elsewhere")):
        named = evaluate_command("data/256", out, "test", default=False)
        assert named.startswith(f"xmdpt evaluate --data data/256 --generated {out} --fid")


def test_next_command_for_a_converted_model(capsys: pytest.CaptureFixture[str]) -> None:
    model("models/ema")
    assert run(["status"]) == 0
    output = capsys.readouterr().out
    assert "models/ema  converted" in output or "models/ema  step" in output
    assert "next: xmdpt sample --source person.jpg --pose pose.json" in output


@pytest.mark.parametrize(
    ("size", "given", "preset", "config", "folder"),
    [
        ("B", True, None, None, "runs/B"),
        ("S", False, "paper/S-256", None, "runs/paper-S-256"),
        ("B", True, "paper/table2a-mdt", None, "runs/paper-table2a-mdt-B"),
        ("S", False, "mdtv2/S-256", None, "runs/mdtv2-S-256"),
        ("S", False, None, "mine.toml", "runs/mine"),
        ("B", True, None, "recipes/mine.v2.toml", "runs/mine.v2-B"),
        ("S", False, None, ".hidden.toml", "runs/hidden"),
        ("S", False, "paper/S-256", "mine.toml", "runs/paper-S-256-mine"),
        ("S", False, None, "started/config.toml", "runs/started"),
    ],
)
def test_runs_are_named_by_preset_file_and_size(
    size: str, given: bool, preset: str | None, config: str | None, folder: str
) -> None:
    Path("started").mkdir()
    Path("started/run.json").touch()
    file = None if config is None else Path(config)
    assert workspace.run_folder(size, given, preset, file) == Path(folder)


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("train --size B", "xmdpt prepare"),
        ("finetune-vae", "xmdpt prepare"),
        ("distill", "xmdpt prepare"),
        ("sample", "xmdpt prepare"),
        ("evaluate --fid", "xmdpt prepare"),
        ("prepare", "--root DeepFashion"),
    ],
)
def test_in_an_empty_folder_each_command_names_the_one_before_it(
    line: str, made: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the toy model of the package, see test_toy_model.py."""
    monkeypatch.setattr("xmdpt_cli.toy.pretrained.FOLDER", Path("none"))
    assert run(line.split()) in (1, 2)
    output = capsys.readouterr().err
    assert "error: " in output
    assert made in output.partition("hint: ")[2]
    assert not list(Path().iterdir())  # nothing was written


def test_status_of_an_empty_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ([], ["status"]):
        assert run(line) == 0
        output = capsys.readouterr().out
        assert "next: xmdpt prepare --root DEEPFASHION" in output
        assert "xmdpt demo" in output
    assert run(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == []


def test_status_shows_a_running_training(capsys: pytest.CaptureFixture[str]) -> None:
    dataset("256")
    out = Path("runs/B")
    (out / "checkpoints/step_0000040").mkdir(parents=True)
    (out / "config.toml").write_text("[train]\nsteps = 800\n")
    log = [{"step": 20, "loss": 0.5}, {"step": 40, "loss": 0.25}, {"step": 40, "val_loss": 0.4}]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log) + '{"st')
    assert run(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (only,) = found["runs"]
    assert (only["step"], only["steps"], only["loss"], only["model"]) == (40, 800, 0.25, False)
    assert found["next"] == "xmdpt train --config runs/B/config.toml --out runs/B"


@pytest.mark.parametrize("value", [None, [], {}, "x", 7, 1e999, [1], {"a": 1}])
@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("data/256/dataset.json", ("resolution", "counts", "shards", "toy")),
        ("runs/B/model/xmdpt.json", ("trained_steps", "resolution", "data")),
        ("runs/B/run.json", ("data",)),
        ("runs/B/places.json", ("data", "encoders")),
        ("samples/B/samples.json", ("sampling", "complete", "trained_steps", "files")),
        ("samples/B/metrics.json", ("rows", "counts", "protocol")),
        ("vae/256/run.json", ("settings", "images")),
    ],
)
def test_invalid_records_are_not_a_bug(
    file: str, keys: tuple[str, ...], value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each value of each record replaced by something else: skipped, or a known error."""
    own = dataset("256")
    model("runs/B", begun_with=own)
    sampling = {"steps": 2, "solver": "ddim", "interval": [0, 1]}
    record(Path("samples/B/samples.json"), {"sampling": sampling, "trained_steps": 100})
    rows = {"generated": {"ssim_256": 0.5}}
    record(Path("samples/B/metrics.json"), {"rows": rows, "counts": {"generated": 2}})
    record(Path("vae/256/run.json"), {"images": ["x"], "settings": {}})
    record(Path("vae/256/xmdpt_training.json"), {"done": 1})
    record(Path("runs/B/places.json"), {"data": str(own), "encoders": {}})
    path = Path(file)
    known = json.loads(path.read_text())
    for key in keys:
        path.write_text(json.dumps({**known, key: value}))
        for line in (["status", "--json"], ["sample"], ["evaluate", "--ssim"]):
            assert run(line) in (0, 1, 2), f"{key} of {file}"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("bench", "bench --size tiny"),
        ("data", "prepare --root people --encoders toy --resolution 32 --vae-steps 2"),
        ("people", "synth --people 1 --test-people 1 --height 64"),
    ],
)
def test_an_unwritable_output_is_an_error(
    place: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if place != "people":
        assert run(["synth", "--people", "1", "--test-people", "1", "--height", "64"]) == 0
    Path(place).write_text("a file of somebody's")
    assert run(line.split()) == 1
    output = capsys.readouterr().err
    assert place in output.partition("error: ")[2]
    assert Path(place).read_text() == "a file of somebody's"
