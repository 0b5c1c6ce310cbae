"""Tables of known labels: from the literature and from photometry, joined to spectra by path, row or identifier."""

from __future__ import annotations

import numpy as np
import pytest

from stargap.errors import UsageError
from stargap.flags import PhotFlag
from stargap.photometry.tables import write_photometric_labels
from stargap.pipeline.anchor_tables import photometric_anchors, read_anchor_tables, usable_anchors
from stargap.pipeline.anchors import read_anchor_labels
from stargap.transfer.anchor_labels import ERRORS, P_SINGLE, AnchorLabels

GAIA = """source_id,phot_g_mean_mag,phot_bp_mean_mag,phot_rp_mean_mag,ks_m,parallax,parallax_error,ruwe
3139847906307949696,8.5764,10.1117,7.3539,4.857,264.127,0.041,1.24
4472832130942575872,11.0,12.0,10.0,,-1.0,0.2,1.0
11,12.2436,13.7789,11.0211,8.5242,48.8,0.03,1.1
"""
LITERATURE = "gaia_source_id,teff,logg,m_h,e_teff,source\n3139847906307949696,3250,4.97,0.04,30,Mann\n"


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "gaia.csv").write_text(GAIA)
    write_photometric_labels(tmp_path / "gaia.csv", tmp_path / "labels.parquet")
    (tmp_path / "known.csv").write_text(LITERATURE)
    (tmp_path / "targets.csv").write_text(
        "row,gaia_source_id\n0,11\n1,4472832130942575872\n2,3139847906307949696\n3,3139847906307949696\n4,77\n"
    )
    return tmp_path


def test_photometric_labels_are_joined_to_spectra_by_identifier(tables):
    found = read_anchor_tables([tables / "labels.parquet"], "row", tables / "targets.csv")
    assert found.spectra == ["0", "2", "3"]  # the second source has no photometric labels
    assert found.stars == ["11", "3139847906307949696", "3139847906307949696"]
    assert set(found.labels.sources) == {"photometry"}
    assert abs(found.labels.labels[1, 0] - 3303) < 1
    assert np.array_equal(found.labels.labels[1], found.labels.labels[2])
    assert (found.labels.errors[:, 0] > 40).all()
    assert (found.labels.p_single > 0.5).all()
    assert found.scored.all()


def test_literature_stands_beside_photometry_under_its_own_name(tables):
    paths = [tables / "labels.parquet", tables / "known.csv"]
    rows, labels = read_anchor_labels(paths, 5, tables / "targets.csv")
    assert rows.tolist() == [0, 2, 3, 2, 3]
    assert labels.names == ("photometry", "Mann")
    assert labels.errors[3].tolist() == [30.0, *ERRORS[1:]]
    assert labels.p_single[3] == P_SINGLE
    assert labels.labels[3].tolist() == [3250, 4.97, 0.04]


def test_a_row_beyond_the_spectra_says_which_line(tables):
    with pytest.raises(UsageError, match=r"labels.parquet: line 2: row is 2; it must be 0 to 1"):
        read_anchor_labels([tables / "labels.parquet"], 2, tables / "targets.csv")
    (tables / "own.csv").write_text("row,teff,logg,m_h\n1,3300,4.9,0\n9,3300,4.9,0\n")
    with pytest.raises(UsageError, match=r"own.csv: line 3: row is 9; it must be 0 to 4"):
        read_anchor_labels([tables / "own.csv"], 5)
    (tables / "own.csv").write_text("row,teff,logg,m_h\n1,3300,4.9,0\n,3300,4.9,0\n")
    with pytest.raises(UsageError, match=r"own.csv: line 3: row is missing"):
        read_anchor_labels([tables / "own.csv"], 5)


def test_labels_without_spectra_say_what_joins_them(tables):
    with pytest.raises(UsageError, match=r"no column 'row'.*or targets, a table with row and gaia_source_id"):
        read_anchor_tables([tables / "known.csv"], "row")
    (tables / "other.csv").write_text("row,gaia_source_id\n0,12345\n")
    with pytest.raises(UsageError, match=r"known.csv: none of its stars is among those of .*other.csv"):
        read_anchor_tables([tables / "known.csv"], "row", tables / "other.csv")
    (tables / "none.csv").write_text("row,name\n0,GJ 1\n")
    with pytest.raises(UsageError, match=r"none.csv: has neither gaia_source_id nor source_id"):
        read_anchor_tables([tables / "known.csv"], "row", tables / "none.csv")


def test_paths_start_at_the_folder_of_the_table_that_names_them(tables):
    (tables / "files").mkdir()
    (tables / "files" / "list.csv").write_text("path,source_id\na.fits,11\n")
    found = read_anchor_tables([tables / "labels.parquet"], "path", tables / "files" / "list.csv")
    assert found.spectra == [str(tables / "files" / "a.fits")]


def test_unsound_photometric_labels_tie_nothing(tables):
    column = {
        f"{name}_phot": np.array([value, value]) for name, value in (("teff", 3400.0), ("logg", 4.9), ("m_h", 0.0))
    }
    for flag, kept in (
        (PhotFlag.OUTSIDE_RELATIONS, [0, 1]),
        (PhotFlag.INCONSISTENT, [0]),
        (PhotFlag.BINARY_LIKELY, [0, 1]),
    ):
        rows, labels = photometric_anchors(column | {"phot_flags": np.array([0, int(flag)])})
        assert rows.tolist() == kept
        assert labels.inside.tolist() == [True, flag != PhotFlag.OUTSIDE_RELATIONS][: len(kept)]
    (tables / "bad.csv").write_text("row,teff_phot,logg_phot,m_h_phot,phot_flags\n0,3400,4.9,0,"
                                    f"{int(PhotFlag.NO_SOLUTION)}\n1,,,,\n")  # fmt: skip
    with pytest.raises(UsageError, match=r"bad.csv: no star has known labels that are sound"):
        read_anchor_tables([tables / "bad.csv"], "row")


def test_what_a_model_cannot_take_is_left_out_of_photometry_and_kept_to_be_refused_of_the_literature():
    labels = np.array([[3400.0, 4.9, 0.0], [2700.0, 5.2, 0.0], [2700.0, 5.2, 0.0], [3400.0, 4.9, -0.6]])
    known = AnchorLabels(
        labels, sources=["photometry", "photometry", "Mann", "photometry"], inside=np.array([True, True, True, False])
    )
    kept = usable_anchors(known, np.array([2800.0, 4.5, -2.0]), np.array([4400.0, 5.5, 0.5]))
    assert kept.tolist() == [True, False, True, False]
