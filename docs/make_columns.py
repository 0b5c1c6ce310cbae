"""Write docs/columns.md from the schema and the flags."""

import argparse
from pathlib import Path

from stargap.flags import FLAG_COLUMNS
from stargap.tables.columns import CATALOGUE, JOINED, MEASURED, STARS, SURVEY, columns_table

ABOUT = {
    "flags": "of a measurement; in tables of measurements, `flag_text` holds the sentences",
    "sample_flags": "of the cuts of the sample",
    "clean_flags": "of the cleaning",
    "cuts": "of the cuts of the final catalogue; `ERROR_UNKNOWN`, `AGE_UNKNOWN` and `ACTIVE` remove nothing",
    "vb_flag": "of catalogues of variable and binary candidates",
    "precision_flags": "errors to be used with care",
    "age_flags": "of kinematic ages",
    "phot_flags": "of labels from photometry",
    "joint_flags": "of labels from spectrum and photometry together",
}


def bits(column: str) -> str:
    """Return the section of one column of bits."""
    rows = [f"| {flag.bit_length() - 1} | `{flag.name}` | {flag.sentence} |" for flag in FLAG_COLUMNS[column]]
    return "\n".join([f"### `{column}`: {ABOUT[column]}", "", "| bit | name | meaning |", "|---|---|---|", *rows])


def page() -> str:
    """Return the page; a test holds docs/columns.md against it."""
    flags = "\n\n".join(bits(column) for column in FLAG_COLUMNS)
    return f"""# Columns and flags

Made by `python docs/make_columns.py` from `stargap.tables.columns` and `stargap.flags`.

## Columns of `stargap measure`

{columns_table()}

## Further columns of `stargap measure --gaia`

{columns_table(JOINED[len(MEASURED) :])}

## Further columns of `stargap run`

{columns_table(SURVEY[len(MEASURED) :])}

## Columns of the catalogue, one row per spectrum

{columns_table(CATALOGUE)}

## Columns of the catalogue, one row per star

{columns_table(STARS)}

## Flags

Each is the sum of 2^bit; bits 24 to 31 are left to users. Those of `flags` are in the order of severity, the worst
first; `use_*` and `care_*` follow from them (`stargap.marks`).

{flags}
"""


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    (Path(__file__).parent / "columns.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
