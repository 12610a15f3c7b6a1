"""Published checkpoints as people have them, and back to the published names."""

from __future__ import annotations

import argparse
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_xmdpt import inputs, small
from torch import Tensor

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.model import XMDPT
from xmdpt_cli.model.published import (
    from_published,
    plain_state,
    published_tensors,
    save_published,
    steps_in_name,
    to_published,
)

State = dict[str, Tensor]
INDEX = "blocks.0.attn.rel_pos_bias.relative_position_index"


@pytest.fixture(scope="module")
def model() -> XMDPT:
    return small()


@pytest.fixture(scope="module")
def state(model: XMDPT) -> State:
    """Under the published names, without index buffers."""
    return published_tensors(model.state_dict())


def equal(a: XMDPT, b: XMDPT) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def prefixed(state: State, *prefixes: str) -> State:
    return {"".join(prefixes) + name: value for name, value in state.items()}


WRAPPED: list[tuple[str, Callable[[State], Any], list[str]]] = [
    ("plain", lambda s: s, []),
    ("ddp", lambda s: prefixed(s, "module."), ["stripped 'module.'"]),
    (
        "ddp and compile",
        lambda s: prefixed(s, "module.", "_orig_mod."),
        ["stripped '_orig_mod.' and 'module.'"],
    ),
    (
        "compiled blocks",
        lambda s: {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in s.items()},
        ["stripped '_orig_mod.'"],
    ),
    ("state_dict", lambda s: {"state_dict": s, "epoch": 3}, ["took 'state_dict'"]),
    ("model_state_dict", lambda s: {"model_state_dict": s}, ["took 'model_state_dict'"]),
    (
        "ema first",
        lambda s: {
            "model": {k: torch.zeros_like(v) for k, v in s.items()},
            "opt": {"state": {}, "param_groups": []},
            "ema": prefixed(s, "module."),
        },
        ["took 'ema' out of the checkpoint (left out: model, opt)", "stripped 'module.'"],
    ),
]


@pytest.mark.parametrize(("wrap", "notes"), [w[1:] for w in WRAPPED], ids=[w[0] for w in WRAPPED])
def test_a_checkpoint_is_found_in_what_people_have(
    wrap: Callable[[State], Any], notes: list[str], state: State, model: XMDPT, tmp_path: Path
) -> None:
    torch.save(wrap(state), tmp_path / "x.pt")
    assert equal(from_published(tmp_path / "x.pt"), model)
    assert equal(from_published(wrap(state)), model)
    said = plain_state(tmp_path / "x.pt").notes
    assert len(said) == len(notes)
    assert all(text.startswith(note) for text, note in zip(said, notes, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype: torch.dtype, state: State) -> None:
    rounded = {name: value.to(dtype) for name, value in state.items()}
    got = to_published(from_published(rounded))
    assert all(torch.equal(got[name], value.float()) for name, value in rounded.items())
    assert plain_state(rounded).notes == [f"made float32 of {str(dtype)[6:]}"]


def test_safetensors_are_read_too(state: State, model: XMDPT, tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "x.safetensors")
    assert equal(from_published(tmp_path / "x.safetensors"), model)


def test_back_is_bit_equal_and_holds_every_published_name(state: State, model: XMDPT) -> None:
    back = to_published(model)
    buffers = {name for name in back if name.endswith("relative_position_index")}
    assert back.keys() - buffers == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert len(buffers) == 4 + 2  # every block's and both side blocks'
    for name in buffers:
        assert back[name].shape == (16, 16)
        assert back[name].dtype == torch.int64
        assert name.replace("_index", "_bias_table") in state
    # pairs of tokens (y, x) on the 4x4 grid: dy, dx each in -3 .. 3, dy counts sevenfold
    assert back[INDEX][0, 0] == 3 * 7 + 3
    assert back[INDEX][5, 2] == (1 + 3) * 7 + (-1 + 3)
    assert equal(from_published(back), model)


def test_a_file_of_ours_is_a_published_one(model: XMDPT, tmp_path: Path) -> None:
    save_published(tmp_path / "new/x.pt", to_published(model))
    assert equal(from_published(tmp_path / "new/x.pt"), model)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.pt"]


def test_the_golden_weights_come_back(shared: Callable[[str], Path]) -> None:
    golden = load_file(shared("golden/dev_a.safetensors"))
    state = {k[6:]: v for k, v in golden.items() if k.startswith("state.")}
    back = to_published(from_published(state))
    assert {k for k in back if not k.endswith("relative_position_index")} == set(state)
    assert all(torch.equal(back[name], value) for name, value in state.items())


@pytest.mark.parametrize("mask_token", [True, False])
@torch.no_grad()
def test_a_checkpoint_for_inference_draws_the_same(
    mask_token: bool, state: State, model: XMDPT
) -> None:
    bare = {k: v for k, v in state.items() if not k.startswith("sideblocks")}
    if not mask_token:
        del bare["mask_token"]
    lean, a = from_published(bare), inputs()
    assert lean.mipnet is None
    condition = model.condition(a["pose"], a["source"], a["latents"])
    assert torch.equal(lean.condition(a["pose"], a["source"], a["latents"]), condition)
    full = model.eval()
    torch.testing.assert_close(
        lean.eval()(a["x"], a["t"], condition), full(a["x"], a["t"], condition)
    )


def index_of(state: State, model: XMDPT) -> tuple[State, Tensor]:
    return dict(state), to_published(model)[INDEX]


def test_index_buffers_are_those_of_the_grid(state: State, model: XMDPT) -> None:
    given, index = index_of(state, model)
    with_class_token = torch.full((17, 17), 49)
    with_class_token[1:, 1:] = index
    for right in (index, index.int(), with_class_token):
        assert equal(from_published({**given, INDEX: right}), model)
    for wrong in (index.t(), index[:9, :9], torch.zeros_like(index)):
        with pytest.raises(XmdptError, match=INDEX):
            from_published({**given, INDEX: wrong})


def without(*names: str) -> Callable[[State], State]:
    return lambda s: {k: v for k, v in s.items() if not k.startswith(names)}


FOREIGN: list[tuple[str, Callable[[State], Any], str]] = [
    (
        "DiT",
        lambda s: {
            **without("mlp_", "conv1d", "side", "mask", "decoder")(s),
            "y_embedder.embedding_table.weight": torch.zeros(1001, 32),
        },
        r"not a published.*no 'mlp_dino_pose\.0\.weight'.*it has 'y_embedder",
    ),
    ("one side block", without("sideblocks_cross"), r"lacks \d+ tensors, first sideblocks_cross"),
    (
        "a block's table",
        without("blocks.2.attn.rel"),
        r"lacks 1 tensors, first blocks\.2\.attn\.rel_pos_bias",
    ),
    (
        "one more",
        lambda s: {**s, "n_averaged": torch.tensor(3)},
        "unexpected tensors, first n_averaged",
    ),
    (
        "another grid",
        lambda s: {**s, "decoder_pos_embed": torch.zeros(1, 25, 32)},
        r"decoder_pos_embed: \(1, 25, 32\), expected \(1, 16, 32\)",
    ),
    (
        "whole numbers",
        lambda s: {k: v.to(torch.int8) for k, v in s.items()},
        "is int8, not float32",
    ),
    ("flat", lambda s: {**s, "pos_embed": torch.zeros(3)}, "does not fit"),
    (
        "numbers",
        lambda s: {**s, "step": 3},
        "not a plain state dict.*'step' is no name of a tensor",
    ),
    ("no names", lambda s: dict(enumerate(s.values())), "0 is no name of a tensor"),
    ("nothing", lambda s: {}, "it is empty"),
    ("a list", lambda s: [*s.values()], "it holds a list"),
    (
        "twice",
        lambda s: {**s, "module.pos_embed": s["pos_embed"]},
        "two tensors are called 'pos_embed'",
    ),
]


@pytest.mark.parametrize(("spoil", "said"), [f[1:] for f in FOREIGN], ids=[f[0] for f in FOREIGN])
def test_what_is_no_xmdpt_is_named(
    spoil: Callable[[State], Any], said: str, state: State, tmp_path: Path
) -> None:
    torch.save(spoil(state), tmp_path / "x.pt")
    with pytest.raises(XmdptError, match=said):
        from_published(tmp_path / "x.pt")


def test_an_optimizers_file_is_named_with_the_one_to_take(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    path = tmp_path / "opt_300000.pt"
    torch.save(optimizer.state_dict(), path)
    with pytest.raises(XmdptError, match=r"opt_300000\.pt is an optimizer's") as error:
        from_published(path)
    assert "ema_*.pt" in error.value.hint
    for step in (300000, 400000):
        (tmp_path / f"ema_0.9999_{step}.pt").touch()
    with pytest.raises(XmdptError) as error:
        from_published(path)
    assert error.value.hint == f"take {tmp_path / 'ema_0.9999_300000.pt'}"


def test_a_folder_names_the_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "ema_0.9999_300000.pt").touch()
    with pytest.raises(XmdptError, match="is a folder") as error:
        from_published(tmp_path)
    assert "ema_0.9999_300000.pt" in error.value.hint


@pytest.mark.parametrize("where", ["in the state", "beside it"])
def test_code_in_a_pickle_is_named_and_does_not_run(
    where: str, state: State, tmp_path: Path
) -> None:
    trace = tmp_path / "it-ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(trace),)

    path = tmp_path / "evil.pt"
    inner = {"ema": state, "args": Evil()} if where == "beside it" else {**state, "x": Evil()}
    torch.save(inner, path)
    with pytest.raises(XmdptError, match=r"evil\.pt: it wants to run (posix|nt)\.mkdir") as error:
        from_published(path)
    assert "weights_only" not in error.value.message + error.value.hint
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the pickle was a real one
    assert trace.exists()


def test_a_harmless_object_is_refused_with_a_way_out(state: State, tmp_path: Path) -> None:
    """DiT's training leaves its arguments beside the weights."""
    torch.save({"ema": state, "args": argparse.Namespace(seed=0)}, tmp_path / "x.pt")
    with pytest.raises(XmdptError, match=r"argparse\.Namespace") as error:
        from_published(tmp_path / "x.pt")
    assert "torch.save(checkpoint['ema'], 'ema.pt')" in error.value.hint


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 half a file"])
def test_broken_files_are_named(content: bytes, tmp_path: Path) -> None:
    for name in ("x.pt", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        said = "is empty" if not content else "cannot read"
        if name == "x.pt" and content.startswith(b"PK"):
            said = "is cut: its end is missing"
        with pytest.raises(XmdptError, match=said) as error:
            from_published(tmp_path / name)
        assert str(tmp_path / name) in error.value.message
        assert "weights_only" not in error.value.message + error.value.hint
        if name == "x.pt" and content == b"text":
            assert error.value.message.endswith("it was not written by torch.save")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"conditioning": "tokens"}, "conditioning 'tokens'"),
        ({"guidance_embed": True}, "a guidance scale as an input"),
        ({"backbone": "mdtv2"}, "backbone 'mdtv2'"),
        ({"decode_layers": 1}, "decode_layers 1"),
        ({"predictor": "self"}, "predictor 'self'"),
        ({"predictor": "cross-self"}, "predictor 'cross-self'"),
        ({"predictor": "none"}, "predictor 'none'"),
        ({"condition_parts": "global+pose"}, r"condition_parts 'global\+pose'"),
        ({"aggregation": "mlp"}, "aggregation 'mlp'"),
        ({"repa_width": 20, "repa_layer": 2}, "repa_width"),
        ({"positions": "rope"}, "positions 'rope'"),
        ({"qk_norm": True}, "qk_norm"),
    ],
)
def test_what_the_published_code_cannot_hold_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(XmdptError, match=f"cannot hold this model: .*{said}"):
        to_published(small(**options))


def test_what_the_published_code_would_sample_otherwise_is_named(model: XMDPT) -> None:
    with pytest.raises(XmdptError, match="schedule 'cosine'; prediction 'v'"):
        to_published(model, {"schedule": "cosine", "prediction": "v"})
    latents = model.latent_shape[-1]
    to_published(model, {"resolution": 8 * latents})
    with pytest.raises(XmdptError, match=f"latents of {latents} x {latents} for {4 * latents} px"):
        to_published(model, {"resolution": 4 * latents})


def test_a_full_disk_leaves_the_file_that_was_there(model: XMDPT, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(XmdptError, match=r"cannot write .*x\.pt"):
            save_published(path, to_published(model))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("ema_0.9999_300000.pt", 300_000),
        ("a/b/ema_0.9999_0800000.pt", 800_000),
        ("model300000.pt", 300_000),
        ("ema_0.9999.pt", None),
        ("xmdpt-S-256.pt", None),
        ("best.pt", None),
    ],
)
def test_steps_are_read_off_the_name(name: str, steps: int | None) -> None:
    assert steps_in_name(name) == steps


def test_conversion_names_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(XmdptError, match="not a published"):
        from_published({"weight": torch.zeros(1)})
    with pytest.raises(XmdptError, match="no such checkpoint"):
        from_published(tmp_path / "ema.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(XmdptError, match=r"broken\.pt is cut"):
        from_published(tmp_path / "broken.pt")


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("code ran",)

    path = tmp_path / "evil.pt"
    torch.save({"x_embedder.proj.weight": Evil()}, path)
    with pytest.raises(XmdptError, match=r"evil\.pt"):
        from_published(path)
