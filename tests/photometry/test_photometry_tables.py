"""Labels of a table on disk, and the command that makes them."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from photometry_simulation import simulate

from stargap.cli.main import main
from stargap.errors import UsageError
from stargap.photometry.labels import photometric_labels
from stargap.photometry.tables import read_photometry, write_photometric_labels
from stargap.tables.column import Column
from stargap.tables.read import read_table
from stargap.tables.validate import validate_file
from stargap.tables.write import write_table

THEIRS = {
    "g_mag": "phot_g_mean_mag",
    "bp_mag": "phot_bp_mean_mag",
    "rp_mag": "phot_rp_mean_mag",
    "ks_mag": "ks_m",
    "e_ks_mag": "ks_msigcom",
    "e_parallax": "parallax_error",
}
FIRST = 6917528997577384321


@pytest.fixture
def gaia(tmp_path):
    """A table as the archive gives it."""
    table, _, _ = simulate(12, seed=2)
    table["parallax"][3] = np.nan
    table["ks_mag"][4] = np.nan
    columns = {THEIRS.get(name, name): values for name, values in table.items()}
    columns["source_id"] = FIRST + np.arange(12)[::-1]
    schema = [Column(name, "int64" if name == "source_id" else "float64") for name in columns]
    write_table(columns, tmp_path / "gaia.parquet", schema=schema, provenance={})
    return tmp_path / "gaia.parquet"


@pytest.mark.parametrize("suffix", [".parquet", ".fits", ".csv", ".vot", ".ecsv"])
def test_a_row_for_each_source_in_order(gaia, tmp_path, suffix):
    output = tmp_path / f"labels{suffix}"
    told = write_photometric_labels(gaia, output)
    assert (told.sources, told.labelled) == (12, 11)
    assert validate_file(output) == []
    written, table = read_table(output), read_photometry(gaia)
    np.testing.assert_array_equal(written["gaia_source_id"], table.pop("gaia_source_id"))
    for name, values in photometric_labels(table).items():
        np.testing.assert_allclose(written[name], values, rtol=1e-6)
    assert np.isnan(written["teff_phot"]).tolist() == [row == 3 for row in range(12)]


def test_scale_and_settings_are_in_the_table(gaia, tmp_path):
    write_photometric_labels(gaia, tmp_path / "labels.parquet")
    metadata = pq.read_schema(tmp_path / "labels.parquet").metadata
    assert b"Mann" in metadata[b"label_scale"]
    assert b"binary_fraction" in metadata[b"settings"]


def test_the_command(gaia, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["photometry", str(gaia), "-o", str(tmp_path / "labels.parquet")])
    assert not ended.value.code
    assert "11 of 12 sources have labels" in capsys.readouterr().out
    assert (tmp_path / "labels.parquet").exists()


def test_a_table_that_lacks_something_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("ra,dec\n1,2\n")
    with pytest.raises(UsageError, match=r"a\.csv: has neither source_id"):
        write_photometric_labels(tmp_path / "a.csv", tmp_path / "b.parquet")
    (tmp_path / "a.csv").write_text("source_id,parallax\n1,2\n")
    with pytest.raises(UsageError, match=r"a\.csv: photometric labels need .*bp_mag or phot_bp_mean_mag"):
        write_photometric_labels(tmp_path / "a.csv", tmp_path / "b.parquet")
