"""Find, load and check a model: from a hub name, a folder, or the embedded one. Refuses with a sentence."""

import logging
import os
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from adaptive import CannotCompile, compile_sampler
from server.engine import native
from server.engine.compiled import CompiledLean, suits
from server.engine.lean import lean
from server.engine.linear import make_invariant
from server.engine.model import Model
from server.engine.tokenizer import Tokenizer

EMBEDDED = Path(__file__).parent.parent / "embedded"
DTYPES = ("auto", "float32", "bfloat16", "float16")
_log = logging.getLogger(__name__)


class RefusedModel(Exception):
    """The model cannot be served; the message is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What to load. name: "embedded", a folder, or a hub name. trust_remote_code runs code that comes with it.
    compile: the sampler (`adaptive.compile_sampler`) and a lean forward (`CompiledLean`), on the CPU; None is where it
    can be done."""

    name: str = "embedded"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    context_length: int | None = None
    compile: bool | None = False


def load(source: ModelSource) -> tuple[Model, Tokenizer]:
    """Load a model and its tokenizer, check that the engine computes what the model computes, and make its rows
    independent of one another. RefusedModel if it cannot be served.

    In a thread that ends. OpenMP gives every thread that computes a pool of its own, for as long as that thread lives;
    and once there are more threads in pools than processors, they hardly spin, but sleep between operations. The
    pool of a thread that loads and then looks on made a step of the engine's 1.4 times longer.
    """
    loaded: Future[tuple[Model, Tokenizer]] = Future()

    def work() -> None:
        try:
            loaded.set_result(_load(source))
        except BaseException as fault:
            loaded.set_exception(fault)

    thread = threading.Thread(target=work, name="loading", daemon=True)  # an impatient Ctrl-C need not wait for it
    thread.start()
    thread.join()
    return loaded.result()


def _load(source: ModelSource) -> tuple[Model, Tokenizer]:
    device = choose_device(source.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    path = str(EMBEDDED) if source.name == "embedded" else source.name
    options: dict[str, Any] = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    config = _config(path, options)
    # On the CPU float32 is exact and, up to a few rows, as fast as bfloat16; a GPU takes the type of the checkpoint.
    dtype = "float32" if source.dtype == "auto" and device.type == "cpu" else source.dtype
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        network = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=dtype, attn_implementation="eager", use_safetensors=True, **options
        )
    except Exception as fault:  # transformers raises many kinds; each of them means that it cannot be loaded
        raise RefusedModel(f"{source.name} cannot be loaded: {_first_line(fault)}") from fault
    _refuse_kind(source.name, network)
    network = network.to(device).eval().requires_grad_(False)
    model = Model(source.name, network, _context_length(config, source.context_length))
    try:
        with torch.inference_mode():
            expected = model.reference()
            model.adopt()
            if device.type == "cpu":
                _prepare(model, source.compile)
            model.check(expected)
            if device.type == "cuda":
                model.graphs = _graphs(model)
    except CannotCompile as fault:
        raise RefusedModel(f"it cannot be compiled, as --compile wants: {_first_line(fault)}") from fault
    except Exception as fault:
        raise RefusedModel(
            f"{source.name} ({config.model_type}) cannot be served by this engine: {_first_line(fault)}"
        ) from fault
    return model, Tokenizer(tokenizer)


def _prepare(model: Model, compiles: bool | None) -> None:
    """Give a model on the CPU its lean forward, if it has one, and invariant linear layers. compiles: that and the
    sampler as machine code, as `ModelSource` has it."""
    plain = lean(model.network)
    if _compile(compiles) and plain is not None and suits(plain):
        model.lean = CompiledLean(plain)
        _log.info("forward: compiled")
    else:
        model.lean = plain
        way = make_invariant(model.network if plain is None else plain)
        _log.info("forward: %s; linear layers: %s", "transformers' own" if plain is None else "lean", way)


def _compile(wanted: bool | None) -> bool:
    """Whether what can be machine code now is; None wants it where it can be had. CannotCompile if it cannot."""
    if wanted is False:
        return False
    begin = time.monotonic()
    _log.info("compiling for this processor, which takes a quarter of a minute the first time")
    try:
        native.library()
        compile_sampler()
    except CannotCompile as fault:
        if wanted:
            raise
        _log.warning("nothing is compiled, and a token takes about twice as long: %s", _first_line(fault))
        return False
    _log.info("compiled, in %.1f s", time.monotonic() - begin)
    return True


def _graphs(model: Model) -> Any:
    try:
        from server.engine import graphs  # Triton is not everywhere
    except ImportError as fault:
        _log.warning("decode steps go without CUDA graphs: %s", fault)
        return None
    return graphs.build(model)


def choose_device(name: str) -> torch.device:
    """The device of "auto", "cpu", "cuda" or "cuda:n". RefusedModel if it is not there."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise RefusedModel(f"device must be auto, cpu, cuda or cuda:n, not {name!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise RefusedModel(f"device {name} is not there: {torch.cuda.device_count()} CUDA devices were found")
    return torch.device("cpu" if kind == "cpu" else f"cuda:{number or 0}")


def free_memory(device: torch.device) -> int:
    """Bytes of memory that are free on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 4 << 30


def _config(path: str, options: dict[str, Any]) -> Any:
    try:
        config = AutoConfig.from_pretrained(path, **options)
    except Exception as fault:
        raise RefusedModel(f"{path} is no model that can be read: {_first_line(fault)}") from fault
    if config.is_encoder_decoder:
        raise RefusedModel(f"{path} ({config.model_type}) is an encoder-decoder; only decoders can be served")
    return config


def _refuse_kind(name: str, network: Any) -> None:
    kind = network.config.model_type
    if getattr(network, "_is_stateful", False):
        raise RefusedModel(f"{name} ({kind}) keeps a recurrent state instead of keys and values; that is not served")
    if not getattr(network, "_supports_attention_backend", False):
        raise RefusedModel(f"{name} ({kind}) has attention of its own that the engine cannot take part in")


def _context_length(config: Any, wanted: int | None) -> int:
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or 2048
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        # These switch frequencies by the longest sequence in the batch: one request would change another's tokens.
        longest = rope.get("original_max_position_embeddings") or longest
    return min(longest, wanted or longest)


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]
