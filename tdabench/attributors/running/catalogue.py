"""The built-in methods, for people to read: nothing is looked up here."""

from tabulate import tabulate

METHODS = (
    ("bif", "tdabench.attributors.bif:BIF", "", "covariance or correlation of losses over SGLD draws"),
    ("bif_baoab", "tdabench.attributors.bif:BIF", "sampler: baoab", "the same over draws of underdamped dynamics"),
    ("bif_rmsprop", "tdabench.attributors.bif:BIF", "sampler: rmsprop_sgld", "the same over preconditioned SGLD draws"),
    (
        "bif_laplace",
        "tdabench.attributors.laplace_bif:LaplaceBIF",
        "",
        "covariance of losses over a Gaussian local posterior in the span of stochastic gradients",
    ),
    ("ekfac", "tdabench.attributors.kronfluence:Kronfluence", "strategy: ekfac", "eigenvalue-corrected K-FAC"),
    ("kfac", "tdabench.attributors.kronfluence:Kronfluence", "strategy: kfac", "Kronecker-factored curvature"),
    ("diagonal", "tdabench.attributors.kronfluence:Kronfluence", "strategy: diagonal", "diagonal Fisher"),
    ("gradsim", "tdabench.attributors.kronfluence:Kronfluence", "strategy: identity", "gradient dot products"),
    ("trak", "tdabench.attributors.trak:TRAK", "", "projected gradients of an ensemble of checkpoints"),
    ("bm25", "tdabench.attributors.bm25:BM25", "", "baseline of texts: words in common with the query, no model"),
    ("random", "tdabench.attributors.baselines:Random", "", "baseline: chance"),
    (
        "query_independent",
        "tdabench.attributors.baselines:QueryIndependent",
        "",
        "baseline: mean GradSim score, the same for every query",
    ),
)


def describe_methods() -> str:
    """Make a table of the built-in methods: key, import path, deciding setting, one line."""
    return tabulate(METHODS, headers=("key", "attributor", "setting", "what it does")) + "\n"
