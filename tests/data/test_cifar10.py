import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
import torchvision

from tdabench.data.cifar10 import CIFAR10

FOLDER = "cifar-10-batches-py"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


@pytest.mark.data
def test_cifar10_is_50000_training_and_10000_test_images(real_folder):
    images = CIFAR10().load(real_folder.parent)

    assert images.train_images.shape == (50_000, 3, 32, 32)
    assert images.test_images.shape == (10_000, 3, 32, 32)
    assert images.train_images.dtype == torch.uint8
    assert images.train_labels.bincount().tolist() == [5000] * 10
    assert images.test_labels.bincount().tolist() == [1000] * 10
    # A frog and a cat come first.
    assert (images.train_labels[0], images.test_labels[0]) == (6, 3)
    assert (images.label_names[6], images.label_names[3]) == ("frog", "cat")
    # The known first pixels of the first image: in its corner, right of it, and below it.
    assert images.train_images[0, :, 0, :2].T.tolist() == [[59, 62, 63], [43, 46, 45]]
    assert images.train_images[0, :, 1, 0].tolist() == [16, 20, 20]
    normalised = images.examples("train", torch.arange(0, 50_000, 10))["image"]
    # 5,000 images whose means have a standard deviation of some 0.5: a standard error of 0.007.
    assert normalised.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=4 * 0.007)
    assert normalised.std(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 3, abs=4 * 0.007)


@pytest.mark.data
def test_a_corrupt_file_is_an_error_that_names_it(real_folder, tmp_path):
    folder = _link(real_folder, tmp_path, leave_out="data_batch_4")
    shutil.copyfile(real_folder / "batches.meta", folder / "data_batch_4")

    with pytest.raises(
        ValueError, match=re.escape(f"in {folder} is missing or corrupt: data_batch_4 has the wrong md5")
    ):
        CIFAR10().load(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_a_missing_file_is_an_error_that_names_it(real_folder, tmp_path, name):
    folder = _link(real_folder, tmp_path, leave_out=name)

    with pytest.raises(ValueError, match=re.escape(f"in {folder} is missing or corrupt: {name} is missing")):
        CIFAR10().load(tmp_path)


def test_an_empty_folder_is_an_error_that_names_the_first_file_and_the_remedies(tmp_path):
    (tmp_path / FOLDER).mkdir()

    with pytest.raises(ValueError, match="data_batch_1 is missing") as caught:
        CIFAR10().load(tmp_path)

    assert URL in str(caught.value)
    assert "lds_digits" in str(caught.value)


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("no network")])
def test_a_download_that_fails_is_an_error_that_names_folder_url_and_another_experiment(tmp_path, monkeypatch, error):
    def download(dataset) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    timeout = socket.getdefaulttimeout()

    with pytest.raises(FileNotFoundError, match="no network") as caught:
        CIFAR10().load(tmp_path)

    message = str(caught.value)
    assert all(word in message for word in (str(tmp_path / FOLDER), URL, "lds_digits", "--data", "TDABENCH_DATA"))
    assert socket.getdefaulttimeout() == timeout


@pytest.fixture
def real_folder(data_root) -> Path:
    folder = (data_root / FOLDER).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs CIFAR-10 in {folder}")
    return folder


def _link(real_folder: Path, root: Path, *, leave_out: str) -> Path:
    folder = root / FOLDER
    folder.mkdir()
    for path in real_folder.iterdir():
        if path.name != leave_out:
            (folder / path.name).symlink_to(path)
    return folder
