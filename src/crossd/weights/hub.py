"""Networks shared: a folder with the weights file and a model card, here or on a Hugging Face Hub.

A folder is written and read without the hub; huggingface_hub is imported when it is needed.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from crossd.conversion.checking.examples import one_line
from crossd.errors import InputError
from crossd.utils.atomic_files import atomic
from crossd.weights.model_card import hub_library, model_card
from crossd.weights.weights_file import WeightsConfig, load, require_config, save

WEIGHTS = "model.safetensors"
CARD = "README.md"


def push_to_hub(
    net: nn.Module,
    repo_id: str,
    *,
    licence: str,
    data: str,
    metrics: Mapping[str, float],
    limits: str,
    config: WeightsConfig | None = None,
    private: bool = True,
    token: str | None = None,
    overwrite: bool = False,
    message: str = "Upload a crossd network",
    endpoint: str | None = None,
) -> str:
    """Upload a network with its model card, in one commit.

    Args:
        net: See `save_pretrained`, also for `licence`, `data`, `metrics`, `limits` and `config`.
        repo_id: Such as ``"user/name"``. The repository is made when there is none.
        licence: See there.
        data: See there.
        metrics: See there.
        limits: See there.
        config: See there.
        private: Whether a repository made now is private. Unless you say otherwise, it is.
        token: Of the hub; None takes the one that you logged in with.
        overwrite: Replace a network or a card that the repository has.
        message: Of the commit.
        endpoint: Address of the hub; None takes the usual one, or that of the variable
            ``HF_ENDPOINT`` (huggingface_hub before 1.4 can upload only there).

    Returns:
        The address of the commit.

    Raises:
        InputError: "... already", or what the hub answered, in a line.
    """
    from_hub = hub_library()
    api = from_hub.HfApi(endpoint=endpoint, token=token, library_name="crossd")
    config = require_config(net, config)
    card = model_card(
        config, licence=licence, data=data, metrics=metrics, limits=limits, source=repo_id, net=net
    )
    with tempfile.TemporaryDirectory() as folder:
        files = _write(net, Path(folder), config, card)
        with _plain_errors(repo_id, api.endpoint):
            api.create_repo(repo_id, private=private, exist_ok=True)
            there = [file.name for file in files if api.file_exists(repo_id, file.name)]
            if there and not overwrite:
                raise InputError(
                    f"{repo_id} has {' and '.join(there)} already: overwrite=True replaces them"
                )
            changes = [
                from_hub.CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=str(file))
                for file in files
            ]
            return str(api.create_commit(repo_id, changes, commit_message=message).commit_url)


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    model: nn.Module | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
) -> nn.Module:
    """Load a network from a folder, a weights file, or a repository of a hub.

    Args:
        source: A folder that holds ``model.safetensors``, a weights file, or else a repository
            such as ``"user/name"``.
        revision: Branch, tag or commit of the repository.
        model: See `crossd.load`.
        token: Of the hub; None takes the one that you logged in with.
        endpoint: Address of the hub; None takes the usual one, or ``HF_ENDPOINT``.
        cache_dir: Where downloads are kept; None takes the hub's own place.

    Returns:
        The network in evaluation mode, with its configuration at `config`.

    Raises:
        InputError: "no ... in the folder", "no folder, file or repository ...", or what the hub
            answered, in a line.

    Example:
        >>> config = WeightsConfig("resnet-small", "classification", 1, ("a", "b"))
        >>> folder = tempfile.mkdtemp()
        >>> save(config.build(), Path(folder) / "model.safetensors", config)
        >>> from_pretrained(folder).config.classes
        ('a', 'b')
    """
    path = Path(source)
    if path.exists():
        if revision is not None:
            raise InputError(f"revision (={revision!r}) is for a repository, but {path} is here")
        if path.is_dir() and not (path / WEIGHTS).is_file():
            raise InputError(f"no {WEIGHTS} in the folder {path}: name the weights file itself")
        return load(path / WEIGHTS if path.is_dir() else path, model)
    name = str(source)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"no folder or file {name}, and no repository is called so (user/name)")
    from_hub = hub_library()
    api = from_hub.HfApi(endpoint=endpoint, token=token, library_name="crossd")
    with _plain_errors(name, api.endpoint):
        file = api.hf_hub_download(name, WEIGHTS, revision=revision, cache_dir=cache_dir)
    return load(file, model)


def save_pretrained(
    net: nn.Module,
    folder: str | Path,
    *,
    licence: str,
    data: str,
    metrics: Mapping[str, float],
    limits: str,
    config: WeightsConfig | None = None,
    overwrite: bool = False,
) -> None:
    """Write a network and its model card to a folder, as `push_to_hub` uploads them.

    Args:
        net: The network.
        folder: Made when missing. Other files in it stay as they are.
        licence: Of the weights, as the hub abbreviates it: ``"mit"``, ``"cc-by-nc-4.0"``.
        data: What the network was trained on, in a sentence or more.
        metrics: Names and values, measured on what `data` or the names say.
        limits: What the network is not to be used for, and where it fails.
        config: The network's configuration; None takes `net.config`.
        overwrite: Replace a network or a card that is there.

    Raises:
        InputError: "... already", "... is empty", or "no configuration".
    """
    config = require_config(net, config)
    card = model_card(config, licence=licence, data=data, metrics=metrics, limits=limits, net=net)
    folder = Path(folder)
    there = [name for name in (WEIGHTS, CARD) if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"{folder} has {' and '.join(there)} already: overwrite=True replaces them"
        )
    _write(net, folder, config, card)


def _write(net: nn.Module, folder: Path, config: WeightsConfig, card: str) -> list[Path]:
    save(net, folder / WEIGHTS, config)
    with atomic(folder / CARD) as temporary:
        temporary.write_text(card, encoding="utf-8", errors="backslashreplace")
    return [folder / WEIGHTS, folder / CARD]


@contextmanager
def _plain_errors(repo_id: str, endpoint: str) -> Iterator[None]:
    """Turn what the hub's library raises into one line."""
    utils = hub_library().utils  # its errors, of which some are kinds of others: those come first
    at = f"{repo_id} at {endpoint}"
    said = {
        utils.GatedRepoError: f"{at} is gated: ask for access there, and give a token",
        utils.RepositoryNotFoundError: (
            f"no folder, file or repository {at}; a private one needs a token that may read it"
        ),
        utils.RevisionNotFoundError: f"{at} has no such revision",
        utils.LocalEntryNotFoundError: (
            f"cannot reach {endpoint}, and {repo_id} is not in the cache"
        ),
        utils.EntryNotFoundError: f"{at} has no {WEIGHTS}: it is not a network of crossd",
        utils.HFValidationError: f"{repo_id!r} cannot be a repository: it is called user/name",
    }
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of several libraries below it, which change
        known = (text for kind, text in said.items() if isinstance(error, kind))
        raise InputError(next(known, f"{at} failed: {one_line(error)}")) from error
