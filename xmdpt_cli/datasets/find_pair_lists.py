"""Find and read the lists of pairs: the published CSV files, else PIDM's text files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xmdpt_cli.datasets.layouts import Place
from xmdpt_cli.datasets.pair_lists import ListedPair, read_pairs_csv, read_pairs_pidm
from xmdpt_cli.datasets.published_keypoints import STEMS
from xmdpt_cli.utils.problems import Problem
from xmdpt_cli.utils.splits import SPLITS


@dataclass
class PairLists:
    """The pairs of both splits; ``label`` is empty where there is no list."""

    label: str = ""
    pairs: dict[str, list[ListedPair]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_pair_lists(root: Path, places: Sequence[Place]) -> PairLists:
    """For each split the first of the usual lists that is there, root first."""
    lists = PairLists()
    labels = []
    for split in SPLITS:
        names = [f"{stem}-pairs-{split}.csv" for stem in STEMS] + [f"{split}_pairs.txt"]
        there = [place.below(n) for n in names for place in places if n in place.files]
        if not there:
            lists.notes.append(f"pairs of {split}: no list")
            continue
        path = root / there[0]
        csv = path.suffix == ".csv"
        read = (read_pairs_csv if csv else read_pairs_pidm)(path)
        lists.pairs[split] = read.pairs
        lists.problems += read.problems
        lists.notes += read.notes
        family = path.name.split("-pairs-")[0]
        labels.append(f"pairs CSV ({family})" if csv else "PIDM pair lists, target first")
        unused = f" (not used: {', '.join(there[1:])})" if len(there) > 1 else ""
        lists.notes.append(f"pairs of {split}: {there[0]}, {len(read.pairs)} pairs{unused}")
    lists.label = " and ".join(dict.fromkeys(labels))
    return lists
