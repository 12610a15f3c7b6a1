"""One test person of a prepared dataset in the poses of others: a contact sheet.

    python examples/one_person_many_poses.py DATA RUN STRIP.png

DATA was made by ``xmdpt prepare``, RUN by ``xmdpt train`` on it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from xmdpt_cli import PairDataset, Sampler
from xmdpt_cli.data.loader import eval_batches
from xmdpt_cli.diffusion import start_noise
from xmdpt_cli.images import save_png
from xmdpt_cli.report.contact_sheet import contact_sheet
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.encoders import vae_for

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data")
parser.add_argument("run")
parser.add_argument("strip")
parser.add_argument("--person", type=int, default=0, help="position of the pair with the person")
parser.add_argument("--poses", type=int, default=6)
arguments = parser.parse_args()

dataset = PairDataset(arguments.data, "test")
sampler = Sampler.load(arguments.run)
vae = vae_for(sampler, dataset)

count = min(arguments.poses, len(dataset))
batch = next(eval_batches(dataset, len(dataset), pose_maps=sampler.model.conditioning == "tokens"))
all_pairs = Conditions.of_batch(batch, vae.scale)
poses_of = all_pairs.rows(slice(count))
person = all_pairs.rows([arguments.person] * count)  # the same source for every pose
conditions = replace(person, pose_tokens=poses_of.pose_tokens, pose_map=poses_of.pose_map)
noise = start_noise(sampler.model.latent_shape, 0, [0] * count)  # the same noise as well
latents = sampler.latents(noise, conditions, sampler.sampling_config())
poses = [dataset.pose_map(pair.key, pair.target) for pair in dataset.pairs[:count]]
source = batch.source_images[arguments.person].numpy()
titles = ["person", *(f"pose {number + 1}" for number in range(count))]
rows = [[None, *poses], [source, *vae.decode(latents)]]
save_png(arguments.strip, contact_sheet(rows, titles))
print(f"{arguments.strip}: the person on the left in {count} poses")
