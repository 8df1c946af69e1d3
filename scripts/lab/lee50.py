"""Correlation of similarities with human judgements on Lee50, 1,225 pairs of 50 news texts, for tsjax and PyTorch.

    python -m scripts.lab.lee50 MODEL DIRECTORY [--temperature 1,0.9]

DIRECTORY holds ``lee.cor`` and ``similarities0-1.txt``, from gensim/test/test_data in the package gensim.
Source: Lee, Pincombe and Welsh, "An empirical evaluation of models of text document similarity", 2005.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sentence_transformers import SentenceTransformer

import tsjax
from conversion.originals import tempered
from tsjax.hub import locate


def main() -> None:
    """Print Pearson's and Spearman's correlation with human judgements for each temperature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("directory", metavar="DIRECTORY", type=Path)
    parser.add_argument("--temperature", metavar="τ,…", default="1")
    options = parser.parse_args()
    warnings.simplefilter("ignore", tsjax.TruncationWarning)
    texts = (options.directory / "lee.cor").read_text(encoding="latin-1").splitlines()
    people = np.loadtxt(options.directory / "similarities0-1.txt")
    pairs = np.triu_indices(len(texts), k=1)
    ours = tsjax.load(options.model, kind="embedder")
    original = SentenceTransformer(
        str(locate(options.model)), device="cpu", model_kwargs={"attn_implementation": "eager"}
    )
    print("τ     ours: Pearson Spearman   PyTorch: Pearson Spearman   greatest difference of vectors")
    for tau in map(float, options.temperature.split(",")):
        with tempered(tau):
            theirs = original.encode(texts, normalize_embeddings=True)
        mine = ours.encode(texts, normalize_embeddings=True, temperature=tau)
        scores = [(x @ x.T)[pairs] for x in (mine, theirs)]
        figures = [f(score, people[pairs]).statistic for score in scores for f in (pearsonr, spearmanr)]
        print("{:<4g}       {:9.4f} {:8.4f}            {:9.4f} {:8.4f}".format(tau, *figures), end="")
        print(f"   {np.abs(mine - theirs).max():.1e}")


if __name__ == "__main__":
    main()
