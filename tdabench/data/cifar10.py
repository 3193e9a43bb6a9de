"""CIFAR-10 (Krizhevsky, 2009) from torchvision's files in the data root, or downloaded."""

import dataclasses
import socket
from pathlib import Path

import torch

from tdabench.data.base import ImageData


@dataclasses.dataclass(frozen=True, kw_only=True)
class CIFAR10:
    """All 50,000 training and 10,000 test images; every file's md5 is checked."""

    def load(self, root: Path) -> ImageData:
        """Load the images from ``root/cifar-10-batches-py``, downloading 163 MB first if that folder is absent.

        Raises:
            FileNotFoundError: If the folder is absent and the download fails.
            ValueError: If the folder is there and a file in it is missing or corrupt.
        """
        from torchvision.datasets import CIFAR10 as Torchvision

        folder = Path(root) / Torchvision.base_folder
        if not folder.exists():
            _download(Torchvision, Path(root))
        try:
            train, test = (Torchvision(root, train=part, download=False) for part in (True, False))
        except RuntimeError as error:
            raise ValueError(
                f"A file of CIFAR-10 in {folder} is missing or corrupt: {_first_bad_file(Torchvision, folder)}. Delete "
                f"{folder} and run again to download it ({Torchvision.url}), or try the embedded experiment lds_digits."
            ) from error
        parts = {}
        for name, part in {"train": train, "test": test}.items():
            parts[f"{name}_images"] = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
            parts[f"{name}_labels"] = torch.tensor(part.targets)
        return ImageData(
            **parts,
            mean=torch.tensor([0.4914, 0.4822, 0.4465]),
            deviation=torch.tensor([0.2470, 0.2435, 0.2616]),
            label_names=tuple(train.classes),
        )


def _download(dataset: type, root: Path) -> None:
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        dataset(root, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"CIFAR-10 is not in {root.resolve() / dataset.base_folder}, and downloading it from {dataset.url} failed "
            f"({error}). Put its files there, or name their parent folder with --data or TDABENCH_DATA; the experiment "
            "lds_digits needs no download."
        ) from error
    finally:
        socket.setdefaulttimeout(previous)


def _first_bad_file(dataset: type, folder: Path) -> str:
    from torchvision.datasets.utils import check_integrity

    for name, md5 in [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]:
        if not (folder / name).is_file():
            return f"{name} is missing"
        if not check_integrity(str(folder / name), md5):
            return f"{name} has the wrong md5"
    return "its format is not understood"
