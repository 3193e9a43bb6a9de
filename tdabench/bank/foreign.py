"""Banks of others: their arrays become our tensors, with what is known about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tdabench.bank.arrays import as_masks, pick, read_arrays
from tdabench.bank.measured import Measured

# Its examples retrain 5 times on each of 100 subsets and keep the mean (README of examples/wikitext).
KRONFLUENCE_RETRAINS = 5
Foreign = tuple[dict[str, Tensor], dict[str, Any], list[Path]]


def read_foreign(
    format: str,
    sources: Sequence[Path],
    *,
    masks: str = "masks",
    measured: Measured | None = None,
    num_train: int | None = None,
    averaged: int | None = None,
) -> Foreign:
    """Read masks and losses of a bank that was made elsewhere.

    Args:
        format: ``kronfluence`` (a folder with masks.npy, and losses.npy or margins.npy) or ``arrays`` (files).
        masks: Name of the masks among the arrays.
        measured: Which array was measured, (subset, query) or (subset, retrain, query), and what it is.
        num_train: Number of training examples, where masks are lists of indices.
        averaged: Retrains whose mean each loss is (default: 5 for ``kronfluence``, 1 for ``arrays``).

    Returns:
        Tensors, details for the record, and the files.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the format is unknown, or a file or an array can't be used.
    """
    measured = measured or Measured()
    if averaged is not None and averaged < 1:
        raise ValueError(f"--averaged must be at least 1, got {averaged}.")
    if format == "kronfluence":
        return _read_kronfluence(sources, measured, averaged or KRONFLUENCE_RETRAINS)
    if format != "arrays":
        raise ValueError(f"There is no format {format!r}; there are tdabench, kronfluence, arrays.")
    arrays = read_arrays(sources, ragged=masks if num_train is not None else None)
    kept = as_masks(pick(arrays, masks, "--masks"), num_train)
    name, option, measure = measured.choose(list(arrays))
    loss = measured.as_losses(pick(arrays, name, option), measure)
    return {"masks": kept, "loss": loss}, _describe("arrays", measure, averaged or 1), list(sources)


def _read_kronfluence(sources: Sequence[Path], measured: Measured, averaged: int) -> Foreign:
    if len(sources) != 1 or not sources[0].is_dir():
        raise ValueError(
            "A bank of kronfluence's examples is one folder, with masks.npy and losses.npy (or margins.npy); got "
            f"{', '.join(map(str, sources))}."
        )
    folder = sources[0]
    has_margins = (folder / "margins.npy").exists() and not (folder / "losses.npy").exists()
    name, measure = ("margins", "minus margin") if has_margins else ("losses", "loss")
    files = [folder / "masks.npy", folder / f"{name}.npy"]
    for path in files:
        if not path.is_file() and path.with_suffix(".pt").is_file():
            raise ValueError(
                f"{path.with_suffix('.pt')} is a pickle, which can run code and is never read. If you trust it, make "
                f"{path.name} of it: numpy.save({path.name!r}, torch.load({path.stem + '.pt'!r}, weights_only=False))."
            )
    arrays = read_arrays(files)
    tensors = {"masks": as_masks(arrays["masks"], None), "loss": measured.as_losses(arrays[name], measure)}
    return tensors, _describe("kronfluence", measure, averaged), files


def _describe(source: str, measure: str, averaged: int) -> dict[str, Any]:
    return {"source": source, "measure": measure, "averaged": averaged}
