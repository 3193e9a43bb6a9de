import hashlib
import http.server
import json
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tdabench.models import published
from tdabench.models.causal_lm import CausalLM
from tdabench.models.gpt_neox import Pythia
from tdabench.models.published import find_published, import_transformers
from tdabench.seeds import isolated_random_state, make_generator

transformers = pytest.importorskip("transformers", reason="pip install 'tdabench[language]'")

TINY = Pythia(size="14m", hidden_size=32, layers=2, heads=2, vocabulary=61, positions=16)
TOKENS = torch.arange(16)[None]
SHA = "0123456789" * 4


class _Code:
    """A pickle of this makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.folder,)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return TINY.build(TOKENS, generator=make_generator(0, "model"))


@pytest.fixture
def folder(model, tmp_path) -> Path:
    """Return a folder with a tiny model, ``published``."""
    model.save_pretrained(tmp_path / "published")
    return tmp_path / "published"


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """Return the place of pythia-14m's step45000 in an empty cache, without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--EleutherAI--pythia-14m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "step45000").write_text(SHA)
    return repository / "snapshots" / SHA


def _fetch(folder: Path) -> nn.Module:
    return CausalLM(weights=folder.name).fetch(folder.parent)


def _is(found: nn.Module, model: nn.Module) -> bool:
    return torch.equal(found(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)


def _pickle(folder: Path, state: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")


def _change(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Save the weights again, with some replaced or left out."""
    changed = {**load_file(folder / "model.safetensors"), **change}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_is_loaded_without_progress_bars(folder, model, capfd):
    assert _is(_fetch(folder), model)
    assert "Loading" not in "".join(capfd.readouterr())


def test_shards_are_loaded(folder, model):
    shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1

    assert _is(_fetch(folder), model)


def test_pickled_tensors_are_loaded(folder, model):
    _pickle(folder, load_file(folder / "model.safetensors"))

    assert _is(_fetch(folder), model)


def test_pickled_code_is_not_run(folder, tmp_path):
    _pickle(folder, {"weight": _Code(tmp_path / "made")})

    with pytest.raises(ValueError, match="hold more than tensors, and loading that could run code: use a folder with"):
        _fetch(folder)

    assert not (tmp_path / "made").exists()


def test_code_that_comes_with_a_model_is_not_run(folder, tmp_path, model):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text(f"import os; os.mkdir({str(tmp_path / 'made')!r})")

    assert _is(_fetch(folder), model)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_out.weight": None}, "1 tensors are missing or of another shape, such as lm_head.weight"),
        ({"embed_out.weight": torch.zeros(5, 32)}, "1 tensors are missing or of another shape, such as lm_head.weight"),
        (
            {"gpt_neox.layers.9.attention.dense.weight": torch.zeros(32, 32)},
            "1 tensors have no place in the model, such as gpt_neox.layers.9.attention.dense.weight",
        ),
        (
            {"gpt_neox.final_layer_norm.bias": torch.full((32,), torch.nan)},
            "1 tensors are NaN or infinite, such as gpt_neox.final_layer_norm.bias",
        ),
    ],
)
def test_weights_that_don_t_fit_or_are_broken_are_an_error(folder, change, message):
    _change(folder, change)

    with pytest.raises(ValueError, match=re.escape(message)):
        _fetch(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"cut", "Can't load the language model in .*published: .*header"),
        ("config.json", b'{"model_type": ', "Can't load the language model in .*published: .*not a valid JSON file"),
        ("config.json", b'{"model_type": "mine"}', "has no model_type 'mine'"),
    ],
)
def test_a_damaged_folder_is_an_error(folder, name, content, message):
    (folder / name).write_bytes(content)

    with pytest.raises(ValueError, match=message):
        _fetch(folder)


@pytest.mark.parametrize("pattern", ["config.json", "model-*.safetensors"])
def test_a_folder_without_config_or_with_a_shard_missing_is_an_error(folder, model, pattern):
    shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size="30KB")
    next(folder.glob(pattern)).unlink()

    with pytest.raises(FileNotFoundError, match=r"published holds no language model: it needs config\.json and model"):
        _fetch(folder)


def test_a_model_whose_tokens_see_the_next_one_is_an_error(tmp_path):
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=61,
        initializer_range=0.5,
    )
    with isolated_random_state(make_generator(0, "model")):
        transformers.BertLMHeadModel(config).save_pretrained(tmp_path / "bert")

    with pytest.raises(ValueError, match="bert is no causal language model: a token sees the one after it"):
        _fetch(tmp_path / "bert")


@pytest.mark.parametrize(
    ("weights", "revision", "message"),
    [
        ("models/mine/last", None, r"There is no folder .*models/mine/last \(model\.weights, relative"),
        ("published", "step1", r"model\.revision 'step1' is of the hub, and model\.weights is the folder"),
    ],
)
def test_weights_that_are_no_folder_and_not_of_the_hub_are_an_error(folder, weights, revision, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_published(weights, revision, folder.parent)


def test_a_revision_in_the_cache_needs_no_network(cache, folder, model, tmp_path):
    shutil.copytree(folder, cache)

    assert _is(CausalLM(weights="EleutherAI/pythia-14m", revision="step45000").fetch(tmp_path), model)


@pytest.mark.parametrize("settings", [{}, {"revision": "step45000"}], ids=["nothing", "weights_missing"])
def test_what_is_not_in_the_cache_is_one_error_without_a_network(cache, folder, settings, tmp_path):
    (folder / "model.safetensors").unlink()
    shutil.copytree(folder, cache)  # as a program leaves it that wanted the config only

    with pytest.raises(FileNotFoundError, match=r"not in the Hugging Face cache.*copy the model's folder under"):
        Pythia(size="14m", weights="hub", **settings).fetch(tmp_path)


@pytest.fixture
def hub(cache, folder, monkeypatch) -> Iterator[Path]:
    """Serve a folder's files as pythia-14m's step45000 of a hub on this machine."""
    from huggingface_hub import constants

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path, files = folder / Path(self.path).name, list(folder.iterdir())
            if self.path.startswith("/api/models/EleutherAI/pythia-14m/revision/"):
                names = [{"rfilename": file.name} for file in files]
                self._answer(json.dumps({"id": "EleutherAI/pythia-14m", "sha": SHA, "siblings": names}).encode())
            elif self.path.startswith(f"/api/models/EleutherAI/pythia-14m/tree/{SHA}"):
                sizes = [{"path": file.name, "size": file.stat().st_size} for file in files]
                self._answer(json.dumps([{"type": "file", "oid": SHA, **size} for size in sizes]).encode())
            elif f"/resolve/{SHA}/" in self.path and path.is_file():
                self._answer(path.read_bytes())
            else:
                self.send_error(404)

        def _answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", hashlib.sha256(content).hexdigest())
            self.send_header("X-Repo-Commit", SHA)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield folder
        server.shutdown()


@pytest.mark.parametrize("pickled", [False, True])
def test_what_the_hub_has_is_downloaded_without_what_is_not_needed(hub, cache, model, pickled, tmp_path):
    torch.save(load_file(hub / "model.safetensors"), hub / "pytorch_model.bin")
    (hub / "README.md").touch()
    if pickled:
        (hub / "model.safetensors").unlink()

    found = CausalLM(weights="EleutherAI/pythia-14m", revision="step45000").fetch(tmp_path)

    assert _is(found, model)
    weights = "pytorch_model.bin" if pickled else "model.safetensors"
    assert {path.name for path in cache.iterdir()} == {"config.json", "generation_config.json", weights}


def test_a_download_without_weights_is_an_error(hub, tmp_path):
    (hub / "model.safetensors").unlink()

    with pytest.raises(FileNotFoundError, match=r"\(revision step45000\) has no model\*\.safetensors or pytorch_model"):
        find_published("EleutherAI/pythia-14m", "step45000", tmp_path)


def test_a_hub_that_does_not_answer_is_an_error_within_seconds(cache, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(published, "TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(FileNotFoundError, match=r"'EleutherAI/pythia-14m' \(revision main\) .*\(timed out\)"):
            find_published("EleutherAI/pythia-14m", None, tmp_path)

    assert time.monotonic() - start < 20  # of minutes, as the library's own retries take


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(ImportError, match=re.escape("pip install 'tdabench[language]'")):
        import_transformers()
