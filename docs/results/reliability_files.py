"""Trials on files: damaged ones of every format, bombs, and odd names."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reliability_trials import HELD, Tally, mutated, run_trials

import stargap
from stargap.mock.files import write_lamost
from stargap.pipeline.settings import SurveySettings
from stargap.settings import example_toml, read_settings_as
from stargap.spectra.readers.read import read_spectrum
from stargap.tables.columns import Column
from stargap.tables.read import read_table
from stargap.tables.write import write_table
from stargap.theory.emulator import Emulator
from stargap.theory.formats import read_bt_settl_ascii
from stargap.theory.isochrones import read_parsec

__all__ = ["BOMBS", "FORMATS", "bombs", "damaged_files", "odd_names"]

TABLE = (
    Column("spectrum_id", "int64"),
    Column("gaia_source_id", "int64"),
    Column("name", "str"),
    Column("teff", "float32", "K"),
    Column("rv", "float64", "km/s"),
)
PARSEC = Path(stargap.__file__).parent / "theory" / "data" / "parsec_5gyr.dat"
MODELS = Path(stargap.__file__).parent / "models"
ODD_NAMES = (
    "-o", "--help", "a b", "a\nb", "a'b", 'a"b', "a;rm -rf b", "$(touch hit)", "`touch hit`", "[x]", "*", "?", "%s%n",
    "{0}", "a\\b", "~", "#", "é", "e\u0301", "星", "🌟", "\u202e", "x" * 240, ".hidden", "a.fits.gz.fits", "\x07",
    "\x1b[31m", "\udcff", "<b>", "&amp;", "CON", " ", "a.", "@list",
)  # fmt: skip


def write_spectrum(path: Path, *, seed: int = 0, **options: Any) -> Path:
    """Write a LAMOST file of a smooth red star."""
    wave = 10 ** np.arange(3.57, 3.957, 1e-4)
    random = np.random.default_rng(seed)
    flux = 100 * (wave / 7000) ** 2 * (1 + 0.02 * random.standard_normal(len(wave)))
    return write_lamost(path, wave, flux, np.full(len(wave), 0.25), obsid=seed + 1, **options)


def _spectrum(path: Path) -> str:
    """A spectrum that is read has arrays that fit each other."""
    found = read_spectrum(path)
    wave, flux, ivar = (np.asarray(part) for part in (found.wavelength, found.flux, found.ivar))
    if not (wave.shape == flux.shape == ivar.shape) or wave.ndim != 1:
        return f"{path.name}: arrays of shapes {wave.shape}, {flux.shape}, {ivar.shape}"
    if not (np.isfinite(wave).all() and (np.diff(wave) > 0).all() and (ivar >= 0).all()):
        return f"{path.name}: wavelengths that do not increase, or negative inverse variances"
    return HELD


def _table(path: Path) -> str:
    """A table that is read has columns of one length."""
    lengths = {len(values) for values in read_table(path).values()}
    return HELD if len(lengths) <= 1 else f"{path.name}: columns of lengths {sorted(lengths)}"


def _settings(path: Path) -> str:
    """Settings that are accepted can be written and read back."""
    found = read_settings_as(SurveySettings, path)
    copy = path.with_suffix(".again.toml")
    copy.write_bytes(example_toml(found).encode())
    return HELD if read_settings_as(SurveySettings, copy) == found else f"{path.name}: does not come back"


def _model(path: Path) -> str:
    """A model that is loaded gives the spectra that it gave."""
    labels = torch.tensor([[3500.0, 4.8, 0.0, 0.0]], dtype=torch.float64)
    same = torch.equal(Emulator.load(path).flux(labels), Emulator.load(MODELS / "emulator.safetensors").flux(labels))
    return HELD if same else f"{path.name}: loaded, with other spectra"


def _isochrones(path: Path) -> str:
    """Isochrones that are read are finite."""
    found = read_parsec(path)
    return HELD if np.isfinite([found.teff, found.logg, found.m_h]).all() else f"{path.name}: isochrones not finite"


def _synthetic(path: Path) -> str:
    """A synthetic spectrum that is read has increasing finite wavelengths."""
    _, wave, flux = read_bt_settl_ascii(path)
    fine = (
        wave.shape == flux.shape and np.isfinite(wave).all() and (np.diff(wave) > 0).all() and np.isfinite(flux).all()
    )
    return HELD if fine else f"{path.name}: wavelengths or fluxes that are none"


def _make_table(path: Path) -> Path:
    random = np.random.default_rng(3)
    columns = {
        "spectrum_id": np.arange(40),
        "gaia_source_id": random.integers(2**60, 2**62, 40),
        "name": np.array([f"star {n}" for n in range(40)], dtype=object),
        "teff": random.normal(3500, 200, 40).astype("f4"),
        "rv": random.normal(0, 30, 40),
    }
    write_table(columns, path, schema=TABLE, provenance={"creator": "stargap"})
    return path


def _make_model(path: Path) -> Path:
    for suffix in (".safetensors", ".json"):
        shutil.copyfile(MODELS / f"emulator{suffix}", path.with_suffix(suffix))
    return path


def _make_synthetic(path: Path) -> Path:
    wave = np.linspace(5900, 9000, 500)
    path.write_text("".join(f"{w:.2f} {13 + np.sin(w):.5f}D+00 1.0\n".replace(".D", "D") for w in wave))
    return path


def _make_settings(path: Path) -> Path:
    path.write_text(example_toml(SurveySettings()), encoding="utf-8")
    return path


FORMATS: dict[str, tuple[str, Callable[[Path], Path], Callable[[Path], str]]] = {
    "FITS spectra (three layouts, plain and gzip)": ("s.fits", write_spectrum, _spectrum),
    "FITS tables": ("t.fits", _make_table, _table),
    "Parquet tables": ("t.parquet", _make_table, _table),
    "CSV tables": ("t.csv", _make_table, _table),
    "ECSV tables": ("t.ecsv", _make_table, _table),
    "VOTables": ("t.vot", _make_table, _table),
    "TOML settings": ("s.toml", _make_settings, _settings),
    "models (safetensors and card)": ("m.safetensors", _make_model, _model),
    "PARSEC isochrones": ("p.dat", lambda path: Path(shutil.copyfile(PARSEC, path)), _isochrones),
    "BT-Settl spectra": ("lte030-5.0-0.0.BT-Settl.spec.7", _make_synthetic, _synthetic),
}
"""By format: the name of a file, what makes a sound one, and what reads it."""


def damaged_files(work: Path, tries: int, random: np.random.Generator) -> list[Tally]:
    """Damage files of every format and read them."""
    tallies = []
    for kind, (name, make, read) in FORMATS.items():
        folder = work / f"damaged-{name.split('.')[-1]}-{name[0]}"
        folder.mkdir(parents=True, exist_ok=True)
        sound = [make(folder / name)]
        if make is write_spectrum:
            layouts = ("lamost-dr1", "lamost-image", "lamost-table")
            sound = [write_spectrum(folder / f"{n}-{name}", seed=n, layout=one) for n, one in enumerate(layouts)]  # type: ignore[arg-type]
        assert all(read(path) == HELD for path in sound), kind
        cases = [_damaged(sound[number % len(sound)], number, random) for number in range(tries)]
        tallies.append(run_trials(Tally(kind, "read soundly, or refused in words"), read, cases))
        shutil.rmtree(folder)
    return tallies


def _damaged(path: Path, number: int, random: np.random.Generator) -> Path:
    """Write a damaged copy of a file into a folder of its own, so that its name stays."""
    folder = path.parent / f"{number:05d}"
    folder.mkdir()
    copy = folder / path.name
    content = path.read_bytes()
    if path.suffix == ".safetensors" and number % 2:
        copy.write_bytes(content)
        card = path.with_suffix(".json")
        copy.with_suffix(".json").write_bytes(mutated(card.read_bytes(), random))
        return copy
    damaged = mutated(content, random)
    if path.suffix == ".fits" and number % 3 == 0:
        damaged = gzip.compress(damaged, 1) if number % 2 else mutated(gzip.compress(content, 1), random)
    copy.write_bytes(damaged)
    if path.suffix == ".safetensors":
        shutil.copyfile(path.with_suffix(".json"), copy.with_suffix(".json"))
    return copy


def _gzip_of_zeros(folder: Path) -> Path:
    path = folder / "zeros.fits.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(2048):
            file.write(bytes(2**20))
    return path


def _gzip_members(folder: Path) -> Path:
    path = folder / "members.fits.gz"
    path.write_bytes(gzip.compress(b" " * 80) * 60_000)
    return path


def _many_hdus(folder: Path) -> Path:
    path = folder / "hdus.fits"
    head = b"".join(card.ljust(80) for card in (b"SIMPLE  =                    T", b"BITPIX  =                    8",
                    b"NAXIS   =                    0", b"END")).ljust(2880)  # fmt: skip
    more = b"".join(card.ljust(80) for card in (b"XTENSION= 'IMAGE   '", b"BITPIX  =                    8",
                    b"NAXIS   =                    0", b"PCOUNT  =                    0",
                    b"GCOUNT  =                    1", b"END")).ljust(2880)  # fmt: skip
    path.write_bytes(head + more * 80_000)
    return path


def _long_header(folder: Path) -> Path:
    path = folder / "header.fits"
    cards = b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80)
    path.write_bytes(cards + b"NAXIS   =                    0".ljust(80) + b"COMMENT x".ljust(80) * 3_300_000)
    return path


def _huge_axis(folder: Path) -> Path:
    path = folder / "axis.fits"
    cards = ("SIMPLE  =                    T", "BITPIX  =                  -64", "NAXIS   =                    2",
             "NAXIS1  =           4000000000", "NAXIS2  =           4000000000", "END")  # fmt: skip
    path.write_bytes(b"".join(card.encode().ljust(80) for card in cards).ljust(2880) + bytes(2880))
    return path


def _long_cell(folder: Path) -> Path:
    path = folder / "cell.csv"
    path.write_bytes(b"obsid,teff\n1," + b"3" * 200_000_000 + b"\n")
    return path


def _many_columns(folder: Path) -> Path:
    path = folder / "columns.csv"
    path.write_text(",".join(f"c{n}" for n in range(300_000)) + "\n" + ",".join("1" * 300_000) + "\n")
    return path


def _open_quote(folder: Path) -> Path:
    path = folder / "quote.csv"
    path.write_bytes(b'obsid,teff\n1,"' + b"3\n" * 30_000_000)
    return path


def _laughs(folder: Path) -> Path:
    path = folder / "laughs.vot"
    entities = '<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    )
    path.write_text(f'<?xml version="1.0"?><!DOCTYPE v [{entities}]><VOTABLE><DESCRIPTION>&j;</DESCRIPTION></VOTABLE>')
    return path


def _far_stream(folder: Path) -> Path:
    path = folder / "stream.vot"
    path.write_text(
        '<?xml version="1.0"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>'
        '<FIELD name="obsid" datatype="long"/><DATA><BINARY><STREAM href="http://127.0.0.1:9/x"/></BINARY></DATA>'
        "</TABLE></RESOURCE></VOTABLE>"
    )
    return path


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    path = folder / "pipe.fits"
    path.symlink_to(folder / "pipe")
    return path


def _device(folder: Path) -> Path:
    path = folder / "device.fits"
    path.symlink_to("/dev/zero")
    return path


def _loop(folder: Path) -> Path:
    path = folder / "loop.csv"
    path.symlink_to(path)
    return path


def _deep_card(folder: Path) -> Path:
    path = _make_model(folder / "deep.safetensors")
    path.with_suffix(".json").write_text("[" * 200_000 + "]" * 200_000)
    return path


def _huge_tensor(folder: Path) -> Path:
    path = _make_model(folder / "tensor.safetensors")
    head = b'{"x":{"dtype":"F64","shape":[1000000000000],"data_offsets":[0,8000000000000]}}'
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    return path


def _deep_settings(folder: Path) -> Path:
    path = folder / "deep.toml"
    path.write_text("x = " + "[" * 100_000 + "]" * 100_000)
    return path


def _unequal_parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "bomb.parquet"
    pq.write_table(pa.table({"teff": pa.array(np.zeros(120_000_000, dtype="f8"))}), path, compression="zstd")
    return path


BOMBS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], str]]] = {
    "2 GB of zeros in a gzip file of 2 MB": (_gzip_of_zeros, _spectrum),
    "60,000 gzip members": (_gzip_members, _spectrum),
    "80,000 HDUs": (_many_hdus, _spectrum),
    "a header of 264 MB": (_long_header, _spectrum),
    "a header that announces 1.3e20 bytes": (_huge_axis, _spectrum),
    "the same as a table": (_huge_axis, _table),
    "a cell of 200 MB": (_long_cell, _table),
    "300,000 columns": (_many_columns, _table),
    "a quotation mark that never closes": (_open_quote, _table),
    "XML entities that multiply": (_laughs, _table),
    "a STREAM that points to a server": (_far_stream, _table),
    "a pipe behind a link": (_pipe, _spectrum),
    "the same as a table ": (_pipe, _table),
    "a device behind a link": (_device, _spectrum),
    "the same as a table  ": (_device, _table),
    "a link to itself": (_loop, _table),
    "a card of 200,000 brackets": (_deep_card, _model),
    "a tensor of 8 TB": (_huge_tensor, _model),
    "settings of 100,000 brackets": (_deep_settings, _settings),
    "120,000,000 rows in a Parquet file of 100 kB": (_unequal_parquet, _table),
}
"""By what it is: what makes the file, and what reads it."""


def bombs(work: Path, tries: int, random: np.random.Generator) -> list[Tally]:
    """Read files made to take all time, memory or disk: up to 30 s and 3 GB each."""
    tally = Tally("bombs", "read or refused within 30 s and 3 GB, and no connection opened")
    for name, (make, read) in list(BOMBS.items())[:tries]:
        folder = work / "bomb"
        folder.mkdir(parents=True)
        path = make(folder)
        before = len(tally.lost)
        run_trials(tally, read, [path])
        tally.lost[before:] = [f"{name.strip()}: {why}" for why in tally.lost[before:]]
        shutil.rmtree(folder)
    return [tally]


def odd_names(work: Path, tries: int, random: np.random.Generator) -> list[Tally]:
    """Measure spectra whose files and folders have odd names, and write tables of them under such names."""
    tally = Tally("odd names of files and folders", "one row per file, tables that can be read, nothing else done")
    folder = work / "names"
    folder.mkdir(parents=True, exist_ok=True)
    sound = write_spectrum(folder / "sound.fits", seed=1)
    cases = [(repr(name), name, folder, sound) for name in ODD_NAMES[:tries]]
    run_trials(tally, _odd_name, cases, seconds=60)
    if (folder / "hit").exists() or Path("hit").exists():
        tally.lost.append("a command in a name was run")
    shutil.rmtree(folder)
    return [tally]


def _odd_name(case: tuple[str, str, Path, Path]) -> str:
    shown, name, folder, sound = case
    inside = folder / name / name if len(name) < 200 else folder / name
    inside.parent.mkdir(exist_ok=True, parents=True)
    path = inside.with_name(inside.name + ".fits")
    shutil.copyfile(sound, path)
    found = stargap.measure([path], model="emulator", workers=1)
    if len(found) != 1 or not np.isfinite(found.arrays()["snr_r"]).all():
        return f"{shown}: {len(found)} rows, {found.failures()}"
    for suffix in (".fits", ".parquet", ".csv", ".vot", ".ecsv"):
        output = path.with_name(f"{name}-table{suffix}")
        found.write(output)
        back = read_table(output, ["path", "teff"])
        if len(back["path"]) != 1:
            return f"{shown}: {suffix} has {len(back['path'])} rows"
    return HELD
