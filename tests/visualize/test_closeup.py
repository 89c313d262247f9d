"""Close-ups: where a box and a point come to lie, what the legend says, and how large it all is."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from htd.visualize.closeup import Bar, Closeup, Style, draw_closeups

GRAY = np.full((120, 160, 3), 128, np.uint8)
BOX, POINTS = Style("a box", "red", "-"), Style("some points", "blue", ".")
HEADING, SIDE, LEGEND = 24, 360, 4 + 24


def is_color(picture, name):
    return np.abs(picture / 255 - to_rgb(name)).max(axis=-1) < 0.2


def test_a_box_fills_its_part_of_the_close_up():
    picture = draw_closeups(GRAY, [[Closeup("", [(BOX, np.array([40, 50, 80, 70.0]))])]])
    assert picture.shape == (HEADING + SIDE + LEGEND, SIDE, 3) and picture.dtype == np.uint8
    rows, columns = is_color(picture[HEADING : HEADING + SIDE], "red").nonzero()
    # 1.3 times its longer side, 52 pixels from (34, 34) on, become 400.
    scale = SIDE / 52
    assert columns.min() == pytest.approx((40 - 34) * scale, abs=3)
    assert columns.max() == pytest.approx((80 - 34) * scale, abs=3)
    assert rows.min() == pytest.approx((50 - 34) * scale, abs=3)
    assert rows.max() == pytest.approx((70 - 34) * scale, abs=3)


def test_image_and_marks_agree():
    image = GRAY.copy()
    image[50:70, 40:80] = (0, 255, 0)
    picture = draw_closeups(image, [[Closeup("", [(BOX, np.array([40, 50, 80, 70.0]))])]])
    part = picture[HEADING : HEADING + SIDE]
    inside, around = is_color(part, "lime").nonzero(), is_color(part, "red").nonzero()
    for mine, other in zip(inside, around, strict=True):
        assert abs((mine.min() + mine.max()) - (other.min() + other.max())) <= 3


def test_points_end_where_they_have_moved():
    ways = np.array([[[50.0, 60], [60, 60]], [[70, 60], [70, 60]]])
    marks = [(BOX, np.array([40, 40, 80, 80.0])), (POINTS, ways)]
    picture = draw_closeups(GRAY, [[Closeup("", marks)]])[HEADING : HEADING + SIDE]
    blue = is_color(picture, "blue")
    for x, thick in ((50, False), (60, True), (70, True)):
        column = int((x - 34) * SIDE / 52)
        assert (blue[:, column - 2 : column + 2].sum(axis=0).max() >= 5) == thick
    assert blue[SIDE // 2 - 2 : SIDE // 2 + 2, int((55 - 34) * SIDE / 52)].any()  # the way
    assert not blue[:, int((65 - 34) * SIDE / 52)].any()


@pytest.mark.parametrize("box", [(-40, 10, 30, 60), (150, 100, 159, 119), (3, 4, 4, 5), (0, 0, 400, 300)])
def test_boxes_at_the_edge_beyond_and_tiny_ones_are_shown_whole(box):
    picture = draw_closeups(GRAY, [[Closeup("", [(BOX, np.array(box, np.float64))])]])
    rows, columns = is_color(picture[HEADING : HEADING + SIDE], "red").nonzero()
    assert 1 <= min(rows.min(), columns.min()) and max(rows.max(), columns.max()) < SIDE - 1


def test_rows_have_one_legend_beneath_that_wraps():
    closeup = Closeup("", [(BOX, np.array([40, 50, 80, 70.0])), (POINTS, np.full((1, 2, 2), 60.0))])
    picture = draw_closeups(GRAY, [[closeup, closeup], [closeup, closeup]])
    assert picture.shape == (2 * (HEADING + SIDE) + 4 + LEGEND, 2 * SIDE + 4, 3)
    legend = picture[-24:]
    assert is_color(legend, "red").any() and is_color(legend, "blue").any()
    nothing = draw_closeups(GRAY, [[Closeup("", [(BOX, np.array([5.0, 5, 5, 5]))])]])
    assert nothing.shape == (HEADING + SIDE + LEGEND, SIDE, 3)
    long = [(Style(f"{'very ' * 5}long name {i}", "red", "-"), np.array([40, 50, 80, 70.0])) for i in (0, 1)]
    assert draw_closeups(GRAY, [[Closeup("", long)]]).shape[0] == HEADING + SIDE + 4 + 2 * 24


def test_something_laid_over_the_image_is_shown_whole():
    over = np.zeros((60, 120, 3), np.uint8)
    over[10:30, 20:80] = (0, 255, 0)
    closeup = Closeup("", [(BOX, np.array([20, 10, 80, 30.0]))], over, full=True)
    part = draw_closeups(GRAY, [[closeup]])[HEADING : HEADING + SIDE]
    assert (part[: SIDE // 4 - 4] == 96).all() and (part[-SIDE // 4 + 4 :] == 96).all()
    # Three times as large, its 60 rows in the middle of the 120 that the square has.
    for color in ("lime", "red"):
        rows, columns = is_color(part, color).nonzero()
        ends = [rows.min(), rows.max(), columns.min(), columns.max()]
        assert ends == pytest.approx([3 * 40, 3 * 60, 3 * 20, 3 * 80], abs=4)


def test_an_outline_is_closed():
    corners = np.array([[40.0, 50], [80, 50], [80, 90], [40, 90]])
    outline = Style("an outline", "blue", "o")
    picture = draw_closeups(GRAY, [[Closeup("", [(outline, corners)])]])
    blue = is_color(picture[HEADING : HEADING + SIDE], "blue")
    low, middle, high = (round(x * SIDE / 52) for x in (6, 26, 46))
    for x, y in ((low, middle), (high, middle), (middle, low), (middle, high)):
        assert blue[y - 2 : y + 3, x - 2 : x + 3].any()
    assert not blue[middle - 5 : middle + 5, middle - 5 : middle + 5].any()
    assert is_color(picture[-24:], "blue").any()


def test_bars_are_as_long_as_their_share():
    bars = [Bar("a half", 0.5, "red"), Bar("all", 1.0, "blue"), Bar("nothing", 0.0, "lime")]
    picture = draw_closeups(GRAY, [[Closeup("", [(BOX, np.array([40, 50, 80, 70.0]))], bars=bars)]])
    assert picture.shape == (HEADING + SIDE + 3 * 24 + LEGEND, SIDE, 3)
    strips = picture[HEADING + SIDE : -LEGEND].reshape(3, 24, SIDE, 3)[:, 12]
    lengths = [is_color(strip, bar.color).sum() for strip, bar in zip(strips, bars, strict=True)]
    assert lengths[0] == pytest.approx(lengths[1] / 2, abs=1) and lengths[1] > 100 and lengths[2] == 0
