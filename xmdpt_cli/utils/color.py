"""Converts images to sRGB by their embedded ICC profile (Display P3, Adobe RGB, CMYK).

Images without a profile, or with that of sRGB, are unchanged to the bit.
"""

from __future__ import annotations

import io
import logging
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

log = logging.getLogger(__name__)

#: colour spaces of profiles -> the mode in which an image is given to them
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
#: modes of images that each of them takes
_TAKES = {"RGB": {"RGB", "L", "P", "1"}, "L": {"L", "1"}, "CMYK": {"CMYK"}}
#: a table of few greys, by which the library is faster, is 10 of 255 off for steep curves
_PRECISION = {
    "RGB": ImageCms.Flags.NONE,
    "L": ImageCms.Flags.NOOPTIMIZE,
    "CMYK": ImageCms.Flags.HIGHRESPRECALC,
}
_ROUNDING = 2  # of 255: a profile that moves no colour farther is one of sRGB


def to_srgb(image: Image.Image, name: str) -> Image.Image:
    """Apply the profile of ``image`` (without alpha); returns it unchanged if it has none.

    A profile that is broken or does not fit the image's mode is ignored, with one warning in the
    log per profile.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return image
    found = _transform(profile)
    if isinstance(found, str) or image.mode not in _TAKES[found[0]]:
        reason = found if isinstance(found, str) else f"it is of a {found[0]} image"
        _warn_once(profile, f"{name}: its colour profile is ignored: {reason}")
        return image
    mode, transform = found
    if transform is None:
        return image
    converted = transform.apply(image if image.mode == mode else image.convert(mode))
    converted.info = {k: v for k, v in image.info.items() if k != "icc_profile"}
    return converted


@lru_cache(maxsize=16)  # phones of a few makers, not one profile an image
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None] | str:
    """The mode that a profile is for, and the transform to sRGB, None if it is sRGB already; for
    a broken profile the reason."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        if space not in _MODES:
            return f"it is for the colour space {space}"
        mode = _MODES[space]
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION | _PRECISION[mode],
        )
        return mode, None if _changes_nothing(transform, mode) else transform
    except ImportError:
        return "this Pillow has no LittleCMS"
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError) as err:
        return f"it is broken ({err})"


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    if mode == "CMYK":
        return False
    levels = np.arange(256, dtype=np.uint8)
    grey = np.repeat(levels[:, None], 3, axis=1)  # (256, 3)
    few = levels[::17]  # 16 levels of each channel
    cube = np.stack(np.meshgrid(few, few, few), axis=-1).reshape(-1, 3)
    colours = np.concatenate([grey, cube]) if mode == "RGB" else grey
    given = Image.fromarray(colours[None] if mode == "RGB" else colours[None, :, 0])
    became = np.asarray(transform.apply(given))[0]
    return bool(np.abs(became.astype(int) - colours).max() <= _ROUNDING)


_reported: set[int] = set()  # hashes of profiles


def _warn_once(profile: bytes, text: str) -> None:
    if hash(profile) not in _reported:
        _reported.add(hash(profile))
        log.warning(text)
