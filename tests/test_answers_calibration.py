"""The benchmark of the tests of answers: every test has a p, and shares are counted rightly."""

from __future__ import annotations

from benchmarks import answers_calibration as calibration


def test_every_p_of_the_table_is_computed() -> None:
    found = calibration.form_study(10, 3) | calibration.text_study(10, 3)
    assert set(found) >= set(calibration.TITLES)
    assert all(0 < p <= 1 for p in found.values())


def test_shares_are_counted_at_each_level() -> None:
    lines = calibration.table({name: [0.005, 0.05, 0.5, 0.9] for name in calibration.TITLES})
    assert len(lines) == 2 + len(calibration.TITLES)
    cells = [cell.split(" [")[0].strip() for cell in lines[2].split("|")[2:-1]]
    assert cells == ["4", "25.0%", "50.0%", "50.0%"]
