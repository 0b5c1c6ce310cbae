"""The transfer made from stars of known labels."""
