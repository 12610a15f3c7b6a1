"""Which garment goes into which shard, and which rank makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from xmdpt_cli.datasets.listing import Item, Listing
from xmdpt_cli.storage.ranks import World
from xmdpt_cli.utils.splits import SPLITS

T = TypeVar("T")


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be written."""

    name: str  # train-000000.tar
    split: str
    garments: list[Item]

    @property
    def images(self) -> int:
        return sum(len(garment.views) for garment in self.garments)


def plan_shards(
    listing: Listing, garments_per_shard: int = 64, limit: int | None = None
) -> list[ShardPlan]:
    """Which garment goes where: by split, then by key; at most ``limit`` garments per split."""
    plans = []
    for split in SPLITS:
        garments = listing.split(split)[:limit]
        for number, start in enumerate(range(0, len(garments), garments_per_shard)):
            part = garments[start : start + garments_per_shard]
            plans.append(ShardPlan(f"{split}-{number:06d}.tar", split, part))
    return plans


def share(items: Sequence[T], world: World) -> list[T]:
    """The items of one rank: every ``world.size``-th, from its rank on."""
    return list(items[world.rank :: world.size])
