"""The image types that all commands read: their file names, and how Pillow opens them.

Pillow may open only these types: it would pass EPS files to an external program, for example.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import is_hidden
from xmdpt_cli.utils.counts import counted

if TYPE_CHECKING:  # names are checked without loading Pillow
    from PIL import Image

#: endings of file names, in lower case; of two images of one name the first kind is taken
SUFFIXES = (
    "jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "jpe", "jfif", "avif", "heic",
    "heif",
)  # fmt: skip
#: endings of other image files, which are named where they are left out
OTHER_SUFFIXES = frozenset((
    "3fr", "apng", "arw", "bpg", "cr2", "cr3", "cur", "dcm", "dcr", "dds", "dib", "dng", "emf",
    "eps", "erf", "exr", "fits", "flif", "hdr", "heics", "hif", "icns", "ico", "iiq", "j2k",
    "jp2", "jpf", "jpm", "jpx", "jxl", "jxr", "k25", "kdc", "mef", "mos", "mrw", "nef", "nrw",
    "orf", "pbm", "pcd", "pcx", "pef", "pgm", "pict", "pnm", "ppm", "psb", "psd", "qoi", "raf",
    "ras", "raw", "rw2", "rwl", "sgi", "sr2", "srf", "srw", "svg", "svgz", "tga", "wdp", "wmf",
    "x3f", "xbm", "xcf", "xpm",
))  # fmt: skip
_PLUGINS = ("Jpeg", "Png", "WebP", "Bmp", "Tiff", "Gif", "Avif")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
_HEIF = {"heic", "heif"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_NEEDS_HEIF = "HEIC images need pillow-heif"
HEIF_HINT = "pip install 'xmdpt-cli[heic]'; or save it as JPEG or PNG"


def suffix(name: str) -> str:
    """``DIR/front.JPG`` -> ``jpg``."""
    return PurePath(name).suffix[1:].lower()


def is_image_name(name: str) -> bool:
    """Whether a file of this name is of a type that is read."""
    return suffix(name) in SUFFIXES


def why_not_read(name: str) -> str | None:
    """The reason why an image file is not read; None if it is read, or not an image by its name."""
    ending = suffix(name)
    if ending in _HEIF and not has_heif():
        return f"not read: {_NEEDS_HEIF}, pip install 'xmdpt-cli[heic]'"
    if ending == "avif" and not _has_avif():
        return "not read: AVIF images need Pillow 11.3 or newer"
    return f"not read: images of type .{ending}" if ending in OTHER_SUFFIXES else None


def hint_to_convert(name: str) -> str:
    """A hint for a file that cannot be decoded, by its name; empty if that is not an image's."""
    if suffix(name) in ("tif", "tiff"):
        return "TIFF files with 8 or 16 bits a channel are read: convert it to one, or to PNG"
    return "convert it to JPEG or PNG" if suffix(name) in OTHER_SUFFIXES else ""


def not_read(paths: Iterable[Path]) -> list[Path]:
    """The files that are images of a type that is not read, without hidden ones."""
    return [p for p in paths if not is_hidden(p.name) and why_not_read(p.name) and p.is_file()]


def say_not_read(names: Sequence[str]) -> str:
    """``not read: 3 files: a.raw, b.psd, ...``."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"not read: {counted(len(names), 'file')}: {shown}"


def open_image(source: bytes | Path) -> Image.Image:
    """``Image.open`` for the types of this list alone; only the header is read.

    Raises what Pillow raises, and XmdptError for a HEIC image where pillow-heif is missing.
    """
    from PIL import Image, UnidentifiedImageError

    _load_plugins()
    file: IO[bytes] | Path = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        if not _is_heif(source):
            raise
    _register_heif()
    return Image.open(file, formats=["HEIF"])


@lru_cache(maxsize=1)
def _load_plugins() -> None:
    """Of Pillow's forty readers those of ``_FORMATS``; AVIF's came with Pillow 11.3."""
    from importlib import import_module

    for name in _PLUGINS:
        if find_spec(f"PIL.{name}ImagePlugin") is not None:
            import_module(f"PIL.{name}ImagePlugin")


@lru_cache(maxsize=1)
def _has_avif() -> bool:
    from PIL import Image

    _load_plugins()
    return "AVIF" in Image.OPEN


def has_heif() -> bool:
    """Whether pillow-heif is installed."""
    return find_spec("pillow_heif") is not None


def _is_heif(source: bytes | Path) -> bool:
    """Whether the first bytes are a box ``ftyp`` with a brand of HEIF."""
    if isinstance(source, bytes):
        header = source[:12]
    else:
        with open(source, "rb") as file:
            header = file.read(12)
    return header[4:8] == b"ftyp" and header[8:12] in _HEIF_BRANDS


def _register_heif() -> None:
    from PIL import Image

    if "HEIF" in Image.OPEN:
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise XmdptError(_NEEDS_HEIF, HEIF_HINT) from None
    register_heif_opener()
