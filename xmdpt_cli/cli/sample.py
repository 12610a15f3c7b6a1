"""``xmdpt sample``: a model, and a prepared dataset or your own images -> generated images."""

from __future__ import annotations

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import options_from, quiet_libraries
from xmdpt_cli.cli.sample_modes import sample_examples, sample_list, sample_own, sample_pairs
from xmdpt_cli.cli.sample_options import SampleOptions
from xmdpt_cli.cli.workspace import SAMPLES, datasets, unfinished_datasets
from xmdpt_cli.cli.workspace_defaults import choose_for_sampling, toy_model
from xmdpt_cli.toy import pretrained


@panels(
    {
        "Model and output": "model out vae dino-source dino-pose encoders openpose",
        "Pairs of a dataset": "data split limit shard",
        "Your own images": "source pose pairs source-keypoints pose-size fit pose-fit person "
        "pose-person min-score empty-frames num-images square animate fps",
        "Sampling": "steps solver guidance power interval cache paper seed",
        "Speed and memory": "batch-size max-memory precision compile",
    }
)
@options_from(SampleOptions)
def sample(chosen: SampleOptions) -> None:
    """Generate images of people in given poses.

    Generates the test pairs of the dataset, or your own --source in your own --pose, or the rows of
    a list (--pairs). In a folder without data and models, or with --model toy alone, it generates
    synthetic people with the toy model of the package. Run the same command again to resume:
    existing images in --out are kept. Samples with other settings are refused, and another image or
    pose of the same name gets the suffix _2.
    """
    chosen.check()
    quiet_libraries()
    talk = Talk(chosen.as_json, quiet=chosen.shard is None and chosen.world().rank > 0)
    default = [chosen.model, chosen.data, chosen.vae, chosen.out].count(None) == 4
    own_images = chosen.data is None and (chosen.source or chosen.pair_file) is not None
    examples = not own_images and _wants_examples(chosen)
    if examples and chosen.out is None:
        chosen.out = SAMPLES / pretrained.NAME
    found = choose_for_sampling(
        talk, chosen.model, chosen.data, chosen.vae, chosen.out, own=own_images or examples
    )
    chosen.model, chosen.data = found.model, found.data
    chosen.vae, chosen.out = found.vae, found.out
    if chosen.pair_file is not None:
        sample_list(chosen)
    elif chosen.source is not None:
        sample_own(chosen)
    elif examples:
        sample_examples(chosen)
    else:
        sample_pairs(chosen, default=default)


def _wants_examples(chosen: SampleOptions) -> bool:
    """Whether to generate synthetic people with the toy model: it is named and no data is, or there
    is neither data nor a model."""
    if (chosen.data, chosen.limit, chosen.shard) != (None, None, None):
        return False
    if chosen.model is None and (datasets() or unfinished_datasets()):
        return False
    return toy_model(chosen.model) is not None
