"""The ground truth of generated images: a prepared dataset's pairs, or a second folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import torch

from xmdpt_cli.data.dataset import PairDataset
from xmdpt_cli.data.loader import EvalBatch, eval_batches
from xmdpt_cli.encoders.places import find_vae
from xmdpt_cli.encoders.tiny_decoder import TinyDecoder, load_decoder
from xmdpt_cli.encoders.vae import VAE, posterior_mean
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray, load_image
from xmdpt_cli.metrics.evaluate import ImagePair
from xmdpt_cli.metrics.reference_set import ReferenceSet
from xmdpt_cli.sampling.sample_names import sample_names

T = TypeVar("T")
_BATCH = 8  # pairs read, and decoded, together


class Sized(Generic[T]):
    """An iterator with a length hint, for progress."""

    def __init__(self, iterator: Iterator[T], length: int) -> None:
        self._iterator, self._length = iterator, length

    def __iter__(self) -> Iterator[T]:
        return self._iterator

    def __length_hint__(self) -> int:
        return self._length


class DatasetGroundTruth:
    """The pairs of a prepared dataset, and the images that ``xmdpt sample`` generated of them."""

    def __init__(
        self,
        data: str | Path,
        split: str,
        generated: Path,
        device: str = "cpu",
        limit: int | None = None,
        vae: str | None = None,
    ) -> None:
        """``limit``: only the first pairs. ``vae``: of the reconstruction row; None: the dataset's,
        without which the row is left out."""
        self.dataset, self.generated = PairDataset(data, split), generated
        self.height = self.dataset.resolution
        self.toy = bool(self.dataset.manifest["toy"])
        self.notes: list[str] = []  #: for the user: why there is no reconstruction row
        names = sample_names(self.dataset.pairs)[:limit]
        if not generated.is_dir():
            raise XmdptError(f"no such folder: {generated}", "generate first: xmdpt sample --help")
        exists = [(generated / name).is_file() for name in names]
        self.count = sum(exists)
        if not self.count:
            raise XmdptError(
                f"{generated} holds no sample of the {split} pairs of {data} (e.g. {names[0]})",
                f"generate them: xmdpt sample --data {data} --model RUN/model --out {generated}",
            )
        if not all(exists[: self.count]):
            missing = names[exists.index(False)]
            raise XmdptError(
                f"{generated} has gaps: {missing} is missing, images of later pairs exist",
                "run the same sample command again: it generates the missing images",
            )
        self.names = names[: self.count]
        self._numbers = {name: number for number, name in enumerate(names)}
        encoders = self.dataset.manifest["encoders"]
        self.vae: VAE | TinyDecoder | None = None
        try:
            where = find_vae(encoders, data, vae)
            self.vae = load_decoder(where, encoders["vae"], str(data), device=device)
        except XmdptError as err:
            if vae is not None:
                raise
            self.notes.append(f"no row for reconstructions, which need the VAE: {err.message}")

    def pairs(self, rank: int = 0, ranks: int = 1) -> Sized[ImagePair]:
        """The pairs of one of ``ranks`` processes."""
        return Sized(self._pairs(rank, ranks), -(-self.count // ranks))

    def shown(self, name: str) -> dict[str, ImageArray]:
        """The images of a pair for a report, by the name of its sample."""
        pair = self.dataset.pairs[self._numbers[name]]
        return {
            "source": self.dataset.image(pair.key, pair.source),
            "pose": self.dataset.pose_map(pair.key, pair.target),
            "ground truth": self.dataset.image(pair.key, pair.target),
            "generated": np.asarray(load_image(self.generated / name)),
        }

    def reference_set(self) -> ReferenceSet:
        """All training images, or those of the split if there is no training split."""
        try:
            reference = PairDataset(self.dataset.store, "train")
        except XmdptError:
            reference = self.dataset

        def images() -> Sized[ImageArray]:
            views = reference.views()
            return Sized((reference.image(key, view) for key, view in views), len(views))

        def content() -> str:
            shards = reference.manifest["shards"]
            return " ".join(str(s["sha256"]) for s in shards if s["split"] == reference.split)

        return ReferenceSet(images, content)

    def _pairs(self, rank: int, ranks: int) -> Iterator[ImagePair]:
        batches = eval_batches(self.dataset, _BATCH, self.count, part=(rank, ranks))
        for number, batch in enumerate(batches):
            done = (rank + number * ranks) * _BATCH
            rebuilt = self._reconstructed(batch)
            for row in range(len(batch.pairs)):
                name = self.names[done + row]
                yield ImagePair(
                    generated=np.asarray(load_image(self.generated / name)),
                    ground_truth=batch.target_images[row].numpy(),
                    source=batch.source_images[row].numpy(),
                    keypoints=batch.target_keypoints[row].numpy(),
                    name=name,
                    reconstruction=None if rebuilt is None else rebuilt[row],
                )

    def _reconstructed(self, batch: EvalBatch) -> list[ImageArray] | None:
        if self.vae is None:
            return None
        with torch.no_grad():
            moments = batch.target_moments.to(self.vae.device)
            return list(self.vae.decode(posterior_mean(moments, self.vae.scale)))


class FolderGroundTruth:
    """Two folders paired by file name; FID's reference set is ``photographs``."""

    toy = False

    def __init__(self, pairs: list[tuple[str, Path, Path]], photographs: list[Path]) -> None:
        self._named, self._photographs = pairs, photographs
        self.notes: list[str] = []
        self.names = [name for name, _, _ in pairs]
        self.height = load_image(pairs[0][2]).height

    def pairs(self, rank: int = 0, ranks: int = 1) -> Sized[ImagePair]:
        """The pairs of one of ``ranks`` processes."""
        named = self._named[rank::ranks]
        found = (
            ImagePair(np.asarray(load_image(generated)), np.asarray(load_image(target)), name=name)
            for name, generated, target in named
        )
        return Sized(found, len(named))

    def shown(self, name: str) -> dict[str, ImageArray]:
        """Both images of a pair."""
        _, generated, target = next(named for named in self._named if named[0] == name)
        return {
            "ground truth": np.asarray(load_image(target)),
            "generated": np.asarray(load_image(generated)),
        }

    def reference_set(self) -> ReferenceSet:
        def images() -> Sized[ImageArray]:
            read = (np.asarray(load_image(path)) for path in self._photographs)
            return Sized(read, len(self._photographs))

        def content() -> str:
            digests = (hashlib.sha256(path.read_bytes()).digest() for path in self._photographs)
            return hashlib.sha256(b"".join(digests)).hexdigest()

        return ReferenceSet(images, content)


#: what ``xmdpt evaluate`` compares generated images with
GroundTruth: TypeAlias = DatasetGroundTruth | FolderGroundTruth
