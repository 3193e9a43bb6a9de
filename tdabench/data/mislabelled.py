"""Wrong labels that are planted on purpose, so that it is known which they are."""

import torch
from jaxtyping import Int
from torch import Tensor


def plant_wrong_labels(
    labels: Int[Tensor, " pool"],
    share: float,
    *,
    classes: Int[Tensor, " class"],
    generator: torch.Generator,
) -> dict[str, Int[Tensor, " planted"]]:
    """Choose examples of the pool and draw each a label that is not its own, uniformly over the other classes.

    The places are evenly spread with a random offset: since the pool is in random order, that is a random choice, and
    every start of the pool (every size of the attribution set) has its share, to within one example. A size that is
    added later changes no other.

    Args:
        labels: The true labels, in the pool's order.
        share: Of the pool, in (0, 1).
        classes: Every label there is, sorted.

    Returns:
        ``planted`` (places in the pool, ascending) and ``planted_labels``.

    Raises:
        ValueError: If there is only one class.
    """
    if len(classes) < 2:
        raise ValueError(f"A wrong label needs a second class; the training set has only {classes.tolist()}.")
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    # The place that contains each of the points (j + offset) / share.
    points = (torch.arange(len(labels), dtype=torch.float64) + offset) / share
    planted = points[points < len(labels)].long()
    shift = torch.randint(1, len(classes), planted.shape, generator=generator)
    own = torch.searchsorted(classes, labels[planted])
    return {"planted": planted, "planted_labels": classes[(own + shift) % len(classes)]}
