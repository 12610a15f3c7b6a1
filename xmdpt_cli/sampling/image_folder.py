"""A folder of generated images of a user's own people. Nothing in it is replaced, and nothing is
generated twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import writing
from xmdpt_cli.images import (
    ImageArray,
    fast_png_bytes,
    generated_metadata,
    load_image,
    save_bytes,
    unsquash,
)
from xmdpt_cli.pose.drawing import draw_pose_map
from xmdpt_cli.report.contact_sheet import contact_sheet
from xmdpt_cli.sampling.dataset_images import SHEET, blocks_for
from xmdpt_cli.sampling.generation import ImageRequest, generate_images
from xmdpt_cli.sampling.inputs import Pose, View
from xmdpt_cli.sampling.png_writer import Writer, is_whole, png_text
from xmdpt_cli.sampling.record import (
    OTHER_OUT,
    RECORD,
    differences,
    read_record,
    refuse_others,
    write_record,
)

if TYPE_CHECKING:
    from xmdpt_cli.sampling.config import SamplingConfig
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline

FORMAT = "xmdpt-own-samples"
Metadata = Mapping[str, Any]  # of one image: ``metadata.image_metadata``


class PlannedImage(NamedTuple):
    """An image that the folder should hold."""

    request: ImageRequest
    metadata: Metadata
    name: str


class ImageFolder:
    """Names within ``out`` have forward slashes. ``settings``: what all its images share."""

    def __init__(self, out: Path, settings: Metadata, notify: Callable[[str], None]) -> None:
        self.out, self.settings, self.notify = out, {"format": FORMAT, **settings}, notify
        # some file systems do not tell large letters from small ones
        self._taken = {SHEET, RECORD}
        self._before: dict[str, Any] = {}

    def check(self) -> None:
        """XmdptError if the folder's images were generated otherwise, naming what differs, or if
        its record or sheet, which every run writes anew, is not ours."""
        if (self.out / RECORD).exists():
            with suppress(XmdptError):
                self._before = read_record(self.out)
            if self._before.get("format") != FORMAT:
                raise XmdptError(f"{self.out} holds other samples ({RECORD})", OTHER_OUT)
            refuse_others(self.out, self._before, self.settings)
        read_metadata(self.out / SHEET)

    def begin(self) -> None:
        """The record, before the first image: an interrupted run holds to its settings too."""
        if not self._before:
            write_record(self.out, self.settings)

    def reserve(self, name: str) -> None:
        """A name that a user gave to one image: no other one gets it."""
        self._taken.add(name.casefold())

    def place(self, first: str, metadata: Sequence[Metadata]) -> list[str]:
        """The names of the images of one pose: ``first.png``, or ``first_1.png``, ``first_2.png``
        of several. ``_2`` comes behind ``first`` where these are taken in this run, or in the
        folder by an image of other inputs."""
        kept: list[str] = []  # of other inputs
        for again in count(1):
            stem = first if again == 1 else f"{first}_{again}"
            ends = [""] if len(metadata) == 1 else [f"_{k + 1}" for k in range(len(metadata))]
            names = [f"{stem}{end}.png" for end in ends]
            if not self._taken.isdisjoint(name.casefold() for name in names):
                continue
            there = [read_metadata(self.out / name) for name in names]
            if all(one in (None, dict(own)) for one, own in zip(there, metadata, strict=True)):
                break
            kept.append(names[0])
        if kept:
            self.notify(
                f"{', '.join(kept)} in {self.out}: from another source image, pose or seed; kept, "
                f"the new one is {names[0]}"
            )
        self._taken.update(name.casefold() for name in names)
        return names

    def check_named(self, name: str, metadata: Metadata) -> None:
        """XmdptError if a file of the name that a user gave is there and is another image."""
        there = read_metadata(self.out / name)
        if there is not None and there != metadata:
            differs = ", ".join(differences(there, metadata))
            raise XmdptError(
                f"{self.out / name} is there and was generated otherwise; what differs: {differs}",
                "give another name in the column out, or choose another --out",
            )

    def is_made(self, name: str, metadata: Metadata) -> bool:
        """Whether this very image is there, whole. XmdptError for a file that is not ours."""
        return bool(read_metadata(self.out / name) == metadata) and is_whole(self.out / name)

    def generate(
        self,
        pipe: XMDPTPipeline,
        planned: Sequence[PlannedImage],
        config: SamplingConfig,
        batch: int | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Generate the planned images that are not here; returns how many these were.

        ``progress`` is called with the number of planned images that are here.
        """
        missing = [image for image in planned if not self.is_made(image.name, image.metadata)]
        self.begin()
        done, square = len(planned) - len(missing), bool(self.settings["square"])
        progress(done)
        requests = [image.request for image in missing]
        with Writer() as writer:
            for index, pixels in generate_images(
                pipe, requests, config, batch=batch, square=square, notify=self.notify
            ):
                image = missing[index]
                writer.put(self.out / image.name, pixels, image.metadata)
                done += 1
                progress(done)
        return len(missing)

    def save_sheet(self, rows: Sequence[Sequence[ImageArray]], columns: Sequence[str]) -> None:
        """The contact sheet, which every run writes anew."""
        text = png_text({key: self.settings[key] for key in self.settings if key != "format"})
        with writing(self.out):
            save_bytes(
                self.out / SHEET,
                fast_png_bytes(contact_sheet(rows, columns, blocks=blocks_for(len(rows))), text),
            )

    def finish(
        self, files: Sequence[str], sources: Sequence[str], notes: Sequence[str]
    ) -> dict[str, Any]:
        """Write the record, which names earlier runs' files too; returns this run's own."""
        run = {**self.settings, "sources": list(sources), "notes": list(notes)}
        earlier = {key: list(self._before.get(key, [])) for key in ("files", "sources")}
        kept = [name for name in earlier["files"] if (self.out / str(name)).is_file()]
        record = {
            **run,
            "sources": list(dict.fromkeys([*earlier["sources"], *sources])),
            "files": list(dict.fromkeys([*kept, *files])),
            "sheet": SHEET,
        }
        write_record(self.out, record)
        return {**run, "files": list(files), "sheet": SHEET}


def pair_name(source: str, pose: str) -> str:
    """``person_in_pose``."""
    return f"{_plain(source)}_in_{_plain(pose)}"


def _plain(name: str) -> str:
    """A name that every file system takes, and not too long for two of them."""
    short = re.sub(r"[^\w.()+-]+", "_", name).encode()[:80].decode(errors="ignore")
    return short.strip("_.") or "image"


def read_metadata(path: Path) -> Any:
    """The metadata of an image that xmdpt generated; None: it is not there.

    XmdptError for a file that is not ours. A crash of the machine may leave one of ours empty.
    """
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return None
    metadata = generated_metadata(path)
    if metadata is None:
        raise XmdptError(f"{path} is there and was not generated by xmdpt", "choose another --out")
    return metadata


def sheet_row(
    views: Sequence[View], pose: Pose, files: Sequence[Path], resolution: int, square: bool
) -> list[ImageArray]:
    """A row of the contact sheet: the views of the person, the pose, and the generated images."""
    shape = (lambda image: image) if square else unsquash
    pose_map = draw_pose_map(pose.keypoints, resolution)
    generated = [np.asarray(load_image(file)) for file in files]
    return [*(shape(view.image) for view in views), shape(pose_map), *generated]
