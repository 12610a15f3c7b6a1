"""XMDPTPipeline: images depend only on inputs and seed; saving and loading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from numpy.typing import NDArray
from PIL import Image
from stick_people import FIGURE
from toy_models import FORMS, SIZE, leaning, make_model, person, write_pose

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.datasets.find import find_dataset
from xmdpt_cli.encoders.bundle import Encoders
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.prepare.pipeline import prepare_dataset
from xmdpt_cli.sampling.batch_size import held_bytes
from xmdpt_cli.sampling.dataset_images import generate
from xmdpt_cli.sampling.generation import generate_images, pose_requests
from xmdpt_cli.sampling.pipeline import XMDPTPipeline, read_poses, read_views
from xmdpt_cli.sampling.sample_names import sample_name
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.toy.encoders import toy_vae
from xmdpt_cli.toy.synthetic import make_synthetic

Pipes = Callable[[str], XMDPTPipeline]
Array = NDArray[np.int64]
#: of 255: what another order of sums in float32 may change
ROUNDING = 1


def generated(pipe: XMDPTPipeline, pose: Any = FIGURE, **more: Any) -> list[Array]:
    given = {"source": person(), "source_keypoints": FIGURE, **more}
    return [np.asarray(image).astype(int) for image in pipe(pose=pose, **given)]


def apart(a: Array, b: Array) -> int:
    return int(abs(a - b).max())


def test_images_have_the_default_or_square_shape(pipe_of: Pipes) -> None:
    """176:256 by default, square on demand; RGB."""
    pipe = pipe_of("keys")
    (image,) = pipe(source=person(), source_keypoints=FIGURE, pose=FIGURE)
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", (22, 32))
    (square,) = pipe(source=person(), source_keypoints=FIGURE, pose=FIGURE, square=True)
    assert square.size == (SIZE, SIZE)
    assert pipe.toy
    assert pipe.last_notes == ["image: the whole 88 x 128 squashed"]


@pytest.mark.parametrize("form", FORMS)
def test_every_input_changes_the_image(pipe_of: Pipes, form: str) -> None:
    pipe = pipe_of(form)
    (first,) = generated(pipe)
    np.testing.assert_array_equal(generated(pipe)[0], first)
    changed: dict[str, Any] = {"source": person(1), "pose": leaning(0.1), "seed": 1, "steps": 2}
    changed |= {"guidance": 1.0, "power": 1.0, "solver": "unipc"}
    if form != "vector":
        changed["source_keypoints"] = leaning(0.1)
    for name, value in changed.items():
        assert apart(generated(pipe, **{name: value})[0], first) > ROUNDING, name


@pytest.mark.parametrize("form", FORMS)
def test_the_order_and_repetition_of_views_do_not_matter(pipe_of: Pipes, form: str) -> None:
    """Repeating or reordering views changes the image only by rounding, another view changes it."""
    pipe = pipe_of(form)
    (one,) = generated(pipe)
    twice = {"source": [person()] * 2, "source_keypoints": [FIGURE] * 2}
    assert apart(generated(pipe, **twice)[0], one) <= ROUNDING
    views = [(person(0), FIGURE), (person(1), leaning(0.1)), (person(2), leaning(-0.1))]
    mixed = []
    for order in ((0, 1, 2), (2, 0, 1)):
        images, points = zip(*(views[i] for i in order), strict=True)
        mixed += generated(pipe, source=list(images), source_keypoints=list(points))
    assert apart(*mixed) <= ROUNDING
    assert apart(mixed[0], one) > ROUNDING


def test_an_image_depends_on_its_seed_and_inputs_alone(pipe_of: Pipes) -> None:
    """Up to rounding it does not depend on other poses, their order, or the batch."""
    pipe = pipe_of("keys")
    bent = [leaning(0.1), leaning(0.0), leaning(-0.1)]
    many = generated(pipe, bent, num_images=2, seed=5)  # pose by pose, image by image
    assert len(many) == 6
    alone = generated(pipe, bent[1], seed=5)[0]
    assert apart(alone, many[2]) <= ROUNDING
    back = generated(pipe, bent[::-1], num_images=2, seed=5)
    for i in range(3):
        for k in range(2):
            assert apart(many[2 * i + k], back[2 * (2 - i) + k]) <= ROUNDING
    assert apart(many[2], many[3]) > ROUNDING, "the second image of a pose has noise of its own"
    views = read_views(pipe, person(), FIGURE)
    poses = read_poses(pipe, bent)
    requests = pose_requests(views, poses, 2, 5)
    whole = generated(pipe, bent, num_images=2, seed=5, square=True)
    for batch in (1, 4):
        small = dict(
            generate_images(pipe, requests, pipe.sampling_config(), batch=batch, square=True)
        )
        assert list(small) == list(range(6))
        for i in small:
            assert apart(small[i].astype(int), whole[i]) <= ROUNDING


def test_a_generator_is_used_as_in_diffusers(pipe_of: Pipes) -> None:
    """Noise is sampled from it in order, once for each image, and its state advances."""
    pipe = pipe_of("keys")
    two = [FIGURE, leaning(0.1)]

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    first = generated(pipe, two, generator=seeded())
    again = generated(pipe, two, generator=seeded(), seed=99)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    running = seeded()
    assert apart(generated(pipe, two[0], generator=running)[0], first[0]) <= ROUNDING
    assert apart(generated(pipe, two[1], generator=running)[0], first[1]) <= ROUNDING
    assert apart(generated(pipe, two[0], generator=running)[0], first[0]) > ROUNDING
    expected = seeded()
    torch.randn(3, *pipe.sampler.model.latent_shape, generator=expected)
    assert torch.equal(running.get_state(), expected.get_state())


def test_the_callback_gets_previews(pipe_of: Pipes) -> None:
    pipe, seen = pipe_of("keys"), []
    (last,) = generated(
        pipe, callback=lambda i, n, preview: seen.append((i, n, preview())), steps=4
    )
    assert [(i, n) for i, n, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {image.size for *_, image in seen} == {(22, 32)}
    assert apart(np.asarray(seen[0][2]).astype(int), last) > 10
    assert apart(np.asarray(seen[-1][2]).astype(int), last) <= ROUNDING, "the last one is it"


def test_the_pipeline_equals_generation_from_a_dataset(
    encoders: Path, model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """The raw image and its keypoints through the pipeline; the same pair prepared, encoded,
    stored and generated by ``generate``."""
    make_synthetic(tmp_path / "raw", people_train=2, people_test=1, views=3, height=64, workers=1)
    found = find_dataset(tmp_path / "raw")
    made = Encoders.load(encoders)
    prepare_dataset(found, tmp_path / "data", size=SIZE, encoder=made)
    dataset = PairDataset(tmp_path / "data", "test")
    sampler = Sampler.load(model_of("keys"))
    generate(sampler, dataset, made.vae, tmp_path / "out", sampler.sampling_config(seed=4))
    pipe = XMDPTPipeline.from_pretrained(model_of("keys"))
    for pair in dataset.pairs[:3]:
        assert pair.position < 10
        name = sample_name(pair)
        want = np.asarray(Image.open(tmp_path / "out" / name)).astype(int)
        source, target = (dataset.keypoints(pair.key, view) for view in (pair.source, pair.target))
        gender, rest = pair.key.split("-", 1)
        category, item = rest[:-3].rsplit("-", 1)
        name = f"{gender}/{category}/{item}/{pair.key[-2:]}_{pair.source}.*"
        file = next((tmp_path / "raw").rglob(name))
        images = generated(
            pipe, target / SIZE, source=file, source_keypoints=source / SIZE, fit="squash",
            seed=4, num_images=pair.position + 1, square=True,
        )  # fmt: skip
        assert apart(images[pair.position], want) <= ROUNDING


def test_invalid_arguments_are_refused(pipe_of: Pipes) -> None:
    pipe = pipe_of("keys")
    with pytest.raises(ConfigError, match="num_images"):
        generated(pipe, num_images=0)
    with pytest.raises(ConfigError, match="no source"):
        generated(pipe, source=[])
    with pytest.raises(ConfigError, match="no pose"):
        generated(pipe, [])
    with pytest.raises(ConfigError, match="1 source keypoints for 2 sources"):
        generated(pipe, source=[person()] * 2)
    with pytest.raises(ConfigError, match="guidance"):
        generated(pipe, guidance=float("nan"))
    with pytest.raises(XmdptError, match="keypoints of the source, and these are not known"):
        generated(pipe, source_keypoints=np.full((18, 2), np.nan))


def test_openpose_is_only_needed_by_token_models(pipe_of: Pipes) -> None:
    """Without OpenPose a token model raises an error, the vector model works."""
    (image,) = generated(pipe_of("vector"), source_keypoints=None)
    assert image.std() > 1
    with pytest.raises(XmdptError, match="OpenPose") as err:
        generated(pipe_of("keys"), source_keypoints=None)
    assert "--source-keypoints" in err.value.hint


def test_max_memory_limits_the_batch(model_of: Callable[[str], Path], pipe_of: Pipes) -> None:
    with pytest.raises(XmdptError, match=r"one image needs .* more than 1\.0 KiB"):
        XMDPTPipeline.from_pretrained(model_of("keys"), max_memory=1024)
    pipe = pipe_of("keys")
    enough = held_bytes(pipe.sampler, pipe.encoders.vae) + 2**26  # the rest is for decoding
    little = XMDPTPipeline.from_pretrained(model_of("keys"), max_memory=enough)
    little.max_batch = 2
    many = [leaning(0.02 * i) for i in range(-6, 6)]
    for a, b in zip(generated(little, many), generated(pipe_of("keys"), many), strict=True):
        assert apart(a, b) <= ROUNDING


def test_a_run_folder_loads_its_model(
    model_of: Callable[[str], Path], pipe_of: Pipes, tmp_path: Path
) -> None:
    shutil.copytree(model_of("keys"), tmp_path / "run" / "model")
    pipe = XMDPTPipeline.from_pretrained(tmp_path / "run")
    np.testing.assert_array_equal(generated(pipe)[0], generated(pipe_of("keys"))[0])


def test_an_unavailable_hub_id_is_refused_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/S", "runs/B/model", "runs/no-model"):
        Path(folder).mkdir(parents=True)
    Path("runs/S/xmdpt.json").touch()
    Path("runs/B/model/xmdpt.json").touch()
    with pytest.raises(XmdptError, match=r"nobody/nothing; as a hub id") as err:
        XMDPTPipeline.from_pretrained("nobody/nothing")
    assert err.value.hint.startswith("with internet access: `hf download nobody/nothing --local-")
    with pytest.raises(XmdptError, match="no such model folder: runs/nope") as err:
        XMDPTPipeline.from_pretrained("runs/nope")
    assert err.value.hint.startswith("models in runs: runs/S, runs/B; with internet access")
    with pytest.raises(XmdptError, match="no such model folder: /no/where"):
        XMDPTPipeline.from_pretrained("/no/where")


def test_saved_pipelines_load_from_any_folder(
    pipe_of: Pipes, encoders: Path, tmp_path: Path
) -> None:
    """The folder is complete and contains no path of this machine."""
    pipe = pipe_of("keys")
    pipe.save_pretrained(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "there")
    again = XMDPTPipeline.from_pretrained(tmp_path / "there")
    for part in ("vae", "source", "pose"):
        assert again.encoders.where(part).startswith(str(tmp_path / "there"))
    np.testing.assert_array_equal(generated(again)[0], generated(pipe)[0])
    written = {p: p.read_bytes() for p in (tmp_path / "there").rglob("*") if p.is_file()}
    assert any(b"toy-vae-32" in data for data in written.values())
    for path, data in written.items():
        for secret in (encoders.parent, tmp_path):
            assert str(secret).encode() not in data, path
    pipe.save_pretrained(tmp_path / "small", include=["vae"])
    assert (tmp_path / "small/vae/config.json").is_file()
    assert not (tmp_path / "small/dino_source").exists()
    with pytest.raises(XmdptError, match="toy DINOv2") as err:
        generated(XMDPTPipeline.from_pretrained(tmp_path / "small"))
    assert "--encoders" in err.value.hint
    with pytest.raises(XmdptError, match="no such encoders: unet"):
        pipe.save_pretrained(tmp_path / "bad", include=["unet"])


def test_paths_of_local_networks_are_not_published(encoders: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", encoders)
    metadata = json.loads((folder / "xmdpt.json").read_text())
    metadata["encoders"]["vae"] |= {"kind": "local", "id": "/home/me/secret/my-vae"}
    (folder / "xmdpt.json").write_text(json.dumps(metadata))
    pipe = XMDPTPipeline.from_pretrained(folder, encoders=encoders)
    pipe.save_pretrained(tmp_path / "out")
    for name in ("xmdpt.json", "README.md"):
        metadata = (tmp_path / "out" / name).read_text()
        assert "secret" not in metadata
        assert "my-vae" in metadata


class FakeHub:
    """Replaces ``HfApi``; records its arguments."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, **more: Any) -> str:
        FakeHub.made = (repo_id, self.token, more)
        return f"https://hub/{repo_id}"

    def upload_folder(self, repo_id: str, folder_path: Path, **_: Any) -> None:
        FakeHub.files = {
            str(p.relative_to(folder_path)): p.read_bytes()
            for p in Path(folder_path).rglob("*")
            if p.is_file()
        }


METRICS = {
    "protocol": "cfld",
    "rows": {"generated": {"ssim": 0.7512, "fid": 6.5}, "copy-source": {"ssim": 0.6}},
    "counts": {"pairs": 8},
    "undefined": {},
    "sizes": ["176x256"],
    "weights": {},
    "toy": ["fid"],
}


def test_push_to_hub_uploads_the_model_and_its_card(
    model_of: Callable[[str], Path], encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model_of("keys"), tmp_path / "run" / "model")
    (tmp_path / "run" / "config.toml").write_text("[train]\nsteps = 7\n")
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    pipe = XMDPTPipeline.from_pretrained(tmp_path / "run")
    with pytest.raises(XmdptError, match=r"config\.toml is not valid JSON"):
        pipe.push_to_hub("me/it", metrics=tmp_path / "run/config.toml")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(XmdptError, match=r"other\.json is damaged: protocol is missing"):
        pipe.push_to_hub("me/it", metrics=tmp_path / "other.json")
    where = pipe.push_to_hub("me/it", metrics=tmp_path / "metrics.json", private=True, token="t")
    assert where == "https://hub/me/it"
    assert FakeHub.made == ("me/it", "t", {"private": True, "exist_ok": True})
    names = set(FakeHub.files)
    assert {"config.json", "model.safetensors", "xmdpt.json", "README.md"} < names
    assert "vae/diffusion_pytorch_model.safetensors" in names
    assert not any(name.endswith((".part", ".bin", ".pt")) for name in names)
    for name, data in FakeHub.files.items():
        assert str(encoders.parent).encode() not in data, name
        assert str(tmp_path).encode() not in data, name
    card = ModelCard(FakeHub.files["README.md"].decode())
    metadata = card.data.to_dict()
    assert metadata["library_name"] == "xmdpt"
    assert metadata["license"] == "other"
    assert {"diffusion", "toy"} <= set(metadata["tags"])
    text = card.text
    for part in (
        "**Toy**", "## Impact", "agreed", "| generated | 0.7512 | 6.5 |", "| copy-source | 0.6 |",
        "`cfld`", "steps = 7", "12 images of 4 people", "Trained for 7 steps", "xmdpt sample",
        'XMDPTPipeline.from_pretrained("me/it")', "3 steps of ddim, guidance 1.5, power 0.01",
    ):  # fmt: skip
        assert part in text, part


def test_publishing_offline(pipe_of: Pipes) -> None:
    with pytest.raises(XmdptError, match="cannot publish me/it") as err:
        pipe_of("keys").push_to_hub("me/it")
    assert "hf auth login" in err.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no model.safetensors")],
)
def test_missing_files(
    model_of: Callable[[str], Path], tmp_path: Path, name: str, message: str
) -> None:
    shutil.copytree(model_of("keys"), tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    with pytest.raises(XmdptError, match=message):
        XMDPTPipeline.from_pretrained(tmp_path / "m")


def test_another_vae(model_of: Callable[[str], Path], encoders: Path, tmp_path: Path) -> None:
    """Of other latents: refused. Of the same latents, as a fine-tuned decoder is: taken."""
    toy_vae(256).save(tmp_path / "f8")
    scaled = toy_vae(SIZE)
    scaled.net.register_to_config(scaling_factor=0.13)
    scaled.save(tmp_path / "scaled")
    for name, message in (("f8", "factor 4, not 8"), ("scaled", "scale 1.0, not 0.13")):
        pipe = XMDPTPipeline.from_pretrained(model_of("keys"), vae=tmp_path / name)
        with pytest.raises(XmdptError, match=f"latents of another VAE .*{message}") as err:
            generated(pipe)
        assert "--vae" in err.value.hint
    toy_vae(SIZE, seed=1).save(tmp_path / "tuned")
    tuned = XMDPTPipeline.from_pretrained(model_of("keys"), vae=tmp_path / "tuned")
    assert generated(tuned)[0].std() > 1
    swapped = XMDPTPipeline.from_pretrained(
        model_of("keys"), encoders=encoders, dino_source=encoders / "dino_pose"
    )
    with pytest.raises(XmdptError, match="another source encoder") as err:
        generated(swapped)
    assert "--dino-source" in err.value.hint


def test_values_that_are_not_finite_are_no_image(model_of: Callable[[str], Path]) -> None:
    pipe = XMDPTPipeline.from_pretrained(model_of("vector"))
    with torch.no_grad():
        pipe.sampler.model.tdnet.pos_embed.fill_(float("nan"))
    with pytest.raises(XmdptError, match="the model generates values that are not finite"):
        generated(pipe)


def test_files_as_inputs(pipe_of: Pipes, files: Path) -> None:
    pipe = pipe_of("keys")
    write_pose(files / "more.json", leaning(0.1))
    images = pipe(
        source=str(files / "person.png"),
        source_keypoints=files / "person.json",
        pose=[files / "pose.json", files / "more.json"],
    )
    want = generated(
        pipe, [read_poses(pipe, files / "pose.json")[0].keypoints / SIZE, leaning(0.1)]
    )
    for image, expected in zip(images, want, strict=True):
        assert apart(np.asarray(image).astype(int), expected) <= ROUNDING


def test_the_device_is_chosen_as_in_the_commands(
    model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[object] = []

    def pick(name: object) -> str:
        requested.append(name)
        return "cpu"

    monkeypatch.setattr("xmdpt_cli.sampling.pipeline.pick_device", pick)
    XMDPTPipeline.from_pretrained(model_of("keys"))
    XMDPTPipeline.from_pretrained(model_of("keys"), device="cuda:7")
    assert requested == ["auto", "cuda:7"]


def test_to_moves_the_model_and_every_loaded_network(
    model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = XMDPTPipeline.from_pretrained(model_of("keys"))
    loaded = [pipe.encoders.vae, pipe.encoders.source]
    with pytest.raises(ConfigError, match="cuda:99 not found"):
        pipe.to("cuda:99")
    assert pipe.sampler.device.type == "cpu"
    monkeypatch.setattr("xmdpt_cli.sampling.pipeline.pick_device", str)
    assert pipe.to("meta") is pipe
    devices = [pipe.sampler.device, pipe.encoders.device, *(net.device for net in loaded)]
    assert {device.type for device in devices} == {"meta"}
    assert "openpose" not in vars(pipe.encoders)  # not there: nothing was loaded to be moved
    assert "pose" not in vars(pipe.encoders)


def test_repr_shows_the_settings(pipe_of: Pipes) -> None:
    pipe = pipe_of("keys")
    count = sum(p.numel() for p in pipe.sampler.model.parameters())
    assert repr(pipe) == (
        f"XMDPTPipeline(size='custom', parameters={count:,}, resolution={SIZE}, device='cpu', "
        "precision='float32', toy=True)"
    )
    pipe.sampler.metadata["distilled"] = {"steps": 4, "guidance": [1.0, 3.0]}
    assert repr(pipe).endswith(", toy=True, distilled='4 steps, guidance 1 to 3')")


def test_help_is_short() -> None:
    import pydoc

    shown = pydoc.plain(pydoc.render_doc(XMDPTPipeline)).splitlines()
    assert sum(max(1, -(-len(line) // 80)) for line in shown) <= 100
