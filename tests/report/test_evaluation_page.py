"""The page of an evaluation: self-contained, with the values and the right pairs."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from html_reader import Reader
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.evaluation import Evaluation, Value
from xmdpt_cli.metrics.registry import METRICS
from xmdpt_cli.report.evaluation_charts import MAX_DOTS, histogram, means, scatter
from xmdpt_cli.report.evaluation_page import page, write_page
from xmdpt_cli.report.evaluation_pairs import ranking

KINDS = ("source", "pose", "ground truth", "generated")


def images(name: str) -> dict[str, ImageArray]:
    """A grey of each kind."""
    return {kind: np.full((64, 44, 3), 60 * n, np.uint8) for n, kind in enumerate(KINDS)}


def none(name: str) -> Mapping[str, ImageArray]:
    raise XmdptError(f"no images here: <{name}>")


def report(
    values: Mapping[str, list[Value]],
    protocol: str = "cfld",
    joints: list[int | None] | None = None,
    **change: Any,
) -> Evaluation:
    """Pairs ``p0``, ``p1``, ... with these values; ``copy-source`` has 0.25 everywhere."""
    count = max((len(column) for column in values.values()), default=1)
    images = [
        {
            "name": f"p{i}",
            "joints": None if joints is None else joints[i],
            "rows": {"generated": {metric: column[i] for metric, column in values.items()}},
        }
        for i in range(count)
    ]
    defined = {m: [v for v in c if v is not None and not math.isnan(v)] for m, c in values.items()}
    rows: dict[str, dict[str, Value]] = {
        "generated": {m: sum(c) / len(c) if c else None for m, c in defined.items()},
        "copy-source": dict.fromkeys(values, 0.25),
    }
    counts = {"generated": count, "copy-source": count}
    made = Evaluation(protocol, rows, counts, sizes=["176x256"], images=images)
    for name, value in change.items():
        setattr(made, name, value)
    return made


def read(*reports: Evaluation, show: Any = images, **options: Any) -> Reader:
    return Reader(page(reports, show, **{"title": "A title", **options}))


def captions(text: str) -> list[str]:
    return re.findall(r"<figcaption>(p\d+)<", text)


def hovers(svg: str, kind: str) -> list[str]:
    """The titles of the marks of a class."""
    root = ElementTree.fromstring(svg)
    marks = [mark for mark in root.iter() if mark.get("class") == kind]
    return [mark.findtext("title") or "" for mark in marks]


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    values = {"ssim_256": [i / 40 for i in range(40)], "psnr": [20.0 + i for i in range(40)]}
    path = tmp_path / "new" / "report.html"
    write_page(path, [report(values, joints=[i % 19 for i in range(40)])], images, title="T")
    text = path.read_text("utf-8")
    reader = Reader(text)
    assert reader.tags["img"] == 12 * len(KINDS)
    # images inside the page, or shapes of its own charts
    assert all(source.startswith(("data:image/", "#")) for source in reader.sources)
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    style = re.sub(r"base64,[^\"]*", "", text)
    assert not re.search(r"https?:|//|url\(|@import|\bon\w+=", style)
    svgs = re.findall("<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) == 4  # two metrics: a histogram, a plot over joints
    for svg in svgs:
        ElementTree.fromstring(svg)
    before = path.read_bytes()
    write_page(path, [report(values, joints=[i % 19 for i in range(40)])], images, title="T")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_wide_tables_have_a_scroll_hint() -> None:
    wide = page([report({"ssim_256": [0.5], "psnr": [20.0], "l1": [0.1]})], images, title="T")
    assert "The table scrolls sideways" in wide
    assert '<div class="scroll" tabindex="0"' in wide  # by keys, too
    narrow = page([report({"ssim_256": [0.5], "psnr": [20.0]})], images, title="T")
    assert "The table scrolls sideways" not in narrow


def test_the_table_shows_the_values() -> None:
    made = report(
        {"ssim_256": [0.5, 0.7], "psnr": [math.inf, 20.0], "l1": [0.01239, 0.01241]},
        counts={"generated": 8570, "copy-source": 8570, "reference-set": 101966},
        intervals={"generated": {"ssim_256": (0.51234, 0.68), "l1": (0.0, math.nan)}},
        undefined={"generated": {"ssim_256": 1234}},
    )
    reader = read(made, reference=[{"name": "Ours (paper)", "ssim_256": 0.742, "fid": "6.25"}])
    assert reader.tables[0] == [
        ["", "fid\xa0↓", "ssim_256\xa0↑", "psnr\xa0↑", "l1\xa0↓"],
        ["generated", "–", "0.6000 0.5123 – 0.6800 1,234 undefined", "∞", "0.0124"],
        ["Reference values"],
        [
            "copy-source the source image itself, as if no pose had been transferred",
            *("–", "0.2500", "0.25", "0.2500"),
        ],
        ["Printed in papers"],
        ["Ours (paper)", "6.25", "0.742", "–", "–"],
    ]
    for fact in ("A title", "8,570", "101,966", "176\xa0×\xa0256", "cfld"):
        assert fact in reader.text, fact


def test_different_counts_get_a_column() -> None:
    made = report({"l1": [0.5, 0.7]}, counts={"generated": 2, "copy-source": 1})
    assert [row[-1] for row in read(made).tables[0]] == [
        "images",
        "2",
        "Reference values",
        "1",
    ]


def test_protocols_are_shown_side_by_side() -> None:
    cfld = report({"ssim_256": [0.5, 0.75], "l1": [0.1, 0.1]}, toy=["l1"], notes=["of cfld alone"])
    clean = report({"ssim": [0.5], "l1": [0.125]}, "clean", weights={"fid": "sha256 abc"})
    reader = read(cfld, clean, reference=[{"name": "Paper", "ssim_256": 0.7}])
    assert reader.tables[0] == [
        ["Protocol", "ssim_256\xa0↑", "ssim\xa0↑", "l1\xa0↓ toy"],
        ["cfld", "0.6250", "–", "0.1000"],
        ["clean", "–", "0.5000", "0.1250"],
        ["largest − smallest", "", "", "0.0250"],
        ["Printed in papers"],
        ["Paper", "0.7", "–", "–"],
    ]
    assert [table[1][1] for table in reader.tables[1:3]] == ["0.6250", "0.5000"]
    assert reader.tables[3] == [["Metric", "Weights", "Protocols"], ["fid", "sha256 abc", "clean"]]
    assert reader.text.count("Printed in papers") == 1
    assert "of cfld alone  (cfld)" in reader.text


def test_unknown_metrics_use_the_style_of_their_family() -> None:
    made = report({"lpips_new_v9": [0.123456], "my_own": [1.0]})
    assert "lpips_new_v9" not in METRICS
    header, generated = read(made).tables[0][:2]
    assert header[1:] == ["lpips_new_v9\xa0↓", "my_own"]
    assert generated[1:] == ["0.1235", "1.0000"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"toy": ["fid_toyconv"]}, "Here: fid_toyconv."),
        ({"notes": ["toy: made with toy encoders"]}, "toy: made with toy encoders"),
    ],
)
def test_toy_results_are_marked(change: dict[str, Any], message: str) -> None:
    plain = report({"l1": [0.5]})
    assert "not with any paper" not in read(plain).text
    # also where it is not the first protocol that is one
    text = read(plain, report({"l1": [0.5]}, "clean", **change)).text
    assert "Toy numbers" in text
    assert "not with any paper" in text
    assert text.index("not with any paper") < text.index("Protocol by protocol")
    assert text.count(message) == 1


def test_the_worst_and_best_pairs_are_shown() -> None:
    rng = np.random.default_rng(0)
    ssim, lpips = rng.permutation(40) / 40, rng.permutation(40) / 40
    requested: list[str] = []

    def show(name: str) -> dict[str, ImageArray]:
        requested.append(name)
        return images(name)

    made = report({"ssim_256": ssim.tolist(), "psnr": [1.0] * 40, "lpips_alex": lpips.tolist()})
    text = page([made], show, title="T")
    low, high = np.argsort(ssim), np.argsort(-lpips)
    expected = [*low[:6], *low[:-7:-1], *high[:6], *high[:-7:-1]]
    assert captions(text) == [f"p{i}" for i in expected]
    assert sorted(requested) == sorted({f"p{i}" for i in expected})  # each once, and no others
    assert f"<b>ssim_256 {ssim.min():.4f}</b>" in text
    assert f"<b>lpips_alex {lpips.max():.4f}</b>" in text


def test_pairs_without_a_value_are_not_ranked() -> None:
    values: list[Value] = [None, 30.0, math.inf, math.nan, 10.0, 20.0, math.inf]
    assert ranking(report({"psnr": values}), "psnr") == ([4, 5, 1], [2, 6])
    assert ranking(report({"l1": [0.2, None, 0.1]}), "l1") == ([0], [2])
    assert ranking(report({"l1": [None]}), "l1") == ([], [])
    assert ranking(report({"l1": [0.5] * 20}), "l1") == ([*range(6)], [*range(6, 12)])


def _shown(reader: Reader) -> list[Any]:
    """(kind, image) of every image of a page."""
    found = []
    for source in reader.sources:
        kind, data = source.split(";base64,")
        found.append((kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=int)))
    return found


def test_images_are_shown_in_the_compared_proportions() -> None:
    """A generated square is a squashed figure of 176 x 256."""
    rng = np.random.default_rng(0)
    seen = np.asarray(Image.fromarray(rng.integers(0, 255, (8, 6, 3), np.uint8)).resize((176, 256)))
    square = np.asarray(Image.fromarray(seen).resize((256, 256)))
    large = np.asarray(Image.fromarray(seen).resize((750, 1101)))
    shots = _shown(
        read(report({"l1": [0.5]}), show=lambda name: {"ground truth": large, "generated": square})
    )
    assert [image.shape for _, image in shots] == [(256, 176, 3)] * 2
    assert all(np.abs(image - seen).mean() < 4 for _, image in shots)
    wide = report({"l1": [0.5]}, sizes=["352x512"])
    assert [p.shape for _, p in _shown(read(wide, show=lambda name: {"ground truth": square}))] == [
        (256, 176, 3)
    ]


def test_images_of_several_sizes_keep_their_proportions() -> None:
    rng = np.random.default_rng(0)
    photo = np.asarray(
        Image.fromarray(rng.integers(0, 255, (8, 6, 3), np.uint8)).resize((352, 512))
    )
    pose = np.zeros((64, 44, 3), np.uint8)
    pose[10:20, 10:12] = (255, 0, 85)
    made = report({"l1": [0.5]}, sizes=["352x512", "44x64"])
    reader = read(made, show=lambda name: {"ground truth": photo, "pose": pose})
    kinds, shown = zip(*_shown(reader), strict=True)
    assert kinds == ("data:image/jpeg", "data:image/png")
    assert (shown[1] == pose).all()  # lines without JPEG artefacts
    assert shown[0].shape == (256, 176, 3)
    smaller = np.asarray(Image.fromarray(photo).resize((176, 256)), dtype=int)
    assert np.abs(shown[0] - smaller).mean() < 4


def test_the_page_stays_small_with_noise_images() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 176, 3), np.uint8)
    values = [i / 40 for i in range(40)]
    made = report({"ssim_256": values, "lpips_alex": [abs(v - 0.5) for v in values]})
    assert len(page([made], lambda name: dict.fromkeys(KINDS, noise), title="T")) < 5_000_000


def test_missing_images_show_the_error() -> None:
    reader = read(report({"l1": [0.5, 0.6]}), show=none)
    assert reader.tags["img"] == 0
    assert "No images: no images here: <p0>" in reader.text
    assert "0.5500" in reader.tables[0][1]


def test_names_of_users_are_escaped() -> None:
    def named(name: str) -> Reader:
        """Everything that is a name or a text is this one."""
        made = report({"ssim_256": [0.5], name: [0.5]}, name, joints=[3])
        made.images[0]["name"] = name
        made.rows[name] = {}
        made.notes, made.weights, made.toy, made.sizes = (
            [name, "toy" + name],
            {name: name},
            [name],
            [name],
        )
        one = {name: images("")["ground truth"]}
        reference = [{"name": name, "fid": name, name: 1}]
        return read(made, report({}), show=lambda _: one, title=name, reference=reference)

    nasty = '<script>alert("1")</script>\'&<b>ü'
    reader, plain = named(nasty), named("plain")
    assert reader.tags == plain.tags
    assert reader.text.count(nasty) == plain.text.count("plain") > 20
    refused = read(report({"l1": [0.5]}), show=none)
    assert "no images here: <p0>" in refused.text


def test_names_that_are_not_utf8_are_written(tmp_path: Path) -> None:
    made = report({"l1": [0.5]})
    made.images[0]["name"] = "lone \udc80"
    write_page(tmp_path / "x.html", [made], images, title="T")
    assert "lone \\udc80" in (tmp_path / "x.html").read_text("utf-8")


def test_infinite_and_missing_values_are_counted() -> None:
    values: list[Value] = [math.inf, math.inf, None, 20.0, 22.0]
    made = report({"psnr": values}, joints=[3, 4, 5, 6, None])
    reader = read(made)
    assert "mean ∞; median ∞; 2 infinite (equal images), not in the charts" in reader.text
    assert "; 1 without a value" in reader.text
    assert "Not known for 1 pair," in reader.text
    assert reader.tags["svg"] == 2
    assert "p3: 20.00, 6 joints" in reader.text
    assert "p4: 22.00" not in reader.text


@pytest.mark.parametrize(
    ("values", "charts", "shown"),
    [
        ({"psnr": [math.inf] * 3}, 0, ["p0", "p1", "p2"]),
        ({"psnr": [None, None], "l1": [math.nan, 0.5]}, 2, ["p1"]),
        ({"ssim_256": [0.5]}, 2, ["p0"]),
        ({"ssim_256": [-0.2, -0.2, -0.2]}, 2, ["p0", "p1", "p2"]),
        ({"ssim_256": [1e-9, -1e-9]}, 2, ["p1", "p0"]),
        ({}, 0, []),
    ],
    ids=["all infinite", "undefined", "one pair", "all equal", "tiny", "no metric"],
)
def test_edge_cases(values: dict[str, list[Value]], charts: int, shown: list[str]) -> None:
    text = page([report(values, joints=[5] * 3)], images, title="T")
    reader = Reader(text)
    assert reader.tags["svg"] == charts
    assert captions(text) == shown
    assert ("The only pair with a value" in reader.text) == (len(shown) == 1)
    plain = re.sub(r"base64,[^\"]*", "", text)
    assert not re.search(r"\bnan\b|\binf\b|-0\.0+\b", plain)


def test_no_scatter_plots_without_joints() -> None:
    values = {"ssim_256": [0.1, 0.2, 0.3]}
    assert read(report(values, joints=[1, 2, 3])).tags["svg"] == 2
    reader = read(report(values))
    assert reader.tags["svg"] == 1
    assert "is not known: no plots over joints" in reader.text


def test_the_histogram_counts_every_pair_and_marks_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.05, 3000)
    svg = histogram(values, "ssim_256", 0.70123456, (0.69, 0.71))
    total = 0
    for hover in hovers(svg, "s0"):
        low, high, count = re.fullmatch(r"(.+) – (.+): ([\d,]+) pairs? \(.*%\)", hover).groups()
        here = ((values >= float(low)) & (values < float(high))).sum()
        assert here == int(count.replace(",", ""))
        total += here
    assert total == 3000
    root = ElementTree.fromstring(svg)
    texts = [t.text or "" for t in root.iter("text")]
    assert "mean 0.7012" in texts
    assert all(len(t.partition(".")[2]) <= METRICS["ssim_256"][1] for t in texts)

    # the line of the mean is between the bars around it
    def points(kind: str, title: str = "") -> list[float]:
        """The x of a mark's path."""
        (path,) = [
            mark.get("d")
            for mark in root.iter("path")
            if mark.get("class") == kind and (mark.findtext("title") or "").startswith(title)
        ]
        return [float(point.split()[0]) for point in re.findall(r"[ML] ([\d. -]+)", path)]

    (mean,) = {*points("mean")}
    bar = points("s0", "0.70 – ")
    assert min(bar) - 1 < mean < min(bar) + 0.5 * (max(bar) - min(bar))
    low, high = points("band")
    assert low < mean < high


def test_means_over_joints_group_enough_pairs() -> None:
    joints = np.array([0] + [5] * 100 + [6] * 2 + [10] * 100 + [18])
    values = joints / 10
    found = means(values, joints)
    assert [(numbers, count) for _, _, numbers, count in found] == [
        (range(6), 101),
        (range(6, 19), 103),
    ]
    for at, mean, _, _ in found:
        assert mean == pytest.approx(at / 10)
    assert [(numbers, n) for *_, numbers, n in means(np.ones(1), np.array([7]))] == [
        (range(7, 8), 1)
    ]


def test_many_pairs_are_counted_in_cells() -> None:
    rng = np.random.default_rng(0)
    joints, values = rng.integers(0, 19, 8570), rng.normal(0.7, 0.1, 8570)
    names = [f"p{i}" for i in range(8570)]
    few, many = MAX_DOTS, MAX_DOTS + 1
    assert len(hovers(scatter(values[:few], joints[:few], names[:few], "l1"), "dot")) == few
    assert "dot" not in scatter(values[:many], joints[:many], names[:many], "l1")
    svg = scatter(values, joints, names, "ssim_256")
    assert len(svg) < 30_000
    counts = [int(h.split(" of ")[1].split()[0]) for h in hovers(svg, "knot")]
    assert sum(counts) == 8570
    means_said = [float(re.search(r"mean ([\d.]+)", h)[1]) for h in hovers(svg, "knot")]
    expected = [values[joints == n].mean() for n in range(19)]
    assert means_said == pytest.approx(expected, abs=1e-4)
