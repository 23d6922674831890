"""M1–M3 against plain loops, brute force and planted truth; see test_activation_files for input."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from planted import STUDY, Arm, names, world, write
from typer.testing import CliRunner

from personaspace.analysis.geometry import GeometryResult, analyse_geometry, cosine_to
from personaspace.analysis.geometry.axis import Axis, Halves, halve, split_cosines
from personaspace.analysis.geometry.cells import Cell, group_files, read_cell
from personaspace.analysis.geometry.collapse import pair_measures
from personaspace.analysis.geometry.compare import leave_one_out_personas
from personaspace.analysis.geometry.grams import Grams
from personaspace.analysis.rows import Row, to_dicts
from personaspace.cli.analysis import geometry as geometry_command
from personaspace.errors import UserError

Vectors = NDArray[np.float64]
FEW: dict[str, Any] = {"permutations": 500, "bootstrap": 200}


def find(result: GeometryResult, metric: str, name: str, condition: str, **more: object) -> Row:
    """The one row of that measure; `recommended` unless told otherwise."""
    wanted = {"metric": metric, "name": name, "condition": condition, "variant": "recommended"}
    rows = [
        row
        for row in result.rows
        if row.target is None
        and all(getattr(row, key) == value for key, value in {**wanted, **more}.items())
    ]
    assert len(rows) == 1, f"{len(rows)} rows for {wanted | more}"
    return rows[0]


def stored(paths: list[Path], condition: str) -> Vectors:
    """Persona vectors as a reader would compute them from a file, `[persona, hidden]`."""
    from safetensors.numpy import load_file

    path = next(path for path in paths if path.name.startswith(f"{condition}."))
    vectors: Vectors = load_file(path)["activations"].astype(np.float64)[:, :, 0].mean(axis=1)
    return vectors


def cosine(a: Vectors, b: Vectors) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def loop_m1(base: Vectors, mine: Vectors) -> tuple[float, float, float]:
    """Mean pair cosines, and the exact sign-flip p, pair by pair and sign by sign."""
    pairs = list(itertools.combinations(range(len(base)), 2))
    before = [cosine(base[i], base[j]) for i, j in pairs]
    after = [cosine(mine[i], mine[j]) for i, j in pairs]
    differences = [b - a for a, b in zip(before, after, strict=True)]
    observed = abs(sum(differences) / len(pairs))
    reached = 0
    for signs in itertools.product([1, -1], repeat=len(pairs)):
        total = sum(s * d for s, d in zip(signs, differences, strict=True))
        reached += abs(total / len(pairs)) >= observed - 1e-12
    return sum(before) / len(pairs), sum(after) / len(pairs), reached / 2 ** len(pairs)


def loop_m2(base: Vectors, mine: Vectors, axis: Vectors, skip: int) -> tuple[float, float, float]:
    """Mean |cosine| with the axis, and the exact p over all relabellings."""
    others = [i for i in range(len(base)) if i != skip]
    before = [abs(cosine(base[i], axis)) for i in others]
    after = [abs(cosine(mine[i], axis)) for i in others]
    n, everything = len(others), before + after
    observed = sum(after) / n - sum(before) / n
    reached, splits = 0, 0
    for chosen in itertools.combinations(range(2 * n), n):
        second = sum(everything[i] for i in chosen)
        reached += (second - (sum(everything) - second)) / n >= observed - 1e-12
        splits += 1
    return sum(before) / n, sum(after) / n, reached / splits


def test_published_tests_equal_plain_loops_where_all_draws_can_be_listed(tmp_path: Path) -> None:
    arms = {**STUDY, "e4-villain": Arm(spread=0.97, shift=0.02, own=0.1)}
    paths = write(tmp_path, world(arms, personas=5, questions=6, hidden=16))
    result = analyse_geometry(paths)
    base, axis_end = stored(paths, "base"), stored(paths, "e0-assistant")
    assistant = names(5).index("assistant")
    for name in ("benign", "e0-assistant", "e4-villain"):
        mine = stored(paths, name)
        row = find(result, "M1", "raw_cosine", name, variant="published")
        assert (row.base, row.value, row.p) == pytest.approx(loop_m1(base, mine), abs=1e-6)
        axis = axis_end[assistant] - base[assistant]
        row = find(result, "M2", "axis_shift", name, variant="published")
        assert (row.base, row.value, row.p) == pytest.approx(
            loop_m2(base, mine, axis, assistant), abs=1e-6
        )
    row = find(result, "M1", "em_vs_benign", "e4-villain", variant="published")
    before, after, p = loop_m1(stored(paths, "benign"), stored(paths, "e4-villain"))
    assert (row.base, row.value, row.p) == pytest.approx((before, after, p), abs=1e-6)
    assert 0 < (row.p or 0) < 1


@pytest.mark.slow
def test_published_tests_of_twelve_personas_equal_drawn_loops(tmp_path: Path) -> None:
    arms = {**STUDY, "e4-villain": Arm(spread=0.99, shift=0.0, own=0.12)}
    paths = write(tmp_path, world(arms))
    result = analyse_geometry(paths)
    base, mine = stored(paths, "base"), stored(paths, "e4-villain")
    pairs = list(itertools.combinations(range(12), 2))
    differences = np.array([cosine(mine[i], mine[j]) - cosine(base[i], base[j]) for i, j in pairs])
    rng, reached, draws = np.random.default_rng(0), 0, 4000
    for _ in range(draws):
        reached += abs((differences * rng.choice([-1, 1], size=66)).mean()) >= abs(
            differences.mean()
        )
    row = find(result, "M1", "raw_cosine", "e4-villain", variant="published")
    p = row.p or 0.0
    assert row.delta == pytest.approx(differences.mean(), abs=1e-6)
    assert row.n == 66 and abs(p - reached / draws) < 5 * math.sqrt(0.25 / draws)
    resampled = [
        rng.choice(np.array([cosine(mine[i], mine[j]) for i, j in pairs]), 66).mean()
        for _ in range(2000)
    ]
    assert row.ci95 == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])), abs=0.002)
    axis = stored(paths, "e0-assistant")[2] - base[2]
    others = [i for i in range(12) if i != 2]
    both = np.array([abs(cosine(v[i], axis)) for v in (base, mine) for i in others])
    observed, reached = both[11:].mean() - both[:11].mean(), 0
    for _ in range(draws):
        shuffled = rng.permutation(both)
        reached += shuffled[11:].mean() - shuffled[:11].mean() >= observed
    row = find(result, "M2", "axis_shift", "e4-villain", variant="published")
    assert row.delta == pytest.approx(observed, abs=1e-6)
    assert row.n == 11 and abs((row.p or 0.0) - reached / draws) < 5 * math.sqrt(0.25 / draws)


def test_published_m3_is_zero_by_construction(tmp_path: Path) -> None:
    result = analyse_geometry(write(tmp_path, world()), **FEW)
    for name in ("benign", "e0-assistant", "e4-villain"):
        row = find(result, "M3", "nearest_centroid", name, variant="published")
        assert (row.value, row.base, row.p) == (0.0, 0.0, 1.0)
        assert "by construction" in (row.note or "")


def test_families_are_those_of_the_study(tmp_path: Path) -> None:
    result = analyse_geometry(write(tmp_path, world(layers=2), methods=("a", "b")), **FEW)
    sizes: dict[str, int] = {}
    for row in result.rows:
        if row.variant == "published" and row.family:
            sizes[row.family] = sizes.get(row.family, 0) + 1
    cells = 4
    assert sizes == {
        "geometry_em_pre_post": cells * 2 * 3,
        "geometry_benign_pre_post": cells,
        "geometry_em_vs_benign": cells * 2,
    }
    assert all((row.p_bh is not None) == bool(row.family) for row in result.rows)
    tested = [r for r in result.rows if r.variant == "recommended" and r.p is not None]
    assert all(row.family for row in tested if not str(row.name).endswith("_delta"))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> GeometryResult:
    folder = tmp_path_factory.mktemp("study")
    return analyse_geometry(write(folder, world(layers=2), methods=("a", "b"), layers=[7, 20]))


@pytest.mark.slow
def test_planted_collapse_lies_inside_the_intervals(study: GeometryResult) -> None:
    truth = world(layers=2).vectors
    pairs = list(itertools.combinations(range(12), 2))
    before = np.mean([cosine(truth["base"][i], truth["base"][j]) for i, j in pairs])
    for name in ("benign", "e0-assistant", "e4-villain"):
        after = np.mean([cosine(truth[name][i], truth[name][j]) for i, j in pairs])
        for method, layer in itertools.product("ab", (7, 20)):
            place = {"method": method, "layer": layer}
            row = find(study, "M1", "raw_cosine_delta", name, **place)
            low, high = row.ci95 or (0, 0)
            assert low <= after - before <= high
            assert low > 0 and (row.p or 1) < 1e-4
            assert row.value == pytest.approx(after - before, abs=0.005)
            spread = find(study, "M1", "spread", name, **place)
            assert spread.effect == pytest.approx(STUDY[name].spread ** 2 - 1, abs=0.05)


def test_benign_is_most_of_the_collapse_and_em_adds_some(study: GeometryResult) -> None:
    truth = world(layers=2).vectors
    mean = {
        name: np.mean([cosine(v[i], v[j]) for i, j in itertools.combinations(range(12), 2)])
        for name, v in truth.items()
    }
    row = find(study, "M1", "em_minus_benign", "e0-assistant", method="a", layer=20)
    low, high = row.ci95 or (0, 0)
    assert 0 < low <= mean["e0-assistant"] - mean["benign"] <= high
    share = find(study, "M1", "benign_share", "e0-assistant", method="a", layer=20)
    low, high = share.ci95 or (0, 0)
    wanted = (mean["benign"] - mean["base"]) / (mean["e0-assistant"] - mean["base"])
    assert low <= wanted <= high and share.value == row.effect


def test_centred_measures_tell_a_common_shift_from_a_collapse(tmp_path: Path) -> None:
    arms = {"base": Arm(own=0), "moved": Arm(shift=3.0), "collapsed": Arm(spread=0.3)}
    result = analyse_geometry(write(tmp_path, world(arms)), **FEW)
    moved = {n: find(result, "M1", n, "moved") for n in ("raw_cosine", "centred_cosine", "spread")}
    # The raw cosine rises although personas stay as far apart as they were.
    assert (moved["raw_cosine"].delta or 0) > 0 and (moved["raw_cosine"].p or 1) < 0.01
    assert abs(moved["spread"].effect or 0) < 0.1 and (moved["spread"].p or 0) > 0.05
    assert (moved["centred_cosine"].value or 0) > 0.5
    assert moved["centred_cosine"].base == pytest.approx(-1 / 11, abs=0.02)
    collapsed = find(result, "M1", "spread", "collapsed")
    assert collapsed.effect == pytest.approx(0.09 - 1, abs=0.05)
    assert (collapsed.p or 1) < 1e-4


def test_planted_shift_is_found_on_the_other_half(study: GeometryResult) -> None:
    for name in ("e0-assistant", "e4-villain"):
        shift = find(study, "M2", "split_half_delta", name, method="a", layer=20)
        assert (shift.ci95 or (0, 0))[0] > 0 and (shift.p or 1) < 1e-3
        own = find(study, "M2", "displacement", name, method="a", layer=20)
        benign = find(study, "M2", "displacement", "benign", method="a", layer=20)
        assert (own.ci95 or (0, 0))[0] > (benign.value or 0)


@pytest.mark.slow
def test_halves_do_not_find_an_axis_in_shared_noise(tmp_path: Path) -> None:
    # The conditions are the base model measured once more: there is no axis at all.
    arms = {"base": Arm(own=0), "e0-assistant": Arm(own=0), "e1-again": Arm(own=0)}
    whole, halves = [], []
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        # A question's noise is the same for all personas of a condition, so it makes an axis.
        drawn = world(arms, personas=8, noise=0.1, seed=seed)
        rng = np.random.default_rng(seed)
        for name in arms:
            drawn.states[name] += rng.normal(0, 1, size=(1, 24, 1, 32))
        paths = write(folder, drawn)
        base, mine = stored(paths, "base"), stored(paths, "e0-assistant")
        axis = mine[2] - base[2]
        whole.append(np.mean([cosine(mine[i] - base[i], axis) for i in range(8) if i != 2]))
        row = find(analyse_geometry(paths, **FEW), "M2", "displacement", "e0-assistant")
        halves.append(row.value or 0.0)
    assert np.mean(whole) > 0.8
    assert abs(np.mean(halves)) < 0.25


def test_separability_is_measured_on_unseen_questions(
    study: GeometryResult, tmp_path: Path
) -> None:
    place = {"method": "b", "layer": 7}
    for classifier in ("nearest_centroid", "lda"):
        base = find(study, "M3", f"{classifier}_above_chance", "base", **place)
        assert (base.value or 0) > 0.97 and (base.p or 1) < 0.001
        assert base.base == pytest.approx(1 / 12)
        row = find(study, "M3", classifier, "e0-assistant", **place)
        assert (row.value or 1) < (row.base or 0) - 0.2
        # Nothing tried has its level: an interval, no p.
        assert row.p is None and row.family is None
        change = find(study, "M3", f"{classifier}_delta", "e0-assistant", **place)
        assert change.ci95 is not None and change.ci95[1] < -0.1
    # Nothing but noise, fewer samples than dimensions: known questions would give 100 %.
    arms = {"base": Arm(spread=0.0, own=0), "e0-assistant": Arm(spread=0.0, own=0)}
    noise = analyse_geometry(write(tmp_path, world(arms, hidden=300)), **FEW)
    for classifier in ("nearest_centroid", "lda"):
        for name in arms:
            row = find(noise, "M3", f"{classifier}_above_chance", name)
            assert abs((row.value or 1) - 1 / 12) < 0.06 and (row.p or 0) > 0.01


def cell_of(folder: Path, valid: dict[str, NDArray[np.bool_]] | None = None, **size: Any) -> Cell:
    paths = write(folder, world(**size), valid=valid)
    return read_cell(group_files(paths, "base")[0], 0)


def some_valid(personas: int, questions: int, seed: int = 0) -> dict[str, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return {name: rng.random((personas, questions)) > 0.1 for name in STUDY}


def test_left_out_questions_equal_a_fresh_computation(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, some_valid(5, 8), personas=5, questions=8)
    gram, without = Grams.of(cell).leave_one_out("benign", "base")
    everything = np.concatenate([cell.states_of("benign"), cell.states_of("base")]).astype(
        np.float64
    )
    valid = np.concatenate([cell.valid, cell.valid])

    def fresh(used: NDArray[np.bool_]) -> Vectors:
        means = np.stack([e[v & used].mean(axis=0) for e, v in zip(everything, valid, strict=True)])
        return np.asarray(means @ means.T)

    assert gram == pytest.approx(fresh(np.ones(8, dtype=bool)), rel=1e-5)
    for question in range(8):
        assert without[question] == pytest.approx(fresh(np.arange(8) != question), rel=1e-4)


def test_pair_measures_by_their_definitions(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, personas=4, questions=6)
    gram, _ = Grams.of(cell).leave_one_out("benign", "base")
    mine, base = cell.vectors("benign"), cell.vectors("base")
    centre = base.mean(axis=0)
    found = pair_measures(gram, of_base=False)
    for i, j in itertools.combinations(range(4), 2):
        assert found["raw_cosine"][i, j] == pytest.approx(cosine(mine[i], mine[j]))
        assert found["centred_cosine"][i, j] == pytest.approx(
            cosine(mine[i] - centre, mine[j] - centre)
        )
        gap = mine[i] - mine[j]
        assert found["spread"][i, j] == pytest.approx(gap @ gap / 2 / (centre @ centre))
    spread = found["spread"][np.triu_indices(4, 1)].mean() * (centre @ centre)
    assert spread == pytest.approx(mine.var(axis=0, ddof=1).sum())


def test_left_out_personas_equal_a_fresh_computation() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(3, 6, 6))
    pairs = pairs + pairs.transpose(0, 2, 1)

    def mean(matrix: Vectors) -> float:
        return float(matrix[np.triu_indices(len(matrix), 1)].mean())

    found = leave_one_out_personas(pairs)
    for q, p in itertools.product(range(3), range(6)):
        rest = np.delete(np.delete(pairs[q], p, axis=0), p, axis=1)
        assert found[q, p] == pytest.approx(6 * mean(pairs[q]) - 5 * mean(rest))
    assert found.mean(axis=1) == pytest.approx([mean(matrix) for matrix in pairs])


def _lengths(
    states: np.ndarray,
    shifts: np.ndarray,
    halves: np.ndarray,
    measures: np.ndarray,
    cell: Cell,
    p: int,
    s: int,
    left_out: int | None = None,
) -> float:
    """Length of a persona's half mean times that of the axis of the other half."""
    used = np.arange(12) != left_out
    vector = states[p][measures[p, s] & used].mean(axis=0)
    direction = shifts[halves[s] & cell.valid[2] & used].astype(np.float64).mean(axis=0)
    return float(np.linalg.norm(vector) * np.linalg.norm(direction))


def test_split_cosines_equal_a_fresh_computation(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, some_valid(5, 12), personas=5, questions=12)
    halves = halve(12, np.random.default_rng(0), halvings=3)
    assert halves.shape == (6, 12) and (halves[:3] == ~halves[3:]).all()
    assert (halves.sum(axis=1) == 6).all()
    others = [0, 1, 3, 4]
    shifts = cell.states_of("e0-assistant")[2] - cell.states_of("base")[2]
    measures = ~halves & cell.valid[others][:, None, :]
    axis = Axis.make(shifts, cell.valid[2], halves)
    base = Halves.make(cell.states_of("base")[others], measures, axis)
    mine = Halves.make(cell.states_of("benign")[others], measures, axis)
    found = split_cosines(mine, measures, axis)
    whole, without = found.whole, found.without
    states = cell.states_of("benign")[others].astype(np.float64)

    def fresh(p: int, s: int, left_out: int | None) -> float:
        used = np.arange(12) != left_out
        vector = states[p][measures[p, s] & used].mean(axis=0)
        direction = shifts[halves[s] & cell.valid[2] & used].astype(np.float64).mean(axis=0)
        return cosine(vector, direction)

    for p, s in itertools.product(range(4), range(6)):
        assert whole[p, s] == pytest.approx(fresh(p, s, None), abs=1e-5)
        for q in range(12):
            assert without[q, p, s] == pytest.approx(fresh(p, s, q), abs=1e-4)
    for p in range(4):
        # How much the jackknife lengthens 1/(length · length), by leaving each question out.
        whole_length = [
            1 / _lengths(states, shifts, halves, measures, cell, p, s) for s in range(6)
        ]
        shorter = [
            np.mean(
                [1 / _lengths(states, shifts, halves, measures, cell, p, s, q) for s in range(6)]
            )
            for q in range(12)
        ]
        longer = 12 - 11 * np.mean(shorter) / np.mean(whole_length)
        assert found.growth[p] == pytest.approx(max(1.0, longer), rel=1e-3)
    states -= cell.states_of("base")[others]
    found = split_cosines(mine.minus(base), measures, axis)
    whole, without = found.whole, found.without
    for p, s in itertools.product(range(4), range(6)):
        assert whole[p, s] == pytest.approx(fresh(p, s, None), abs=1e-5)
        assert without[3, p, s] == pytest.approx(fresh(p, s, 3), abs=1e-4)


@pytest.mark.slow
def test_same_input_same_output_in_any_order(tmp_path: Path) -> None:
    paths = write(tmp_path, world(layers=2, personas=5, questions=9), methods=("b", "a"))
    one = analyse_geometry(paths, **FEW)
    two = analyse_geometry(paths[::-1], **FEW)
    assert json.dumps(to_dicts(one.rows)) == json.dumps(to_dicts(two.rows))
    assert one.cosines.equals(two.cosines)
    other = analyse_geometry(paths, **FEW, seed=7)
    assert json.dumps(to_dicts(one.rows)) != json.dumps(to_dicts(other.rows))


def test_every_cell_has_its_rows_in_order(study: GeometryResult) -> None:
    places = [(row.method, row.layer) for row in study.rows]
    layers = [place for place in places if place[1] is not None]
    assert list(dict.fromkeys(layers)) == [("a", 7), ("a", 20), ("b", 7), ("b", 20)]
    across = [row for row in study.rows if row.layer is None]
    assert [(row.name, row.method) for row in across] == [
        ("convergence_layer", "a"),
        ("convergence_layer", "b"),
    ]
    for variant, name in (("published", "raw_cosine"), ("recommended", "raw_cosine")):
        found = [r for r in study.rows if r.target is None]
        rows = [r for r in found if (r.metric, r.variant, r.name) == ("M1", variant, name)]
        assert len(rows) == 4 * 3 and {row.seed for row in rows} == {42}
    for row in study.rows:
        if row.ci95 is not None and row.value is not None:
            assert row.ci95[0] <= row.value <= row.ci95[1]
        if row.delta is not None and row.variant == "published":
            assert row.delta == pytest.approx((row.value or 0) - (row.base or 0))


def test_cosines_of_all_pairs(study: GeometryResult, tmp_path: Path) -> None:
    table = study.cosines
    assert len(table) == 2 * 2 * 4 * 66
    row = find(study, "M1", "raw_cosine", "benign", variant="published", method="a", layer=7)
    mine = table[(table.method == "a") & (table.layer == 7) & (table.condition == "benign")]
    assert mine.cosine.mean() == pytest.approx(row.value)
    assert (mine.persona_i != mine.persona_j).all()


def test_only_answers_valid_everywhere_are_used(tmp_path: Path) -> None:
    drawn = world(personas=4, questions=8)
    valid = {name: np.ones((4, 8), dtype=bool) for name in STUDY}
    valid["benign"][1, 3] = False
    # What is not valid may be anything.
    drawn.states["benign"][1, 3] = np.nan
    drawn.states["base"][1, 3] = 1000.0
    paths = write(tmp_path, drawn, methods=("b",), valid=valid)
    cell = read_cell(group_files(paths, "base")[0], 0)
    assert not cell.valid[1, 3] and cell.valid.sum() == 31
    kept = np.delete(drawn.states["base"][1, :, 0], 3, axis=0).astype(np.float16)
    assert cell.vectors("base")[1] == pytest.approx(kept.astype(np.float64).mean(axis=0), rel=1e-5)
    result = analyse_geometry(paths, **FEW)
    assert all(row.value is None or math.isfinite(row.value) for row in result.rows)


def test_a_persona_without_any_answer_is_left_out_and_named(tmp_path: Path) -> None:
    valid = {"benign": np.ones((4, 8), dtype=bool)}
    valid["benign"][3] = False
    result = analyse_geometry(write(tmp_path, world(personas=4, questions=8), valid=valid), **FEW)
    assert any("'comedian' is left out" in note for note in result.notes)
    assert find(result, "M1", "raw_cosine", "benign", variant="published").n == 3


@pytest.mark.parametrize("personas, questions", [(2, 8), (3, 2), (12, 3), (4, 1), (1, 5)])
def test_small_studies_leave_out_what_cannot_be_computed(
    tmp_path: Path, personas: int, questions: int
) -> None:
    result = analyse_geometry(write(tmp_path, world(personas=personas, questions=questions)), **FEW)
    published = [row for row in result.rows if row.variant == "published"]
    recommended = [row for row in result.rows if row.variant == "recommended"]
    assert bool(published) == (personas > 1)
    assert bool(recommended) == (personas > 1 and questions > 1)
    if not recommended or questions < 4:
        assert result.notes
    json.dumps(to_dicts(result.rows), allow_nan=False)


def test_conditions_equal_to_base_show_no_effect(tmp_path: Path) -> None:
    drawn = world(personas=5, questions=8)
    drawn.states["e4-villain"] = drawn.states["base"]
    result = analyse_geometry(write(tmp_path, drawn), **FEW)
    for metric, name in (("M1", "raw_cosine"), ("M2", "split_half"), ("M3", "lda")):
        row = find(result, metric, name, "e4-villain")
        assert row.delta == pytest.approx(0, abs=1e-9)
        assert row.p == (None if metric == "M3" else pytest.approx(1.0))


@pytest.mark.slow
def test_seeds_are_compared_with_base_of_the_same_seed_or_the_only_one(tmp_path: Path) -> None:
    drawn = {seed: world(personas=4, questions=6, seed=seed) for seed in (42, 137)}
    paths = [path for seed in drawn for path in write(tmp_path, drawn[seed], seed=seed)]
    both = analyse_geometry(paths, **FEW)
    alone = analyse_geometry([p for p in paths if p.name != "base.seed-137.a.safetensors"], **FEW)
    bases = {
        which: {
            row.seed: row.base
            for row in result.rows
            if (row.metric, row.variant, row.name) == ("M1", "published", "raw_cosine")
        }
        for which, result in (("both", both), ("alone", alone))
    }
    assert set(bases["both"]) == {42, 137}
    assert bases["both"][42] != bases["both"][137]
    assert bases["alone"][42] == bases["alone"][137] == bases["both"][42]
    extra = write(tmp_path, world({"base": Arm()}, personas=4, questions=6), seed=9)
    with pytest.raises(UserError, match="which of them goes with seed 137"):
        analyse_geometry(
            [*extra, *(p for p in paths if p.name != "base.seed-137.a.safetensors")], **FEW
        )


def test_without_the_default_axis_m2_is_left_out_with_a_note(tmp_path: Path) -> None:
    drawn = world(personas=4, questions=8)
    drawn.states["e9-other"] = drawn.states.pop("e0-assistant")
    paths = write(tmp_path, drawn)
    result = analyse_geometry(paths, **FEW)
    assert not [row for row in result.rows if row.metric == "M2"]
    assert any("M2 is left out" in note for note in result.notes)
    named = analyse_geometry(paths, **FEW, axis="e9-other")
    assert [row for row in named.rows if row.metric == "M2"]


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"axis": "absent"}, "axis condition 'absent'; there are benign"),
        ({"benign": "absent"}, "benign condition 'absent'"),
        ({"assistant": "absent"}, "persona 'absent'"),
        ({"base": "absent"}, "base condition 'absent' for method a; there are"),
    ],
)
def test_names_that_are_absent(tmp_path: Path, options: dict[str, Any], complaint: str) -> None:
    paths = write(tmp_path, world(personas=3, questions=4))
    with pytest.raises(UserError, match=complaint):
        analyse_geometry(paths, **options)


def test_nothing_to_compare_gives_no_rows_and_says_so(tmp_path: Path) -> None:
    assert analyse_geometry([]).notes == ["there are no activation files"]
    result = analyse_geometry(write(tmp_path, world({"base": Arm()}, personas=3, questions=4)))
    assert not result.rows and "nothing to compare" in result.notes[0]
    assert len(result.cosines) == 3


@pytest.mark.slow
def test_progress_is_told_for_each_layer_method_and_seed(tmp_path: Path) -> None:
    told: list[int] = []
    paths = write(tmp_path, world(personas=3, questions=4, layers=3), methods=("a", "b"))
    analyse_geometry(paths, **FEW, advance=told.append)
    assert told == [1] * 6


def test_cosine_to_the_assistant_from_several_files(tmp_path: Path) -> None:
    paths = write(tmp_path, world({"base": Arm()}, personas=4, questions=6, layers=2))
    found = cosine_to(paths)
    assert list(found) == [0, 1] and list(found[0]) == names(4)
    vectors = stored(paths, "base")
    assert found[0]["assistant"] == pytest.approx(1)
    assert found[0]["villain"] == pytest.approx(cosine(vectors[0], vectors[2]), abs=1e-6)
    with pytest.raises(UserError, match="no activations of persona 'paramedic'"):
        cosine_to(paths, "paramedic")
    with pytest.raises(UserError, match="duplicate persona"):
        cosine_to(paths * 2)
    assert cosine_to([]) == {}


@pytest.fixture
def command() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(geometry_command)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_json_on_the_command_line(tmp_path: Path, command: Callable[..., Any]) -> None:
    paths = write(tmp_path, world(personas=4, questions=8))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not ours")
    done = command(tmp_path, "--json", "--permutations", 300, "--bootstrap", 100)
    assert done.exit_code == 0
    rows = json.loads(done.stdout)["rows"]
    assert rows == to_dicts(analyse_geometry(paths, permutations=300, bootstrap=100).rows)
    assert "adapter_model.safetensors is left out" in done.stderr
    assert {row["variant"] for row in rows} == {"published", "recommended"}


@pytest.mark.slow
def test_table_and_errors_on_the_command_line(tmp_path: Path, command: Callable[..., Any]) -> None:
    write(tmp_path, world(personas=4, questions=8))
    done = command(tmp_path, "--permutations", 100)
    assert done.exit_code == 0 and "e4-villain" in done.stdout
    for folder, complaint in (
        (tmp_path / "absent", "no such folder"),
        (Path("/proc/self/fd"), "no <"),
    ):
        done = command(folder)
        assert isinstance(done.exception, UserError) and complaint in str(done.exception)
