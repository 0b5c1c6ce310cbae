"""Write docs/columns.md from the schema and the flags."""

from pathlib import Path

from stargap.catalogue.schema import CATALOGUE, MEASURED, STARS, SURVEY, columns_table
from stargap.flags import FLAG_TEXT


def page() -> str:
    """Return the page; a test holds docs/columns.md against it."""
    flags = "\n".join(f"| {flag.bit_length() - 1} | `{flag.name}` | {text} |" for flag, text in FLAG_TEXT.items())
    return f"""# Columns and flags

Made by `python docs/make_columns.py` from `stargap.catalogue.schema` and `stargap.flags`.

## Columns of `stargap measure`

{columns_table()}

## Further columns of `stargap run`

{columns_table(SURVEY[len(MEASURED) :])}

## Columns of the catalogue, one row a spectrum

{columns_table(CATALOGUE)}

## Columns of the catalogue, one row a star

{columns_table(STARS)}

## Flags

`flags` is the sum of 2^bit; `flag_text` holds the sentences. Bits 24 to 31 are left to users.

| bit | name | meaning |
|---|---|---|
{flags}
"""


if __name__ == "__main__":
    (Path(__file__).parent / "columns.md").write_text(page(), encoding="utf-8")
