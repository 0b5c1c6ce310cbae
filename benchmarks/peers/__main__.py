"""Write docs/results/peers.md; what was found before is read, so a stopped run goes on where it was."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from string import Template

import torch
from make_real_stars import GROUPS
from pages import reflow

from peers import ROOT, amortised, page, survey
from peers.methods import BRIGHT, GOOD_TRAINING, ITERATIONS, Methods
from peers.real import counts, real_facts, real_labels, real_table
from stargap import __version__


def main() -> int:
    """Run what is asked for, or all, and write the page."""
    parser = argparse.ArgumentParser(prog="peers", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with grid/ and lamost/")
    parser.add_argument("--work", type=Path, default=Path("build/peers"), help="keeps what takes long")
    parser.add_argument("--only", default="", help="methods, or real, separated by commas; no page")
    parser.add_argument("--skip", default="", help="methods to leave out of the page, separated by commas")
    given = parser.parse_args()
    if not (given.data / "grid").is_dir():
        print(f"{given.data / 'grid'}: the folder does not exist; name the data folder with --data", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    methods = Methods(survey.Survey(given.work, given.data), lambda text: print(text, file=sys.stderr, flush=True))
    wanted = set(filter(None, given.only.split(",")))
    skipped = set(filter(None, given.skip.split(",")))
    names = [pair for pair in methods.names() if pair[0] not in skipped and (not wanted or pair[0] in wanted)]
    results = {pair: methods.result(*pair) for pair in names}
    if "real" in wanted:
        real_labels(methods, given.data)
    if wanted:
        return 0
    samples = {kind: methods.survey.sample(kind) for kind in (survey.MIX, "outside")}
    truth = {kind: sample.labels for kind, sample in samples.items()}
    snr = samples[survey.MIX].spectra.snr
    bench, found = real_labels(methods, given.data)
    tables = {group: real_table(bench, found, page.TITLES, group) for group in GROUPS}
    stars = counts(bench)
    folder = ROOT / "docs" / "results"
    text = Template((folder / "peers.template.md").read_text(encoding="utf-8"))
    filled = text.substitute(
        version=__version__, labelled=f"{survey.LABELLED:,}", unlabelled=f"{survey.UNLABELLED:,}",
        test=f"{survey.TEST:,}", outside=survey.OUTSIDE, train_seed=survey.TRAIN_SEED, test_seed=survey.TEST_SEED,
        outside_seed=survey.OUTSIDE_SEED, noise_seed=survey.NOISE_SEED, bright=f"{BRIGHT:.0f}",
        good=f"{GOOD_TRAINING:.0f}", iterations=f"{ITERATIONS:,}",
        given=page.given(results), missing=page.missing(results), tied=f"{survey.TIED:,}", batch=amortised.BATCH,
        network=f"{amortised.ITERATIONS:,}",
        tables=page.simulated(results, truth, snr), costs=page.costs(results),
        lost=page.lost(results), lamost=tables["lamost"], other=tables["other"], n_trained=stars["trained"],
        n_lamost=stars["lamost"], n_other=stars["other"],
        **page.facts(results, truth, snr), **real_facts(bench, found),
        default_rate=f"{1 / results['default', 'hard'].fitted:.0f}",
    )  # fmt: skip
    (folder / "peers.md").write_text(reflow(filled), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
