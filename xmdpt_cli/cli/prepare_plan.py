"""The plan that ``xmdpt prepare`` prints before it starts: images, bytes, memory, time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmdpt_cli.cli.console import Talk, duration
from xmdpt_cli.files import human_bytes
from xmdpt_cli.storage.stores import is_url, open_store
from xmdpt_cli.utils.counts import counted
from xmdpt_cli.utils.devices import free_disk, peak_memory

if TYPE_CHECKING:
    from xmdpt_cli.datasets.listing import Listing
    from xmdpt_cli.encoders.bundle import Encoders
    from xmdpt_cli.encoders.openpose import OpenPose
    from xmdpt_cli.prepare.estimate import Estimate
    from xmdpt_cli.prepare.plan import ShardPlan
    from xmdpt_cli.storage.ranks import World


@dataclass(frozen=True)
class Plan:
    """The listing and the settings of a preparation."""

    listing: Listing
    outs: dict[int, str]
    tokens: str
    limit: int | None
    workers: int
    world: World

    def shards(self) -> tuple[list[ShardPlan], list[ShardPlan]]:
        """All shards, and those that are missing at one of the sizes."""
        from xmdpt_cli.data.index import index_name
        from xmdpt_cli.prepare.plan import plan_shards

        plans = plan_shards(self.listing, limit=self.limit)
        there = [set(open_store(out).names()) for out in self.outs.values()]
        done = [p for p in plans if all(index_name(p.name) in names for names in there)]
        return plans, [plan for plan in plans if plan not in done]


def say_plan(
    talk: Talk, plan: Plan, networks: dict[int, Encoders] | None, detector: OpenPose | None
) -> dict[str, Any] | None:
    """Print the remaining work, measured on a few images; returns it, None if nothing is left."""
    from xmdpt_cli.prepare.estimate import estimate

    everything, missing = plan.shards()
    if not missing:
        talk.say(f"plan: complete, {counted(len(everything), 'shard')}")
        return None
    if len(missing) < len(everything):
        there = len(everything) - len(missing)
        talk.say(f"resuming: {there} of {len(everything)} shards are done; plan for the others:")
    numbers = estimate(missing, networks, detector, list(plan.outs), plan.tokens)
    pairs = numbers.pairs
    talk.say(
        f"plan: {counted(sum(numbers.images.values()), 'image')}, {pairs['train']} training and "
        f"{counted(pairs['test'], 'test pair')}, {counted(len(missing), 'shard')}"
    )
    for size, out in plan.outs.items():
        needed = numbers.bytes[size]
        talk.say(f"plan: {size} px into {out}: about {human_bytes(needed)}")
        free = _free(out)
        if free is not None and needed > free:
            talk.warn(f"{out} has room for {human_bytes(free)} only")
    device = None if networks is None else next(iter(networks.values())).vae.device
    memory = None if device is None else peak_memory(device)
    if memory is not None:
        talk.say(
            f"plan: memory on {device}: at least {human_bytes(memory)} (measured on a few images)"
        )
    apart = device is not None and device.type != "cpu"
    seconds = numbers.seconds(plan.workers, plan.world.size, apart)
    talk.say(_time(numbers, seconds))
    return {
        "images": numbers.images,
        "pairs": numbers.pairs,
        "items": numbers.items,
        "shards": len(missing),
        "bytes": {str(size): count for size, count in numbers.bytes.items()},
        "memory_bytes": memory,
        "seconds": None if seconds is None else round(seconds),
        "decode_seconds_per_image": numbers.decode_seconds,
        "encode_seconds_per_image": numbers.encode_seconds,
        "detect_seconds_per_image": numbers.detect_seconds,
        "undetected": numbers.undetected,
    }


def say_toys(talk: Talk, outs: dict[int, str], given: int | None) -> None:
    """Print how long training the toy VAEs takes, unless they exist."""
    from xmdpt_cli.toy.train_encoders import default_steps, vae_seconds

    for size, out in outs.items():
        if not (Path(out) / "encoders" / "vae" / "config.json").is_file():
            steps = given or default_steps(size)
            seconds = vae_seconds(size, steps)
            talk.say(
                f"plan: first train the toy VAE for {size} px, {counted(steps, 'step')}: about "
                f"{duration(seconds)} (measured on a few steps)"
            )


def _time(numbers: Estimate, seconds: float | None) -> str:
    """A line with the total time and the measured times per image."""

    def each(what: str, value: float | None) -> str:
        return f"{what} not measured" if value is None else f"{what} {1000 * value:.0f} ms"

    parts = [each("decoding", numbers.decode_seconds), each("networks", numbers.encode_seconds)]
    if numbers.undetected:
        parts.append(each("OpenPose", numbers.detect_seconds))
    known = "time unknown" if seconds is None else f"about {duration(seconds)}"
    return f"plan: {known} (per image: {', '.join(parts)}; measured on a few images)"


def _free(out: str) -> int | None:
    """Free bytes for a local folder; None for a URL."""
    return None if is_url(out) else free_disk(Path(out))
