"""The modes of ``xmdpt sample``: pairs of a dataset, your own images, rows of a list, examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xmdpt_cli.cli.console import Talk, warn_if_busy
from xmdpt_cli.cli.next_command import evaluate_command
from xmdpt_cli.cli.options import pick_device
from xmdpt_cli.cli.sample_options import SampleOptions
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.progress import say_resuming
from xmdpt_cli.toy import pretrained
from xmdpt_cli.utils.counts import counted

TOY = " by a TOY model, which says nothing about results on photographs"


def sample_pairs(chosen: SampleOptions, *, default: bool) -> None:
    """The pairs of --data. ``default``: model, dataset and folder were found, not given."""
    world = chosen.world()
    talk = Talk(chosen.as_json, quiet=chosen.shard is None and world.rank > 0)
    warn_if_busy(talk)
    out, data = chosen.out, chosen.data
    assert out is not None
    assert data is not None
    from xmdpt_cli.sampling.dataset_images import generate_with

    assert chosen.model is not None
    with talk.progress() as progress:
        record = generate_with(
            chosen.model,
            data,
            out,
            sampling=chosen.sampling(),
            split=chosen.split,
            vae=chosen.vae,
            device=pick_device(chosen.device),
            precision=chosen.precision,
            compile_=chosen.compile_,
            batch_size=chosen.given_batch_size(),
            max_memory=chosen.memory_limit(),
            limit=chosen.limit,
            shard=world,
            progress=say_resuming(progress, talk.say, "images"),
            notify=talk.warn,
        )
    toy = " (TOY model)" if record["toy"] else ""
    images = f"{counted(record['images'], 'image')}{toy}"
    if record["complete"]:
        text = f"{images} in {out}, contact sheet: {record['sheet']}\n"
        # of a part of the pairs: evaluate by itself would first generate the others
        default = default and chosen.limit is None
        text += f"next: {evaluate_command(data, out, chosen.split, default=default)}"
    else:
        text = f"{images} of this part in {out}; other parts are not complete"
    if chosen.shard is None and world.size > 1:
        # the process that ended last knows the result; where nothing was left to do, rank 0
        nothing_left = record["complete"] and not record["generated"]
        last = record["finished"] or (nothing_left and world.rank == 0)
        talk = Talk(chosen.as_json, quiet=not last)
    talk.result({"out": str(out), **record}, text=text)


def sample_own(chosen: SampleOptions) -> None:
    """The images of --source in the poses of --pose."""
    from xmdpt_cli.sampling.animation import check_animation
    from xmdpt_cli.sampling.inputs import notes_of
    from xmdpt_cli.sampling.own_images import generate_own_images
    from xmdpt_cli.sampling.pipeline import read_views
    from xmdpt_cli.sampling.pose_files import read_pose_files

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
    with _toy_hint(chosen.model), pipe.encoders.naming_all_missing():
        views = read_views(pipe, chosen.source, chosen.source_keypoints or None, options)
        poses, left_out = read_pose_files(pipe, chosen.pose, options, views[0].size, talk.warn)
    notes = notes_of(views, poses)
    for note in notes:
        talk.say(note)
    if options.pose_size is not None and not any("(--pose-size)" in note for note in notes):
        talk.warn("--pose-size is not used: every pose file contains the size of its image")
    count = len(poses) * chosen.num_images
    batch = chosen.batch(pipe, count, config.steps)
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


@contextmanager
def _toy_hint(model: str | None) -> Iterator[None]:
    """Where keypoints are missing: add to the hint that the toy model is not for photographs."""
    from xmdpt_cli.sampling.user_inputs import NoOpenPoseError

    try:
        yield
    except NoOpenPoseError as err:
        if model is None or Path(model) != pretrained.FOLDER:
            raise
        hint = (
            f"{pretrained.TITLE} knows synthetic people only: for photographs use a published "
            "checkpoint (docs/published-checkpoints.md), or a model that you trained"
        )
        raise XmdptError(err.message, f"{err.hint}\n{hint}") from err


def sample_list(chosen: SampleOptions) -> None:
    """Generate the rows of --pairs; XmdptError at the end if some rows were left out."""
    from xmdpt_cli.sampling.own_images import generate_listed_images
    from xmdpt_cli.sampling.pair_list import read_pair_file

    talk, out = Talk(chosen.as_json), chosen.out
    assert out is not None
    assert chosen.pair_file is not None
    rows = read_pair_file(chosen.pair_file, out)
    options = chosen.input_options()
    pipe = chosen.pipeline()
    config = pipe.sampling_config(**chosen.sampling())
    batch = chosen.batch(pipe, len(rows), config.steps)
    with talk.progress() as progress:
        record = generate_listed_images(
            pipe,
            rows,
            config,
            out,
            options=options,
            square=chosen.square,
            batch=batch,
            progress=progress,
            notify=talk.warn,
        )
    toy = TOY if record["toy"] else ""
    files = [str(out / name) for name in record["files"]]
    text = f"{counted(len(files), 'image')} in {out}, generated{toy}"
    if record["sheet"]:
        text += f"; contact sheet: {out / record['sheet']}"
    for row in record["rows"]:
        if "file" in row:
            row["file"] = str(out / row["file"])
    talk.result({"out": str(out), **record, "files": files}, text=text)
    failed = [row for row in record["rows"] if "error" in row]
    if failed:
        lines = "; ".join(f"line {row['line']}: {row['error']}" for row in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise XmdptError(
            f"{len(failed)} of {len(rows)} rows of {chosen.pair_file} are left out: {lines}{more}",
            failed[0]["hint"]
            or "correct these rows and run the same command again: it generates only them",
        )


def sample_examples(chosen: SampleOptions) -> None:
    """Synthetic people that the toy model was not trained on."""
    from xmdpt_cli.toy.examples import INPUTS, examples_of, generate_examples

    talk, out = Talk(chosen.as_json), chosen.out
    assert out is not None
    warn_if_busy(talk)
    pipe = chosen.pipeline()
    config = pipe.sampling_config(**chosen.sampling())
    examples = examples_of()
    batch = chosen.batch(pipe, len(examples), config.steps)
    with talk.progress() as progress:
        record = generate_examples(
            pipe, examples, config, out, batch=batch, progress=progress, notify=talk.warn
        )
    one, other = examples[0], examples[-1]
    inputs = out / INPUTS
    text = (
        f"{counted(len(examples), 'image')} of synthetic people in {out}, generated{TOY}\n"
        f"contact sheet (source, pose, ground truth, generated): {out / record['sheet']}\n"
        f"next: another pose: xmdpt sample --model toy --source {inputs / one.source_name}.png "
        f"--pose {inputs / other.name}.json"
    )
    talk.result({"out": str(out), **record}, text=text)
