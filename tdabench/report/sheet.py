"""One sheet of small images: what the page shows of a dataset, in a single PNG."""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, Shaped, UInt8
from PIL import Image, ImageOps
from torch import Tensor

COLUMNS = 24
MOST_BYTES = 1_000_000
SIDES = (96, 64, 48, 32, 24, 16)


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
