"""Published weights: a folder, the hub's cache, or the hub; loaded without running code that comes with them."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tdabench.seeds import isolated_random_state, make_generator

TIMEOUT = 10.0  # seconds until the hub counts as out of reach
SAFE = ("*.json", "model*.safetensors")
PICKLED = ("*.json", "pytorch_model*.bin")
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
    for patterns, local in ((SAFE, True), (PICKLED, True), (SAFE, False), (PICKLED, False)):
        found = _snapshot(weights, revision, patterns, local=local)
        if found is not None and has_weights(found):
            return found
    raise FileNotFoundError(
        f"{weights!r} (revision {revision or 'main'}) has no weights as model*.safetensors or pytorch_model*.bin."
    )


def has_weights(folder: Path) -> bool:
    """Tell whether a folder has a model's config and weights."""
    weights = [path for pattern in (SAFE[1], PICKLED[1]) for path in folder.glob(pattern)]
    return (folder / "config.json").is_file() and bool(weights)


def _snapshot(weights: str, revision: str | None, patterns: tuple[str, ...], *, local: bool) -> Path | None:
    """Give the folder of a hub model's files; ``None`` if the cache has none.

    Raises:
        FileNotFoundError: If the hub can't be reached, or has no such model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                weights, revision=revision, allow_patterns=list(patterns), etag_timeout=TIMEOUT, local_files_only=local
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if local:
            return None
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"model.weights {weights!r} (revision {revision or 'main'}) is no folder under the data root, not in the "
            f"Hugging Face cache, and can't be downloaded: {reason} {REMEDY}"
        ) from error


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
    still = {key: 0.0 for key, value in settings.items() if re.search("drop(out)?$", key) and value}
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
        with isolated_random_state(make_generator(0, "published")):
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                config=load_config(settings),
                attn_implementation="eager",
                dtype=getattr(torch, dtype),
                weights_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # of many types: of the library, of safetensors, of pickle
        raise ValueError(f"Can't load the language model in {folder}: {error}") from error
    missing = [*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])]
    if missing:
        raise ValueError(f"The weights in {folder} lack {len(missing)} tensors of its config, such as {missing[0]}.")
    return model.eval()
