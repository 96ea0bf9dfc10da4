"""The functions of emulator.c, called on tensors."""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

HERE = Path(__file__).resolve().parent


class Emulator:
    """The functions of emulator.c on tensors: tensors go as pointers, int as long, float as float."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        library = Path(self.folder.name) / "emulator.so"
        subprocess.run(["cc", "-std=c11", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC",
                        str(HERE / "emulator.c"), "-o", str(library), "-lm"], check=True)
        self.library = ctypes.CDLL(str(library))

    @classmethod
    @functools.cache
    def shared(cls):
        return cls()

    def __getattr__(self, name):
        def call(*args):
            kinds = {torch.Tensor: lambda x: ctypes.c_void_p(x.data_ptr()), int: ctypes.c_long, float: ctypes.c_float,
                     bool: ctypes.c_int, type(None): lambda _: ctypes.c_void_p()}
            assert all(x.is_contiguous() for x in args if isinstance(x, torch.Tensor))
            getattr(self.library, name)(*(kinds[type(x)](x) for x in args))
        return call


def emulated_attention(function):
    """sdpa of one sequence, causal, as an attention function of transformers: the calls that transformers makes of
    PyTorch with one thread. A decode step whose window is full has a mask there, and then the query heads of a KV head
    are the rows of one head."""
    def attention(module, query, key, value, mask, scaling, sliding_window=None, **rest):
        (_, heads, rows, size), (_, kv_heads, keys, _) = query.shape, key.shape
        window, packed = sliding_window or 0, sliding_window is not None and rows == 1 and keys == sliding_window
        y, sums = torch.empty(heads, rows, size, dtype=torch.bfloat16), torch.empty(heads, rows)
        q, k, v = (x[0].contiguous() for x in (query, key, value))
        if packed:
            function(Emulator.shared())(y, sums, q, k, v, kv_heads, kv_heads, heads // kv_heads, keys, size,
                                        float(scaling), False, 1, 0)
        else:
            function(Emulator.shared())(y, sums, q, k, v, heads, kv_heads, rows, keys, size, float(scaling), True, 1, window)
        return y.transpose(0, 1)[None].contiguous(), None
    return attention


# Names for attn_implementation.
for NAME, FUNCTION in (("emulated-amx", lambda e: e.sdpa_amx), ("emulated-torch", lambda e: e.sdpa),
                       ("emulated-avx2", lambda e: e.sdpa_avx2)):
    AttentionInterface.register(NAME, emulated_attention(FUNCTION))
    AttentionMaskInterface.register(NAME, sdpa_mask)
