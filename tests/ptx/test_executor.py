"""The executor itself: what instructions do, and that it notices what a kernel must not do."""

import math
import struct

import numpy as np
import pytest
import torch

from ptx.executor import ORDERS, PTXError, run
from ptx.program import Program, UnknownPTXError, parse

HEAD = """
.extern .shared .align 16 .b8 memory[];
.visible .entry kernel(.param .u64 kernel_param_0)
{
  .reg .pred %p<20>; .reg .b16 %rs<20>; .reg .b32 %r<40>; .reg .f32 %f<20>; .reg .b64 %rd<40>;
  ld.param.u64 %rd1, [kernel_param_0];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd2, %r1, 4;
  add.s64 %rd3, %rd1, %rd2;
"""


def kernel(body: str) -> Program:
    """A kernel: %r1 is the thread, %rd1 the output, %rd3 the place of this thread's word in it."""
    return parse(HEAD + body + "\n  ret;\n}\n")["kernel"]


def execute(body: str, threads: int = 32, words: int | None = None, blocks: int = 1, **options) -> np.ndarray:
    """The output, a word for each thread, before: 1000 + its number."""
    out = torch.arange(1000, 1000 + (threads if words is None else words), dtype=torch.int32)
    regions = [(out.data_ptr(), out.nbytes)]
    run(kernel(body), struct.pack("Q", out.data_ptr()), (blocks,), threads, 1024, regions, **options)
    return out.numpy().view(np.uint32)


def bits(value: float) -> int:
    return struct.unpack("I", struct.pack("f", value))[0]


# Instructions on %r2 = a, %r3 = b, %r4 = c (%rd5.. the same, sign-extended), into %r9.
WORDS = [
    ("add.s32 %r9, %r2, %r3", (2**31 - 1, 1, 0), 2**31),
    ("mul.lo.s32 %r9, %r2, %r3", (0xFFFFFFFF, 7, 0), 2**32 - 7),
    ("mul.hi.s32 %r9, %r2, %r3", (0xFFFFFFFF, 7, 0), 0xFFFFFFFF),
    ("mul.hi.u32 %r9, %r2, %r3", (0xFFFFFFFF, 7, 0), 6),
    ("mad.lo.s32 %r9, %r2, %r3, %r4", (5, 7, 9), 44),
    ("div.s32 %r9, %r2, %r3", (2**32 - 7, 2, 0), 2**32 - 3),
    ("rem.s32 %r9, %r2, %r3", (2**32 - 7, 2, 0), 2**32 - 1),
    ("div.u32 %r9, %r2, %r3", (2**32 - 7, 2, 0), (2**32 - 7) // 2),
    ("shr.s32 %r9, %r2, %r3", (2**31, 40, 0), 0xFFFFFFFF),
    ("shr.u32 %r9, %r2, %r3", (2**31, 40, 0), 0),
    ("shr.u32 %r9, %r2, %r3", (2**31, 31, 0), 1),
    ("shl.b32 %r9, %r2, %r3", (3, 32, 0), 0),
    ("shl.b32 %r9, %r2, %r3", (3, 31, 0), 2**31),
    ("shf.l.wrap.b32 %r9, %r2, %r3, 36", (0xA0000000, 0x12345678, 0), 0x2345678A),
    ("prmt.b32 %r9, %r2, %r3, 0x5410", (0x1111ABCD, 0x22221234, 0), 0x1234ABCD),
    ("prmt.b32 %r9, %r2, %r3, 0xF870", (0x80, 0x90000000, 0), 0xFFFF9080),
    ("bfe.u32 %r9, %r2, 4, 8", (0xABCDE, 0, 0), 0xCD),
    ("bfe.s32 %r9, %r2, 4, 8", (0xABCDE, 0, 0), 0xFFFFFFCD),
    ("bfe.s32 %r9, %r2, 30, 5", (0xC0000000, 0, 0), 0xFFFFFFFF),
    ("mov.b32 %r9, {%r2, %r3}", (0x12345, 0xABCDE, 0), 0xBCDE2345),
    ("mov.b32 {%r9, %r8}, %r2", (0xABCDE, 0, 0), 0xBCDE),
    ("and.b32 %r9, %r2, %r3", (12, 10, 0), 8),
    ("xor.b32 %r9, %r2, %r3", (12, 10, 0), 6),
    ("not.b32 %r9, %r2", (0, 0, 0), 0xFFFFFFFF),
    ("neg.s32 %r9, %r2", (1, 0, 0), 0xFFFFFFFF),
    ("min.s32 %r9, %r2, %r3", (0xFFFFFFFF, 3, 0), 0xFFFFFFFF),
    ("min.u16 %r9, %r2, %r3", (0xFFFF, 3, 0), 3),
    ("min.u32 %r9, %r2, %r3", (0xFFFFFFFF, 3, 0), 3),
    ("cvt.u16.u32 %rs1, %r2; cvt.u32.u16 %r9, %rs1", (0x12345678, 0, 0), 0x5678),
    ("cvt.u16.u32 %rs1, %r2; mul.wide.u16 %r9, %rs1, 65535", (65535, 0, 0), 65535 * 65535),
    ("cvt.u16.u32 %rs1, %r2; sub.s16 %rs2, %rs1, 3; cvt.u32.u16 %r9, %rs2", (1, 0, 0), 0xFFFE),
    ("cvt.s64.s32 %rd9, %r2; shr.u64 %rd9, %rd9, 32; cvt.u32.u64 %r9, %rd9", (2**31, 0, 0), 0xFFFFFFFF),
    (
        "cvt.u64.u32 %rd9, %r2; cvt.s64.s32 %rd9, %rd9; shr.s64 %rd9, %rd9, 40; cvt.u32.u64 %r9, %rd9",
        (2**31, 0, 0),
        2**32 - 1,
    ),
    ("bfe.u64 %rd9, %rd5, 28, 8; cvt.u32.u64 %r9, %rd9", (0xA0000000, 0, 0), 0xFA),
    ("mad.wide.s32 %rd9, %r2, %r3, %rd5; cvt.u32.u64 %r9, %rd9", (0xFFFFFFFE, 3, 0), 2**32 - 8),
    ("mov.b64 %rd9, {%r2, %r3}; mov.b64 {_, %r9}, %rd9", (5, 6, 0), 6),
    ("setp.lt.s32 %p1, %r2, %r3; selp.b32 %r9, 1, 2, %p1", (0xFFFFFFFF, 0, 0), 1),
    ("setp.lt.u32 %p1, %r2, %r3; selp.b32 %r9, 1, 2, %p1", (0xFFFFFFFF, 0, 0), 2),
    ("setp.lt.s32 %p1, %r2, %r3; not.pred %p2, %p1; selp.b32 %r9, 1, 2, %p2", (1, 2, 0), 2),
    ("fma.rn.f32 %r9, %r2, %r3, %r4", (bits(1 + 2**-23), bits(1 + 2**-23), bits(-1)), bits(2**-22 + 2**-46)),
    ("fma.rm.f32 %r9, %r2, %r3, %r4", (bits(-1.0), bits(2**-30), bits(1.0)), bits(1 - 2**-24)),
    ("sub.f32 %r9, %r2, %r3", (bits(1.5), bits(2.0), 0), bits(-0.5)),
    ("min.f32 %r9, %r2, %r3", (bits(math.nan), bits(2.0), 0), bits(2.0)),
    ("max.f32 %r9, %r2, %r3", (bits(-1.0), bits(2.0), 0), bits(2.0)),
    ("ex2.approx.f32 %r9, %r2", (bits(-3.0), 0, 0), bits(0.125)),
    ("ex2.approx.ftz.f32 %r9, %r2", (bits(-140.0), 0, 0), 0),
    ("cvt.sat.f32.f32 %r9, %r2", (bits(1.5), 0, 0), bits(1.0)),
    ("cvt.sat.f32.f32 %r9, %r2", (bits(math.nan), 0, 0), 0),
    ("cvt.rna.tf32.f32 %r9, %r2", (bits(1 + 2**-11), 0, 0), bits(1 + 2**-10)),
    ("cvt.rn.f32.s32 %r9, %r2", (0xFFFFFFFF, 0, 0), bits(-1.0)),
    ("setp.num.f32 %p1, %r2, %r3; selp.b32 %r9, 1, 2, %p1", (bits(math.nan), 0, 0), 2),
    (
        "setp.ne.b32 %p1, %r2, %r3; @%p1 bra $over; mov.u32 %r9, 3; bra.uni $end;"
        "$over: mov.u32 %r9, 4; $end: mov.u32 %r8, 0",
        (1, 1, 0),
        3,
    ),
    (
        "$table: .branchtargets $one, $two; brx.idx %r2, $table; $one: mov.u32 %r9, 5; bra.uni $end;"
        "$two: mov.u32 %r9, 6; $end: mov.u32 %r8, 0",
        (1, 0, 0),
        6,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "values", "expected"), WORDS, ids=str)
def test_instruction(body, values, expected):
    loads = "".join(f"mov.u32 %r{2 + i}, {v}; cvt.s64.s32 %rd{5 + i}, %r{2 + i};\n" for i, v in enumerate(values))
    assert (execute(f"{loads}{body};\nst.global.u32 [%rd3], %r9;") == expected).all()


def test_lanes_part_and_meet_again():
    found = execute("""
      mov.u32 %r2, 0; mov.u32 %r3, 0;
    $loop: setp.ge.u32 %p1, %r3, %r1;
      @%p1 bra $out;
      add.s32 %r2, %r2, %r3; add.s32 %r3, %r3, 1;
      bra.uni $loop;
    $out: shfl.sync.bfly.b32 %r4, %r2, 1, 31, -1;
      st.global.u32 [%rd3], %r4;""")
    assert found.tolist() == [(i ^ 1) * ((i ^ 1) - 1) // 2 for i in range(32)]


def test_shuffle_by_index_in_segments():
    found = execute("shfl.sync.idx.b32 %r4|%p1, %r1, 1, 0x181f, -1; st.global.u32 [%rd3], %r4;")
    assert found.tolist() == [i // 8 * 8 + 1 for i in range(32)]


def test_matrix_product_of_ldmatrix_fragments():
    """A [16, 8] and B [8, 8] from shared memory, as Triton and the PTX ISA lay the fragments out."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-8, 8, (16, 8)).astype(np.float32), rng.integers(-8, 8, (8, 8)).astype(np.float32)
    given = torch.from_numpy(np.concatenate([a.reshape(-1), b.reshape(-1)]))
    out = torch.zeros(16, 8)
    # Rows of A and of B's transpose take 32 bytes each; a matrix of 8 x 4 words is what ldmatrix loads.
    body = """
      ld.param.u64 %rd10, [kernel_param_1];
      mov.u32 %r20, memory;
    """ + "".join(
        f"add.s64 %rd11, %rd10, {128 * k}; add.s64 %rd11, %rd11, %rd2; ld.global.f32 %f1, [%rd11];\n"
        f"shl.b32 %r21, %r1, 2; add.s32 %r21, %r21, %r20; st.shared.f32 [%r21+{128 * k}], %f1;\n"
        for k in range(4)
    )
    body += """
      bar.warp.sync -1;
      and.b32 %r2, %r1, 15; shl.b32 %r2, %r2, 5; shr.u32 %r3, %r1, 4; shl.b32 %r3, %r3, 4;
      add.s32 %r2, %r2, %r3; add.s32 %r2, %r2, %r20;
      ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r2];
      shr.u32 %r8, %r1, 2; and.b32 %r9, %r1, 3;
      shl.b32 %r10, %r9, 3; add.s32 %r10, %r10, %r8; shl.b32 %r10, %r10, 2;
      add.s64 %rd12, %rd10, 512; cvt.u64.u32 %rd13, %r10; add.s64 %rd12, %rd12, %rd13;
      ld.global.b32 %r11, [%rd12]; ld.global.b32 %r12, [%rd12+128];
      mov.b32 %r13, 0;
      mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r14, %r15, %r16, %r17}, {%r4, %r5, %r6, %r7}, {%r11, %r12},
        {%r13, %r13, %r13, %r13};
      shl.b32 %r18, %r8, 5; shl.b32 %r19, %r9, 3; add.s32 %r18, %r18, %r19;
      cvt.u64.u32 %rd14, %r18; add.s64 %rd15, %rd1, %rd14;
      st.global.v2.b32 [%rd15], {%r14, %r15}; st.global.v2.b32 [%rd15+256], {%r16, %r17};
      ret; }"""
    program = parse(HEAD.replace("kernel_param_0)", "kernel_param_0, .param .u64 kernel_param_1)") + body)["kernel"]
    regions = [(t.data_ptr(), t.nbytes) for t in (given, out)]
    run(program, struct.pack("QQ", out.data_ptr(), given.data_ptr()), (1,), 32, 1024, regions)
    assert np.array_equal(out.numpy(), a @ b)


@pytest.mark.parametrize("text", ["frobnicate.b32 %r2, %r3", "add.s32 %r2, %rd3, %r3", "mov.u32 %r2, %clock"])
def test_what_is_not_known_is_named(text):
    with pytest.raises(UnknownPTXError, match=re_name(text)):
        kernel(f"{text};")


def re_name(text: str) -> str:
    return "%clock" if "%clock" in text else text.split()[0]


# --- what a kernel must not do ----------------------------------------------------------------------------------

EXCHANGE = """
  shl.b32 %r2, %r1, 2; mov.u32 %r3, memory; add.s32 %r2, %r2, %r3;
  st.shared.b32 [%r2], %r1;
  {barrier}
  xor.b32 %r4, %r2, {distance};
  ld.shared.b32 %r5, [%r4];
  st.global.b32 [%rd3], %r5;
"""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("threads", "distance", "barrier"), [(32, 4, "bar.warp.sync -1;"), (128, 128, "bar.sync 0;")])
def test_exchange_through_shared_memory(threads, distance, barrier, order):
    found = execute(EXCHANGE.format(barrier=barrier, distance=distance), threads, order=order)
    assert found.tolist() == [i ^ distance // 4 for i in range(threads)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("threads", "distance", "barrier"), [(32, 4, ""), (128, 128, ""), (128, 128, "bar.warp.sync -1;")]
)
def test_a_race_is_noticed(threads, distance, barrier, order):
    with pytest.raises(PTXError, match="race: thread"):
        execute(EXCHANGE.format(barrier=barrier, distance=distance), threads, order=order)


RACES = {
    "two threads write": """
      shr.u32 %r2, %r1, 1; mul.wide.u32 %rd4, %r2, 4; add.s64 %rd4, %rd1, %rd4; st.global.b32 [%rd4], %r1;""",
    "write after read": "ld.global.b32 %r2, [%rd1]; setp.eq.s32 %p1, %r1, 9; @%p1 st.global.b32 [%rd1], %r1;",
}


@pytest.mark.parametrize("case", RACES)
def test_races_in_global_memory(case):
    with pytest.raises(PTXError, match="race: thread"):
        execute(RACES[case])


def test_blocks_race():
    with pytest.raises(PTXError, match="of block 1 writes what thread 0 of block 0 wrote"):
        execute("mov.u32 %r2, %ctaid.x; st.global.b32 [%rd3], %r2;", blocks=2)


def test_the_same_value_twice_is_no_race():
    assert execute("mov.u32 %r2, 7; st.global.b32 [%rd1], %r2;")[0] == 7


@pytest.mark.parametrize(("body", "why"), [
    ("ld.global.b32 %r2, [%rd3+4];", "4 bytes at 0x[0-9a-f]+ lie outside of all tensors"),
    ("st.global.b32 [%rd3+-4], %r1;", "lie outside of all tensors"),
    ("ld.global.v2.b32 {%r2, %r3}, [%rd3];", "is no multiple of 8"),
    ("mov.u32 %r2, memory; st.shared.b32 [%r2+1024], %r1;", "shared memory: 4 bytes at 1024 of 1024"),
    ("setp.lt.u32 %p1, %r1, 16; @%p1 bar.sync 0;", "bar.sync: only lanes 0xffff of 0xffffffff reach it"),
    ("setp.lt.u32 %p1, %r1, 16; @%p1 bar.warp.sync -1;", "bar.warp.sync: only lanes 0xffff"),
    ("setp.lt.u32 %p1, %r1, 16; @%p1 shfl.sync.idx.b32 %r2, %r1, 0, 31, -1;", "shfl: only lanes 0xffff"),
    ("$again: bra.uni $again;", "more than 10000 instructions"),
])  # fmt: skip
def test_errors_name_the_instruction(body, why):
    with pytest.raises(PTXError, match=why) as error:
        execute(body, most_instructions=10_000)
    assert "kernel, instruction" in str(error.value)


def test_a_barrier_that_one_warp_never_reaches():
    with pytest.raises(PTXError, match="a barrier that not all threads reach"):
        execute("setp.lt.u32 %p1, %r1, 32; @%p1 bra $out; bar.sync 0; $out: mov.u32 %r2, 0;", 64)


def test_a_copy_that_nobody_waited_for_brings_nothing():
    copy = """
      shl.b32 %r2, %r1, 2; mov.u32 %r3, memory; add.s32 %r2, %r2, %r3; mov.u32 %r6, {bytes};
      cp.async.ca.shared.global [%r2+0], [%rd3+0], 4, %r6;
      cp.async.commit_group; {wait}
      ld.shared.b32 %r4, [%r2]; st.global.b32 [%rd3], %r4;"""
    assert (execute(copy.format(wait="", bytes=4)) == 0xFFFFFFFF).all()
    assert execute(copy.format(wait="cp.async.wait_group 0;", bytes=4)).tolist() == list(range(1000, 1032))
    assert (execute(copy.format(wait="cp.async.wait_group 0;", bytes=0)) == 0).all()
