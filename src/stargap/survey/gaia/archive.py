"""Gaia DR3 of a survey's stars from a TAP service: queried in chunks, resumed, one table at the end."""

from __future__ import annotations

import hashlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stargap import __version__
from stargap.errors import UsageError
from stargap.files import claim_folder, clean_folder
from stargap.survey.gaia.join import GAIA_SCHEMA, QUALITY
from stargap.tables.columns import INT_NULL
from stargap.tables.crossmatch import REF_EPOCH, julian_epoch
from stargap.tables.nulls import equal_columns, numbers, whole_ids
from stargap.tables.parquet import read_columns
from stargap.tables.read import read_table
from stargap.tables.write import check_output, write_table

__all__ = ["ARCHIVE", "GaiaFetch", "TapService", "fetch_gaia", "read_targets"]

_Arrays = dict[str, NDArray[Any]]
_Progress = Callable[[str, int, int], Any]

ARCHIVE = "https://gea.esac.esa.int/tap-server/tap"
"""TAP service of ESA's Gaia archive."""
_PAGE = "https://gea.esac.esa.int/archive"

_KIND = "query of the Gaia archive"
"""What the folder of answers is marked as."""
_TARGETS = ("gaia_source_id", "ra", "dec", "lmjd")
_FASTEST = 10.5
"""Arcsec/yr, just above the fastest star of all, Barnard's."""
_PAUSES = (5.0, 20.0, 60.0)
"""Pauses before a query is repeated (s)."""

_TMASS = ("ks_m", "ks_msigcom", QUALITY)
_CHOSEN = ", ".join(f"{'t' if column.name in _TMASS else 'g'}.{column.name}" for column in GAIA_SCHEMA)
_SELECT = f"SELECT {_CHOSEN} FROM TAP_UPLOAD.ours AS o"
_TMASS_JOIN = (
    "LEFT OUTER JOIN gaiadr3.tmass_psc_xsc_best_neighbour AS x ON x.source_id = g.source_id "
    "LEFT OUTER JOIN gaiadr3.tmass_psc_xsc_join AS j ON j.clean_tmass_psc_xsc_oid = x.clean_tmass_psc_xsc_oid "
    "LEFT OUTER JOIN gaiadr1.tmass_original_valid AS t ON t.designation = j.original_psc_source_id"
)
"""2MASS's row of each source, as the archive's own cross-match has it; null without one."""
_APART = "DISTANCE(POINT('ICRS', o.ra, o.dec), POINT('ICRS', g.ra, g.dec))"


class TapService(Protocol):
    """A service as `fetch_gaia` queries it: `pyvo.dal.TAPService`, or anything that answers as it does."""

    def run_async(self, query: str, *, uploads: Mapping[str, Any]) -> Any:
        """Return the answer to a query on uploaded astropy tables; ``to_table()`` gives it as one."""


class GaiaFetch(NamedTuple):
    """What `fetch_gaia` did: ``ids`` and ``positions`` queried, ids that were ``found``, ``sources`` written."""

    ids: int
    found: int
    positions: int
    sources: int


def read_targets(path: str | Path) -> _Arrays:
    """Return what `fetch_gaia` needs of a store's folder or of a table: gaia_source_id, ra, dec, lmjd if there.

    Raises:
        UsageError: it cannot be read, or has neither gaia_source_id nor ra and dec.

    Example:
        >>> file = getfixture("tmp_path") / "dr10.csv"
        >>> _ = file.write_text("obsid|gaia_source_id|snrr\\n101|2767387380324493184|7.5\\n")
        >>> read_targets(file)
        {'gaia_source_id': array([2767387380324493184])}
    """
    path = Path(path)
    targets = read_table(path / "index.parquet" if path.is_dir() else path, [], optional=_TARGETS)
    if "gaia_source_id" not in targets and not {"ra", "dec"} <= set(targets):
        message = f"{path}: has neither gaia_source_id nor ra and dec, by which Gaia can be queried"
        raise UsageError(message)
    return targets


def fetch_gaia(
    spectra: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    service: str | TapService = ARCHIVE,
    chunk: int = 5000,
    radius_arcsec: float = 3.0,
    earliest: float = 2000.0,
    progress: _Progress | None = None,
) -> GaiaFetch:
    """Write a Parquet table of the Gaia DR3 sources of spectra, with 2MASS's Ks: all that `gaia.join_gaia` uses.

    Sources are queried by identifier. Spectra without one, or with one that Gaia DR3 does not have, are queried
    by position: every source that can have been within the radius at any time between `earliest` and the last
    observation, given its proper motion; `join_gaia` then chooses. Equal positions are queried once.

    A question is a chunk of identifiers or positions, uploaded as a table, and is tried four times, with longer and
    longer pauses. Its answer is kept in the folder ``{path}.parts`` under the digest of the question, so that the
    same call goes on after any failure, and another one does not take its answers. The parts are removed once the
    table is there, one row per source, in order of source_id.

    Args:
        spectra: columns ``(row,)`` as `read_targets` gives them: gaia_source_id, or ra and dec (deg) and, where
            known, lmjd (d); or all of these. Rows without any are left out.
        path: the table to write, ``*.parquet``.
        service: address of a TAP service that has ``gaiadr3.gaia_source`` and 2MASS beside it, which takes
            ``stargap[tap]``; or the service.
        chunk: identifiers or positions of a question.
        radius_arcsec: largest separation of a join by position.
        earliest: Julian year that the positions can be of.
        progress: called as ``progress("identifiers" or "positions", done, total)``.

    Raises:
        UsageError: columns are missing or no identifiers, or the service does not answer, or only in part. The message
            then says how to ask by hand, with a table to upload that lies beside the parts.

    Example:
        >>> file = getfixture("tmp_path") / "gaia.parquet"
        >>> fetch_gaia({"gaia_source_id": [-9999]}, file)
        GaiaFetch(ids=0, found=0, positions=0, sources=0)
        >>> len(read_table(file)["source_id"])
        0
    """
    path = Path(path)
    if check_output(path) != ".parquet":
        message = f"cannot write {path.name!r}: its name must end in .parquet"
        raise UsageError(message)
    if chunk < 1:
        message = f"chunk is {chunk}; give 1 or more"
        raise UsageError(message)
    columns = {name: np.asarray(spectra[name]) for name in _TARGETS if name in spectra}
    if "gaia_source_id" not in columns and not {"ra", "dec"} <= set(columns):
        message = "neither gaia_source_id nor ra and dec are given, by which Gaia can be queried"
        raise UsageError(message)
    columns = equal_columns(columns, next(iter(columns)))
    rows = len(next(iter(columns.values())))
    ids = whole_ids(columns.get("gaia_source_id", np.full(rows, INT_NULL)), "gaia_source_id")
    archive = _Archive(service, path, chunk, progress)

    requested = np.unique(ids[ids > 0])
    by_id = f"{_SELECT} JOIN gaiadr3.gaia_source AS g ON g.source_id = o.source_id {_TMASS_JOIN}"
    parts = list(archive.answers("identifiers", by_id, {"source_id": requested}))
    known = np.concatenate([np.empty(0, np.int64), *(part["source_id"] for part in parts)])

    ra, dec = numbers(columns, "ra", rows) % 360, numbers(columns, "dec", rows)
    rest = np.isfinite(ra) & (np.abs(dec) <= 90) & ~np.isin(ids, known)
    places = np.unique(np.stack([ra[rest], dec[rest]], axis=1), axis=0)
    epochs = np.append(julian_epoch(numbers(columns, "lmjd", rows)[rest]), earliest)
    years = float(np.nanmax(np.abs(epochs - REF_EPOCH)))
    by_place = _by_place(radius_arcsec, years)
    parts += archive.answers("positions", by_place, {"ra": places[:, 0], "dec": places[:, 1]})

    kinds = {column.name: object if column.dtype == "str" else column.dtype for column in GAIA_SCHEMA}
    found = {name: np.concatenate([np.empty(0, kind), *(part[name] for part in parts)]) for name, kind in kinds.items()}
    sources, first = np.unique(found["source_id"], return_index=True)
    table = {name: values[first] for name, values in found.items()}
    write_table(table, path, schema=GAIA_SCHEMA, provenance=archive.provenance())
    archive.clear()
    return GaiaFetch(len(requested), len(known), len(places), len(sources))


def _by_place(radius: float, years: float) -> str:
    """Return the query by position: within the radius (arcsec) and how far a source moves in `years`."""
    radius, reach = radius + 0.01, 1.01 * years
    wide, near, motion = (radius + reach * _FASTEST) / 3600, radius / 3600, reach / 3.6e6
    cone = f"1 = CONTAINS(POINT('ICRS', g.ra, g.dec), CIRCLE('ICRS', o.ra, o.dec, {wide:.9f}))"
    moved = f"{near:.9f} + {motion:.12f} * SQRT(g.pmra * g.pmra + g.pmdec * g.pmdec)"
    query = f"{_SELECT} JOIN gaiadr3.gaia_source AS g ON {cone} {_TMASS_JOIN}"
    return f"{query} WHERE {_APART} <= {near:.9f} OR {_APART} <= {moved}"


@dataclass(frozen=True)
class _Archive:
    """A service, and the answers of it that are on disk."""

    service: str | TapService
    path: Path
    chunk: int
    progress: _Progress | None

    @property
    def address(self) -> str:
        return self.service if isinstance(self.service, str) else getattr(self.service, "baseurl", "a service")

    @property
    def folder(self) -> Path:
        return self.path.with_name(f"{self.path.name}.parts")

    def provenance(self) -> dict[str, str]:
        return {
            "creator": f"stargap {__version__}",
            "service": self.address,
            "table": "gaiadr3.gaia_source, gaiadr1.tmass_original_valid",
        }

    def clear(self) -> None:
        """Remove all but the table itself."""
        if self.folder.exists():
            shutil.rmtree(clean_folder(self.folder, _KIND))

    def answers(self, what: str, query: str, ours: _Arrays) -> Iterator[_Arrays]:
        """Give the answers on `ours`, chunk by chunk, reading again those on disk."""
        total = len(next(iter(ours.values())))
        for start in range(0, total, self.chunk):
            part = {name: values[start : start + self.chunk] for name, values in ours.items()}
            question = hashlib.sha256(f"{self.address}\n{query}\n".encode())
            for values in part.values():
                question.update(np.ascontiguousarray(values).tobytes())
            file = self.folder / f"{question.hexdigest()[:24]}.parquet"
            if not file.exists():
                answer = self._ask(what, query, part, ours)
                claim_folder(self.folder, _KIND)
                write_table(answer, file, schema=GAIA_SCHEMA, provenance=self.provenance())
            yield read_columns(file)
            if self.progress is not None:
                self.progress(what, min(start + self.chunk, total), total)

    def _ask(self, what: str, query: str, part: _Arrays, ours: _Arrays) -> _Arrays:
        pauses = list(_PAUSES)
        while True:
            try:
                return _answer(self.service, query, part)
            except UsageError as error:
                raise self._by_hand(what, query, ours, str(error)) from error
            except Exception as error:  # services fail with almost any class
                if not pauses:
                    reason = " ".join(str(error).split())[:200] or type(error).__name__
                    raise self._by_hand(what, query, ours, reason) from error
                time.sleep(pauses.pop(0))

    def _by_hand(self, what: str, query: str, ours: _Arrays, reason: str) -> UsageError:
        claim_folder(self.folder, _KIND)
        table = self.folder / f"{what}.vot"
        schema = [column for column in GAIA_SCHEMA if column.name in ours]
        write_table(ours, table, schema=schema, provenance={})
        message = f"{self.address}: {reason}; the same command goes on from what is in {self.folder}. "
        message += f"Or by hand: at {_PAGE}, signed in, upload {table} as table 'ours', run the query below with "
        message += "user_NAME.ours in place of TAP_UPLOAD.ours, and name the result as the Gaia table of the survey: "
        return UsageError(message + query)


def _answer(service: str | TapService, query: str, ours: _Arrays) -> _Arrays:
    from astropy.table import Table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of units and of VOTable's letter
        result = _connected(service).run_async(query, uploads={"ours": Table(ours)})
        if getattr(result, "status", ("OK",))[0].upper() == "OVERFLOW":
            message = "cuts its answers short: ask for fewer stars at a time (chunk)"
            raise UsageError(message)
        table = result.to_table()
    names = {name.lower(): name for name in table.colnames}
    lacking = [column.name for column in GAIA_SCHEMA if column.name not in names]
    if lacking:
        message = f"the answer lacks {', '.join(lacking)}"
        raise UsageError(message)
    answer: _Arrays = {
        column.name: np.ma.filled(np.ma.asarray(table[names[column.name]]).astype(float), np.nan)
        for column in GAIA_SCHEMA[1:]
        if column.dtype != "str"
    }
    words = np.ma.filled(np.ma.asarray(table[names[QUALITY]]).astype(object), "")
    answer[QUALITY] = np.array([w.decode() if isinstance(w, bytes) else str(w) for w in words], dtype=object)
    ids = whole_ids(np.ma.filled(np.ma.asarray(table[names["source_id"]]), INT_NULL), "source_id")
    return {"source_id": ids} | answer


def _connected(service: str | TapService) -> TapService:
    if not isinstance(service, str):
        return service
    try:
        from pyvo.dal import TAPService
    except ImportError:
        message = "queries need pyvo: pip install 'stargap[tap]'"
        raise UsageError(message) from None
    connected: TapService = TAPService(service)
    return connected
