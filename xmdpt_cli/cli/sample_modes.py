"""``xmdpt sample`` for the pairs of a dataset, and for your own images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli.console import Talk, warn_if_busy
from xmdpt_cli.cli.next_command import evaluate_command
from xmdpt_cli.cli.options import pick_device
from xmdpt_cli.cli.sample_options import SampleOptions
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.progress import say_resuming

if TYPE_CHECKING:
    from xmdpt_cli.sampling.inputs import InputOptions, Pose
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline
    from xmdpt_cli.storage.ranks import World

TOY = " by a TOY model, which does not predict real results"


def generate_pairs(chosen: SampleOptions, talk: Talk, world: World) -> dict[str, Any]:
    """Generate this process's part of a dataset's pairs; returns the record of the folder."""
    from xmdpt_cli.data.dataset import PairDataset
    from xmdpt_cli.sampling import hub
    from xmdpt_cli.sampling.batch_size import fit_memory
    from xmdpt_cli.sampling.dataset_images import generate
    from xmdpt_cli.sampling.encoders import vae_for
    from xmdpt_cli.sampling.sampler import Sampler

    assert chosen.model is not None
    assert chosen.data is not None
    assert chosen.out is not None
    where = pick_device(chosen.device)
    sampler = Sampler.load(hub.fetch(chosen.model), where, chosen.precision)
    dataset = PairDataset(chosen.data, chosen.split)
    vae = vae_for(sampler, dataset, chosen.vae)
    config = sampler.sampling_config(**chosen.sampling())
    most = fit_memory(sampler, vae, chosen.memory_limit(), dataset.resolution)
    count = -(-len(dataset.pairs[: chosen.limit]) // world.size)
    batch = chosen.batch(sampler, most, count, config.steps)
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
            notify=talk.warn,
        )


def sample_pairs(chosen: SampleOptions) -> None:
    """The pairs of --data."""
    world = chosen.world()
    talk = Talk(chosen.as_json, quiet=chosen.shard is None and world.rank > 0)
    warn_if_busy(talk)
    out, data = chosen.out, chosen.data
    assert out is not None
    assert data is not None
    record = generate_pairs(chosen, talk, world)
    toy = " (TOY model)" if record["toy"] else ""
    if record["complete"]:
        text = f"{record['images']} images{toy} in {out}, contact sheet: {record['sheet']}\n"
        text += f"next: {evaluate_command(data, out, chosen.split)}"
    else:
        text = f"{record['images']} images{toy} of this part in {out}; other parts are not complete"
    if chosen.shard is None and world.size > 1:
        # the process that ended last knows the result; where nothing was left to do, rank 0
        nothing_left = record["complete"] and not record["generated"]
        last = record["finished"] or (nothing_left and world.rank == 0)
        talk = Talk(chosen.as_json, quiet=not last)
    talk.result({"out": str(out), **record}, text=text)


def sample_own(chosen: SampleOptions) -> None:
    """The images of --source in the poses of --pose."""
    from xmdpt_cli.sampling.animation import check_animation
    from xmdpt_cli.sampling.batch_size import batch_size
    from xmdpt_cli.sampling.inputs import notes_of
    from xmdpt_cli.sampling.own_images import generate_own_images
    from xmdpt_cli.sampling.pipeline import read_views

    talk, out = Talk(chosen.as_json), chosen.out
    assert out is not None
    assert chosen.source is not None
    assert chosen.pose is not None
    warn_if_busy(talk)
    if chosen.animate is not None:
        check_animation(chosen.animate)
    options = chosen.input_options()
    pipe = chosen.pipeline()
    config = pipe.sampling_config(**chosen.sampling())
    with pipe.encoders.naming_all_missing():
        views = read_views(pipe, chosen.source, chosen.source_keypoints or None, options)
        poses, left_out = _poses(pipe, chosen.pose, options, views[0].size, talk.warn)
    notes = notes_of(views, poses)
    for note in notes:
        talk.say(note)
    if options.pose_size is not None and not any("(--pose-size)" in note for note in notes):
        talk.warn("--pose-size is not used: every pose file contains the size of its image")
    count = len(poses) * chosen.num_images
    most = pipe.max_batch or batch_size(pipe.sampler)
    batch = chosen.batch(pipe.sampler, most, count, config.steps)
    with talk.progress() as progress:
        record = generate_own_images(
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
            notify=talk.warn,
        )
    toy = TOY if record["toy"] else ""
    files = [str(out / name) for name in record["files"]]
    what = files[0] if len(files) == 1 else f"{len(files)} images in {out}"
    text = f"{what}, generated{toy}; contact sheet: {out / record['sheet']}"
    if chosen.animate is not None:
        text += f"\nanimation: {chosen.animate}"
    talk.result({"out": str(out), **record, "files": files, "left_out": left_out}, text=text)


def _poses(
    pipe: XMDPTPipeline,
    given_poses: Sequence[Path],
    options: InputOptions,
    source_size: tuple[int, int] | None,
    warn: Callable[[str], None],
) -> tuple[list[Pose], list[str]]:
    """The poses, and messages about files of folders that were left out."""
    from xmdpt_cli.sampling.pipeline import read_poses
    from xmdpt_cli.sampling.user_inputs import NoOpenPoseError

    poses: list[Pose] = []
    left_out = []
    for given in given_poses:
        files = _files(given, warn)
        found: list[Pose] = []
        for file in files:
            try:
                found += read_poses(pipe, file, options, source_size)
            except (NoOpenPoseError, ConfigError):  # concerns all files
                raise
            except XmdptError as err:
                if not given.is_dir() or (file == files[-1] and not found):
                    raise
                left_out.append(err.message)
                warn(f"left out: {err.message}")
        poses += found
    return poses, left_out


def _files(given: Path, warn: Callable[[str], None]) -> list[Path]:
    """The images and keypoints in a folder, sorted by name; a file alone."""
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
        raise ConfigError(f"no pose in {given}", "the folder has neither keypoint files nor images")
    # a photograph with its keypoints beside it is one pose, not two
    beside = KeypointsBeside()
    return [p for p in found if not is_readable_image(p.name) or beside.own_file(p) is None]
