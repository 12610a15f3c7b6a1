"""The two ways of ``xmdpt sample``: the pairs of a dataset, and one's own pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli.console import Talk, say_resuming, warn_if_busy
from xmdpt_cli.cli.options import pick_device
from xmdpt_cli.cli.workspace import SAMPLES, quote
from xmdpt_cli.errors import ConfigError, XmdptError

if TYPE_CHECKING:
    from xmdpt_cli.sampling.sampler import Sampler
    from xmdpt_cli.storage.ranks import World

#: on a processor compiling takes about a minute: worth it for so many forward passes
COMPILE_FROM = 500
TOY = " by a TOY model, which says nothing about real results"
NETWORKS = ("vae", "dino_source", "dino_pose", "openpose", "encoders")
SAMPLING = ("steps", "solver", "guidance", "power", "seed")


def draw_pairs(chosen: Any, talk: Talk, world: World) -> dict[str, Any]:
    """The pictures of a dataset's pairs, this process's part of them; the record."""
    from xmdpt_cli.data.loader import PairDataset
    from xmdpt_cli.sampling import hub
    from xmdpt_cli.sampling.batch_size import fit_memory, parse_bytes
    from xmdpt_cli.sampling.dataset_images import generate
    from xmdpt_cli.sampling.encoders import vae_for
    from xmdpt_cli.sampling.sampler import Sampler

    where = pick_device(chosen.device)
    sampler = Sampler.load(hub.fetch(chosen.model), where, chosen.precision)
    dataset = PairDataset(chosen.data, chosen.split)
    vae = vae_for(sampler, dataset, chosen.vae)
    config = sampler.sampling_config(**_overrides(chosen))
    limit = None if chosen.max_memory is None else parse_bytes(chosen.max_memory)
    most = fit_memory(sampler, vae, limit, dataset.resolution)
    count = -(-len(dataset.pairs[: chosen.limit]) // world.size)
    batch = _batch(chosen, sampler, most, count, config.steps)
    if sampler.compiled:  # a test set is worth compiling the decoder, too
        vae.compile_decoder(batch)
    with talk.progress() as progress:
        return generate(
            sampler,
            dataset,
            vae,
            chosen.out,
            config,
            limit=chosen.limit,
            shard=world,
            batch_size=batch,
            progress=say_resuming(progress, talk.say, "images"),
            say=talk.warn,
        )


def pairs(chosen: Any) -> None:
    world = _world(chosen.shard)
    talk = Talk(chosen.as_json, quiet=chosen.shard is None and world.rank > 0)
    warn_if_busy(talk)
    out = chosen.out
    record = draw_pairs(chosen, talk, world)
    toy = " (TOY model)" if record["toy"] else ""
    if record["complete"]:
        text = f"{record['pictures']} pictures{toy} in {out}, to look at: {record['sheet']}\n"
        text += f"next: {_next_evaluate(chosen)}"
    else:
        text = f"{record['pictures']} pictures{toy} of this part in {out}; others are missing yet"
    if chosen.shard is None and world.size > 1:
        # of a team whoever ended last knows the result; where nothing was left to do, the first
        last = record["finished"] or (record["complete"] and not record["drawn"] and not world.rank)
        talk = Talk(chosen.as_json, quiet=not last)
    talk.result({"out": str(out), **record}, text=text)


def _next_evaluate(chosen: Any) -> str:
    """How to measure these images: nothing need be named where the workspace leads to them."""
    if chosen.out.parent == SAMPLES and chosen.split == "test":
        return "xmdpt evaluate --fid --ssim --lpips"
    split = "" if chosen.split == "test" else f" --split {chosen.split}"
    return f"xmdpt evaluate --data {quote(chosen.data)} --generated {quote(chosen.out)}{split}"


def own(chosen: Any) -> None:
    from xmdpt_cli.sampling.animation import check_animation
    from xmdpt_cli.sampling.batch_size import batch_size
    from xmdpt_cli.sampling.own_images import draw_own, notes_of

    talk, out = Talk(chosen.as_json), chosen.out
    warn_if_busy(talk)
    if chosen.animate is not None:
        check_animation(chosen.animate)
    pose_size = _pose_size(chosen)
    pipe = _pipeline(chosen)
    config = pipe.sampling_config(**_overrides(chosen))
    with pipe._networks_named():
        views = pipe._read_views(
            chosen.source,
            chosen.source_keypoints or None,
            chosen.fit,
            chosen.person,
            _min_score(chosen),
        )
        reading = (pose_size, views[0].size, _min_score(chosen), chosen.empty_frames or "skip")
        poses, left_out = _poses(pipe, chosen, reading, talk.warn)
    notes = notes_of(views, poses)
    for note in notes:
        talk.say(note)
    if pose_size is not None and not any("(--pose-size)" in note for note in notes):
        talk.warn("--pose-size is not used: no pose is a file that lacks its image's size")
    count = len(poses) * chosen.num_images
    batch = _batch(chosen, pipe.sampler, pipe.most or batch_size(pipe.sampler), count, config.steps)
    with talk.progress() as progress:
        record = draw_own(
            pipe,
            views,
            poses,
            config,
            out,
            num_images=chosen.num_images,
            square=chosen.square,
            animation=chosen.animate,
            fps=chosen.fps,
            batch=batch,
            progress=progress,
            say=talk.warn,
        )
    toy = TOY if record["toy"] else ""
    files = [str(out / name) for name in record["files"]]
    told = files[0] if len(files) == 1 else f"{len(files)} pictures in {out}"
    text = f"{told}, generated{toy}; beside its source: {out / record['sheet']}"
    if chosen.animate is not None:
        text += f"\nanimation: {chosen.animate}"
    talk.result({"out": str(out), **record, "files": files, "left_out": left_out}, text=text)


def _pipeline(chosen: Any) -> Any:
    from xmdpt_cli.sampling.batch_size import parse_bytes
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

    limit = None if chosen.max_memory is None else parse_bytes(chosen.max_memory)
    return XMDPTPipeline.from_pretrained(
        chosen.model,
        device=pick_device(chosen.device),
        precision=chosen.precision,
        max_memory=limit,
        **{name: getattr(chosen, name) for name in NETWORKS},
    )


def _pose_size(chosen: Any) -> tuple[int, int] | None:
    from xmdpt_cli.pose.formats.image_size import parse_size

    return None if chosen.pose_size is None else parse_size(chosen.pose_size)


def _min_score(chosen: Any) -> float:
    from xmdpt_cli.pose.formats.missing import MIN_SCORE

    return MIN_SCORE if chosen.min_score is None else float(chosen.min_score)


def _overrides(chosen: Any) -> dict[str, Any]:
    named = {name: getattr(chosen, name) for name in SAMPLING}
    if chosen.paper:
        from xmdpt_cli.sampling.config import PAPER

        own = {"steps": PAPER.steps, "solver": PAPER.solver, "guidance": PAPER.guidance}
        return {**named, **own, "interval": PAPER.interval, "power": chosen.power or PAPER.power}
    if chosen.interval is not None:
        try:
            low, high = (float(end) for end in chosen.interval.split(":"))
        except ValueError:
            raise ConfigError(
                f"--interval is LOW:HIGH, not {chosen.interval!r}", "for instance 0.1:0.8"
            ) from None
        named["interval"] = (low, high)
    return named


def _world(shard: str | None) -> World:
    from xmdpt_cli.storage.ranks import World

    if shard is None:
        return World.from_environment()
    try:
        rank, size = (int(number) for number in shard.split("/"))
        assert 0 <= rank < size
    except (ValueError, AssertionError):
        raise ConfigError(
            f"--shard is i/n with i from 0 to n - 1, not {shard!r}", "for instance 0/4"
        ) from None
    return World(rank, size)


def _batch(
    chosen: Any,
    sampler: Sampler,
    most: int,
    count: int,
    steps: int,
) -> int:
    """Pictures drawn together, at most ``most``; and the compiler, where it is worth it."""
    asked = chosen.batch_size
    size = max(1, min(most if asked == "auto" else int(asked), count))
    much = sampler.device.type == "cuda" or -(-count // size) * steps >= COMPILE_FROM
    if chosen.compile_ == "on" or (chosen.compile_ == "auto" and much):
        sampler.compile(size)
    return size


def _poses(
    pipe: Any, chosen: Any, reading: tuple[Any, ...], warn: Callable[[str], None]
) -> tuple[list[Any], list[str]]:
    """The poses, and what of the folders among them was left out, and why."""
    from xmdpt_cli.sampling.user_inputs import NoOpenPoseError

    poses, left_out = [], []
    for given in chosen.pose:
        files, found = _files(given, warn), []
        for file in files:
            try:
                found += pipe._read_poses(file, chosen.pose_fit, chosen.pose_person, *reading)
            except (NoOpenPoseError, ConfigError):  # so it is with all of them
                raise
            except XmdptError as err:
                if not given.is_dir() or (file == files[-1] and not found):
                    raise
                left_out.append(err.message)
                warn(f"left out: {err.message}")
        poses += found
    return poses, left_out


def _files(given: Path, warn: Callable[[str], None]) -> list[Path]:
    """A folder stands for the pictures and keypoints in it, by name."""
    from xmdpt_cli.datasets.scan import is_readable_image
    from xmdpt_cli.files import is_hidden
    from xmdpt_cli.pose.formats import SUFFIXES
    from xmdpt_cli.pose.formats.beside_images import KeypointsBeside
    from xmdpt_cli.utils.image_types import not_read, say_not_read

    if not given.is_dir():
        return [given]
    there = sorted(p for p in given.iterdir() if not is_hidden(p.name))
    found = [p for p in there if p.suffix.lower() in SUFFIXES or is_readable_image(p.name)]
    unread = [p.name for p in not_read(there)]
    if unread:
        warn(say_not_read(unread))
    if not found:
        raise ConfigError(f"no pose in {given}", "it holds neither keypoints nor pictures")
    # a photograph with its keypoints beside it is one pose, not two
    beside = KeypointsBeside()
    return [p for p in found if not is_readable_image(p.name) or beside.own_file(p) is None]
