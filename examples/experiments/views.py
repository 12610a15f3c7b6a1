"""Several views of a person: ``python examples/experiments/views.py --data DIR --model RUN``.

Each view of each item of a split is a target once; the item's other views are the sources. From the
same start noise, images are generated from each view alone, from the view with the nearest pose,
and from all sets of two or more views. These are combined in two ways: as the pipeline does
(condition vectors averaged, tokens joined: ``Sampler.latents``), and by averaging the predictions
from each view in every step, which costs one more forward pass per view. Scores are means over the
sets of views of a row. Prints a Markdown table.

The test split holds only the views of its listed pairs. To measure people that the model was not
trained on, make others (``xmdpt synth --seed 1``), prepare them with the model's encoders
(``xmdpt prepare --encoders DIR``) and use ``--split train``.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.diffusion import sample, start_noise
from xmdpt_cli.encoders.vae import posterior_mean
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.evaluate import ImagePair, evaluate_pairs
from xmdpt_cli.model import XMDPT, TokenConditions
from xmdpt_cli.report.evaluation_json import to_json
from xmdpt_cli.report.tables import Table
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.encoders import vae_for
from xmdpt_cli.sampling.sampler import Sampler, SamplingConfig
from xmdpt_cli.toy.measures import TOY_METRICS

MEASURES = ("ssim_256", "psnr", "torso_colour_error", "silhouette_iou")
Combine = Callable[[Tensor, Conditions, SamplingConfig], Tensor]


class Averaged:
    """A model whose prediction is the mean of its predictions from each view."""

    def __init__(self, model: XMDPT, vectors: list[Tensor], tokens: list[TokenConditions]) -> None:
        by_view: Sequence[TokenConditions | None] = tokens or [None] * len(vectors)
        self.model, self.views = model, list(zip(vectors, by_view, strict=True))

    def denoiser(
        self,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],
        tokens: object = None,
        cache: int = 1,
    ) -> Callable[[Tensor, int], Tensor]:
        """As ``XMDPT.denoiser``: guidance is linear, so guided predictions are averaged."""
        each = [
            self.model.denoiser(vector, timesteps, cfg_scales, view, cache)
            for vector, view in self.views
        ]
        return lambda x, i: torch.stack([predict(x, i) for predict in each]).mean(dim=0)


class Experiment:
    """One model and the items of a split that have more than ``count`` views."""

    def __init__(self, data: str, model: Path, split: str, count: int, limit: int | None) -> None:
        self.sampler, self.dataset = Sampler.load(model), PairDataset(data, split)
        self.vae = vae_for(self.sampler, self.dataset)
        items: dict[str, list[str]] = {}
        for key, view in self.dataset.views():
            items.setdefault(key, []).append(view)
        self.count = count
        self.cases = [
            (key, target, [view for view in views if view != target][:count])
            for key, views in items.items()
            for target in views
            if len(views) > count
        ][:limit]
        if not self.cases:
            raise XmdptError(f"{data}: no item of {split} has {count + 1} views")

    def conditions(self, cases: Sequence[tuple[str, str, list[str]]]) -> Conditions:
        """The conditions of N targets with all their K sources."""
        read, by_view = self.dataset, range(self.count)
        scale = float(self.sampler.metadata["encoders"]["vae"]["scale"])

        def stored(name: str, k: int) -> Tensor:
            return torch.stack([read.tensor(key, sources[k], name) for key, _, sources in cases])

        def maps(k: int | None) -> Tensor:
            views = [(key, to if k is None else sources[k]) for key, to, sources in cases]
            stacked = np.stack([read.pose_map(*view) for view in views])
            return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255

        tokens = self.sampler.model.conditioning == "tokens"
        return Conditions(
            torch.stack([read.tensor(key, target, "pose_tokens") for key, target, _ in cases]),
            torch.stack([stored("source_tokens", k) for k in by_view]),
            torch.stack([posterior_mean(stored("moments", k).float(), scale) for k in by_view]),
            maps(None) if tokens else None,
            torch.stack([maps(k) for k in by_view]) if tokens else None,
        )

    def nearest(self, case: tuple[str, str, list[str]]) -> int:
        """The index of the source with the smallest mean distance of joints to the target's."""
        key, target, sources = case
        wanted = self.dataset.keypoints(key, target)
        offsets = [
            np.linalg.norm(self.dataset.keypoints(key, view) - wanted, axis=1) for view in sources
        ]
        return int(np.argmin([np.nanmean(distances) for distances in offsets]))

    def averaged(self, noise: Tensor, conditions: Conditions, config: SamplingConfig) -> Tensor:
        """As ``Sampler.latents``, but averaging the predictions from each view."""
        sampler, settings = self.sampler, dataclasses.asdict(config)
        del settings["seed"]
        with torch.no_grad():
            views = sampler.encoded(conditions)
        model = Averaged(sampler.model, *views)
        return sample(model, noise, views[0][0], schedule=sampler.schedule, **settings)  # type: ignore[arg-type]

    def generate(
        self, config: SamplingConfig, batch: int = 16
    ) -> dict[str, list[list[ImageArray]]]:
        """The generated images by row of the table, one list for each set of views."""
        found: dict[str, list[list[ImageArray]]] = {}
        for start in range(0, len(self.cases), batch):
            cases = self.cases[start : start + batch]
            given = self.conditions(cases)
            places = list(range(start, start + len(cases)))
            noise = start_noise(self.sampler.model.latent_shape, config.seed, places)
            near = [self.nearest(case) for case in cases]
            for name, combine, sets in self.rows(near):
                by_set = found.setdefault(name, [[] for _ in sets])
                for images, views in zip(by_set, sets, strict=True):
                    latents = combine(noise, given.views(views), config)
                    images += list(self.vae.decode(latents))
        return found

    def rows(self, near: list[int]) -> Iterator[tuple[str, Combine, list[list[list[int]]]]]:
        """Yields (row name, how views are combined, its sets of views).

        A set holds for each view the index of that source for each target.

        ``near``: the nearest source of each target.
        """
        n, rule = len(near), self.sampler.latents
        yield "one view", rule, [[[k] * n] for k in range(self.count)]
        yield "the view whose pose is nearest", rule, [[near]]
        joined = "tokens joined" if self.sampler.model.conditioning == "tokens" else "vectors"
        for size in range(2, self.count + 1):
            sets = [[[k] * n for k in views] for views in combinations(range(self.count), size)]
            yield f"{size} views: predictions averaged", self.averaged, sets
            yield f"{size} views: {joined} (the rule)", rule, sets

    def measure(self, config: SamplingConfig) -> dict[str, dict[str, float]]:
        """The mean scores of every row."""
        extra = TOY_METRICS if self.dataset.manifest["toy"] else ()
        views = [(key, target) for key, target, _ in self.cases]
        ground_truths = [self.dataset.view(*view) for view in views]
        table = {}
        for name, generated in self.generate(config).items():
            scores = []
            for images in generated:
                pairs = [
                    ImagePair(
                        generated=new, ground_truth=image, keypoints=points, name=".".join(view)
                    )
                    for new, (image, points), view in zip(images, ground_truths, views, strict=True)
                ]
                report = evaluate_pairs(pairs, protocol="native", extra=extra, intervals=False)
                scores.append(to_json(report)["rows"]["generated"])
            table[name] = {
                measure: float(np.mean([row[measure] for row in scores]))
                for measure in MEASURES
                if scores[0].get(measure) is not None
            }
        return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--sources", type=int, default=3, help="sources of each target")
    parser.add_argument("--limit", type=int, help="number of targets [all]")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    args = parser.parse_args(arguments)
    experiment = Experiment(args.data, args.model, args.split, args.sources, args.limit)
    config = experiment.sampler.sampling_config(steps=args.steps, guidance=args.guidance)
    scores = experiment.measure(config)
    names = list(next(iter(scores.values())))
    print(f"{len(experiment.cases)} targets, {experiment.count} sources of each, {config}")
    rows = [[row, *(f"{values[name]:.4g}" for name in names)] for row, values in scores.items()]
    print(Table("", ["sources", *names], rows).markdown())


if __name__ == "__main__":
    main()
