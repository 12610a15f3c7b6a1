"""``xmdpt sample --pairs``: the rows of a list."""

from __future__ import annotations

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.sample_modes import TOY
from xmdpt_cli.cli.sample_options import SampleOptions
from xmdpt_cli.errors import XmdptError


def sample_list(chosen: SampleOptions) -> None:
    """Generate the rows of --pairs; XmdptError at the end if some rows were left out."""
    from xmdpt_cli.sampling.batch_size import batch_size
    from xmdpt_cli.sampling.own_images import generate_listed_images
    from xmdpt_cli.sampling.pair_list import read_pair_file

    talk, out = Talk(chosen.as_json), chosen.out
    assert out is not None
    assert chosen.pair_file is not None
    rows = read_pair_file(chosen.pair_file, out)
    options = chosen.input_options()
    pipe = chosen.pipeline()
    config = pipe.sampling_config(**chosen.sampling())
    most = pipe.max_batch or batch_size(pipe.sampler)
    batch = chosen.batch(pipe.sampler, most, len(rows), config.steps)
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
    text = f"{len(files)} images in {out}, generated{toy}"
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
