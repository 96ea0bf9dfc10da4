"""Which of the described orders PyTorch follows on this machine (docs/parity.md has the table).

Call limit() before torch is imported, here or in a child process: with AMX, oneDNN adds in
another order, unless it is held to AVX512-BF16. CHOIR_ORACLE_ORDER=torch-avx2 makes PyTorch on any host
add as on CPUs with AVX2 only. hold_to_avx2() obeys this alone: what it leaves are the bits that the host has by itself.
"""

import os
from pathlib import Path

LIMIT = "AVX512_CORE_BF16"
AVX2_LIMITS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def words():
    return set(Path("/proc/cpuinfo").read_text().split())


def asked_order():
    """CHOIR_ORACLE_ORDER, or None."""
    asked = os.environ.get("CHOIR_ORACLE_ORDER") or None
    if asked not in (None, "torch", "torch-avx2"):
        raise SystemExit(f"CHOIR_ORACLE_ORDER: expected torch or torch-avx2, found {asked}")
    return asked


def order():
    """Choir's --order that this host is held to, or has by itself."""
    alone = "avx2" in words() and "avx512f" not in words()
    return "torch-avx2" if alone or asked_order() == "torch-avx2" else "torch"


def hold_to_avx2():
    if asked_order() == "torch-avx2":
        os.environ.update(AVX2_LIMITS)


def limit():
    if order() == "torch-avx2":
        os.environ.update(AVX2_LIMITS)
    elif "amx_tile" in words():
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", LIMIT)


def promises():
    """The groups of results that must be equal here: products (linear layers, eager attention
    and all else), sdpa (that attention, whose products are MKL's, and MKL's are other ones on Intel)."""
    known, limited = words(), os.environ.get("ONEDNN_MAX_CPU_ISA") == LIMIT
    if order() == "torch-avx2":
        products = "avx2" in known
    else:
        products = "avx512_bf16" in known and ("amx_tile" not in known or limited)
    return {"products": products, "sdpa": products and "AuthenticAMD" in known}


def describe():
    """A sentence about what is not promised, or an empty string."""
    here = promises()
    if not here["products"]:
        return "this host lacks AVX512-BF16 and has more than AVX2: PyTorch adds in other orders; bfloat16 results are compared, but not promised"
    if not here["sdpa"]:
        return "PyTorch's sdpa attention adds in another order on this CPU: its results are compared, but not promised"
    return ""
