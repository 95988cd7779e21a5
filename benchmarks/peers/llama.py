"""llama.cpp by its batch API, as its server uses it: a step decodes all streams and fills up with prompts."""

import argparse
import ctypes
from collections import deque
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as c

from benchmarks.peers.llama_weights import convert
from benchmarks.worker import TEMPERATURE, THREADS, TOP_P, Job, Outcome, Watch, work

_BATCH = 2048
_CACHE = {"float32": c.GGML_TYPE_F32, "bfloat16": c.GGML_TYPE_F16}


class Batch:
    """Tokens of the next step."""

    def __init__(self) -> None:
        self.raw = c.llama_batch_init(_BATCH, 0, 1)

    def clear(self) -> None:
        """Empty it."""
        self.raw.n_tokens = 0

    def add(self, stream: int, position: int, token: int, draws: bool) -> int:
        """Add a token; its place in the batch."""
        place = self.raw.n_tokens
        self.raw.token[place], self.raw.pos[place] = token, position
        self.raw.n_seq_id[place], self.raw.seq_id[place][0] = 1, stream
        self.raw.logits[place] = draws
        self.raw.n_tokens += 1
        return place


class Llama:
    """A model, and a context for as many streams as the job has."""

    def __init__(self, file: Path, dtype: str) -> None:
        c.llama_log_set(_say, ctypes.c_void_p())
        c.llama_backend_init()
        self._dtype = dtype
        self._model = c.llama_model_load_from_file(str(file).encode(), c.llama_model_default_params())
        self._batch = Batch()
        self._contexts: dict[tuple[int, int], Any] = {}

    def _context(self, job: Job) -> Any:
        streams = len(job.prompts)
        length = max(map(len, job.prompts)) + job.tokens
        if (streams, length) not in self._contexts:
            for context in self._contexts.values():
                c.llama_free(context)
            params = c.llama_context_default_params()
            params.n_ctx, params.n_seq_max, params.n_batch = streams * (-(-length // 256) * 256), streams, _BATCH
            params.n_threads = params.n_threads_batch = THREADS
            params.type_k = params.type_v = _CACHE[self._dtype]
            params.n_outputs_max = max(streams, params.n_outputs_max)
            self._contexts = {(streams, length): c.llama_init_from_model(self._model, params)}
        return self._contexts[streams, length]

    def run(self, job: Job) -> Outcome:
        """Do a job."""
        context = self._context(job)
        c.llama_memory_clear(c.llama_get_memory(context), False)
        samplers = [sampler(job.setting, stream) for stream in range(len(job.prompts))]
        watch = Watch(job)
        prompts = deque((stream, deque(enumerate(prompt))) for stream, prompt in enumerate(job.prompts))
        decoding: list[int] = []
        while prompts or decoding:
            self._batch.clear()
            places = self._fill(job, watch.outcome.tokens, decoding, prompts)
            if c.llama_decode(context, self._batch.raw):
                raise RuntimeError("llama_decode failed")
            for stream, place in places.items():
                watch.take(stream, c.llama_sampler_sample(samplers[stream], context, place))
            decoding = [stream for stream in places if len(watch.outcome.tokens[stream]) < job.tokens]
        for chain in samplers:
            c.llama_sampler_free(chain)
        return watch.outcome

    def _fill(self, job: Job, drawn: list[list[int]], decoding: list[int], prompts: deque) -> dict[int, int]:
        """Fill the batch; by stream, the places that draw."""
        places = {}
        for stream in decoding:
            position = len(job.prompts[stream]) + len(drawn[stream]) - 1
            places[stream] = self._batch.add(stream, position, drawn[stream][-1], True)
        while prompts and self._batch.raw.n_tokens < _BATCH:
            stream, left = prompts[0]
            position, token = left.popleft()
            place = self._batch.add(stream, position, token, not left)
            if not left:
                prompts.popleft()
                places[stream] = place
        return places


def sampler(setting: str, seed: int) -> Any:
    """A chain of llama.cpp's own, in the order of ours."""
    chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
    parts = [c.llama_sampler_init_greedy()]
    if setting == "fixed":
        parts = [
            c.llama_sampler_init_temp(TEMPERATURE),
            c.llama_sampler_init_top_p(TOP_P, 1),
            c.llama_sampler_init_dist(seed),
        ]
    for part in parts:
        c.llama_sampler_chain_add(chain, part)
    return chain


@c.llama_log_callback
def _say(level: int, text: bytes, data: Any) -> None:
    if level >= 4:  # errors
        print(text.decode(errors="replace"))


def main() -> None:
    """Work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("dtype")
    given = parser.parse_args()
    file = given.model / f"{given.dtype}.gguf"
    if not file.exists():
        convert(given.model, file, given.dtype)
    work(f"llama-cpp-python {llama_cpp.__version__}", Llama(file, given.dtype).run)


if __name__ == "__main__":
    main()
