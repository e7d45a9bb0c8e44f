"""A run's curves as they grow: one point is seen, epochs are whole, steps stand on a log axis."""

import pytest

from snnfast.reports import plots


@pytest.mark.parametrize("epochs", [1, 2, 5, 300])
def test_epochs_are_whole_numbers(epochs):
    (axes,) = plots.growing([(float(i + 1), 40.0 + i / epochs, "test") for i in range(epochs)], "epoch").axes
    low, high = axes.get_xlim()
    ticks = [t for t in axes.get_xticks() if low <= t <= high]
    assert ticks and all(t == int(t) for t in ticks) and low < 1 and epochs < high
    (line,) = axes.get_lines()
    assert len(line.get_xdata()) == epochs and (line.get_marker() == "o") == (epochs <= 50)


def test_steps():
    found = [(float(t), 10.0, name) for name in ("spiking", "ANN") for t in (1, 2, 4, 8)]
    (axes,) = plots.growing(found, "T").axes
    assert axes.get_xscale() == "log" and [line.get_label() for line in axes.get_lines()] == ["spiking", "ANN"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "8"]
