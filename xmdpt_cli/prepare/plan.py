"""Which item goes into which shard, and which rank makes it."""

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
    items: list[Item]

    @property
    def images(self) -> int:
        return sum(len(item.views) for item in self.items)


def plan_shards(
    listing: Listing, items_per_shard: int = 64, limit: int | None = None
) -> list[ShardPlan]:
    """Which item goes where: by split, then by key; at most ``limit`` items per split."""
    plans = []
    for split in SPLITS:
        items = listing.split(split)[:limit]
        for number, start in enumerate(range(0, len(items), items_per_shard)):
            part = items[start : start + items_per_shard]
            plans.append(ShardPlan(f"{split}-{number:06d}.tar", split, part))
    return plans


def share(items: Sequence[T], world: World) -> list[T]:
    """The items of one rank: every ``world.size``-th, from its rank on."""
    return list(items[world.rank :: world.size])
