"""The drawing: well-formed, every kernel in its place beneath the roof."""

from xml.etree import ElementTree

import pytest

from slipstream.bench.kernels import Kernel, Row
from slipstream.bench.roofline import Frame, draw, intensity, page, picture
from slipstream.bench.samples import gather
from slipstream.graph.cost import Cost
from slipstream.machine import Ceilings, Rate


def rate(value):
    return Rate(value, value, value)


CEILINGS = Ceilings(
    "avx2", 2, *(rate(20e9),) * 2, *(rate(50e9),) * 2, rate(100e9), rate(400e9), rate(50e9)
)


def row(name="linear <a>", rows=1, weights=1000, operations=2000, seconds=1e-6):
    cost = Cost(bytes_weights=weights, operations_int8=operations)
    return Row(Kernel(name, "linear", ("n",)), rows, cost, gather([seconds]), 1e-7, 0.1)


def test_the_drawing_is_well_formed_and_escapes_names():
    root = ElementTree.fromstring(draw("a <title>", [row(), row(rows=8)], CEILINGS))
    titles = [element.text for element in root.iter("title")]
    assert titles[0] == "linear <a>, 1 rows: 2.0 billion/s, 10% of the roof"


def test_a_kernel_is_a_line_through_its_rows():
    root = ElementTree.fromstring(
        draw("t", [row(rows=n, operations=2000 * n) for n in (1, 8)], CEILINGS)
    )
    (line,) = [e for e in root.iter("polyline") if e.get("class") == "kernel"]
    assert len((line.get("points") or "").split()) == 2


def test_intensity_counts_weights_and_keys():
    assert intensity(row()) == 2
    assert intensity(row(weights=0)) == 0


def test_kernels_that_read_nothing_are_not_drawn():
    assert draw("t", [row(weights=0)], CEILINGS).startswith("<p>")


def test_only_the_busiest_are_drawn():
    rows = [row(f"kernel {i}", seconds=1e-6 * (i + 1)) for i in range(20)]
    drawing = draw("t", rows, CEILINGS)
    assert "kernel 19" in drawing and "kernel 3" not in drawing


@pytest.mark.parametrize(("x", "y"), [(1e-9, 1), (1e9, 1e30), (1, 1e9)])
def test_no_point_leaves_the_frame(x, y):
    px, py = Frame(-1, 1, 8, 10).place(x, y)
    assert 0 <= px <= 860 and 0 <= py <= 500


@pytest.mark.parametrize("operations", [2_000, 200_000_000])
def test_the_ceilings_are_named_where_no_kernel_can_be(operations: float) -> None:
    root = ElementTree.fromstring(draw("t", [row(operations=operations), row(rows=8)], CEILINGS))
    words = {e.text: e for e in root.iter("text") if e.get("class") == "limit"}
    assert words.keys() == {"int8 400", "float32 100", "memory 20.0 GB/s"}
    (roof,) = (e.get("points", "") for e in root.iter("polyline") if e.get("class") == "roof")
    (low_x, low_y), (corner_x, corner_y), _ = (map(float, p.split(",")) for p in roof.split())
    memory = words["memory 20.0 GB/s"]
    x, y = float(memory.get("x", "")), float(memory.get("y", ""))
    above = y < corner_y
    slope = (corner_y - low_y) / (corner_x - low_x) if corner_x > low_x else 0
    left = memory.get("text-anchor") == "end" and y < corner_y + slope * (x - corner_x)
    assert above or left


def test_the_page_holds_its_notes():
    assert "<p>5 &lt; 6</p>" in page("t", [row()], CEILINGS, ["5 < 6"])


@pytest.mark.parametrize("weights", [1000, 0])
def test_the_picture_is_svg_that_stands_alone(weights):
    root = ElementTree.fromstring(picture("t", [row(weights=weights)], CEILINGS, ["a & b"]))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.find("{*}style") is not None and root.findtext("{*}desc") == "a & b"
