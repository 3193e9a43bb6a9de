"""The most and least helpful images of some queries, all methods side by side (the paper's Fig. 3 and 15)."""

import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from tdabench.drawing.columns import MINUS
from tdabench.experiment.read import Experiment
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_record, load_rows, load_tensors

QUERIES = 6
NEIGHBOURS = 5
# So many pictures of neighbours at most: with many methods there are fewer queries.
MOST_NEIGHBOURS = 600
# Of the sheet: images in a row, bytes, and sides of an image in pixels.
COLUMNS = 24
MOST_BYTES = 1_000_000
SIDES = (96, 64, 48, 32, 24, 16)
# CSS pixels, about: of neighbours, of the query.
SHOWN_SIDE, QUERY_SIDE = 60, 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """One image: its place in the sheet, and what is written below it."""

    place: int
    label: str
    description: str
    score: str = ""
    same_label: bool = False

    @property
    def column(self) -> int:
        """Where in the sheet, from the left."""
        return self.place % COLUMNS

    @property
    def row(self) -> int:
        """Where in the sheet, from the top."""
        return self.place // COLUMNS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What one method says about one query; without scores, the reason."""

    method: str
    helpful: tuple[Tile, ...] = ()
    harmful: tuple[Tile, ...] = ()
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryImages:
    """A query, and a row of images a method."""

    tile: Tile
    neighbours: tuple[Neighbours, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gallery:
    """All images as one sheet (a PNG), and which of them stand where.

    Attributes:
        columns: Images in a row of the sheet.
        shown: Side of an image on the page, in CSS pixels: a whole multiple of its own, so that small ones stay sharp.
        shown_query: The same, of a query.
    """

    sheet: bytes
    columns: int
    shown: int
    shown_query: int
    train_size: int
    repeat: int
    queries: tuple[QueryImages, ...]


class _Tiles:
    """Images of one gallery: each stands in the sheet once, however often it is shown."""

    def __init__(self, data: dict[str, Tensor], names: list[str]) -> None:
        self.data, self.names = data, names
        self.places: dict[tuple[str, int], int] = {}

    def tile(self, part: str, index: int, score: float | None = None, query_label: int | None = None) -> Tile:
        """Put an image of a part (``train`` or ``test``) in its place and its words."""
        number = int(self.data[f"{part}_labels"][index])
        label = self.names[number] if number < len(self.names) else str(number)
        written = "" if score is None else format_score(score)
        return Tile(
            place=self.places.setdefault((part, index), len(self.places)),
            label=label,
            description=f"{part} image {index}, label {label}{f', score {written}' if written else ''}",
            score=written,
            same_label=number == query_label,
        )

    def sheet(self) -> tuple[bytes, int]:
        """Draw all images; return the PNG and their side."""
        pictures = [displayable(self.data[f"{part}_images"], torch.tensor([index]))[0] for part, index in self.places]
        return make_sheet(pictures)


def load_gallery(experiment: Experiment, folder: Path, repeat: int = 0) -> Gallery | None:
    """Make the gallery of one repeat's largest set from its files; none if the data are no images."""
    cell = Cell(folder, repeat, max(experiment.data.train_sizes))
    data, record = load_tensors(cell.dataset), load_record(cell.dataset)
    if "train_images" not in data or data["train_images"].dtype != torch.uint8:  # text, or features
        return None
    split = load_tensors(cell.split)
    count = max(1, min(QUERIES, MOST_NEIGHBOURS // (2 * NEIGHBOURS * len(experiment.methods))))
    chosen = choose_queries(data["test_labels"][split["query"]], count)
    tiles = _Tiles(data, record.get("label_names") or [])
    asked = [tiles.tile("test", index) for index in split["query"][chosen].tolist()]
    rows = [_neighbours(tiles, cell.scores(method), split, chosen) for method in experiment.methods]
    sheet, side = tiles.sheet()
    return Gallery(
        sheet=sheet,
        columns=min(COLUMNS, len(tiles.places)),
        shown=side * max(1, round(SHOWN_SIDE / side)),
        shown_query=side * max(1, round(QUERY_SIDE / side)),
        train_size=cell.train_size,
        repeat=repeat,
        queries=tuple(
            QueryImages(tile=tile, neighbours=tuple(row[place] for row in rows)) for place, tile in enumerate(asked)
        ),
    )


def _neighbours(
    tiles: _Tiles, path: Path, split: dict[str, Tensor], chosen: Int[Tensor, " chosen"]
) -> list[Neighbours]:
    """Return a row of images for each chosen query, from the file of one method's scores."""
    scores, status = load_rows(path, "scores", chosen.tolist()), load_record(path)["status"]
    if scores is None:
        return [Neighbours(method=path.stem, reason=status)] * len(chosen)
    rows = []
    for query, row in zip(split["query"][chosen], scores, strict=True):
        label = int(tiles.data["test_labels"][query])
        helpful, harmful = (
            tuple(tiles.tile("train", int(split["pool"][one]), row[one].item(), label) for one in end)
            for end in extreme_examples(row)
        )
        rows.append(Neighbours(method=path.stem, helpful=helpful, harmful=harmful))
    return rows


def choose_queries(labels: Int[Tensor, " query"], count: int) -> Int[Tensor, " chosen"]:
    """Choose queries spread over the labels: the first one of labels at equal distances, then their second ones."""
    present = labels.unique().tolist()
    different = min(count, len(present))
    of_label = [
        (labels == present[place * len(present) // different]).nonzero().flatten().tolist()
        for place in range(different)
    ]
    rounds = range(max(map(len, of_label)))
    in_turn = [indices[turn] for turn in rounds for indices in of_label if turn < len(indices)]
    return torch.tensor(in_turn[:count])


def extreme_examples(scores: Float[Tensor, " train"], count: int = NEIGHBOURS) -> tuple[list[int], list[int]]:
    """Return the examples of the highest and of the lowest scores, the most extreme first."""
    order = scores.argsort(descending=True, stable=True).tolist()
    return order[:count], order[::-1][:count]


def format_score(score: float) -> str:
    """Write a score in as few characters as two digits need."""
    text = f"{score:,.0f}" if 100 <= abs(score) < 1e5 else f"{score:#.2g}".removesuffix(".")
    return text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e").replace("-", MINUS)


def displayable(
    images: Shaped[Tensor, "image channel height width"], chosen: Int[Tensor, " chosen"]
) -> UInt8[np.ndarray, "chosen height width 3"]:
    """Make images for eyes: bytes as they are, other numbers scaled by channel to the whole tensor's range.

    Three channels are RGB; any other number becomes grey, their mean.
    """
    shown = images[chosen].float()
    if images.dtype != torch.uint8:
        low, high = (bound[:, None, None].float() for bound in (images.amin((0, 2, 3)), images.amax((0, 2, 3))))
        shown = (shown - low) / (high - low).clamp(min=1e-12) * 255
    if shown.shape[1] != 3:
        shown = shown.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return shown.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def make_sheet(
    pictures: Sequence[UInt8[np.ndarray, "height width 3"]], most_bytes: int = MOST_BYTES
) -> tuple[bytes, int]:
    """Lay images in rows of ``COLUMNS`` squares, as large as they are or as the bytes allow; the PNG, and the side."""
    own = max(pictures[0].shape[:2])
    smaller = [side for side in SIDES if side < own]
    for side in [own, *smaller] if own <= SIDES[0] else smaller:
        content = _draw(pictures, side)
        if len(content) <= most_bytes:
            break
    return content, side


def _draw(pictures: Sequence[UInt8[np.ndarray, "height width 3"]], side: int) -> bytes:
    columns = min(COLUMNS, len(pictures))
    sheet = Image.new("RGB", (columns * side, math.ceil(len(pictures) / columns) * side))
    for place, picture in enumerate(pictures):
        square = ImageOps.pad(Image.fromarray(picture), (side, side), Image.Resampling.LANCZOS)
        sheet.paste(square, (place % columns * side, place // columns * side))
    content = io.BytesIO()
    sheet.save(content, format="PNG", optimize=True)
    return content.getvalue()
