"""A folder of generated images of a user's own people. No file is replaced, and no image is
generated twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray, generated_metadata, load_image, unsquash
from xmdpt_cli.pose.drawing import draw_pose_map
from xmdpt_cli.sampling.generation import ImageRequest, generate_images
from xmdpt_cli.sampling.inputs import Pose, View
from xmdpt_cli.sampling.png_writer import Writer, whole_png
from xmdpt_cli.sampling.record import (
    OTHER_OUT,
    RECORD,
    SHEET,
    differences,
    read_record,
    refuse_others,
    save_sheet,
    write_record,
)

if TYPE_CHECKING:
    from xmdpt_cli.sampling.pipeline import XMDPTPipeline
    from xmdpt_cli.sampling.sampler import SamplingConfig

FORMAT = "xmdpt-own-samples"
Metadata = Mapping[str, Any]  # of one image: ``generation.describe_image``


@dataclass(frozen=True)
class PlannedImage:
    """An image that the folder should hold, and its name in it."""

    request: ImageRequest
    metadata: Metadata
    name: str


class ImageFolder:
    """``settings``: what all images of the folder share. Names have forward slashes."""

    def __init__(self, out: Path, settings: Metadata, notify: Callable[[str], None]) -> None:
        self.out, self.settings, self.notify = out, {"format": FORMAT, **settings}, notify
        # compared in lower case: some file systems ignore case
        self._taken = {SHEET, RECORD}
        self._before: dict[str, Any] = {}

    def check(self) -> None:
        """XmdptError if the folder holds images of other settings, naming these, or if its record
        or sheet, which every run overwrites, is not one of ours."""
        if (self.out / RECORD).exists():
            with suppress(XmdptError):
                self._before = read_record(self.out)
            if self._before.get("format") != FORMAT:
                raise XmdptError(f"{self.out} holds other samples ({RECORD})", OTHER_OUT)
            refuse_others(self.out, self._before, self.settings)
        read_metadata(self.out / SHEET)

    def reserve(self, name: str) -> None:
        """Keep a name that the user chose from being given to another image."""
        self._taken.add(name.casefold())

    def place(self, first: str, metadata: Sequence[Metadata]) -> list[str]:
        """The names of the images of one pose: ``first.png``, or ``first_1.png``, ``first_2.png``
        of several. ``first`` gets the suffix ``_2`` if these are taken in this run, or in the
        folder by an image of other inputs."""
        kept: list[str] = []  # of other inputs
        for attempt in count(1):
            stem = first if attempt == 1 else f"{first}_{attempt}"
            ends = [""] if len(metadata) == 1 else [f"_{k + 1}" for k in range(len(metadata))]
            names = [f"{stem}{end}.png" for end in ends]
            if not self._taken.isdisjoint(name.casefold() for name in names):
                continue
            existing = [read_metadata(self.out / name) for name in names]
            if all(old in (None, dict(new)) for old, new in zip(existing, metadata, strict=True)):
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
        """XmdptError if the file of a name that the user chose exists and is another image."""
        existing = read_metadata(self.out / name)
        if existing is not None and existing != metadata:
            differs = ", ".join(differences(existing, metadata))
            raise XmdptError(
                f"{self.out / name} exists with other inputs or settings; what differs: {differs}",
                "give another name in the column out, or choose another --out",
            )

    def is_generated(self, image: PlannedImage) -> bool:
        """Whether this image exists and is complete. XmdptError for a file that is not ours."""
        path = self.out / image.name
        return bool(read_metadata(path) == image.metadata) and whole_png(path) is not None

    def generate(
        self,
        pipe: XMDPTPipeline,
        planned: Sequence[PlannedImage],
        config: SamplingConfig,
        batch: int | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Generate the planned images that do not exist; returns their number.

        ``progress`` is called with the number of planned images that exist.
        """
        missing = [image for image in planned if not self.is_generated(image)]
        if planned and not self._before:  # an interrupted run is resumed with the same settings
            write_record(self.out, self.settings)
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
        """Write the contact sheet; every run overwrites it."""
        shared = {key: value for key, value in self.settings.items() if key != "format"}
        save_sheet(self.out, rows, columns, shared)

    def finish(
        self, files: Sequence[str], sources: Sequence[str], notes: Sequence[str]
    ) -> dict[str, Any]:
        """Write the record, which also names the files of earlier runs; returns this run's own."""
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
    """``person_in_pose``, of characters that every file system allows, at most 164 bytes."""

    def plain(name: str) -> str:
        short = re.sub(r"[^\w.()+-]+", "_", name).encode()[:80].decode(errors="ignore")
        return short.strip("_.") or "image"

    return f"{plain(source)}_in_{plain(pose)}"


def read_metadata(path: Path) -> Any:
    """The metadata of an image that xmdpt generated; None if the file does not exist, or is empty,
    as a crash of the machine may leave it. XmdptError for a file that xmdpt did not generate."""
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return None
    metadata = generated_metadata(path)
    if metadata is None:
        raise XmdptError(f"{path} exists and was not generated by xmdpt", "choose another --out")
    return metadata


def sheet_row(
    views: Sequence[View], pose: Pose, files: Sequence[Path], resolution: int, square: bool
) -> list[ImageArray]:
    """A row of the contact sheet: the views of the person, the pose, and the generated images."""
    shaped = [view.image for view in views] + [draw_pose_map(pose.keypoints, resolution)]
    if not square:
        shaped = [unsquash(image) for image in shaped]
    return [*shaped, *(np.asarray(load_image(file)) for file in files)]
