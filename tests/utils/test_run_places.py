"""The metadata of a model folder, and the paths that its run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xmdpt_cli.encoders.places import PLACES, with_places, without_places, write_places


def facts(**more: Any) -> dict[str, Any]:
    local = {"kind": "local", "id": "/home/me/nets/vae", "sha256": "1"}
    hub = {"kind": "hub", "id": "facebook/dinov2-base", "sha256": "2"}
    return {"encoders": {"vae": local, "source": hub, "pose": dict(hub), "toy": False}, **more}


def test_paths_go_out_of_the_model_and_come_back_from_its_run(tmp_path: Path) -> None:
    whole = facts(data="/home/me/data", resolution=256)
    public = without_places(whole)
    assert "/home" not in json.dumps(public)
    assert public["encoders"]["vae"] == {"kind": "local", "id": "vae", "sha256": "1"}
    write_places(tmp_path, whole)
    assert with_places(tmp_path / "model", public) == whole
    assert with_places(tmp_path / "elsewhere" / "model", public) == public  # published, or moved
    assert whole == facts(data="/home/me/data", resolution=256)


def test_paths_of_another_network_are_not_taken(tmp_path: Path) -> None:
    write_places(tmp_path, facts(data="/home/me/data"))
    other = without_places(facts())
    other["encoders"]["vae"]["id"] = "another"
    assert with_places(tmp_path / "model", other)["encoders"]["vae"]["id"] == "another"
    old = facts(data="/old/data")  # of an earlier version: the model has the paths itself
    assert with_places(tmp_path / "model", old)["data"] == "/old/data"


def test_broken_places_are_none(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"data": 1, "encoders": 2}', '{"data": [], "encoders": {}}'):
        (tmp_path / PLACES).write_text(text)
        assert "data" not in with_places(tmp_path / "model", without_places(facts()))
