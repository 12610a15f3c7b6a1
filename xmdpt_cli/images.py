"""The one place that decodes, resizes and stores a picture.

Everywhere in the package a picture is a ``uint8`` array (H, W, 3), RGB, C-contiguous.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from xmdpt_cli.errors import XmdptError

Picture = NDArray[np.uint8]


def load_image(path: str | Path) -> Image.Image:
    """Decode one file into an RGB PIL image, upright (EXIF) and on white where transparent.

    Raises XmdptError, naming the file, if it is missing, empty, truncated or no picture.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            image.load()
            upright: Image.Image = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16") or upright.mode == "I":
                # 16-bit greys: Pillow's own conversion clips them to white
                grey = np.asarray(upright, dtype=np.float64) / 257.0
                upright = Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8))
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                rgba = upright.convert("RGBA")
                white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
                upright = Image.alpha_composite(white, rgba)
            return upright.convert("RGB")
    except FileNotFoundError:
        raise XmdptError(f"no such picture: {path}") from None
    except UnidentifiedImageError:
        raise XmdptError(f"not a picture (or empty): {path}") from None
    except Image.DecompressionBombError as err:
        raise XmdptError(f"picture too large to decode safely: {path} ({err})") from None
    except (OSError, SyntaxError, ValueError) as err:
        raise XmdptError(f"broken picture: {path} ({err})") from None


def resize_square(image: Image.Image, size: int) -> Picture:
    """Squash to (size, size, 3) with PIL's antialiased bicubic: the published way, no padding."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8))


def read_picture(path: str | Path, size: int) -> Picture:
    """Decode and squash one file: uint8 (size, size, 3)."""
    return resize_square(load_image(path), size)


def png_bytes(picture: Picture) -> bytes:
    """A picture as a PNG file's bytes."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=6)
    return stream.getvalue()


def save_png(path: str | Path, picture: Picture) -> None:
    """Write a PNG under a temporary name and rename it, so that a file that is there is whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(png_bytes(picture))
    part.replace(path)
