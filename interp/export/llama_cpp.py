"""llama.cpp, from the library inside the package xllamacpp: logits and residual stream for token ids.

xllamacpp's own interface neither takes control vectors nor tells logits, but its library exports llama.cpp's.
"""

import ctypes
import importlib.util
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from interp.errors import UserError
from interp.export.runtime import Pass

Look = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
F32 = 0
"""`ggml_type` of the cache of keys and values: the default, F16, rounds to three digits."""


class ModelParams(ctypes.Structure):
    """`llama_model_params` of any version: its defaults are good, and it is larger than any."""

    _fields_ = [("raw", ctypes.c_byte * 512)]


class ContextParams(ctypes.Structure):
    """`llama_context_params`, with room at its end."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")),
        *(
            (name, ctypes.c_uint32)
            for name in ("n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq")
        ),
        *((name, ctypes.c_int32) for name in ("n_threads", "n_threads_batch", "ctx_type")),
        *(
            (name, ctypes.c_int32)
            for name in ("rope_scaling_type", "pooling_type", "attention_type")
        ),
        ("flash_attn_type", ctypes.c_int32),
        *(
            (name, ctypes.c_float)
            for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor")
        ),
        *(
            (name, ctypes.c_float)
            for name in ("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")
        ),
        ("yarn_orig_ctx", ctypes.c_uint32),
        ("defrag_thold", ctypes.c_float),
        ("cb_eval", ctypes.c_void_p),
        ("cb_eval_user_data", ctypes.c_void_p),
        ("type_k", ctypes.c_int32),
        ("type_v", ctypes.c_int32),
        ("rest", ctypes.c_byte * 512),
    ]

    def known(self) -> bool:
        """Whether defaults lie where they should: another version of llama.cpp may have moved them."""
        found = (self.n_ctx, self.n_batch, self.n_ubatch, self.n_threads, self.n_threads_batch)
        more = (self.flash_attn_type, self.defrag_thold, self.cb_eval, self.type_k, self.type_v)
        return found == (512, 2048, 512, 4, 4) and more == (-1, -1.0, None, 1, 1)


class Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
        ("room", ctypes.c_byte * 128),
    ]


def library() -> ctypes.CDLL:
    """llama.cpp's library; raises `ImportError` where xllamacpp is not installed."""
    spec = importlib.util.find_spec("xllamacpp.xllamacpp")
    if spec is None or spec.origin is None:
        raise ImportError("xllamacpp is not installed")
    found = ctypes.CDLL(spec.origin)
    for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_get_memory"):
        getattr(found, name).restype = ctypes.c_void_p
    found.llama_model_get_vocab.restype = ctypes.c_void_p
    found.llama_get_logits.restype = ctypes.POINTER(ctypes.c_float)
    found.llama_model_default_params.restype = ModelParams
    found.llama_context_default_params.restype = ContextParams
    found.llama_batch_init.restype = Batch
    found.ggml_get_name.restype = ctypes.c_char_p
    found.ggml_nbytes.restype = ctypes.c_size_t
    return found


class LlamaCpp:
    """One context over a GGUF model on the CPU; watches the output of block `layer`."""

    name = "llama.cpp"

    def __init__(self, path: Path, layer: int, n_context: int) -> None:
        self.version = f"of xllamacpp {metadata.version('xllamacpp')}"
        self._lib = library()
        self._wanted, self._resid = f"l_out-{layer}".encode(), b""
        # The callbacks must live as long as the context.
        self._silent, self._look = Log(lambda *_: None), Look(self._seen)
        self._lib.llama_log_set(self._silent, None)
        self._lib.llama_backend_init()
        settings = self._lib.llama_model_default_params()
        self._model = self._pointer("llama_model_load_from_file", str(path).encode(), settings)
        run = self._lib.llama_context_default_params()
        if not run.known():
            raise UserError(
                f"llama.cpp {self.version} has a layout that is not known here: install xllamacpp 2026.10."
            )
        run.n_ctx = run.n_batch = run.n_ubatch = n_context
        run.type_k = run.type_v = F32
        run.flash_attn_type = 0  # off: it would round keys and values to F16
        run.n_threads = run.n_threads_batch = torch.get_num_threads()
        run.cb_eval = ctypes.cast(self._look, ctypes.c_void_p).value
        self._context = self._pointer("llama_init_from_model", self._model, run)
        self.d_model = self._lib.llama_model_n_embd(self._model)
        vocabulary = ctypes.c_void_p(self._lib.llama_model_get_vocab(self._model))
        self.d_vocab = self._lib.llama_vocab_n_tokens(vocabulary)
        self._n = 0

    def _pointer(self, function: str, *arguments: object) -> ctypes.c_void_p:
        found = getattr(self._lib, function)(*arguments)
        if not found:
            raise UserError(
                f"llama.cpp {self.version} cannot run the GGUF model ({function} failed)."
            )
        return ctypes.c_void_p(found)

    def steer(self, data: Float[np.ndarray, "layer d_model"]) -> None:
        """Add `data[i]` to the output of block i + 1, in every pass from now on.

        This is what llama.cpp's programs do with a control vector's file.
        """
        flat = np.ascontiguousarray(data, dtype=np.float32)
        if self._lib.llama_set_adapter_cvec(
            self._context,
            flat.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_size_t(flat.size),
            data.shape[1],
            1,
            len(data) + 1,
        ):
            raise UserError(
                f"llama.cpp refuses the control vector: its width is {data.shape[1]}, the model's "
                f"{self.d_model}."
            )

    def prompt(self, tokens: Sequence[int]) -> Pass:
        """The pass over a text from its beginning, over an empty cache."""
        memory = ctypes.c_void_p(self._lib.llama_get_memory(self._context))
        self._lib.llama_memory_clear(memory, True)
        self._n = 0
        return self._read(tokens)

    def step(self, token: int) -> Pass:
        """The pass over one more token."""
        return self._read([token])

    def complete(self, tokens: Sequence[int], n: int, ends: Sequence[int]) -> list[int]:
        """Greedy tokens until one of `ends`, `n` at most."""
        found, new = self.prompt(tokens), []
        while True:
            new.append(int(found.logits[-1].argmax()))
            if new[-1] in ends or len(new) == n:
                return new
            found = self.step(new[-1])

    def close(self) -> None:
        """Free the context and the model."""
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    def _read(self, tokens: Sequence[int]) -> Pass:
        batch = self._lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, self._n + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        failed = self._lib.llama_decode(self._context, batch)
        self._lib.llama_batch_free(batch)
        if failed:
            raise UserError(f"llama.cpp failed on {len(tokens)} tokens (code {failed}).")
        self._n += len(tokens)
        logits = np.ctypeslib.as_array(
            self._lib.llama_get_logits(self._context), (len(tokens), self.d_vocab)
        )
        resid = np.frombuffer(self._resid, np.float32).reshape(len(tokens), -1)
        return Pass(torch.from_numpy(logits.copy()), torch.from_numpy(resid.copy()))

    def _seen(self, tensor: int, ask: bool, data: int | None) -> bool:
        """Keep the tensor under watch: asked first whether it is wanted, then told that it is there."""
        address = ctypes.c_void_p(tensor)
        if self._lib.ggml_get_name(address) != self._wanted:
            return not ask
        if not ask:
            size = self._lib.ggml_nbytes(address)
            raw = ctypes.create_string_buffer(size)
            zero, whole = ctypes.c_size_t(0), ctypes.c_size_t(size)
            self._lib.ggml_backend_tensor_get(address, raw, zero, whole)
            self._resid = raw.raw
        return True
