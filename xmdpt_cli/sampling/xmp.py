"""Metadata of generated images in formats without text chunks.

WebP and MP4 carry an XMP packet (ISO 16684-1), GIF a comment. The packet names the image as made
by a trained algorithm in IPTC's words, which other programs read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from xmdpt_cli.images import GENERATED

#: marks a box of XMP in an MP4 file (XMP specification, part 3: storage in MPEG-4)
_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_ALGORITHM = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def xmp_packet(text: Mapping[str, str]) -> bytes:
    """``png_writer.png_text`` as XMP: software, source, and JSON in ``xmdpt:metadata``."""
    software, source, own = (text[key] for key in GENERATED)
    packet = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
        f' xmlns:Iptc4xmpExt="{_IPTC}" xmlns:xmdpt="urn:xmdpt:1"'
        f" xmp:CreatorTool={quoteattr(software)} dc:source={quoteattr(source)}"
        f' Iptc4xmpExt:DigitalSourceType="{_ALGORITHM}" xmdpt:metadata={quoteattr(own)}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )
    return packet.encode()


def embedded(suffix: str, text: Mapping[str, str] | None) -> dict[str, Any]:
    """Arguments of Pillow's ``save`` by which a .webp or .gif carries ``text``."""
    if text is None:
        return {}
    if suffix == ".gif":
        return {"comment": json.dumps(dict(text)).encode()}
    return {"xmp": xmp_packet(text)}


def append_xmp(path: Path, text: Mapping[str, str]) -> None:
    """Add the packet to an MP4 file, as a box at its end: nothing in it moves."""
    packet = xmp_packet(text)
    with path.open("ab") as file:
        file.write(struct.pack(">I4s16s", 24 + len(packet), b"uuid", _XMP_BOX) + packet)
