"""The times of the comparison: each table shows those of one measurement."""

from compare_cells import PAIRS, forms_of
from compare_times import add_times, known_times

SETUP = {"strength": 0.5, "seed": 0, "images": 20, "rounds": 5}
HTD, TOOD, BOTH = forms_of(["htd"]), forms_of(["tood"]), forms_of(["htd", "tood"])


def seconds(file, forms, setup=SETUP):
    return list(known_times(file, setup, forms).get("seconds", {}).values())


def test_measurements_are_not_put_together(tmp_path):
    file = tmp_path / "times.json"
    assert seconds(file, HTD) == []
    add_times(file, SETUP, HTD, [0.1, 0.2])
    add_times(file, SETUP, TOOD, [0.3, 0.4])
    assert seconds(file, HTD) == [0.1, 0.2] and seconds(file, TOOD) == [0.3, 0.4]
    assert seconds(file, BOTH) == []


def test_latest_measurement_with_all_forms(tmp_path):
    file = tmp_path / "times.json"
    add_times(file, SETUP, BOTH, [0.1, 0.2, 0.3, 0.4])
    add_times(file, SETUP, HTD, [0.5, 0.6])
    assert seconds(file, HTD) == [0.5, 0.6]
    assert seconds(file, TOOD) == seconds(file, BOTH) == [0.1, 0.2, 0.3, 0.4]
    add_times(file, SETUP, BOTH, [0.7, 0.8, 0.9, 1.0])
    assert seconds(file, HTD) == seconds(file, BOTH) == [0.7, 0.8, 0.9, 1.0]
    assert file.read_text().count(PAIRS["htd"].baseline.config) == 1  # what is not shown again is gone


def test_other_setups_are_kept_apart(tmp_path):
    file = tmp_path / "times.json"
    add_times(file, SETUP, HTD, [0.1, 0.2])
    for key in SETUP:
        other = SETUP | {key: 7}
        assert seconds(file, HTD, other) == []
        add_times(file, other, HTD, [0.3, 0.4])
        assert seconds(file, HTD, other) == [0.3, 0.4]
    assert seconds(file, HTD) == [0.1, 0.2]
