"""The 32 constant words of a site, as i32 values; numbered by ``flashattn_abi.h`` alone."""

from __future__ import annotations

from iree.compiler import ir
from iree.compiler.dialects import arith

from ..abi import FLAG, WORD, WORD_COUNT
from ..choosing.demands import is_transposed, key_broadcast
from ..site import AttentionSite
from .builder import Builder


def flags(site: AttentionSite) -> int:
    """The value of FA_WORD_FLAGS; the bias's element type is that of the operand as bound."""
    present = {
        "MASK": site.mask is not None,
        "MASK_DROP": site.mask is not None and site.mask_drops,
        "BIAS": site.bias is not None,
        "BIAS_F32": site.bias is not None and site.bias.dtype == "f32",
        "BIAS_AFTER_FILL": site.bias is not None and site.bias_after_fill,
        "BAND_LO": site.band.lo is not None,
        "BAND_HI": site.band.hi is not None,
        "SOFTCAP": site.softcap is not None,
        "SINKS": site.sinks is not None,
        "EMPTY_ROW_NAN": site.empty_row == "nan",
        "Q_TRANSPOSED": is_transposed(site.q, site.q_len, site.dk) is True,
        "K_TRANSPOSED": is_transposed(site.k, site.kv_len, site.dk) is True,
        "V_TRANSPOSED": is_transposed(site.v, site.kv_len, site.dv) is True,
        "O_TRANSPOSED": is_transposed(site.out, site.q_len, site.dv) is True,
        "WEIGHTS": site.weights is not None,
        "LSE": site.lse is not None,
        "LSE_NAN": site.lse is not None and site.lse_empty == "nan",
    }
    for name, view in (("MASK", site.mask), ("BIAS", site.bias)):
        if view is not None:
            present[f"{name}_KEY_BROADCAST"] = key_broadcast(view, site.kv_len) is True
    return sum(FLAG[name] for name, on in present.items() if on)


def words(site: AttentionSite, splits: int, build: Builder) -> list[ir.Value]:
    """All constants in ABI order; what the site lacks is zero."""
    found = [build.word(0)] * WORD_COUNT

    def put(name: str, value: ir.Value) -> None:
        found[WORD[name]] = value

    put("FLAGS", build.word(flags(site)))
    put("Q_LEN", build.extent_word(site.q_len))
    put("KV_LEN", build.extent_word(site.kv_len))
    put("HEADS", build.word(int(site.heads) | int(site.kv_heads) << 16))
    put("HEAD_DIMS", build.word(int(site.dk) | int(site.dv) << 16))
    put("SCALE", _scale(site.scale, build))
    put("SOFTCAP", build.float_word(site.softcap or 0.0))
    put("FILL", build.float_word(site.fill))
    if site.band.lo is not None:
        put("BAND_LO", build.extent_word(site.band.lo))
    if site.band.hi is not None:
        put("BAND_HI", build.extent_word(site.band.hi))
    for name, view, rows, columns in (
        ("Q", site.q, site.q_len, site.dk),
        ("K", site.k, site.kv_len, site.dk),
        ("V", site.v, site.kv_len, site.dv),
        ("O", site.out, site.q_len, site.dv),
    ):
        batch, head, row, column = view.strides
        put(f"{name}_STRIDE_B", build.extent_word(batch))
        put(f"{name}_STRIDE_H", build.extent_word(head))
        transposed = is_transposed(view, rows, columns)
        put(f"{name}_STRIDE_X", build.extent_word(column if transposed else row))
        if name != "O":
            put(f"{name}_OFFSET", build.extent_word(view.offset))
    for name, view in (("MASK", site.mask), ("BIAS", site.bias)):
        if view is not None:
            for part, stride in zip("BHX", view.strides, strict=False):
                put(f"{name}_STRIDE_{part}", build.extent_word(stride))
    put("SPLITS", build.word(splits))
    return found


def _scale(scale: float | ir.Value, build: Builder) -> ir.Value:
    if isinstance(scale, float | int):
        return build.float_word(float(scale))
    return arith.BitcastOp(build.i32, scale, loc=build.location, ip=build.point).result
