"""Rooms 8 and 10: scores are right and honest, and the curves show the history."""

import numpy as np
import pytest

from CatDogClassifier import draw_curves, overfitted_from, percent, score, score_line, smooth, wilson
from conftest import both


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # 81 of 263 is the example of R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3; as are the others.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(correct, total, low, high):
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_stays_within_0_and_1():
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 20)[0] == 0.0


def test_a_score_counts_the_right_answers():
    probabilities, labels = both([0.1, 0.9, 0.6, 0.4]), np.array([[0.0], [1.0], [0.0], [1.0]])
    assert score(probabilities, labels)["correct"] == 2
    assert score(probabilities, labels)["accuracy"] == 0.5


def test_percentages_are_never_rounded_up():
    assert percent(0.9996) == "99.9 %"
    assert percent(1.0) == "100.0 %"
    assert percent(0.812) == "81.2 %"
    line = score_line({"correct": 1999, "total": 2000, "accuracy": 0.9995, "interval": (0.99718, 0.99991)})
    assert line == "99.9 %  (1999 of 2000; 95 % interval 99.7 to 100.0 %)"


def test_smoothing_is_the_tutorials():
    assert smooth([1.0, 0.0, 0.0]) == pytest.approx([1.0, 0.8, 0.64])
    assert smooth([2.0, 4.0], factor=0.5) == [2.0, 3.0]


HISTORY = {"acc": [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.96, 0.97], "loss": [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05],
           "val_acc": [0.5, 0.6, 0.65, 0.64, 0.63, 0.62, 0.61, 0.6], "val_loss": [0.7, 0.6, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0]}


def test_overfitting_starts_after_the_best_epoch_when_validation_turns_worse_while_training_improves():
    assert overfitted_from(HISTORY, 3) == 4
    assert overfitted_from(HISTORY, 0) is None  # no epoch was better than what it started from
    assert overfitted_from({**HISTORY, "val_loss": [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]}, 8) is None  # still improving
    assert overfitted_from({**HISTORY, "loss": [0.7, 0.6, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6]}, 3) is None  # worse at both
    assert overfitted_from({**HISTORY, "val_loss": [0.9, 0.9, 0.55, 0.6, 0.7, 0.6, 0.7, 0.6]}, 3) is None  # a lucky epoch
    assert overfitted_from({**HISTORY, "val_loss": [0.9, 0.8, 0.7, 0.6, 0.5, 0.6, 0.7, 0.8]}, 5) is None  # too early to say


@pytest.mark.parametrize(("name", "title"), [("acc", "Accuracy"), ("loss", "Loss")])
def test_the_curves_show_the_history_and_mark_the_best_epoch(name, title):
    axes = draw_curves(HISTORY, name, title, 3).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    dots = lines["training"]
    assert dots.get_marker() == "o"
    assert dots.get_linestyle() == "None"
    assert list(dots.get_xdata()) == list(range(1, 9))
    assert list(dots.get_ydata()) == HISTORY[name]
    assert list(lines["validation"].get_ydata()) == HISTORY[f"val_{name}"]
    assert list(lines["validation, smoothed"].get_ydata()) == smooth(HISTORY[f"val_{name}"])
    assert lines["best epoch: 3"].get_xdata()[0] == 3
    assert title in axes.get_title()


def test_a_notebook_can_show_the_figure_by_itself():
    assert draw_curves(HISTORY, "acc", "Accuracy", 3)._repr_png_().startswith(b"\x89PNG")
