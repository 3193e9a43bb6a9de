"""Published weights: a folder, the hub's cache, or the hub; loaded without running code that comes with them."""

import contextlib
import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tdabench.seeds import isolated_random_state, make_generator

TIMEOUT = 10.0  # seconds until the hub counts as out of reach
SAFE, PICKLED = "model*.safetensors", "pytorch_model*.bin"
REMEDY = (
    "Download it once where there is a network, copy the model's folder under the data root and name that folder in "
    "model.weights, or set 'weights: random'. With HF_HUB_OFFLINE=1 only the cache is looked at."
)


def import_transformers() -> ModuleType:
    """Import transformers.

    Raises:
        ImportError: If it isn't installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"Language models need transformers: pip install 'tdabench[language]' ({error}).") from error
    return transformers


def find_published(weights: str, revision: str | None, root: Path) -> Path:
    """Find the folder of a published model: under the root, in the hub's cache, or downloaded now.

    Raises:
        FileNotFoundError: If it is nowhere.
        ValueError: If a revision is asked of a folder.
    """
    folder = root / weights
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"model.revision {revision!r} is of the hub, and model.weights is the folder {folder}.")
        return folder
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", weights):
        raise FileNotFoundError(f"There is no folder {folder} (model.weights, relative to the data root).")
    import_transformers()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        cached = Path(snapshot_download(weights, revision=revision, local_files_only=True))
        if has_weights(cached):
            return cached
    return _download(weights, revision)


def has_weights(folder: Path) -> bool:
    """Tell whether a folder has a model's config and all of its weights."""
    if not (folder / "config.json").is_file():
        return False
    for pattern in (SAFE, PICKLED):
        for index in folder.glob(f"{pattern}.index.json"):
            shards = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()
            if all((folder / shard).is_file() for shard in shards):
                return True
    return any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))


def _download(weights: str, revision: str | None) -> Path:
    """Download a model's config and weights, pickled ones only where there are no others.

    Raises:
        FileNotFoundError: If the hub can't be reached, or has no such model.
    """
    from huggingface_hub import HfApi, snapshot_download

    named = f"model.weights {weights!r} (revision {revision or 'main'})"
    try:
        # Asked first, and once: a download waits minutes for a hub that doesn't answer.
        files = HfApi().model_info(weights, revision=revision, timeout=TIMEOUT).siblings or []
        safe = any(fnmatch.fnmatch(file.rfilename, SAFE) for file in files)
        patterns = ["*.json", SAFE if safe else PICKLED]
        folder = Path(snapshot_download(weights, revision=revision, allow_patterns=patterns, etag_timeout=TIMEOUT))
    except Exception as error:  # of many types: of the hub, of the network, of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileNotFoundError(
            f"{named} is no folder under the data root, not in the Hugging Face cache, and can't be downloaded "
            f"({reason}). {REMEDY}"
        ) from error
    if not has_weights(folder):
        raise FileNotFoundError(f"{named} has no {SAFE} or {PICKLED} on the Hugging Face hub.")
    return folder


def load_config(settings: Mapping[str, Any]) -> Any:
    """Make a transformers config from its JSON, without dropout and without a cache of keys and values.

    Raises:
        ValueError: If the installed transformers has no such architecture.
    """
    transformers = import_transformers()
    kind, known = settings.get("model_type"), transformers.CONFIG_MAPPING
    if kind not in known:
        raise ValueError(
            f"transformers {transformers.__version__} has no model_type {kind!r}; code that comes with a model is "
            "never run. Choose another model, or a newer transformers."
        )
    still = {key: 0.0 for key, value in settings.items() if re.search("drop(out)?(_prob)?$", key) and value}
    return known[kind].from_dict({**settings, **still, "use_cache": False})


def load_published(folder: Path, *, dtype: str) -> nn.Module:
    """Load a model from its folder, in eval mode; pickled weights are read as tensors only.

    Args:
        dtype: Of the parameters, such as ``bfloat16``.

    Raises:
        FileNotFoundError: If the folder has no config or no weights.
        ValueError: If they are damaged, don't fit together, or are of another kind of model.
    """
    transformers = import_transformers()
    if not has_weights(folder):
        raise FileNotFoundError(
            f"{folder} holds no language model: it needs config.json and model*.safetensors (or pytorch_model*.bin)."
        )
    try:
        settings, _ = transformers.PreTrainedConfig.get_config_dict(folder)
        with isolated_random_state(make_generator(0, "published")), _without_bars(transformers.utils.logging):
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                config=load_config(settings),
                attn_implementation="eager",
                dtype=getattr(torch, dtype),
                weights_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
            )
    except Exception as error:  # of many types: of the library, of safetensors, of JSON
        if type(error).__name__ == "UnpicklingError":
            raise ValueError(
                f"The pickled weights in {folder} are damaged or hold more than tensors, and loading that could run "
                "code: use a folder with safetensors."
            ) from error
        raise ValueError(f"Can't load the language model in {folder}: {str(error)[:500]}") from error
    _check_weights(model, report, folder)
    _check_causal(model.eval(), folder)
    return model


def _check_weights(model: nn.Module, report: Mapping[str, Any], folder: Path) -> None:
    """Check that the weights are all that the model has, nothing else, and finite.

    Args:
        report: What transformers says of the loading.
    """
    problems = {
        "are missing or of another shape": [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])],
        # Buffers that older versions saved are no weights.
        "have no place in the model": [
            key for key in report["unexpected_keys"] if key.endswith((".weight", ".bias")) and "rotary" not in key
        ],
        "are NaN or infinite": [name for name, values in model.named_parameters() if not values.isfinite().all()],
    }
    for problem, names in problems.items():
        if names:
            raise ValueError(
                f"The weights in {folder} are damaged or don't fit its config.json: {len(names)} tensors {problem}, "
                f"such as {min(names)}."
            )


def _check_causal(model: nn.Module, folder: Path) -> None:
    """Check that the logits of a token don't depend on the next one, as they do in BERT."""
    with torch.no_grad():
        first, second = (
            model(input_ids=torch.tensor([[0, after]]), use_cache=False).logits[0, 0].float() for after in (0, 1)
        )
    rounding = 32 * torch.finfo(next(model.parameters()).dtype).eps * first.abs().max()
    if (first - second).abs().max() > rounding:
        raise ValueError(f"The model in {folder} is no causal language model: a token sees the one after it.")


@contextlib.contextmanager
def _without_bars(logging: ModuleType) -> Iterator[None]:
    """Load without progress bars, which transformers shows also where there is no terminal."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
