"""Precedence, strictness and the presets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from xmdpt_cli import config as configuration
from xmdpt_cli.config import differing, dump, presets, resolve
from xmdpt_cli.distillation.config import DistillConfig
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.training.config import TrainConfig


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_flag_over_file_over_preset_over_default(tmp_path: Path) -> None:
    preset = "demo/tokens-64"
    assert TrainConfig().batch_size == 32
    assert resolve(TrainConfig, "train", {}, preset=preset).batch_size == 16
    file = write(tmp_path / "a.toml", "[train]\nbatch_size = 8\n")
    layers = {"file": file, "preset": preset}
    assert resolve(TrainConfig, "train", {}, **layers).batch_size == 8  # type: ignore[arg-type]
    flags = {"batch_size": 2, "steps": None}
    found = resolve(TrainConfig, "train", flags, **layers)  # type: ignore[arg-type]
    assert found.batch_size == 2
    assert found.conditioning == "tokens"  # of the preset


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[train]\nstepz = 3\n", "stepz"),
        ("[sample]\nsteps = 3\n", "sample"),
        ("[train]\nsteps = '3'\n", "steps"),
        ("[train]\nsteps = true\n", "steps"),
        ("[train]\nswap = 1\n", "swap"),
        ("[train\n", "TOML"),
        ("[train]\nschedule = 'round'\n", "schedule"),
        ("[train]\nlearning_rate = 0\n", "learning_rate"),
        ("[train]\nsteps = 0\n", "steps"),
        ("[train]\nema = 1.0\n", "ema"),
        (f"[train]\nsteps = {10**400}\n", "steps must be at most 9223372036854775807"),
        (f"[train]\nema = {10**400}\n", "ema must be at most 9223372036854775807"),
    ],
)
def test_errors_in_a_file_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        resolve(TrainConfig, "train", {}, file=write(tmp_path / "a.toml", text))


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[train]\nsteps = 3\n", encoding="utf-8-sig")
    assert resolve(TrainConfig, "train", {}, file=tmp_path / "a.toml").steps == 3


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ('steps = "many"', "steps must be an integer, not 'many'", "for example steps = 300000"),
        ('batch_size = "all"', "batch_size must be an integer or 'auto'", "batch_size = 32"),
        ('ema = "high"', "ema must be a number, not 'high'", "for example ema = 0.9999"),
        ("flip = 1", "flip must be true or false, not 1", "for example flip = true"),
        ("size = 3", "size must be a string, not 3", 'for example size = "S"'),
    ],
)
def test_a_value_of_another_type_is_refused_with_an_example(
    tmp_path: Path, line: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(TrainConfig, "train", {}, file=write(tmp_path / "c.toml", f"[train]\n{line}\n"))
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_missing_file_is_named_with_recipes_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*c\.toml: No such file") as error:
        resolve(TrainConfig, "train", {}, file=tmp_path / "c.toml")
    assert "xmdpt presets paper/S-256" in error.value.hint


def test_dump_is_read_back(tmp_path: Path) -> None:
    config = dataclasses.replace(TrainConfig(), size="B", learning_rate=3e-4, swap=False)
    file = write(tmp_path / "config.toml", dump("train", config))
    assert resolve(TrainConfig, "train", {}, file=file) == config


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid_and_documents_its_measurement(name: str) -> None:
    from xmdpt_cli.config import preset_text

    table = "distill" if "distill" in name else "train"
    kind = DistillConfig if table == "distill" else TrainConfig
    resolve(kind, table, {}, preset=name)
    header = [line for line in preset_text(name).splitlines() if line.startswith("#")]
    assert any("measured" in line for line in header)


@pytest.mark.parametrize("size", ["S", "B", "L"])
def test_paper_presets_equal_the_paper(size: str) -> None:
    """Paper sec. 4.1."""
    small = resolve(TrainConfig, "train", {}, preset=f"paper/{size}-256")
    assert (small.size, small.conditioning, small.prediction) == (size, "vector", "epsilon")
    assert (small.batch_size, small.learning_rate, small.weight_decay) == (32, 1e-4, 0.0)
    assert (small.ema, small.ema_warmup, small.mask_ratio) == (0.9999, False, 0.3)
    assert (small.cond_drop_prob, small.schedule, small.predictor) == (0.1, "linear", "self-cross")
    assert (small.sampling_steps, small.sampling_solver, small.guidance) == (20, "unipc", 2.0)
    # published code: the passes' noises are independent, a batch is swapped as a whole
    assert (small.masked_noise, small.swap_by, small.max_grad_norm) == ("independent", "batch", 0)
    assert TrainConfig().swap_by == "pair"
    large = resolve(TrainConfig, "train", {}, preset=f"paper/{size}-512")
    assert (large.batch_size, large.steps) == (10, 1_000_000)


@pytest.mark.parametrize("name", [name for name in presets() if "distill" not in name])
def test_paper_presets_swap_by_batch_and_mdtv2_presets_clip(name: str) -> None:
    recipe = resolve(TrainConfig, "train", {}, preset=name)
    assert (recipe.swap_by == "batch") == name.startswith("paper/")
    clipped = {"mdtv2": 1.0, "paper": 0.0}  # the other presets may do either
    assert recipe.max_grad_norm == clipped.get(name.split("/")[0], recipe.max_grad_norm)


def test_the_error_of_an_unknown_preset_lists_all() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(TrainConfig, "train", {}, preset="paper/XXL")
    assert "paper/S-256" in caught.value.hint


PAPER = {
    "resolution": 256,
    "source_encoder": "dinov2-giant",
    "pose_encoder": "dinov2-base",
    "swap_by": "batch",
}
PAPER_512 = {**PAPER, "resolution": 512, "steps": 1_000_000, "batch_size": 10}
#: preset -> its differences from the defaults, with the bases written out
SETTINGS: dict[str, dict[str, Any]] = {
    "S-256": PAPER,
    "B-256": {**PAPER, "size": "B"},
    "L-256": {**PAPER, "size": "L"},
    "XL-256": {**PAPER, "size": "XL"},
    "S-512": PAPER_512,
    "B-512": {**PAPER_512, "size": "B"},
    "L-512": {**PAPER_512, "size": "L"},
    "table2a-mdt": {**PAPER, "predictor": "self"},
    "table2a-mipnet": PAPER,
    "table2a-plain": {**PAPER, "predictor": "none"},
    "table2b-r10": {**PAPER, "mask_ratio": 0.1},
    "table2b-r30": PAPER,
    "table2b-r50": {**PAPER, "mask_ratio": 0.5},
    "table2b-r70": {**PAPER, "mask_ratio": 0.7},
    "table2c-pose-B": PAPER,
    "table2c-pose-G": {**PAPER, "pose_encoder": "dinov2-giant"},
    "table2c-pose-S": {**PAPER, "pose_encoder": "dinov2-small"},
    "table2c-source-B": {**PAPER, "source_encoder": "dinov2-base"},
    "table2c-source-G": PAPER,
    "table2c-source-S": {**PAPER, "source_encoder": "dinov2-small"},
    "table2d-cross": {**PAPER, "predictor": "cross"},
    "table2d-cross-self": {**PAPER, "predictor": "cross-self"},
    "table2d-self": {**PAPER, "predictor": "self"},
    "table2d-self-cross": PAPER,
    "table2e-add": PAPER,
    "table2e-concat": {**PAPER, "aggregation": "concat"},
    "table2e-mlp": {**PAPER, "aggregation": "mlp"},
    "table2e-vG": {**PAPER, "condition_parts": "global"},
    "table2e-vG-vP": {**PAPER, "condition_parts": "global+pose"},
    "table2e-vL": {**PAPER, "condition_parts": "local"},
    "table2e-vL-vG": {**PAPER, "condition_parts": "local+global"},
    "table2e-vL-vG-vP": PAPER,
    "table2e-vL-vP": {**PAPER, "condition_parts": "local+pose"},
    "table2e-vP": {**PAPER, "condition_parts": "pose"},
}


@pytest.mark.parametrize("name", [n for n in presets() if n.startswith("paper/")])
def test_paper_presets_with_their_bases(name: str) -> None:
    found = differing(resolve(TrainConfig, "train", {}, preset=name))
    assert {key: value for key, (value, _) in found.items()} == SETTINGS[name[len("paper/") :]]


def test_a_file_inherits_from_its_base_and_overrides_it(tmp_path: Path) -> None:
    text = 'base = "paper/L-512"\n[train]\nsteps = 7\n'
    found = resolve(TrainConfig, "train", {"size": "B"}, file=write(tmp_path / "a.toml", text))
    assert (found.size, found.steps, found.batch_size, found.swap_by) == ("B", 7, 10, "batch")
    with pytest.raises(ConfigError, match=r"has a base, paper/L-512: .* --preset demo/tokens-64"):
        resolve(TrainConfig, "train", {}, file=tmp_path / "a.toml", preset="demo/tokens-64")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('base = "paper/XXL"', r"a\.toml: base: no such preset: 'paper/XXL'"),
        ('base = "distill/4-steps"', r"a\.toml: base: preset distill/4-steps is not of this"),
        ("base = 3", "base must be the name of a preset, not 3"),
        ('[train]\nbase = "paper/S-256"', "base is no setting of the table"),
    ],
)
def test_errors_of_a_base_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        resolve(TrainConfig, "train", {}, file=write(tmp_path / "a.toml", text + "\n"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("table2a", "did you mean paper/table2a-mdt, paper/table2a-mipnet, paper/table2a-plain? "),
        ("Paper/s-256", "did you mean paper/S-256? "),
        ("fast/tokens-265", "did you mean fast/tokens-256, fast/tokens-64, fast/"),
        ("xyz", ""),
    ],
)
def test_an_unknown_preset_gets_the_nearest_ones_as_hint(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(TrainConfig, "train", {}, preset=name)
    assert error.value.hint.startswith(hint)
    assert error.value.hint.endswith("xmdpt presets lists all")
    assert len(error.value.hint) < 200


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            'base = "mine.toml"',
            "a.toml: base: no such preset",
            "a base is the name of a preset, not",
        ),
        ("timestep_power = 0.5", "timestep_power is a setting of [train]", "below a line [train]"),
        ("timestep_powre = 0.5", "unknown key 'timestep_powre'", "this command reads [train]"),
        ("[sample]\nsteps = 3", "unknown table 'sample'", "this command reads [train]"),
    ],
)
def test_what_is_above_the_table_is_named(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(TrainConfig, "train", {}, file=write(tmp_path / "a.toml", text + "\n"))
    assert message in error.value.message
    assert hint in error.value.hint


def test_an_unknown_key_gets_the_nearest_ones_as_hint(tmp_path: Path) -> None:
    for key, hint in (("contrastiv_weight", "did you mean contrastive_weight"), ("x", "known")):
        file = write(tmp_path / "a.toml", f"[train]\n{key} = 1\n")
        with pytest.raises(ConfigError) as error:
            resolve(TrainConfig, "train", {}, file=file)
        assert error.value.hint.startswith(hint)


def test_presets_that_inherit_from_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {name: f'base = "{base}"\n[train]\n' for name, base in ("ab", "bc", "cb")}
    monkeypatch.setattr(configuration, "presets", lambda: sorted(texts))
    monkeypatch.setattr(configuration, "preset_text", texts.__getitem__)
    with pytest.raises(ConfigError, match="c: base 'b' is a cycle: a -> b -> c -> b"):
        resolve(TrainConfig, "train", {}, preset="a")
