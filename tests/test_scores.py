"""Room 8: scores and calibration are those of the literature; the curves show the history."""

import types

import numpy as np
import pytest

import CatDogClassifier as program
from CatDogClassifier import apply_temperature, calibration_bins, confidence_threshold, wilson


def both(second):
    """Probabilities (N, 2) of two classes, from those of the second."""
    second = np.asarray(second, np.float64)
    return np.stack([1 - second, second], axis=1)


def column(*labels):
    """Labels as the program has them: float32 (N, 1)."""
    return np.array(labels, np.float32)[:, None]


# Table I, method 3, of R. G. Newcombe, Statistics in Medicine 17 (1998).
NEWCOMBE = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)]
NEWCOMBE += [(0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)]


@pytest.mark.parametrize(("correct", "total", "low", "high"), NEWCOMBE)
def test_the_interval_is_wilsons_and_stays_within_0_and_1(correct, total, low, high):
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson(total - correct, total) == pytest.approx((1 - high, 1 - low), abs=5e-5)
    assert (wilson(0, total)[0], wilson(total, total)[1]) == (0.0, 1.0)


def test_scores_count_right_answers_and_the_loss_is_the_mean_cross_entropy():
    found = program.classification_scores(both([0.1, 0.9, 0.6, 0.4, 0.8]), column(0, 1, 0, 1, 1))
    assert (found["correct"], found["total"], found["accuracy"]) == (3, 5, 0.6)
    assert found["interval"] == wilson(3, 5)
    assert found["loss"] == pytest.approx(-np.log([0.9, 0.9, 0.4, 0.4, 0.8]).mean())
    wrong = program.classification_scores(both([0.0, 0.0]), column(1, 1))
    assert (wrong["loss"], wrong["correct"]) == (pytest.approx(-np.log(1e-7)), 0)


def test_precision_and_recall_come_from_the_confusion_table_and_are_none_of_none():
    found = program.precision_recall(np.eye(4)[[0, 0, 1, 1, 0, 1]], column(0, 0, 0, 1, 1, 2))
    assert found["confusion"] == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert found["precision"] == [2 / 3, 1 / 3, None, None]
    assert found["recall"] == [2 / 3, 1 / 2, 0.0, None]


def test_percentages_are_never_rounded_up():
    shares = 0.9996, 1.0, 0.812, np.float32(0.81)
    assert [*map(program.percent, shares)] == ["99.9 %", "100.0 %", "81.2 %", "81.0 %"]


# Calibration, and the curves. ---------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_by_which_answers_were_made_is_found(temperature, classes):
    """Probabilities as honest as can be once they are cooled by it."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (6000, classes))
    powers = np.exp(logits), np.exp(temperature * logits)
    truth, found = (each / each.sum(axis=1, keepdims=True) for each in powers)
    labels = column(*(truth.cumsum(axis=1) < rng.random((6000, 1))).sum(axis=1))
    fitted = program.fit_temperature(found, labels)
    assert fitted == pytest.approx(temperature, rel=0.06)
    assert calibration_bins(apply_temperature(found, fitted), labels)["ece"] < 0.025


def test_a_net_that_was_always_right_does_not_become_certain():
    found, labels = both([0.1, 0.9] * 50), column(*[0, 1] * 50)
    cooled = apply_temperature(found, program.fit_temperature(found, labels))
    assert cooled.max() == pytest.approx(1 - 1 / 102, abs=2e-4)


def test_a_temperature_divides_the_logits_and_keeps_the_answers():
    found = both([0.2, 0.5, 0.999])
    odds = np.log(found[:, 1] / found[:, 0]) / 3
    assert apply_temperature(found, 3)[:, 1] == pytest.approx(1 / (1 + np.exp(-odds)))
    certain = both([0, 1])
    assert apply_temperature(certain, 0.1) == pytest.approx(certain)
    assert np.array_equal(apply_temperature(found, 1), found)


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy():
    found = calibration_bins(both([0.95] * 4 + [0.3] * 2), column(1, 1, 1, 0, 0, 1), bins=10)
    assert found["bins"] == [pytest.approx([0.7, 0.5, 2]), pytest.approx([0.95, 0.75, 4])]
    assert found["ece"] == pytest.approx((2 * 0.2 + 4 * 0.2) / 6)
    assert calibration_bins(both([1.0, 0.0]), column(1, 0)) == {"ece": 0.0, "bins": [[1.0, 1.0, 2]]}


def test_a_threshold_abstains_from_as_few_as_it_can_with_so_few_errors():
    right = column(1, 1, 0, 1, 0, 1, 1, 0)
    curve = program.risk_coverage(both([0.99, 0.98, 0.97, 0.9, 0.9, 0.8, 0.7, 0.6]), right)
    assert [row[1:] for row in curve] == [[0, 1], [0, 2], [1, 3], [2, 5], [2, 6], [2, 7], [3, 8]]
    assert confidence_threshold(curve, 0.0) == (0.98, 0.0, pytest.approx(6 / 8))
    assert confidence_threshold(curve, 0.3) == (0.7, pytest.approx(2 / 7), pytest.approx(1 / 8))
    assert confidence_threshold(curve, 0.5)[0] == 0.6
    assert confidence_threshold(curve[2:], 0.1) == (1.1, 0.0, 1.0)  # nothing is safe
    many = program.risk_coverage(both(np.linspace(0.6, 1, 1000)), np.ones((1000, 1), np.float32))
    assert (len(many), many[-1]) == (256, [pytest.approx(0.6), 0, 1000])


HISTORY = {"acc": [0.5, 0.6, 0.7], "loss": [0.7, 0.6, 0.5]}
HISTORY |= {"val_acc": [1.0, 0.0, 0.0], "val_loss": [4.0, 2.0, 4.0]}
# By the tutorials' moving average, of which 0.8 is kept.
SMOOTHED = [("acc", "Accuracy", [1.0, 0.8, 0.64]), ("loss", "Loss", [4.0, 3.6, 3.68])]


@pytest.mark.parametrize(("name", "title", "smoothed"), SMOOTHED)
def test_the_curves_show_the_history_and_mark_the_best_epoch(name, title, smoothed):
    figure = program.draw_curves(types.SimpleNamespace(history=HISTORY), name, title)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    dots = lines["training"]
    assert (dots.get_marker(), dots.get_linestyle()) == ("o", "None")
    assert dots.get_xydata().tolist() == [[i + 1, y] for i, y in enumerate(HISTORY[name])]
    assert list(lines["validation"].get_ydata()) == HISTORY[f"val_{name}"]
    assert lines["validation, smoothed"].get_ydata() == pytest.approx(smoothed)
    assert lines["best epoch: 2"].get_xdata()[0] == 2 and title in figure.axes[0].get_title()
    assert figure._repr_png_().startswith(b"\x89PNG")  # a notebook shows it by itself
