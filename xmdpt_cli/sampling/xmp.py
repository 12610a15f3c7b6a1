"""What a generated image says of itself, in formats that have no text chunks as PNG has.

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


def xmp_packet(told: Mapping[str, str]) -> bytes:
    """``writer.metadata`` as XMP: software, source, and the facts as JSON in ``xmdpt:facts``."""
    software, source, own = (told[key] for key in GENERATED)
    text = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
        f' xmlns:Iptc4xmpExt="{_IPTC}" xmlns:xmdpt="urn:xmdpt:1"'
        f" xmp:CreatorTool={quoteattr(software)} dc:source={quoteattr(source)}"
        f' Iptc4xmpExt:DigitalSourceType="{_ALGORITHM}" xmdpt:facts={quoteattr(own)}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )
    return text.encode()


def embedded(suffix: str, told: Mapping[str, str] | None) -> dict[str, Any]:
    """Arguments of Pillow's ``save`` by which a .webp or .gif carries ``told``."""
    if told is None:
        return {}
    if suffix == ".gif":
        return {"comment": json.dumps(dict(told)).encode()}
    return {"xmp": xmp_packet(told)}


def append_xmp(path: Path, told: Mapping[str, str]) -> None:
    """Add the packet to an MP4 file, as a box at its end: nothing in it moves."""
    packet = xmp_packet(told)
    with path.open("ab") as file:
        file.write(struct.pack(">I4s16s", 24 + len(packet), b"uuid", _XMP_BOX) + packet)
