"""`fit` and `directions`: from labelled pictures to direction files, and what is in these."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddim_edit import Direction, Editor, InversionConfig, MeanDifference, RidgeDirection, fit_direction, load_model
from ddim_edit.directions import ESTIMATORS

from .. import tiny
from ..rounding import ROUNDING
from .conftest import Run, files_in

AGES = {f"{seed:02}.png": 10 + 5 * seed for seed in range(12)}
SUFFIX = ".direction.safetensors"
FEW = "warning: The smaller class has only {} images. An AUC of so few tells little. Label at least 30 of each class."


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A folder of pictures and a CSV of their ages beside it."""
    for seed, name in enumerate(AGES):
        tiny.save_picture(tmp_path / "faces" / name, seed)
    lines = ["file,age,female", *(f"{name},{age},{age % 2}" for name, age in AGES.items())]
    (tmp_path / "faces.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "faces"


def of_csv(faces: Path, *conditions: str) -> list[object]:
    return ["--images", faces, "--labels", faces.with_suffix(".csv"), "--column", "age", *conditions, "--steps", 4]


def test_csv_with_conditions_equals_library_fit(done: Run, model: Path, faces: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / f"old{SUFFIX}"
    outcome = done(
        "fit", "old", *of_csv(faces, "--positive", ">=50", "--negative", "10..25"), "--estimator", "mean", "-o", target
    )
    assert outcome.out == f"{target}\n"
    old, young = ([faces / n for n, age in AGES.items() if low <= age <= high] for low, high in ((50, 99), (10, 25)))
    (codes,) = Editor(load_model(model)).latents_at([*young, *old], ["0.4T"], InversionConfig(steps=4))
    labels = np.repeat([0.0, 1.0], [len(young), len(old)])
    wanted, found = fit_direction("old", codes, labels, MeanDifference()), Direction.load(target)
    assert float((found.vector - wanted.vector).abs().max()) < 1e-5
    assert (found.sd, found.mean) == pytest.approx((wanted.sd, wanted.mean), rel=1e-4)
    assert (found.name, found.recipe) == ("old", wanted.recipe)
    assert (found.report["positive"], found.report["negative"]) == (4, 4)
    assert "old          tiny       level " in outcome.err


def test_json_contains_whole_report(done: Run, faces: Path, tmp_path: Path) -> None:
    target = tmp_path / f"old{SUFFIX}"
    outcome = done(
        "fit", "old", *of_csv(faces, "--positive", ">=40"), "--estimator", "mean", "-o", target, "--json", "-q"
    )
    (row,) = outcome.rows
    found = Direction.load(target)
    assert row == {
        **found.report,
        "output": str(target),
        "name": "old",
        "model": "tiny",
        "level": f"{found.t:g}",
        "sd": found.sd,
    }
    assert (row["method"], row["n"], row["positive"]) == ("mean", 12, 6)
    assert outcome.err.splitlines() == [FEW.format(6)]


def test_two_folders_are_fitted(done: Run, model: Path, faces: Path, tmp_path: Path) -> None:
    for seed in range(3):
        tiny.save_picture(tmp_path / "more" / f"{seed}.png", 50 + seed)
    target = tmp_path / f"a{SUFFIX}"
    done("fit", "a", "--with", tmp_path / "more", "--without", faces, "--steps", 4, "--estimator", "mean", "-o", target)
    wanted = Editor(load_model(model)).attribute_from(tmp_path / "more", faces, config=InversionConfig(steps=4))
    assert float((Direction.load(target).vector - wanted.vector).abs().max()) < 1e-5


@pytest.mark.parametrize("method", ESTIMATORS)
def test_every_estimator_fits(done: Run, faces: Path, tmp_path: Path, method: str) -> None:
    target = tmp_path / f"a{SUFFIX}"
    done("fit", "a", *of_csv(faces, "--positive", ">=40"), "--estimator", method, "-o", target)
    found = Direction.load(target)
    assert (found.report["method"], found.report["n"]) == (method, 12)


def test_numeric_labels_require_ridge(run: Run, done: Run, model: Path, faces: Path, tmp_path: Path) -> None:
    target = tmp_path / f"age{SUFFIX}"
    outcome = run("fit", "age", *of_csv(faces), "-o", target)
    assert outcome.status == 1
    assert "tells two classes apart" in outcome.errors[0]
    assert not target.exists()
    done("fit", "age", *of_csv(faces), "--estimator", "ridge", "-o", target)
    (codes,) = Editor(load_model(model)).latents_at([faces / name for name in AGES], ["0.4T"], InversionConfig(steps=4))
    wanted = fit_direction("age", codes, np.array(list(AGES.values()), float), RidgeDirection())
    assert float((Direction.load(target).vector - wanted.vector).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("level", "stands"), [("xT", "1000"), ("h", "h"), ("h:0.5T", "h"), ("0.9T", None), ("300", None)]
)
def test_direction_records_model_and_level(
    done: Run, faces: Path, tmp_path: Path, level: str, stands: str | None
) -> None:
    target = tmp_path / f"a{SUFFIX}"
    (row,) = done(
        "fit", "a", *of_csv(faces, "--positive", ">=40"), "--steps", 8, "--level", level, "-o", target, "--json"
    ).rows
    found = Direction.load(target)
    assert row["level"] == found.level == (stands or f"{found.t:g}")
    assert (len(found.times) > 0) == level.startswith("h")
    found.require_level(level)
    assert found.recipe.solver == "dpm2m"


def test_cache_saves_all_evaluations(done: Run, faces: Path, tmp_path: Path, evaluations: list[int]) -> None:
    line = ["fit", "a", *of_csv(faces, "--positive", ">=40"), "--cache", tmp_path / "cache"]
    done(*line, "-o", tmp_path / f"a{SUFFIX}")
    assert len(files_in(tmp_path / "cache")) == 12
    assert sum(evaluations) > 0
    evaluations.clear()
    done(*line, "-o", tmp_path / f"b{SUFFIX}")
    assert not evaluations
    assert (tmp_path / f"a{SUFFIX}").read_bytes() == (tmp_path / f"b{SUFFIX}").read_bytes()


@pytest.fixture
def store(done: Run, faces: Path, tmp_path: Path) -> Path:
    """A store of the codes of these pictures, in shards of five."""
    done("invert", faces, "-o", tmp_path / "faces.latents", "--steps", 4, "--shard-size", 5)
    return tmp_path / "faces.latents"


def of_store(store: Path, *conditions: str) -> list[object]:
    return ["--latents", store, "--labels", store.with_suffix(".csv"), "--column", "age", *conditions]


def test_store_gives_same_direction_as_images(
    done: Run, faces: Path, store: Path, tmp_path: Path, evaluations: list[int]
) -> None:
    """Without a picture, or an evaluation; pictures without a label are left out."""
    conditions = ["--positive", ">=50", "--negative", "10..25"]
    line = ["fit", "old", "--estimator", "mean", "-o"]
    done(*line, tmp_path / f"a{SUFFIX}", *of_csv(faces, *conditions), "--level", "xT")
    for file in faces.iterdir():
        file.unlink()
    evaluations.clear()
    outcome = done(*line, tmp_path / f"b{SUFFIX}", *of_store(store, *conditions))
    assert not evaluations
    assert outcome.warnings == [FEW.format(4)]
    wanted, found = (Direction.load(tmp_path / f"{name}{SUFFIX}") for name in "ab")
    assert float((found.vector - wanted.vector).abs().max()) < 1e-5
    assert (found.mean, found.sd) == pytest.approx((wanted.mean, wanted.sd), rel=1e-4)
    assert {**found.report, "gap": 0} == {**wanted.report, "gap": 0}
    assert found.config == wanted.config
    found.require_fits(wanted.recipe)
    found.require_level("xT")


def test_copies_in_a_store_count_once(done: Run, run: Run, faces: Path, tmp_path: Path) -> None:
    rows = faces.with_suffix(".csv").read_text().splitlines()
    for name in AGES:
        Image.open(faces / name).save(faces / name.replace("png", "bmp"))
    done("invert", faces, "-o", tmp_path / "faces.latents", "--steps", 4)
    copies = [row.replace("png", "bmp") for row in rows[1:]]
    line = ["--positive", ">=40", "--estimator", "mean", "--json"]
    reports = []
    for index, lines in enumerate((rows, [*rows, *copies])):
        (tmp_path / "faces.csv").write_text("\n".join(lines) + "\n")
        outcome = done("fit", "a", *of_store(tmp_path / "faces.latents", *line), "-o", tmp_path / f"{index}{SUFFIX}")
        reports.append({**outcome.rows[0], "output": None})
    assert reports[0]["n"] == reports[1]["n"] == len(AGES)
    assert outcome.warnings[0].startswith("warning: 12 of 24 images are copies of others and count once: ")
    (tmp_path / "faces.csv").write_text("\n".join([*rows, "11.bmp,10,0"]) + "\n")
    outcome = run("fit", "a", *of_store(tmp_path / "faces.latents", *line), "-o", tmp_path / f"b{SUFFIX}")
    assert outcome.status == 1
    assert "11.bmp and 11.png are the same image, but one has the label 0 and the other 1" in outcome.errors[0]


def test_labels_without_latent_are_counted(done: Run, store: Path, tmp_path: Path) -> None:
    csv = store.with_suffix(".csv")
    csv.write_text(csv.read_text() + "99.png,20,0\n98.png,60,0\n")
    outcome = done(
        "fit", "old", *of_store(store, "--positive", ">=40"), "--estimator", "mean", "-o", tmp_path / f"a{SUFFIX}"
    )
    assert outcome.warnings == ["warning: 2 of 14 labelled images have no latent in faces.latents", FEW.format(6)]
    assert Direction.load(tmp_path / f"a{SUFFIX}").report["n"] == 12


def test_unusable_store_is_refused(run: Run, store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("file,age\nx/00.png,20\nx/01.png,60\n")
    lines: list[list[object]] = [
        ["--latents", store, "--labels", other, "--column", "age", "--positive", ">=40"],
        ["--latents", tmp_path, "--labels", other, "--column", "age", "--positive", ">=40"],
        of_store(store, "--positive", ">=1000"),
        of_store(store),
    ]
    for line in lines:
        outcome = run("fit", "a", *line, "-o", tmp_path / f"a{SUFFIX}")
        assert (outcome.status, outcome.out, len(outcome.errors)) == (1, "", 1), line
        assert not (tmp_path / f"a{SUFFIX}").exists()


@pytest.mark.parametrize(
    "wrong",
    [["--level", "0.4T"], ["--images", "faces"], ["--with", "a"], ["--steps", "4"], ["--class", "1"], ["--crop=fit"]],
)
def test_store_refuses_inversion_options(run: Run, store: Path, tmp_path: Path, wrong: list[str]) -> None:
    outcome = run("fit", "a", *of_store(store, "--positive", ">=40"), *wrong, "-o", tmp_path / f"a{SUFFIX}")
    assert outcome.status == 2
    assert f"{wrong[0].partition('=')[0]} does not go with --latents" in outcome.err


def test_store_requires_csv(run: Run, store: Path, tmp_path: Path) -> None:
    outcome = run("fit", "a", "--latents", store, "--column", "age", "-o", tmp_path / f"a{SUFFIX}")
    assert outcome.status == 2
    assert "Name --labels and --column with --latents" in outcome.err


def test_existing_file_is_kept_without_overwrite(
    run: Run, done: Run, faces: Path, tmp_path: Path, evaluations: list[int]
) -> None:
    target = tmp_path / f"a{SUFFIX}"
    target.write_text("precious")
    line = ["fit", "a", *of_csv(faces, "--positive", ">=40"), "-o", target]
    outcome = run(*line)
    assert (outcome.status, len(outcome.errors)) == (1, 1)
    assert "exists. Use --overwrite" in outcome.errors[0]
    assert target.read_text() == "precious"
    assert not evaluations
    done(*line, "--overwrite")
    assert Direction.load(target).name == "a"


def test_unreadable_image_is_named_and_skipped(run: Run, faces: Path, tmp_path: Path) -> None:
    (faces / "03.png").write_text("no picture")
    target = tmp_path / f"a{SUFFIX}"
    outcome = run("fit", "a", *of_csv(faces, "--positive", ">=40"), "-o", target)
    assert outcome.status == 1
    (error,) = outcome.errors
    assert str(faces / "03.png") in error
    assert Direction.load(target).report["n"] == 11


def test_unfittable_input_is_refused_and_writes_nothing(run: Run, faces: Path, tmp_path: Path) -> None:
    for name in AGES:
        tiny.save_picture(tmp_path / "same" / name, 1)
        tiny.save_picture(tmp_path / "alike" / name, 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no picture")
    (tmp_path / "worse").mkdir()
    (tmp_path / "worse" / "b.png").write_text("no picture")
    lines = [
        of_csv(faces, "--positive", ">=1000"),
        of_csv(faces, "--positive", ">>5"),
        of_csv(faces, "--negative", "<5"),
        of_csv(faces, "--positive", ">=40", "--solver", "bdia"),
        of_csv(faces, "--positive", ">=40", "--solver", "midpoint", "--level", "h"),
        ["--images", faces, "--labels", faces.with_suffix(".csv"), "--column", "height"],
        ["--images", faces, "--labels", tmp_path / "nosuch.csv", "--column", "age"],
        ["--with", tmp_path / "same", "--without", tmp_path / "alike", "--steps", 2],
        ["--with", faces, "--without", tmp_path / "empty"],
        ["--with", faces, "--without", faces],
        ["--with", faces, "--without", tmp_path / "broken", "--steps", 2],
        ["--with", tmp_path / "worse", "--without", tmp_path / "broken", "--steps", 2],
    ]
    for line in lines:
        outcome = run("fit", "a", *line, "-o", tmp_path / f"a{SUFFIX}")
        assert outcome.status == 1, line
        assert "Traceback" not in outcome.err
        assert outcome.errors
        assert all(error.startswith("error: ") for error in outcome.errors)
        assert not outcome.out
        assert not (tmp_path / f"a{SUFFIX}").exists()


def test_duplicate_rows_and_copies_change_nothing(done: Run, faces: Path, tmp_path: Path) -> None:
    line = ["--positive", ">=40", "--estimator", "mean", "--json"]
    (once,) = done("fit", "a", *of_csv(faces, *line), "-o", tmp_path / f"a{SUFFIX}").rows
    rows = faces.with_suffix(".csv").read_text().splitlines()
    faces.with_suffix(".csv").write_text("\n".join([*rows, *rows[1:]]) + "\n")
    outcome = done("fit", "a", *of_csv(faces, *line), "-o", tmp_path / f"b{SUFFIX}")
    assert_same_fit(outcome.rows, {**once, "output": str(tmp_path / f"b{SUFFIX}")})
    assert "12 of 24 labels repeat those of other rows and count once" in outcome.err
    for name in AGES:
        Image.open(faces / name).save(faces / f"copy-{name}", pnginfo=_comment(name))
    faces.with_suffix(".csv").write_text("\n".join([*rows, *(f"copy-{row}" for row in rows[1:])]) + "\n")
    outcome = done("fit", "a", *of_csv(faces, *line), "-o", tmp_path / f"c{SUFFIX}")
    assert_same_fit(outcome.rows, {**once, "output": str(tmp_path / f"c{SUFFIX}")})
    assert outcome.warnings[0].startswith(
        "warning: 12 of 24 images are copies of others and count once: copy-00.png of 00.png, "
    )


def assert_same_fit(rows: list[dict[str, Any]], wanted: dict[str, Any]) -> None:
    """Fail unless the one row says what another command said that fitted the same."""
    (row,) = rows
    assert row.keys() == wanted.keys()
    for name, value in wanted.items():
        assert row[name] == (pytest.approx(value, rel=ROUNDING) if isinstance(value, float) else value)


def _comment(text: str) -> PngInfo:
    """Other bytes for the same pixels."""
    comment = PngInfo()
    comment.add_text("comment", text)
    return comment


def test_copies_of_an_image_with_two_labels_are_named(run: Run, faces: Path, tmp_path: Path) -> None:
    (faces / "other.png").write_bytes((faces / "11.png").read_bytes())
    csv = faces.with_suffix(".csv")
    csv.write_text(csv.read_text() + "other.png,10,0\n")
    outcome = run("fit", "a", *of_csv(faces, "--positive", ">=40"), "-o", tmp_path / f"a{SUFFIX}")
    assert outcome.status == 1
    assert outcome.errors == [
        f"error: {faces / '11.png'} and {faces / 'other.png'} are the same image, but one has the label 1 and the "
        "other 0. Correct one, or leave both out."
    ]
    csv.write_text(csv.read_text() + "00.png,99,0\n")
    outcome = run("fit", "a", *of_csv(faces, "--positive", ">=40"), "-o", tmp_path / f"a{SUFFIX}")
    assert (outcome.status, len(outcome.errors)) == (1, 1)
    assert "00.png has the label 0 and, again, the label 1" in outcome.errors[0]


def test_counts_and_skipped_labels_are_printed(done: Run, faces: Path, tmp_path: Path) -> None:
    csv = faces.with_suffix(".csv")
    csv.write_text(
        "image;smile;age\n"
        + "".join(
            f"{name};{smile};1\n"
            for name, smile in zip(
                [*AGES, "99.png"],
                ["yes"] * 3 + ["NO"] * 3 + ["?", "NA", "", "unknown", "-", "null", "yes"],
                strict=True,
            )
        )
    )
    where = ["--images", faces, "--labels", csv, "--column", "smile", "--steps", 2]
    outcome = done("fit", "a", *where, "--positive", "yes", "-o", tmp_path / f"a{SUFFIX}", "--json")
    (row,) = outcome.rows
    assert (row["positive"], row["negative"], row["n"]) == (3, 3, 6)
    assert outcome.warnings[0] == (
        f"warning: {faces}: 1 of 7 files of faces.csv are not there and were left out: '99.png'"
    )
    assert "The smaller class has only 3 images." in outcome.warnings[1]
    assert "faces.csv: 6 rows left out as unknown: " in outcome.err
    assert "3 images with label 1 ('yes' 3), 3 images with label 0 ('NO' 3)" in outcome.err


@pytest.mark.parametrize("how", ["column", "folders", "two folders", "store"])
def test_groups_are_the_unit_of_validation(done: Run, tmp_path: Path, how: str) -> None:
    """Two like images of each person, and a random label: known from the other one, unless persons stay together."""
    rng = np.random.default_rng(1)
    rows = ["file,smile,who"]
    for person in range(20):
        face = rng.integers(40, 216, (tiny.SIZE, tiny.SIZE, 3))
        side = ("with", "without")[person % 2]
        for index in range(2):
            folder = tmp_path / "in" / (side if how == "two folders" else ".") / f"p{person}"
            folder.mkdir(parents=True, exist_ok=True)
            image = face + rng.integers(-20, 21, face.shape)
            Image.fromarray(image.astype(np.uint8)).save(folder / f"{index}.png")
            rows.append(f"p{person}/{index}.png,{person % 2},{person}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    where: list[object] = ["--images", tmp_path / "in", "--steps", 2, "--level", "0.4T"]
    group = "folder"
    if how == "two folders":
        where = ["--with", tmp_path / "in" / "with", "--without", tmp_path / "in" / "without", *where[2:]]
    elif how == "store":
        files = sorted((tmp_path / "in").glob("*/*.png"))
        for file in files:
            file.rename(tmp_path / "in" / f"{file.parent.name}-{file.name}")
        (tmp_path / "labels.csv").write_text("\n".join(rows).replace("/", "-") + "\n")
        done("invert", tmp_path / "in", "-o", tmp_path / "in.latents", "--steps", 2)
        where, group = ["--latents", tmp_path / "in.latents"], "who"
    elif how == "column":
        group = "who"
    if how != "two folders":
        where += ["--labels", tmp_path / "labels.csv", "--column", "smile"]
    line = ["--estimator", "mean", "--json", *where]
    (grouped,) = done("fit", "a", *line, "--group", group, "-o", tmp_path / f"a{SUFFIX}").rows
    assert grouped["groups"] == 20
    assert grouped["auc"] < 0.75
    if how != "two folders":
        outcome = done("fit", "a", *line, "-o", tmp_path / f"b{SUFFIX}")
        assert any("40 images lie in 20 folders" in warning for warning in outcome.warnings) == (how != "store")
        (plain,) = outcome.rows
        assert plain["auc"] > grouped["auc"] + 0.15
    if how == "column":
        probing = ["probe", *where[:4], *where[6:], "--levels", "0.4T", "--sizes", "all", "--json"]
        (report,) = done(*probing, "--group", group).rows
        assert (report["train"], report["test"]) == (30, 10)
        assert report["rows"][-1]["auc"] < 0.9


def test_directions_of_a_folder_are_listed(done: Run, fitted: Path) -> None:
    outcome = done("directions", fitted)
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines] == ["deep", "high", "old", "wide"]
    assert all(" tiny " in line and " AUC " in line and " level " in line for line in lines)
    rows = done("directions", fitted, "--json").rows
    for row, name in zip(rows, ("deep", "high", "old", "wide"), strict=True):
        direction = Direction.load(row["file"])
        assert row == {
            **direction.report,
            "file": str(fitted / f"{name}{SUFFIX}"),
            "name": name,
            "model": "tiny",
            "level": direction.level,
            "sd": direction.sd,
        }


def test_packaged_directions_are_listed_by_model(done: Run) -> None:
    from ddim_edit.directions import packaged_directions

    assert [row["name"] for row in done("directions", "--json").rows] == list(packaged_directions("faces64"))
    assert done("directions", "--model", "nosuch").out == ""


def test_bad_file_does_not_end_list(run: Run, fitted: Path, tmp_path: Path) -> None:
    good = tmp_path / f"good{SUFFIX}"
    good.write_bytes((fitted / f"old{SUFFIX}").read_bytes())
    (tmp_path / f"bad{SUFFIX}").write_text("a letter")
    outcome = run("directions", tmp_path, "--json")
    assert outcome.status == 1
    assert [row["file"] for row in outcome.rows] == [str(good)]
    assert len(outcome.errors) == 1
    assert f"bad{SUFFIX}" in outcome.errors[0]


def test_direction_without_report_is_listed(done: Run, fitted: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    replace(Direction.load(fitted / f"old{SUFFIX}"), report={}).save(tmp_path / f"bare{SUFFIX}")
    assert done("directions", tmp_path).out.startswith("old ")
    assert json.loads(done("directions", tmp_path, "--json").out)["name"] == "old"


def test_a_folder_without_directions(run: Run, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nosuch"):
        outcome = run("directions", folder)
        assert (outcome.status, outcome.out) == (1, "")
        assert str(folder) in outcome.errors[0]
        assert "no such folder" in outcome.errors[0] or "no *.direction.safetensors file" in outcome.errors[0]
