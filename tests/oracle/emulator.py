"""The functions of emulator.c, called on tensors."""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

import torch

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
