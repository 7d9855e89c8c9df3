"""The one list of attention problems: kernel tests, end-to-end tests and benchmarks draw from it.

A :class:`Problem` is sizes, features and memory layout; ``problems.inputs`` makes its operands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Problem:
    """One attention problem. Element order in memory is (batch, head, sequence, head dim) for
    layout ``bhsd`` and (batch, sequence, head, head dim) for ``bshd``."""

    name: str
    batch: int = 1
    heads: int = 1
    kv_heads: int = 0  # 0: as many as heads
    q_len: int = 1
    kv_len: int = 1
    dk: int = 64
    dv: int = 0  # 0: as dk
    element: str = "f32"
    scale: float | None = None  # None: 1 / sqrt(dk)
    mask: str | None = None  # "keep": nonzero attends; "drop": nonzero excludes
    mask_dims: str = "bhqk"  # the dims that the mask has; it broadcasts along the others
    bias: str | None = None  # "f32" or "element"
    bias_dims: str = "bhqk"
    bias_after_fill: bool = False
    band_lo: int | None = None
    band_hi: int | None = None
    fill: float = -math.inf
    softcap: float | None = None
    sinks: bool = False
    empty_row_nan: bool = False
    weights: bool = False
    lse: str | None = None  # wanted, with this value for an empty row: "inf" (-inf) or "nan"
    layout: str = "bhsd"
    transposed: str = ""  # of "qkvo": operands whose last two dims are swapped in memory
    padding: int = 0  # unused elements before every operand and after each of its innermost rows
    shared_kv: bool = False  # K and V have one batch that all batches read (stride 0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        object.__setattr__(self, "dv", self.dv or self.dk)
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.name}: {self.heads} heads over {self.kv_heads} kv heads")

    @property
    def effective_scale(self) -> float:
        return 1.0 / math.sqrt(self.dk) if self.scale is None else self.scale

    @property
    def features(self) -> frozenset[str]:
        """What a kernel must have to serve it, in the words of the kernel tables."""
        present = {
            "mask": self.mask,
            "bias": self.bias,
            "bias_after_fill": self.bias_after_fill,
            "fill": self.fill != -math.inf,
            "band": self.banded,
            "softcap": self.softcap,
            "sinks": self.sinks,
            "weights": self.weights,
            "lse": self.lse,
            "gqa": self.heads != self.kv_heads,
            "dk_ne_dv": self.dk != self.dv,
            **{f"{x}_transposed": x in self.transposed for x in "qkvo"},
        }
        return frozenset(name for name, value in present.items() if value)

    @property
    def banded(self) -> bool:
        return self.band_lo is not None or self.band_hi is not None

    @property
    def pairs(self) -> int:
        """(query, key) pairs inside the band, over all heads and batches."""
        if not self.banded:
            return self.batch * self.heads * self.q_len * self.kv_len
        lo = -self.q_len if self.band_lo is None else self.band_lo
        hi = self.kv_len if self.band_hi is None else self.band_hi
        row = sum(max(0, min(self.kv_len, q + hi + 1) - max(0, q + lo)) for q in range(self.q_len))
        return self.batch * self.heads * row

    @property
    def flops(self) -> int:
        """Multiplications and additions of the two matrix products, inside the band."""
        return 2 * self.pairs * (self.dk + self.dv)

    def with_element(self, element: str) -> Problem:
        return replace(self, element=element, name=f"{self.name}_{element}")


def causal(p: Problem, *, align: str = "top-left", window: int | None = None) -> Problem:
    """``p`` under a causal mask; ``bottom-right`` lets the last query see the last key."""
    hi = 0 if align == "top-left" else p.kv_len - p.q_len
    return replace(p, band_hi=hi, band_lo=None if window is None else hi - window + 1)


def small() -> list[Problem]:
    """Odd, quick problems that cover every feature; f32 (``with_element`` for the others)."""
    P = Problem
    rows = [
        P("one", q_len=1, kv_len=1, dk=1),
        P("tiny_issue", batch=4, heads=2, q_len=8, kv_len=8, dk=32),
        P("odd", batch=2, heads=3, q_len=37, kv_len=53, dk=40),
        P("prime_dims", heads=2, q_len=29, kv_len=131, dk=13, dv=7),
        P("wide", q_len=33, kv_len=70, dk=256),
        P("wider", q_len=21, kv_len=70, dk=300, dv=520),
        P("widest", q_len=13, kv_len=77, dk=1024),
        P("dk_ne_dv", heads=2, q_len=50, kv_len=129, dk=192, dv=128),
        P("dv_one", heads=2, q_len=5, kv_len=40, dk=3, dv=1),
        P("long_keys", q_len=3, kv_len=1000, dk=64),
        P("long_rows", q_len=401, kv_len=17, dk=24),
        P("long_both", heads=2, q_len=40, kv_len=300, dk=24),
        P("half_vector", heads=2, q_len=30, kv_len=70, dk=36),
        P("bshd_many_heads", heads=5, q_len=30, kv_len=41, dk=64, layout="bshd"),
        P("gqa", batch=2, heads=6, kv_heads=2, q_len=19, kv_len=45, dk=64),
        P("mqa_decode", batch=2, heads=8, kv_heads=1, q_len=1, kv_len=333, dk=128),
        P("decode", heads=2, q_len=1, kv_len=515, dk=80),
        P("decode_3_heads", batch=2, heads=6, kv_heads=2, q_len=1, kv_len=131, dk=41, dv=23),
        P("decode_7_heads", heads=7, kv_heads=1, q_len=1, kv_len=67, dk=136, dv=200),
        P("decode_3_rows", q_len=3, kv_len=149, dk=20, dv=72, band_hi=146),
        P("bshd", batch=2, heads=3, q_len=30, kv_len=41, dk=48, layout="bshd"),
        P("k_transposed", heads=2, q_len=30, kv_len=75, dk=32, transposed="k"),
        P("v_transposed", heads=2, q_len=18, kv_len=75, dk=20, transposed="v"),
        P("all_transposed", heads=2, q_len=13, kv_len=35, dk=18, dv=26, transposed="qkvo"),
        P(
            "transposed_bshd",
            batch=2,
            heads=2,
            q_len=9,
            kv_len=20,
            dk=8,
            layout="bshd",
            transposed="ko",
        ),
        P("padded", batch=2, heads=2, q_len=21, kv_len=34, dk=24, padding=5),
        P(
            "padded_bshd",
            batch=2,
            heads=4,
            kv_heads=2,
            q_len=21,
            kv_len=34,
            dk=24,
            padding=3,
            layout="bshd",
            transposed="v",
            shared_kv=True,
        ),
        P("no_scale", heads=2, q_len=17, kv_len=23, dk=16, scale=1.0),
        P("no_keys", heads=2, q_len=5, kv_len=0, dk=16),
        P("no_queries", heads=2, q_len=0, kv_len=5, dk=16),
        P("softcap", heads=2, q_len=33, kv_len=66, dk=32, softcap=3.0),
        P("sinks", heads=4, kv_heads=2, q_len=33, kv_len=66, dk=32, sinks=True),
        P("weights", heads=4, kv_heads=2, q_len=21, kv_len=140, dk=32, weights=True),
        P("lse", batch=2, heads=4, kv_heads=2, q_len=37, kv_len=150, dk=32, lse="nan"),
        P("lse_empty", heads=2, q_len=25, kv_len=39, dk=16, mask="drop", mask_dims="bq", lse="inf"),
        P(
            "lse_empty_nan",
            heads=2,
            q_len=25,
            kv_len=39,
            dk=16,
            mask="drop",
            mask_dims="bq",
            lse="nan",
        ),
        P("lse_no_keys", heads=2, q_len=5, kv_len=0, dk=16, lse="nan"),
        P("lse_causal", heads=2, q_len=90, kv_len=90, dk=16, band_hi=0, lse="inf", layout="bshd"),
        P("bias_qk", batch=2, heads=2, q_len=40, kv_len=150, dk=32, bias="f32", bias_dims="qk"),
        P("bias_full", batch=2, heads=4, kv_heads=2, q_len=14, kv_len=37, dk=16, bias="element"),
        P("bias_q", heads=2, q_len=14, kv_len=37, dk=16, bias="f32", bias_dims="hq"),
        P("mask_key", batch=2, heads=2, q_len=40, kv_len=150, dk=32, mask="keep", mask_dims="bk"),
        P("mask_drop", batch=2, heads=2, q_len=25, kv_len=39, dk=16, mask="drop"),
        P("mask_q", batch=2, heads=2, q_len=25, kv_len=39, dk=16, mask="drop", mask_dims="bq"),
        P(
            "mask_q_nan",
            heads=2,
            q_len=25,
            kv_len=39,
            dk=16,
            mask="drop",
            mask_dims="q",
            empty_row_nan=True,
        ),
        P(
            "mask_fill",
            heads=2,
            q_len=25,
            kv_len=39,
            dk=16,
            mask="keep",
            mask_dims="bq",
            fill=-3.0e38,
        ),
        P(
            "mask_bias",
            heads=2,
            q_len=25,
            kv_len=139,
            dk=16,
            mask="keep",
            bias="element",
            fill=-2.5,
        ),
        P(
            "after_fill",
            heads=2,
            q_len=25,
            kv_len=139,
            dk=16,
            mask="keep",
            bias="f32",
            fill=-1e4,
            bias_after_fill=True,
        ),
        P(
            "everything",
            batch=2,
            heads=4,
            kv_heads=2,
            q_len=45,
            kv_len=160,
            dk=24,
            dv=40,
            mask="keep",
            mask_dims="bk",
            bias="f32",
            bias_dims="hqk",
            softcap=5.0,
            sinks=True,
            band_hi=100,
            band_lo=-20,
            weights=True,
            lse="inf",
            layout="bshd",
        ),
    ]
    square = P("causal", batch=1, heads=2, q_len=210, kv_len=210, dk=32)
    tall = P("causal_tall", heads=2, q_len=90, kv_len=33, dk=16)
    flat = P("causal_flat", heads=4, kv_heads=2, q_len=33, kv_len=290, dk=16)
    rows += [
        causal(square),
        replace(causal(square), name="causal_finfo_min", fill=-3.4028234663852886e38),
        replace(causal(square, window=40), name="window"),
        causal(tall),
        replace(causal(tall, align="bottom-right"), name="causal_tall_br"),
        replace(causal(tall, align="bottom-right"), name="causal_tall_br_nan", empty_row_nan=True),
        replace(causal(tall, align="bottom-right"), name="causal_tall_fill", fill=-1e9),
        causal(flat, align="bottom-right"),
        replace(causal(flat, align="bottom-right", window=64), name="window_flat"),
        replace(causal(flat, align="bottom-right", window=64), name="window_fill", fill=-4.0),
        replace(
            causal(flat),
            name="causal_bias_after",
            fill=-2.0,
            bias="f32",
            bias_dims="qk",
            bias_after_fill=True,
        ),
        replace(causal(flat, window=1), name="window_one"),
        P("band_outside", heads=2, q_len=20, kv_len=30, dk=16, band_lo=50),
        P("band_outside_fill", heads=2, q_len=20, kv_len=30, dk=16, band_hi=-50, fill=-7.0),
    ]
    return rows


def benchmark() -> list[Problem]:
    """What users run: prefill, causal, short encoder sequences, decode, odd head dims, masks.

    Long sequences have fewer heads: their times stay within seconds in code that is slow.
    """
    P = Problem
    rows: list[Problem] = []
    for dim in (64, 128):
        for length, heads in ((1024, 8), (2048, 8), (4096, 4), (8192, 2)):
            full = P(f"prefill_s{length}_d{dim}", heads=heads, q_len=length, kv_len=length, dk=dim)
            rows += [full, replace(causal(full), name=f"causal_s{length}_d{dim}")]
    for dim in (40, 72, 80, 96, 160, 192, 256):
        rows.append(P(f"prefill_s1024_d{dim}", heads=8, q_len=1024, kv_len=1024, dk=dim))
    rows += [
        P("bert_s64", batch=8, heads=12, q_len=64, kv_len=64, dk=64),
        P("bert_s128", batch=8, heads=12, q_len=128, kv_len=128, dk=64),
        P("bert_s256", batch=8, heads=12, q_len=256, kv_len=256, dk=64),
        P("vit_s197", heads=12, q_len=197, kv_len=197, dk=64),
        P("short_s256", heads=8, q_len=256, kv_len=256, dk=64),
        P(
            "bert_mask_s256",
            batch=8,
            heads=12,
            q_len=256,
            kv_len=256,
            dk=64,
            mask="keep",
            mask_dims="bk",
        ),
        P("bias_s1024", heads=8, q_len=1024, kv_len=1024, dk=64, bias="f32", bias_dims="qk"),
        P("mask_s1024", heads=8, q_len=1024, kv_len=1024, dk=64, mask="keep", mask_dims="bk"),
        P("gqa_prefill_s1024", heads=32, kv_heads=8, q_len=1024, kv_len=1024, dk=128),
        P("decode_mha", heads=32, q_len=1, kv_len=4096, dk=128),
        P("decode_gqa4", heads=32, kv_heads=8, q_len=1, kv_len=16384, dk=128),
        P("decode_one_head", q_len=1, kv_len=131072, dk=128),
        P("cross_77", heads=8, q_len=1024, kv_len=77, dk=40),
    ]
    return rows


def find(name: str) -> Problem:
    """The problem of that name, small or big. Raises KeyError."""
    for problem in small() + benchmark():
        if problem.name == name:
            return problem
    raise KeyError(name)
