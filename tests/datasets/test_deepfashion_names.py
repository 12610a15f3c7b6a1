"""As many names as DeepFashion In-shop has, both ways; and names that fit into shards."""

from __future__ import annotations

from itertools import islice, product

import pytest

from xmdpt_cli.datasets.builder import KEY_LENGTH, VIEW_LENGTH, item_key, view_name
from xmdpt_cli.utils.deepfashion_names import (
    SUFFIXES,
    ImageName,
    match_key,
    match_name,
    parse_name,
)

CATEGORIES = {
    "MEN": "Denim Jackets_Vests Pants Shirts_Polos Shorts Suiting Sweaters Sweatshirts_Hoodies "
    "Tees_Tanks",
    "WOMEN": "Blouses_Shirts Cardigans Denim Dresses Graphic_Tees Jackets_Coats Leggings Pants "
    "Rompers_Jumpsuits Shorts Skirts Sweaters Sweatshirts_Hoodies Tees_Tanks",
}
VIEWS = ("1_front", "2_side", "3_back", "4_full", "5_flat", "6_flat", "7_additional")
COUNT = 52_712  # images of the In-shop benchmark


def all_names() -> list[ImageName]:
    """COUNT distinct names over every category, kind of view, and colours 01 to 12."""
    folders = [(g, c) for g, names in CATEGORIES.items() for c in names.split()]
    assert len(folders) == 23
    parts = product(range(1, 8000, 37), range(1, 13), folders, VIEWS)
    return [
        ImageName(gender, category, f"{item:08d}", f"{colour:02d}", *view.split("_"))
        for item, colour, (gender, category), view in islice(parts, COUNT)
    ]


def test_as_many_names_as_the_benchmark_round_trip_and_none_collide() -> None:
    names = all_names()
    assert len(set(names)) == COUNT
    for name in names:
        assert parse_name(name.flat) == name == parse_name(name.path)
        assert parse_name(f"img_highres/{name.path}").flat == name.flat
    for form in (lambda n: n.flat, lambda n: n.path, lambda n: n.key):
        assert len({form(name) for name in names}) == COUNT
    # the published keys are used as they are
    assert all(item_key(name.item_key) == name.item_key for name in names)
    assert {view_name(name.view) for name in names} == set(VIEWS)


@pytest.mark.parametrize("prefix", ["", "256-", "img/", "512-img/", "256_", "fashion/train/"])
def test_database_keys_with_any_prefix(prefix: str) -> None:
    name = parse_name("MEN/Shirts_Polos/id_00001802/02_4_full.jpg")
    for form in (name.path, name.flat, name.path[:-4], name.flat[:-4]):
        assert match_key(prefix + form) == name
    assert match_key("length") is None
    assert match_key("256-00012") is None


def test_women_is_never_read_as_men() -> None:
    name = parse_name("fashionWOMENDenimid0000000101_1front.jpg")
    assert (name.gender, name.category) == ("WOMEN", "Denim")
    assert match_key("XWOMEN/Denim/id_00000001/01_1_front.jpg") is None


def test_suffixes_in_any_case_are_kept() -> None:
    for suffix in (*SUFFIXES, "JPG", "Png"):
        name = match_name(f"a b (1)/WOMEN/Denim/id_00000001/01_1_front.{suffix}")
        assert name is not None
        assert name.suffix == suffix
        assert name.key == "WOMEN-Denim-id_00000001-01/1_front"
    assert match_name("WOMEN/Denim/id_00000001/01_1_front.txt") is None


def test_short_names_keep_distinct_names_distinct_and_fit_a_tar_header() -> None:
    names = [
        "alice", "Alice", "Álice", "A\u0301lice", "al ice", "al-ice", "al.ice", "al/ice", "al_ice",
        "日本", "日木", "", "x" * 40, "x" * 41, "x" * 42, "alice-0123abcd", "a" * 300, "-", "--",
    ]  # fmt: skip
    names += [
        item_key(name) for name in ("Álice", "al ice", "日本")
    ]  # somebody's folder is so called
    for make, length in ((item_key, KEY_LENGTH), (view_name, VIEW_LENGTH)):
        shortened = [make(name) for name in names]
        assert len(set(shortened)) == len(names)
        assert all(0 < len(s) <= length and s.isascii() for s in shortened)
        assert not any(set(s) & set("./ ") for s in shortened)
    assert item_key("alice") == "alice"
    assert item_key("Zoë (2)").startswith("Zoe-2-")
    assert KEY_LENGTH + 1 + VIEW_LENGTH + len(".keypoints.npy") < 100
