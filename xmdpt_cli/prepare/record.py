"""How a dataset was prepared (prepare.json), and whether options and a dataset root match it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from typing_extensions import NotRequired, TypedDict

from xmdpt_cli.data.manifest import OPTIONS, SETTINGS
from xmdpt_cli.datasets.listing import Listing
from xmdpt_cli.encoders.identity import PARTS, EncodersRecord, encoder_difference
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.storage.stores import Store
from xmdpt_cli.utils import records
from xmdpt_cli.utils.counts import counted

PREPARE_AGAIN = "prepare it again into a new folder"
Positive = Annotated[int, Ge(1)]


class SourceRecord(TypedDict):
    """The raw dataset that was prepared."""

    sha256: str
    images: int
    items: int


class Poses(TypedDict):
    kind: str
    id: NotRequired[str]
    sha256: NotRequired[str]


class Options(TypedDict):
    """Options of the command that decide what is read; absent in datasets of earlier versions."""

    layout: NotRequired[str]
    pose: NotRequired[str]
    seed: NotRequired[int]
    frame: NotRequired[str]
    batch_size: NotRequired[Positive]


class SettingsRecord(TypedDict):
    """prepare.json."""

    resolution: Positive
    tokens: str
    limit: Positive | None
    items_per_shard: Positive
    dataset: SourceRecord
    poses: Poses
    encoders: EncodersRecord
    options: NotRequired[Options]


@dataclass(frozen=True)
class Record:
    """The settings in prepare.json. ``options`` is empty in datasets of earlier versions."""

    store: Store
    content: dict[str, Any]
    options: dict[str, Any]

    @classmethod
    def read(cls, store: Store) -> Record:
        """Raises XmdptError if prepare.json is missing or damaged."""
        try:
            data = store.read(SETTINGS)
        except OSError:
            raise XmdptError(
                f"{store.url}/{SETTINGS}, which records how the dataset was made, not found",
                PREPARE_AGAIN,
            ) from None
        content = records.parse(SettingsRecord, data, f"{store.url}/{SETTINGS}", PREPARE_AGAIN)
        return cls(store, content, dict(content.get(OPTIONS, {})))

    @property
    def size(self) -> int:
        return int(self.content["resolution"])

    def value(self, name: str, given: Mapping[str, Any], default: Any) -> Any:
        """An option's value: as recorded, else as given, else the default."""
        return self.options.get(name, given.get(name, default))

    def refuse(self, given: Mapping[str, Any]) -> None:
        """Raises ConfigError naming every option in ``given`` that differs from the record."""
        recorded = {
            **self.options,
            "tokens": self.content["tokens"],
            "limit": self.content["limit"],
        }
        recorded["resolution"] = [self.size]
        networks = self.content["encoders"]
        toys = {bool(networks[name].get("toy")) for name in PARTS}
        if "encoders" in given and given["encoders"] in ("toy", "pretrained"):
            recorded["encoders"] = "toy" if toys == {True} else "pretrained"
        differing = [
            f"--{name.replace('_', '-')} {_shown(value)} (recorded: {_shown(recorded[name])})"
            for name, value in given.items()
            if name in recorded and value != recorded[name]
        ]
        if differing:
            raise ConfigError(
                f"{self.store.url} was prepared with other settings: {', '.join(differing)}",
                "leave these options out: the dataset's own record is used",
            )

    def place(self, name: str, given: Mapping[str, Any]) -> str:
        """Folder or hub id of a network: as given, beside the dataset, or as recorded."""
        folder, option, _ = PARTS[name]
        own = given.get(option[2:].replace("-", "_"))
        if own is not None:
            return str(own)
        encoders = given.get("encoders")
        if encoders not in (None, "toy", "pretrained"):
            return str(Path(encoders) / folder)
        if self.store.folder is not None:
            beside = self.store.folder / "encoders" / folder
            if (beside / "config.json").is_file():
                return str(beside)
        recorded = self.content["encoders"][name]
        if recorded.get("toy"):
            raise XmdptError(
                f"{self.store.url} was prepared with a toy network ({recorded['id']}), which "
                f"is not in {self.store.url}/encoders",
                "name the folder that holds it: --encoders DIR",
            )
        return str(recorded["id"])

    def refuse_network(self, name: str, now: Mapping[str, Any], where: str) -> None:
        """XmdptError unless the network at ``where``, described as ``now``, is the recorded one."""
        recorded = self.content["encoders"][name]
        differs = encoder_difference(recorded, now, exact=True)
        if differs:
            raise XmdptError(
                f"{where} is not the network that {self.store.url} was prepared with ({differs})",
                f"name the folder that holds it: {PARTS[name].option} DIR",
            )

    def refuse_detector(self, now: Mapping[str, Any]) -> None:
        """XmdptError unless OpenPose is the recorded one."""
        recorded = self.content["poses"]
        if recorded.get("sha256") != now.get("sha256"):
            raise XmdptError(
                f"the keypoints of {self.store.url} were detected by another OpenPose "
                f"({recorded.get('id')})",
                "name its file: --openpose FILE",
            )

    def refuse_root(self, listing: Listing) -> None:
        """XmdptError unless ``listing`` is what the dataset was made from."""
        recorded = self.content["dataset"]
        if recorded["sha256"] == listing.digest():
            return
        content = f"{counted(recorded['images'], 'image')} of {counted(recorded['items'], 'item')}"
        found = f"{listing.images()} of {len(listing.items)}"
        what = f"it holds {found}, not {content}"
        if (recorded["images"], recorded["items"]) == (listing.images(), len(listing.items)):
            what = "the names of its images, its pairs or its keypoints differ"
        problems = [f"{p.file}: {p.reason}" for p in listing.problems if not p.kept][:3]
        hint = "give the folder it was prepared from as --root; nothing was changed"
        if not self.options:
            hint += "; with --layout, --pose, --frame and --seed if it was made with them"
        raise XmdptError(
            f"{listing.root} is not what {self.store.url} was prepared from: {what}"
            + "".join(f"\n{problem}" for problem in problems),
            hint,
        )


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return "no limit" if value is None else str(value)
