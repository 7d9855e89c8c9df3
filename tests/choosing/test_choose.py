"""Which kernel serves which site on which target: golden lines, and refusals with their values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iree_flashattn import catalog, resources
from iree_flashattn.choosing import Choice, Options, choose
from iree_flashattn.extent import Extent
from iree_flashattn.refusal import Refusal
from iree_flashattn.site import AttentionSite, Band, View
from iree_flashattn.target import parse_target

UNGATED = Options(gate=False)


def cpu_target(features: str, fmt: str = "embedded-elf-x86_64", cpu: str = "generic"):
    flags = ",".join(f"+{f}" for f in features.split())
    config = f'cpu = "{cpu}", cpu_features = "{flags}"'
    return parse_target(f'#hal.executable.target<"llvm-cpu", "{fmt}", {{{config}}}>')


AVX512BF16 = "avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512bf16"


AMX = f"{AVX512BF16} avx512fp16 amx-tile amx-bf16 amx-int8"


def cuda_target(sm: int):
    return parse_target(
        '#hal.executable.target<"cuda", "cuda-nvptx-fb", {iree_codegen.target_info ='
        f' #iree_gpu.target<arch = "sm_{sm}", features = "">}}>'
    )


TARGETS = {
    "avx512": cpu_target("avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512cd"),
    "znver4": cpu_target(AVX512BF16, cpu="znver4"),
    "znver4_no_bf16": cpu_target(AVX512BF16.removesuffix(" avx512bf16"), cpu="znver4"),
    "cooperlake": cpu_target(AVX512BF16, cpu="cooperlake"),
    "sapphirerapids": cpu_target(AMX, cpu="sapphirerapids"),
    "avx512f_only": cpu_target("avx avx2 fma f16c avx512f"),
    "avx2": cpu_target("avx avx2 fma f16c"),
    "avx": cpu_target("avx"),
    "generic": cpu_target(""),
    "neon": cpu_target("neon", "embedded-elf-arm_64"),
    "riscv": cpu_target("m a f d", "embedded-elf-riscv_64"),
    **{f"sm_{sm}": cuda_target(sm) for sm in (75, 80, 86)},
    "vmvx": parse_target('#hal.executable.target<"vmvx", "vmvx-bytecode-fb">'),
    "rocm": parse_target('#hal.executable.target<"rocm", "rocm-hsaco-fb", {abi = "hip"}>'),
}


def size(value: int | str) -> Extent:
    return Extent.symbol(value) if isinstance(value, str) else Extent(value)


def site(
    batch: int | str = 1,
    heads: int = 8,
    q_len: int | str = 1024,
    kv_len: int | str = 1024,
    dk: int | str = 64,
    dv: int | str | None = None,
    kv_heads: int | None = None,
    dtype: str = "f32",
    **rest,
) -> AttentionSite:
    """Contiguous BHSD operands; ``rest`` replaces fields of the site."""
    b, h, q, k, c = (size(v) for v in (batch, heads, q_len, kv_len, dk))
    d = c if dv is None else size(dv)
    g = h if kv_heads is None else size(kv_heads)
    one = Extent(1)
    found = AttentionSite(
        anchor=None,
        location="model.py:7:3",
        q=View(None, dtype, (h * q * c, q * c, c, one)),
        k=View(None, dtype, (g * k * c, k * c, c, one)),
        v=View(None, dtype, (g * k * d, k * d, d, one)),
        out=View(None, dtype, (h * q * d, q * d, d, one)),
        batch=b,
        heads=h,
        kv_heads=g,
        q_len=q,
        kv_len=k,
        dk=c,
        dv=d,
        spelling="test",
    )
    for name, value in rest.items():
        assert hasattr(found, name)
        setattr(found, name, value)
    return found


MASK = View(None, "i1", tuple(Extent(n) for n in (0, 0, 1024, 1)))
WEIGHTS = View(None, "f32", tuple(Extent(n) for n in (0, 0, 1024, 1)))

GOLDEN = [
    # prefill
    ("avx512", {}, "fa_forward_f32_avx512", 1),
    ("avx512", {"dtype": "f16"}, "fa_forward_f16_avx512", 1),
    ("avx512", {"dtype": "bf16"}, "fa_forward_bf16_avx512", 1),
    # vdpbf16ps where the target names a processor on which it is fast
    ("znver4", {"dtype": "bf16"}, "fa_forward_bf16_avx512bf16", 1),
    ("znver4", {}, "fa_forward_f32_avx512", 1),
    ("znver4", {"dtype": "bf16", "q_len": 1, "kv_len": 4096}, "fa_partial_bf16_avx512bf16", 2),
    ("znver4_no_bf16", {"dtype": "bf16"}, "fa_forward_bf16_avx512", 1),
    ("cooperlake", {"dtype": "bf16"}, "fa_forward_bf16_avx512", 1),
    # tiles need the operating system's permission, which a module cannot ask for
    ("sapphirerapids", {"dtype": "bf16"}, "fa_forward_bf16_avx512", 1),
    # an x86-64 machine may have more than the target promises
    ("avx512f_only", {}, "fa_forward_f32_avx512_small fa_forward_f32_avx2", 1),
    ("avx2", {}, "fa_forward_f32_avx512_small fa_forward_f32_avx2", 1),
    ("avx", {}, "fa_forward_f32_avx512_small fa_forward_f32_avx2 fa_forward_f32_sse2", 1),
    ("generic", {"dtype": "f16"},
     "fa_forward_f16_avx512_small fa_forward_f16_avx2 fa_forward_f16_sse2", 1),
    ("neon", {"dtype": "bf16"}, "fa_forward_bf16_neon", 1),
    ("avx512", {"q_len": "n", "kv_len": "n"}, "fa_forward_f32_avx512", 1),
    ("avx512", {"batch": "b"}, "fa_forward_f32_avx512", 1),
    ("avx512", {"dk": 13, "dv": 7, "kv_heads": 2}, "fa_forward_f32_avx512", 1),
    ("avx512", {"band": Band(hi=Extent(0))}, "fa_forward_f32_avx512", 1),
    # decode: few tasks and many keys are split, many tasks or few keys are not
    ("avx512", {"q_len": 1, "kv_len": 4096}, "fa_partial_f32_avx512", 2),
    ("avx512", {"q_len": 1, "kv_len": 4096, "heads": 1}, "fa_partial_f32_avx512", 16),
    ("avx512", {"q_len": 1, "kv_len": 1024, "heads": 1}, "fa_partial_f32_avx512", 4),
    ("avx512", {"q_len": 1, "heads": 32, "kv_heads": 4, "kv_len": 4096},
     "fa_partial_f32_avx512", 4),
    ("avx512", {"q_len": 1, "kv_len": "n", "heads": 2}, "fa_partial_f32_avx512", 8),
    ("avx512", {"q_len": 1, "kv_len": 2048, "heads": 32}, "fa_forward_f32_avx512", 1),
    ("avx512", {"q_len": 1, "kv_len": 4096, "heads": 32}, "fa_partial_f32_avx512", 2),
    ("avx512", {"q_len": 1, "kv_len": 4096, "heads": 64}, "fa_forward_f32_avx512", 1),
    ("avx512", {"q_len": 1, "kv_len": 65536, "heads": 1}, "fa_partial_f32_avx512", 32),
    ("avx512", {"q_len": 1, "kv_len": 300}, "fa_forward_f32_avx512", 1),
    ("avx512", {"q_len": 1, "kv_len": 4096, "heads": 1, "weights": WEIGHTS},
     "fa_forward_f32_avx512", 1),
    ("avx2", {"q_len": 1, "kv_len": 4096, "dtype": "bf16"},
     "fa_partial_bf16_avx512_small fa_partial_bf16_avx2", 2),
    # CUDA: the Hopper kernel where the device is one, else one for every GPU of the target
    ("sm_80", {"dtype": "bf16", "q_len": 513},
     "fa_forward_bf16_sm90a_d64 fa_forward_bf16_sm80_d64", 1),
    ("sm_80", {"dtype": "bf16", "q_len": "n"},
     "fa_forward_bf16_sm90a_d64 fa_forward_bf16_sm80_d64", 1),
    ("sm_80", {"dtype": "bf16", "q_len": 512},
     "fa_forward_bf16_sm90a_d64_short fa_forward_bf16_sm80_d64", 1),
    ("sm_86", {"dtype": "f16", "dk": 96}, "fa_forward_f16_sm90a_d128 fa_forward_f16_sm80_d128", 1),
    ("sm_80", {"dtype": "f16", "dk": 65}, "fa_forward_f16_sm80_d128", 1),
    ("sm_80", {"dk": 128}, "fa_forward_f32_sm80_d128", 1),
    ("sm_80", {"dtype": "f16", "dk": 128, "mask": MASK},
     "fa_forward_f16_sm90a_d128_general fa_forward_f16_sm80_d128_general", 1),
    ("sm_80", {"dtype": "f16", "weights": WEIGHTS}, "fa_forward_f16_sm80_d64_weights", 1),
    ("sm_80", {"dtype": "f16", "weights": WEIGHTS, "mask": MASK, "dk": 200},
     "fa_forward_f16_sm80_d256_weights", 1),
    ("sm_80", {"weights": WEIGHTS, "q_len": 1, "kv_len": 4096}, "fa_forward_f32_sm80_d64_weights",
     1),
    ("sm_80", {"dtype": "f16", "q_len": 1, "kv_len": 4096, "dk": 128, "mask": MASK},
     "fa_partial_f16_sm80_d128_general", 16),
]  # fmt: skip


@pytest.mark.parametrize(("target", "changes", "kernels", "splits"), GOLDEN)
def test_golden(target: str, changes: dict, kernels: str, splits: int) -> None:
    choice = choose(site(**changes), TARGETS[target], UNGATED)
    assert isinstance(choice, Choice), choice
    assert ([row.name for row in choice.rows], choice.splits) == (kernels.split(), splits)
    merges = [row.combine for row in choice.rows] if splits > 1 else []
    assert [row.name for row in choice.combine] == merges


EXTENSION = [
    ("sapphirerapids", {"dtype": "bf16"}, "fa_forward_bf16_amx"),
    ("sapphirerapids", {"dtype": "bf16", "q_len": "n", "kv_len": "n"}, "fa_forward_bf16_amx"),
    ("sapphirerapids", {"dtype": "f16"}, "fa_forward_f16_avx512"),
    ("sapphirerapids", {}, "fa_forward_f32_avx512"),
    ("sapphirerapids", {"dtype": "bf16", "q_len": 1, "kv_len": 4096}, "fa_partial_bf16_avx512"),
    ("cooperlake", {"dtype": "bf16"}, "fa_forward_bf16_avx512"),
    ("znver4", {"dtype": "bf16"}, "fa_forward_bf16_avx512bf16"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "changes", "kernel"), EXTENSION)
def test_kernels_of_the_runtime_extension(target: str, changes: dict, kernel: str) -> None:
    choice = choose(site(**changes), TARGETS[target], replace(UNGATED, cpu_link="plugin"))
    assert isinstance(choice, Choice), choice
    assert [row.name for row in choice.rows] == [kernel]


def test_a_row_of_the_extension_is_passed_over_with_its_reason() -> None:
    choice = choose(site(dtype="bf16"), TARGETS["sapphirerapids"], UNGATED)
    assert "fa_forward_bf16_amx: needs IREE_FLASHATTN_CPU_LINK=plugin" in choice.trail
    choice = choose(site(dtype="bf16"), TARGETS["avx512"], UNGATED)
    assert not any("CPU_LINK" in line for line in choice.trail)


@pytest.mark.parametrize("installed", [False, True])
def test_package_built_without_nvcc(installed: bool, tmp_path, monkeypatch) -> None:
    """The table is there and no kernel is: stock code stays, and the reason names the compiler."""
    (tmp_path / "cuda").mkdir()
    monkeypatch.setattr(resources, "native_dir", lambda: tmp_path)
    monkeypatch.setattr(resources, "installed", lambda: installed)
    monkeypatch.setattr(resources, "_checksums", lambda: {"cpu/fa_forward_f32_avx2.o": "0"})
    answer = choose(site(), TARGETS["sm_80"], UNGATED)
    assert isinstance(answer, Refusal)
    assert (answer.rule, "nvidia-cuda-nvcc" in answer.reason) == ("choose.table", True)


def test_cuda_row_that_wants_more_shared_memory_than_the_target_has() -> None:
    rows = [
        replace(row, scratch_bytes=150000)
        for row in catalog.kernels("cuda")
        if not row.target.get("only") and row.role == "forward"
    ]
    assert isinstance(choose(site(), TARGETS["sm_80"], UNGATED, rows), Choice)
    answer = choose(site(), TARGETS["sm_86"], UNGATED, rows)
    assert isinstance(answer, Refusal)
    assert "150000 bytes of shared memory (sm_86 has 101376)" in answer.reason


def test_operands_of_different_types_are_computed_in_f32() -> None:
    mixed = site(dtype="f16")
    mixed.out = View(None, "f32", mixed.out.strides)
    choice = choose(mixed, TARGETS["avx512"], UNGATED)
    assert isinstance(choice, Choice)
    assert choice.name == "fa_forward_f32_avx512"


REFUSED = [
    ("vmvx", {}, "choose.target", "llvm-cpu (embedded-elf), cuda and vulkan-spirv", "vmvx"),
    ("rocm", {}, "choose.target", "cuda and vulkan-spirv", "rocm-hsaco-fb"),
    ("sm_75", {}, "choose.kernel", "compile with --iree-cuda-target=sm_80", "sm_75"),
    ("sm_80", {"batch": 40000, "heads": 60000, "q_len": 2, "kv_len": 2, "dk": 1}, "choose.grid",
     "over 2147483647 workgroups", "2400000000"),
    ("sm_80", {"dk": 300}, "choose.kernel", "head dims up to 256, the site has 300", "sm_80"),
    ("riscv", {}, "choose.kernel", "no kernel runs on this target", "riscv_64"),
    ("avx512", {"dtype": "i8"}, "choose.site", "f32, f16 and bf16", "i8"),
    ("avx512", {"dk": 1025}, "choose.kernel", "up to 1024, the site has 1025", "x86_64"),
    ("avx512", {"dk": "d"}, "choose.site", "head dim of K is known only at run time", "d"),
    ("avx512", {"heads": 6, "kv_heads": 4}, "choose.site", "multiple of kv heads", "6 and 4"),
    ("avx512", {"heads": 70000, "q_len": 1}, "choose.site", "from 1 to 65535", "70000"),
    ("avx512", {"batch": 70000, "q_len": 4, "kv_len": 4, "heads": 1}, "choose.grid", "65535",
     "70000"),
    ("avx512", {"heads": 2, "batch": 3, "q_len": 2**25, "dk": 128}, "choose.site", "32 bits",
     str(2**33)),
]  # fmt: skip


@pytest.mark.parametrize(("target", "changes", "rule", "reason", "subject"), REFUSED)
def test_refusal_names_the_value(
    target: str, changes: dict, rule: str, reason: str, subject: str
) -> None:
    answer = choose(site(**changes), TARGETS[target], UNGATED)
    assert isinstance(answer, Refusal), answer
    assert (answer.rule, answer.location, answer.spelling) == (rule, "model.py:7:3", "test")
    assert reason in answer.reason
    assert subject in answer.subject


def strided(dtype: str, *strides: int) -> View:
    return View(None, dtype, tuple(Extent(s) for s in strides))


def test_operand_without_a_contiguous_inner_dimension_is_refused() -> None:
    answer = choose(site(k=strided("f32", 0, 999, 192, 3)), TARGETS["avx512"], UNGATED)
    assert isinstance(answer, Refusal)
    assert answer.reason.startswith("K is strided")
    assert "192" in answer.subject


@pytest.mark.parametrize("name", ["mask", "bias"])
def test_mask_that_starts_inside_its_tensor_is_refused(name: str) -> None:
    view = View(None, "i8", tuple(Extent(s) for s in (0, 0, 1024, 1)), Extent(5))
    answer = choose(site(**{name: view}), TARGETS["avx512"], UNGATED)
    assert isinstance(answer, Refusal)
    assert name in answer.reason
    assert answer.subject == "5"


def test_feature_that_no_row_has_is_named() -> None:
    rows = [row for row in catalog.kernels("cpu") if row.name == "fa_forward_f32_avx512"]
    poor = [type(rows[0])(**{**vars(rows[0]), "features": frozenset({"dynamic"})})]
    answer = choose(site(softcap=30.0), TARGETS["avx512"], UNGATED, rows=poor)
    assert isinstance(answer, Refusal)
    assert "lacks softcap" in answer.reason


def test_every_cpu_row_is_chosen_for_some_site() -> None:
    """A row that nothing can choose is dead weight in the package."""
    chosen = set()
    for target in (t for t in TARGETS.values() if t.backend == "cpu"):
        for dtype in ("f32", "f16", "bf16"):
            for q_len, link in ((1, "static"), (512, "static"), (512, "plugin")):
                options = replace(UNGATED, cpu_link=link)
                answer = choose(site(q_len=q_len, kv_len=8192, dtype=dtype), target, options)
                if isinstance(answer, Choice):
                    chosen |= {row.name for row in (*answer.rows, *answer.combine)}
    assert chosen == {row.name for row in catalog.kernels("cpu")}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("IREE_FLASHATTN_GATE", "maybe"),
        ("IREE_FLASHATTN_STRICT", "yes"),
        ("IREE_FLASHATTN_CPU_LINK", "dynamic"),
    ],
)
def test_option_without_meaning_is_refused(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{variable}='{value}' is not one of"):
        Options.from_environment({variable: value})


def test_options_of_an_empty_environment() -> None:
    assert Options.from_environment({}) == Options(True, False, "", "static")
    assert Options.from_environment({"IREE_FLASHATTN_GATE": "off"}).gate is False


FUSED = {"batch": 12, "heads": 8, "q_len": 4, "kv_len": 4, "dk": 32, "spelling": "attention"}
SPELLED = FUSED | {"spelling": "exp / sum"}
# What is declined, for AVX2 and for AVX-512.
GATED = [
    (FUSED, True, True),
    (FUSED | {"dk": 64}, False, True),  # 512 multiplications a row, 2048 a head
    (FUSED | {"dk": 128}, False, False),  # 1024 a row
    (FUSED | {"q_len": 8, "kv_len": 8}, False, True),
    (FUSED | {"q_len": 16, "kv_len": 16}, False, False),
    (FUSED | {"q_len": 16, "dk": 64}, False, False),  # 8192 a head
    (FUSED | {"q_len": 1, "kv_len": 8}, False, True),
    (FUSED | {"batch": 3}, True, True),  # 24 heads
    (FUSED | {"batch": 2}, True, False),
    (FUSED | {"batch": 1}, True, False),
    (FUSED | {"batch": 1, "heads": 4, "kv_heads": 4}, False, False),
    (SPELLED, True, True),
    (SPELLED | {"q_len": 16, "kv_len": 16, "dk": 64}, True, True),
    (SPELLED | {"q_len": 32, "kv_len": 32, "dk": 64}, False, False),
    (SPELLED | {"batch": 3, "q_len": 16, "kv_len": 16}, False, True),  # 24 heads
    (SPELLED | {"batch": 2, "q_len": 16, "kv_len": 16}, False, False),
    (SPELLED | {"q_len": 64, "kv_len": 64, "dk": 64}, False, False),
    (SPELLED | {"q_len": 4, "kv_len": 64, "dk": 64}, False, False),
    (SPELLED | {"q_len": 1, "kv_len": 8, "dk": 64}, True, True),
    (SPELLED | {"q_len": 1, "kv_len": 32, "dk": 32}, False, True),  # 2048 a row
    (SPELLED | {"q_len": 1, "kv_len": 33, "dk": 32}, False, False),
    (SPELLED | {"batch": 4, "q_len": 1}, False, False),  # 32 heads
    (SPELLED | {"batch": 4}, False, True),
    (FUSED | {"band": Band(hi=Extent(0))}, False, False),  # stock expands masks, some wrongly
    (FUSED | {"q_len": "n"}, False, False),
    (FUSED | {"q_len": 1, "kv_len": 1, "dk": 136}, False, False),  # stock is wrong over 128
    ({}, False, False),
]


@pytest.mark.parametrize("wide", [False, True], ids=["avx2", "avx512"])
@pytest.mark.parametrize(("changes", "narrow_declined", "wide_declined"), GATED)
def test_gate(changes: dict, narrow_declined: bool, wide_declined: bool, wide: bool) -> None:
    target = TARGETS["avx512" if wide else "avx2"]
    answer = choose(site(**changes), target)
    assert isinstance(answer, Refusal) == (wide_declined if wide else narrow_declined), answer
    if isinstance(answer, Refusal):
        assert answer.rule == "choose.gate"
        assert "IREE_FLASHATTN_GATE=off" in answer.reason
        assert " multiplications each are faster in stock code" in answer.reason
    assert isinstance(choose(site(**changes), target, UNGATED), Choice)


VULKAN = parse_target('#hal.executable.target<"vulkan-spirv", "vulkan-spirv-fb", {}>')


@pytest.mark.parametrize(("length", "fits"), [(4096, True), (8192, False)])
def test_weights_have_to_fit_a_vulkan_binding(length, fits):
    strides = tuple(Extent(n) for n in (0, length * length, length, 1))
    wanted = site(heads=32, q_len=length, kv_len=length, weights=View(None, "f32", strides))
    found = choose(wanted, VULKAN)
    if fits:
        assert found.name == "fa_forward_f32_lane8_d64_weights"
    else:
        assert "P takes over 4 GiB" in found.reason


def test_a_declined_attention_op_is_an_error_on_vulkan_alone():
    wanted = site(dk=4096, spelling="attention")
    assert "the compilation will fail" in choose(wanted, VULKAN).reason
    assert "the compilation will fail" not in choose(wanted, TARGETS["avx512"]).reason
    assert "the compilation will fail" not in choose(site(dk=4096), VULKAN).reason
