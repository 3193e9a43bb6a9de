"""What the page says about each table and figure: headings, how to read them, and what a figure shows."""

import pandas as pd

from tdabench.drawing.tables import count_repeats

# By the name of the table and of the figure, in the page's order: heading, and how to read it. ``interval`` is what the
# intervals are, ``level`` the p-value under which a difference counts.
TEXTS = {
    "pairs": (
        "Paired differences",
        "LDS of the first method minus that of the second, on the same subsets and queries. Intervals: {interval}; the "
        "bootstrap's are for these repeats alone, with other subsets and queries. p (Holm) allows for how many pairs "
        "are compared; two methods are told apart where it is below {level}.",
    ),
    "removal": (
        "Removing the most helpful examples",
        "A model is retrained without the k examples that a method calls most helpful for a query, and another without "
        "k random ones of the same classes: the effect is how much higher the query's loss is, in nats. 0 is what "
        "random removals do; higher means that the method found what matters. Intervals: {interval}.",
    ),
    "detection": (
        "Finding mislabelled examples",
        "Labels were changed on purpose, and each detector ranks the examples by suspicion: the score of an example "
        "for itself, or minus its mean helpfulness for the queries. The number is the area under the ROC curve: 1 "
        "finds every wrong label first, 0.5 is chance. Intervals: {interval}.",
    ),
    "sweep": (
        "Sweep of settings",
        "One method at every point of a grid of its settings, with the same random numbers, judged by its LDS on the "
        "tuning queries alone: no scored query was handed to it or looked at. Points that are not told apart from the "
        "best one may be it (paired, corrected for all pairs). The change is that of the mean training loss from the "
        "checkpoint to the last draw: small means that the chain hardly moved, large that it left the neighbourhood. "
        "Intervals: {interval}.",
    ),
    "scaling": (
        "Cost against model size",
        "What each method costs at each size of the model, every run in a process of its own. A filled mark is "
        "measured, a hollow one predicted: sizes that were not run, more draws than were made. A line is a power law, "
        "fitted to the logarithms by least squares; exponents have the {confidence} Student's t interval of a slope, "
        "none with two sizes. The largest measured size, held out, was also predicted from the others. Memory is the "
        "peak above what was resident before the model; a run that was out of time or memory says so.",
    ),
    "scaling_predictions": (
        "Predicted cost of sizes that were not run",
        "By the fitted power laws, against all parameters and against those that a method looks at, with the "
        "{confidence} interval of a single new measurement. Nothing here was measured.",
    ),
    "break_even": (
        "Queries from which a fit has paid for itself",
        "A method that is fitted first is dear to begin with; where its queries are cheaper, it has paid for itself "
        "after so many of them. Predicted is where the lines through the measured costs cross; measured is where the "
        "costs themselves do, between two numbers of queries that were run. With draws that were not made there is a "
        "prediction only.",
    ),
    "agreement": (
        "Agreement between methods",
        "For each query, the rank correlation of two methods' scores over all examples, and the share that their most "
        "helpful (or harmful) examples have in common; then the mean over queries. Near 1 they say the same, near 0 "
        "they have nothing in common, whatever their LDS. Intervals: {interval}.",
    ),
    "properties": (
        "Properties of the methods",
        "What a method can do and what it needs, each found by running it on small made-up problems and not taken from "
        "a paper.",
    ),
    "diagnostics": (
        "Diagnostics",
        "Signs that the draws of a method that samples are sound, over the training losses: read them before its LDS. "
        "R-hat above 1.05, few effective draws or a drift of more than 4 Monte Carlo errors tell of chains that have "
        "not settled, which explains a low one; a dash stands where draws are independent by design, or too few. The "
        "distance from the checkpoint grows with an exponent of 0 once a chain has settled, of 1/2 where noise alone "
        "moves it. The learning coefficient is negative where the checkpoint is no minimum; the error of a score is "
        "the median Monte Carlo error of covariances, relative to their median size.",
    ),
    "extrapolation": (
        "What more draws would bring",
        "The LDS of a method that samples grows with its draws about as limit / \u221a(1 + c / draws), since noise in "
        "the scores hides their agreement with the truth: c is the number of draws a chain at which half of the "
        "scores' variance is noise, found from how much independent chains agree. Far below its limit a sampler is "
        "still noisy, near it the method is at its end. The Monte Carlo error is how far other draws would move the "
        "LDS. Intervals of the limit: {interval}.",
    ),
    "reliability": (
        "Reliability of the ground truth",
        "Agreement is the rank correlation of the losses of two retrains of the same subsets, the mean over queries; "
        "the ceiling is the LDS that a perfect predictor of the expected loss would reach, given that agreement and "
        "the number of retrains. The oracle ranks the subsets by how the other queries fared, alike for every query: "
        "the most that can be had without looking at the query. Intervals: {interval}.",
    ),
    "null": (
        "What chance reaches",
        "The band in which {confidence} of the LDS lie if predictions are shuffled over subsets, and the share p of "
        "shuffled ones that reach the method's own: inside its band, an LDS says nothing. Every repeat has its own.",
    ),
    "variance": (
        "Where the uncertainty comes from",
        "Share of the variance of a method's LDS by source, of what is measured: more subsets, queries or retrains "
        "help where their share is large. Checkpoint and sampler are known of the methods that are attributed again.",
    ),
}
COST = (
    "Mean over repeats; wall-clock seconds by phase count whatever else the machine did, CPU seconds do not. Memory is "
    "the peak of the whole process, disk the growth of the scratch folder."
)
FRONTIER = (
    "Up and to the left is better: the grey steps are the best LDS that is to be had at each price. The price is CPU "
    "seconds, or forward passes of one example (a gradient counts three), which don't depend on the machine; training "
    "the checkpoints is in neither. A thick line follows the first draws of a method that samples, a thin one methods "
    "that differ in one number; a method that makes no pass is left out."
)
FIGURES = {
    "frontier": "LDS of each method against CPU seconds and against forward passes, with lines through growing draws "
    "and growing settings, the ceiling and what chance reaches",
    "lds": "LDS of each method against the size of the attribution set, with intervals, the ceiling and what chance "
    "reaches",
    "lds_by_repeat": "LDS of each method in every single repeat, with bootstrap intervals",
    "cost": "Wall-clock seconds of each method by phase, at every size",
    "pairs": "Difference of each method's LDS to the best one's, with intervals; methods that share a letter are not "
    "told apart",
    "agreement": "Two matrices of all pairs of methods at the largest size: rank correlation of their scores, and the "
    "share of their most helpful examples that both have",
    "removal": "Effect of the removal against the number of removed examples, by method, with intervals",
    "sweep_lds": "Mean LDS on the tuning queries at every point of the grid; the best is framed, a dot marks what is "
    "not told apart from it, hatched points have none",
    "sweep_traces": "Mean training loss over the draws of every chain at every point of the grid, dashed the "
    "checkpoint's; diverged chains are cut",
    "diagnostics": "Training loss along each chain of the methods that sample, beside the checkpoint's",
    "scaling": "Seconds, memory and disk of each method against the parameters of the model, on logarithmic scales, "
    "with fitted power laws; hollow marks are predicted",
    "break_even": "Seconds of each method against the number of queries, a panel a size; a vertical line marks where "
    "a fitted method is predicted to become the cheaper one",
    "detection": "Area under the ROC curve by method and detector, with intervals; the dotted line is chance",
}


def describe_ranking(lds: pd.DataFrame, confidence: float, *, has_groups: bool) -> str:
    """Say how the ranking is read."""
    repeats = count_repeats(lds)
    kind = (
        f"Student's t interval over {repeats} repeats" if repeats > 1 else "bootstrap interval over subsets and queries"
    )
    groups = " Methods that share a letter of their group are not told apart." if has_groups else ""
    return (
        "The linear datamodeling score (LDS) of every method, best first: 1 is perfect, 0 is chance. The interval is "
        f"the {confidence:.0%} {kind}; the ceiling is what a perfect predictor would reach.{groups}"
    )


def describe(name: str, table: pd.DataFrame | None, confidence: float) -> tuple[str, str]:
    """Return the heading of a section, and how to read it; what is not known says which files it is."""
    heading = name.replace("_", " ").capitalize()
    heading, how_to_read = TEXTS.get(name, (heading, f"As it stands in tables/{name}.csv and figures/{name}.png."))
    if name not in TEXTS:
        return heading, how_to_read
    repeats = 0 if table is None or "repeat" not in table.columns else count_repeats(table)
    kind = f"Student's t over {repeats} repeats" if repeats > 1 else "bootstrap"
    level = f"{1 - confidence:.3g}"
    return heading, how_to_read.format(
        interval=f"{confidence:.0%}, {kind}", level=level, confidence=f"{confidence:.0%}"
    )
