"""`stargap view`: the explorer over a whole survey, served to the browser of the person who started it."""
