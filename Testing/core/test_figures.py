"""Pictures of crops and curves: every grid, right side and proportions, values as given, nothing loaded."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.errors import EnvironmentFault, SettingsError
from VoCoCore.evaluation.boxes import SHOWN, boxes_figure
from VoCoCore.evaluation.curves import curves_figure, series, thinned
from VoCoCore.evaluation.figures import crop_view, crops_figure, draw_crops
from VoCoCore.evaluation.pages import svg_text
from VoCoCore.geometry import Box, Grid, spacing_of, to_ras

SIZE = (40, 30, 24)


def example(counts=(4, 4, 1), crops=2, seed=0, size=SIZE):
    """A volume that is bright on the patient's right, with crops of base size and their labels."""
    rng = np.random.default_rng(seed)
    grid = Grid(size, counts)
    volume = np.broadcast_to(np.linspace(0, 1, size[0])[:, None, None], size).copy()
    edges = np.divide(size, counts)
    starts = rng.uniform(0, 1, (crops, 3)) * (size - edges)
    boxes = [Box(tuple(start), tuple(edges)) for start in starts]
    return volume, grid, boxes, np.stack([grid.overlap_labels(box) for box in boxes])


class Table(HTMLParser):
    """The cells of a page's tables, row by row."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")

    def handle_data(self, data):
        if self.inside and data.strip():
            self.rows[-1].append(data.strip())


@pytest.mark.parametrize("counts", [(2, 2, 1), (3, 3, 1), (4, 4, 1), (5, 5, 1), (3, 3, 2), (4, 4, 2)])
def test_every_grid_can_be_drawn(tmp_path, counts):
    volume, grid, boxes, labels = example(counts, crops=3)
    path = draw_crops(volume, grid, boxes, labels, tmp_path / "new" / "crops.html", labels * 0.5)
    table = Table(path.read_text())
    assert table.rows[0] == ["base", "A: y", "A: l", "B: y", "B: l", "C: y", "C: l"]
    assert [row[0] for row in table.rows[1:]] == [str(i) for i in range(grid.n)]
    shown = np.array([row[1::2] for row in table.rows[1:]], float).T
    np.testing.assert_allclose(shown, labels, atol=5e-4)


@pytest.mark.parametrize("crops", [0, 1, 4, 8])
def test_any_number_of_crops_can_be_drawn(tmp_path, crops):
    volume, grid, boxes, labels = example(crops=max(crops, 1))
    path = draw_crops(volume, grid, boxes[:crops], labels[:crops], tmp_path / "crops.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_page_is_one_file(tmp_path):
    source = draw_crops(*example(), tmp_path / "crops.html").read_text()
    bare = re.sub(r"base64,[\w+/=\s]+", "", source)
    assert "<script" not in bare and not re.search(r"https?:|@import|url\((?!#)", bare)
    assert set(re.findall(r'href="(.)', bare)) <= {"#", "d"}
    ids = re.findall(r'\bid="([^"]+)"', bare)
    assert len(ids) == len(set(ids)) and set(re.findall(r'(?:url\(#|href="#)([\w-]+)', bare)) <= set(ids)
    assert "predicted" not in bare


def test_patients_right_is_on_the_left(tmp_path):
    from matplotlib.image import imread

    volume, grid, _, _ = example()
    picture = imread(draw_crops(volume, grid, [], np.zeros((0, grid.n)), tmp_path / "crops.png"))[..., :3]
    axial = picture[:, : picture.shape[1] // 3].mean(-1)
    inside = axial[axial.shape[0] // 3 : axial.shape[0] // 2]
    third = inside.shape[1] // 3
    assert inside[:, third // 2 : third].mean() > inside[:, 2 * third : -third // 2].mean() + 0.2


def test_boxes_and_numbers_lie_where_geometry_says():
    volume, grid, boxes, labels = example((3, 2, 2), crops=2)
    figure = crops_figure(crop_view(volume, grid, boxes, labels, None, (1.0, 2.0, 5.0)))
    axial, coronal = figure.axes[:2]
    for axes, across in ((axial, 1), (coronal, 2)):
        assert axes.get_xlim() == (SIZE[0], 0) and axes.get_ylim() == (0, SIZE[across])
        assert axes.get_aspect() == (1.0, 2.0, 5.0)[across]
        drawn = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in axes.patches[1::2]]
        wanted = [(b.start[0], b.start[across], b.size[0], b.size[across]) for b in boxes]
        np.testing.assert_allclose(drawn, wanted)
    at = {t.get_text(): t.get_position() for t in axial.texts if t.get_text().isdigit()}
    # The middle of 24 slices belongs to the upper of two layers: the odd classes.
    assert sorted(at, key=int) == ["1", "3", "5", "7", "9", "11"]
    base = grid.boxes()[7]
    assert at["7"] == (base.start[0] + base.size[0] / 2, base.start[1] + base.size[1] / 2)


def test_a_crop_beyond_the_slice_is_dashed():
    volume, grid, _, _ = example()
    boxes = [Box((0, 0, 0), (10, 10, 12)), Box((0, 0, 12), (10, 10, 12)), Box((0, 20, 0), (10, 10, 24))]
    labels = np.stack([grid.overlap_labels(box) for box in boxes])
    axial, coronal = crops_figure(crop_view(volume, grid, boxes, labels, None, (1, 1, 1))).axes[:2]
    styles = [[patch.get_linestyle() == "-" for patch in axes.patches[1::2]] for axes in (axial, coronal)]
    assert styles == [[False, True, True], [False, False, False]]


def test_title_tells_hit_from_miss():
    volume, grid, boxes, labels = example(crops=2)
    guess = np.full_like(labels, np.nan)
    guess[0, labels[0].argmax()] = 0.4
    guess[1, (labels[1].argmax() + 1) % grid.n] = 0.4
    figure = crops_figure(crop_view(volume, grid, boxes, labels, guess, (1, 1, 1)))
    first, second = (axes.get_title(loc="left") for axes in figure.axes[2:])
    assert first.endswith("a hit") and second.endswith("a miss")


@pytest.mark.parametrize("crops", [1, 2, 5])
def test_what_bars_and_diamonds_are_is_said_in_words_within_the_picture(crops):
    volume, grid, boxes, labels = example(crops=crops)
    figure = crops_figure(crop_view(volume, grid, boxes, labels, labels, (1, 1, 1)))
    figure.draw_without_rendering()
    said = figure.axes[-1].xaxis.label
    assert (
        "position label y, share of the crop's volume" in said.get_text()
        and "network predicts" in said.get_text()
    )
    place = said.get_window_extent()
    assert figure.bbox.x0 <= place.x0 and place.x1 <= figure.bbox.x1 and figure.bbox.y0 <= place.y0


@pytest.mark.parametrize("wrong", ["volume", "labels", "predicted", "ending", "spacing"])
def test_what_does_not_fit_is_refused(tmp_path, wrong):
    volume, grid, boxes, labels = example()
    given_ = {"volume": volume, "labels": labels, "predicted": labels, "ending": ".png", "spacing": (1, 1, 1)}
    bad = {
        "volume": volume[:-1],
        "labels": labels[:1],
        "predicted": labels[:, 1:],
        "ending": ".bmp",
        "spacing": (1, 1),
    }
    use = {**given_, wrong: bad[wrong]}
    with pytest.raises(SettingsError):
        draw_crops(
            use["volume"],
            grid,
            boxes,
            use["labels"],
            tmp_path / f"c{use['ending']}",
            use["predicted"],
            use["spacing"],
        )
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault):
        draw_crops(*example(), tmp_path / "file" / "crops.png")


def test_real_ct(tmp_path, shared_data):
    import nibabel

    image = nibabel.load(shared_data / "ct_torso" / "torso_3mm.nii.gz")
    order, flips, affine = to_ras(image.shape, image.affine)
    volume = np.clip((np.flip(image.get_fdata().transpose(order), flips) + 175) / 425, 0, 1)
    _, grid, boxes, labels = example(size=volume.shape)
    path = draw_crops(volume, grid, boxes, labels, tmp_path / "ct.png", spacing=spacing_of(affine))
    assert path.stat().st_size > 50_000


def metrics(*values, split="train", name="loss"):
    return [{"type": "metrics", "step": i, "split": split, "values": {name: v}} for i, v in enumerate(values)]


def test_series_reads_numbers_and_leaves_gaps():
    events = [
        *metrics(1, None, float("inf"), "nan", 2.5),
        {"type": "metrics", "split": "train"},
        *metrics(9, split="val"),
    ]
    steps, values = series(events, "train", "loss")
    np.testing.assert_array_equal(steps, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(values, [1, np.nan, np.nan, np.nan, 2.5])
    assert len(series(events, "train", "unknown")[0]) == 0


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=400),
    most=st.integers(1, 50),
)
def test_thinning_keeps_range_and_mean(values, most):
    data = np.array(values)
    steps, mean, low, high = thinned(np.arange(len(data), dtype=float), data, most)
    assert len(steps) == len(mean) == len(low) == len(high) == min(most, len(data))
    assert np.all(np.diff(steps) > 0)
    fine = np.isfinite(mean)
    assert np.all(low[fine] <= mean[fine] + 1e-6) and np.all(mean[fine] <= high[fine] + 1e-6)
    if np.isfinite(data).any():
        assert (np.nanmin(low), np.nanmax(high)) == (np.nanmin(data), np.nanmax(data))
    else:
        assert not fine.any()


def test_curves_of_any_run(tmp_path):
    assert curves_figure([]) is None and curves_figure([{"type": "started"}]) is None
    events = metrics(*np.random.default_rng(0).normal(size=1000)) + metrics(
        0.1, 0.4, split="val", name="position_accuracy"
    )
    svg = svg_text(curves_figure(events), "curves", 'a "quoted" <description>')
    assert svg.startswith("<svg") and "&quot;quoted&quot; &lt;description>" in svg and "http" not in svg
    assert len(svg) < 300_000


@pytest.mark.parametrize("name", [r"$\nosuch$", "a_$x$_b", "from $5 to $10", "$"])
def test_names_with_dollar_signs_are_no_mathematics(name):
    scores = {measure: np.full((3, 2), 0.5) for measure in SHOWN}
    assert name in svg_text(boxes_figure(scores, [name, "liver"]), "boxes", "d")


@pytest.mark.parametrize("values", [(0.0, 0, 0, 10), (10.0, 10, 10, 0), (0.0, 1, 2, 3, 30), (4.0,)])
def test_whiskers_end_at_the_box_or_outside_it(values):
    scores = {measure: np.array(values)[:, None] for measure in SHOWN}
    axes = boxes_figure(scores, ["liver"]).axes[SHOWN.index("hd95")]
    (box,) = axes.patches
    left, right = (sorted(line[:, 0]) for line in axes.collections[0].get_segments())
    assert left[1] == box.get_x() and right[0] == box.get_x() + box.get_width()
    ends = axes.collections[1].get_segments()
    assert [end[0, 0] for end in ends] == [left[0], right[1]]


def test_importing_draws_nothing_and_needs_no_matplotlib():
    code = "import sys, VoCoCore.evaluation.report; sys.exit(len({'matplotlib', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
