// All opcodes that the compiled kernels use, by name and signature; one that is missing is an error that names it.
#pragma once
#include "opcodes.h"

namespace ptx {

// Result and one to three sources, all of type T unless said otherwise.
#define UNARY(name, signature, pipe, D, S, f)                                    \
  {name, signature, pipe, [](Machine&, Warp& w, const Instruction& at, Mask m) { \
     map<D, S>(w, at, m, [](S a) { return static_cast<D>(f); });                 \
   }}
#define BINARY(name, signature, pipe, D, S, f)                                   \
  {name, signature, pipe, [](Machine&, Warp& w, const Instruction& at, Mask m) { \
     map<D, S, S>(w, at, m, [](S a, S b) { return static_cast<D>(f); });         \
   }}
#define SHIFT(name, signature, T, f)                                              \
  {name, signature, "alu", [](Machine&, Warp& w, const Instruction& at, Mask m) { \
     map<T, T, u32>(w, at, m, [](T a, u32 b) { return f(a, b); });                \
   }}
#define MULTIPLY_ADD(name, signature, pipe, D, S, f)                             \
  {name, signature, pipe, [](Machine&, Warp& w, const Instruction& at, Mask m) { \
     map<D, S, S, D>(w, at, m, [](S a, S b, D c) { return static_cast<D>(f); }); \
   }}
#define FIELD(name, T)                                                                    \
  {name, "w:www", "alu", [](Machine&, Warp& w, const Instruction& at, Mask m) {           \
     map<T, T, u32, u32>(w, at, m, [](T a, u32 b, u32 c) { return bit_field(a, b, c); }); \
   }}
#define COMPARE(name, signature, T, f) \
  {name, signature, "alu",             \
   [](Machine&, Warp& w, const Instruction& at, Mask m) { compare<T>(w, at, m, [](T a, T b) { return f; }); }}
#define LOGIC(name, f)  \
  {name, "p:pp", "alu", \
   [](Machine&, Warp& w, const Instruction& at, Mask m) { logic(w, at, m, [](Mask a, Mask b) { return f; }); }}

#define INTEGER(op, f) BINARY(op ".s32", "w:ww", "alu", u32, u32, f), BINARY(op ".s64", "l:ll", "alu", u64, u64, f)
#define BITS(op, f)                                                                             \
  BINARY(op ".b16", "w:ww", "alu", u16, u16, f), BINARY(op ".b32", "w:ww", "alu", u32, u32, f), \
      BINARY(op ".b64", "l:ll", "alu", u64, u64, f)
#define EXTREME(op, f)                                                                          \
  BINARY(op ".s32", "w:ww", "alu", s32, s32, f), BINARY(op ".u32", "w:ww", "alu", u32, u32, f), \
      BINARY(op ".s64", "l:ll", "alu", s64, s64, f), BINARY(op ".u64", "l:ll", "alu", u64, u64, f)
#define QUOTIENT(op, f)                                                                         \
  BINARY(op ".s32", "w:ww", "alu", s32, s32, f), BINARY(op ".u32", "w:ww", "alu", u32, u32, f), \
      BINARY(op ".s64", "l:ll", "alu", s64, s64, f), BINARY(op ".u64", "l:ll", "alu", u64, u64, f)
#define SIGNED_COMPARE(op, f)                                                                 \
  COMPARE("setp." op ".s16", "p:ww", s16, f), COMPARE("setp." op ".s32", "p:ww", s32, f),     \
      COMPARE("setp." op ".s64", "p:ll", s64, f), COMPARE("setp." op ".u16", "p:ww", u16, f), \
      COMPARE("setp." op ".u32", "p:ww", u32, f), COMPARE("setp." op ".u64", "p:ll", u64, f), \
      COMPARE("setp." op ".f32", "p:ww", f32, f)
#define EQUALITY(op, f)                                                                   \
  COMPARE("setp." op ".b16", "p:ww", u16, f), COMPARE("setp." op ".b32", "p:ww", u32, f), \
      COMPARE("setp." op ".b64", "p:ll", u64, f)
#define SELECT(type, signature, T) \
  {"selp." type, signature, "alu", [](Machine&, Warp& w, const Instruction& at, Mask m) { select<T>(w, at, m); }}
#define COPY(name) UNARY(name, "w:w", "alu", u32, u32, a)
#define COPY_LONG(name) UNARY(name, "l:l", "alu", u64, u64, a)
#define CONVERT(name, signature, D, S) UNARY(name, signature, "alu", D, S, a)

// Loads and stores of one, two and four values of 32 bits under each of the names for 32 bits.
#define TRANSFER(op, type, space, store, w1, w2, w4)                   \
  {op "." type, w1, #space, move<space, store, u32, 1, u32>},          \
      {op ".v2." type, w2, #space, move<space, store, u32, 2, u32>}, { \
    op ".v4." type, w4, #space, move<space, store, u32, 4, u32>        \
  }
#define TRANSFERS(space)                                                                \
  TRANSFER("ld." #space, "b32", space, false, "w:m", "ww:m", "wwww:m"),                 \
      TRANSFER("ld." #space, "u32", space, false, "w:m", "ww:m", "wwww:m"),             \
      TRANSFER("ld." #space, "f32", space, false, "w:m", "ww:m", "wwww:m"),             \
      TRANSFER("st." #space, "b32", space, true, ":mw", ":mww", ":mwwww"),              \
      TRANSFER("st." #space, "u32", space, true, ":mw", ":mww", ":mwwww"),              \
      TRANSFER("st." #space, "f32", space, true, ":mw", ":mww", ":mwwww"),              \
      {"ld." #space ".b64", "l:m", #space, move<space, false, u64, 1, u64>},            \
      {"ld." #space ".u64", "l:m", #space, move<space, false, u64, 1, u64>},            \
      {"st." #space ".b64", ":ml", #space, move<space, true, u64, 1, u64>},             \
      {"ld." #space ".u32", "l:m", #space, move<space, false, u32, 1, u64>},            \
      {"ld." #space ".s32", "l:m", #space, move<space, false, s32, 1, s64>},            \
      {"ld." #space ".s32", "w:m", #space, move<space, false, s32, 1, s32>},            \
      {"ld." #space ".b8", "w:m", #space, move<space, false, unsigned char, 1, u16>},   \
      {"ld." #space ".u8", "w:m", #space, move<space, false, unsigned char, 1, u16>}, { \
    "ld." #space ".s8", "w:m", #space, move<space, false, signed char, 1, s16>          \
  }

inline void nothing(Machine&, Warp&, const Instruction&, Mask) {}

// The scheduler acts on these itself.
enum Control : std::int64_t { branch, leave, block_barrier, controls };

inline const Opcode table[] = {
    {"bra", ":-", "control", nothing},
    {"ret", ":", "control", nothing},
    {"bar.sync", ":-", "barrier", nothing},
    {"nop", ":", "control", nothing},
    {"cvta.to.global.u64", "l:l", "alu",
     [](Machine&, Warp& w, const Instruction& at, Mask m) { map<u64, u64>(w, at, m, [](u64 a) { return a; }); }},

    COPY("mov.b16"),
    COPY("mov.u16"),
    COPY("mov.b32"),
    COPY("mov.u32"),
    COPY("mov.f32"),
    COPY("mov.s32"),
    COPY_LONG("mov.b64"),
    COPY_LONG("mov.u64"),
    {"mov.pred", "p:p", "alu",
     [](Machine&, Warp& w, const Instruction& at, Mask m) {
       Mask& to = w.predicates[at.operand[0]];
       to = (to & ~m) | (w.predicates[at.operand[1]] & m);
     }},
    {"not.pred", "p:p", "alu",
     [](Machine&, Warp& w, const Instruction& at, Mask m) {
       Mask& to = w.predicates[at.operand[0]];
       to = (to & ~m) | (~w.predicates[at.operand[1]] & m);
     }},
    {"mov.b32", "ww:w", "alu",
     [](Machine&, Warp& w, const Instruction& at, Mask m) {
       for (int lane = 0; lane < warp_size; ++lane) {
         if (!has(m, lane)) continue;
         const u32 both = get<u32>(w, at.operand[2], lane);
         set<u16>(w, at.operand[0], lane, static_cast<u16>(both));
         set<u16>(w, at.operand[1], lane, static_cast<u16>(both >> 16));
       }
     }},
    {"mov.b64", "ww:l", "alu",
     [](Machine&, Warp& w, const Instruction& at, Mask m) {
       for (int lane = 0; lane < warp_size; ++lane) {
         if (!has(m, lane)) continue;
         const u64 both = get<u64>(w, at.operand[2], lane);
         set<u32>(w, at.operand[0], lane, static_cast<u32>(both));
         set<u32>(w, at.operand[1], lane, static_cast<u32>(both >> 32));
       }
     }},
    BINARY("mov.b32", "w:ww", "alu", u32, u16, a | u32{b} << 16),
    {"mov.b64", "l:ww", "alu",
     [](Machine&, Warp& w, const Instruction& at, Mask m) {
       map<u64, u32, u32>(w, at, m, [](u32 a, u32 b) { return a | static_cast<u64>(b) << 32; });
     }},

    INTEGER("add", a + b),
    INTEGER("sub", a - b),
    INTEGER("mul.lo", a* b),
    BINARY("add.s16", "w:ww", "alu", u16, u16, a + b),
    BINARY("sub.s16", "w:ww", "alu", u16, u16, a - b),
    BINARY("mul.lo.s16", "w:ww", "alu", u16, u16, u32{a} * b),
    BITS("and", a& b),
    BITS("or", a | b),
    BITS("xor", a ^ b),
    EXTREME("min", a < b ? a : b),
    EXTREME("max", a < b ? b : a),
    QUOTIENT("div", divide(a, b)),
    QUOTIENT("rem", remainder(a, b)),
    UNARY("neg.s32", "w:w", "alu", u32, u32, -a),
    UNARY("neg.s64", "l:l", "alu", u64, u64, -a),
    UNARY("not.b32", "w:w", "alu", u32, u32, ~a),
    UNARY("not.b64", "l:l", "alu", u64, u64, ~a),
    BINARY("div.u16", "w:ww", "alu", u16, u16, divide(a, b)),
    BINARY("div.s16", "w:ww", "alu", s16, s16, divide(a, b)),
    BINARY("rem.u16", "w:ww", "alu", u16, u16, remainder(a, b)),
    BINARY("rem.s16", "w:ww", "alu", s16, s16, remainder(a, b)),
    BINARY("min.s16", "w:ww", "alu", s16, s16, a < b ? a : b),
    BINARY("min.u16", "w:ww", "alu", u16, u16, a < b ? a : b),
    BINARY("max.s16", "w:ww", "alu", s16, s16, a < b ? b : a),
    UNARY("not.b16", "w:w", "alu", u16, u16, ~a),
    SHIFT("shl.b16", "w:ww", u16, shift_left),
    SHIFT("shl.b32", "w:ww", u32, shift_left),
    SHIFT("shl.b64", "l:lw", u64, shift_left),
    SHIFT("shr.u16", "w:ww", u16, shift_right),
    SHIFT("shr.s16", "w:ww", s16, shift_right),
    SHIFT("shr.u32", "w:ww", u32, shift_right),
    SHIFT("shr.s32", "w:ww", s32, shift_right),
    SHIFT("shr.u64", "l:lw", u64, shift_right),
    SHIFT("shr.s64", "l:lw", s64, shift_right),
    FIELD("bfe.u32", u32),
    FIELD("bfe.s32", s32),
    {"bfe.u64", "l:lww", "alu",
     [](Machine&, Warp& w, const Instruction& at, Mask m) {
       map<u64, u64, u32, u32>(w, at, m, [](u64 a, u32 position, u32 length) {
         position &= 255, length &= 255;
         const u64 rest = position < 64 ? a >> position : 0;
         return length < 64 ? rest & ((u64{1} << length) - 1) : rest;
       });
     }},
    BINARY("mul.hi.u16", "w:ww", "alu", u16, u16, u32{a} * b >> 16),
    BINARY("mul.hi.s32", "w:ww", "alu", s32, s32, s64{a} * b >> 32),
    BINARY("mul.hi.u32", "w:ww", "alu", u32, u32, u64{a} * b >> 32),
    BINARY("mul.hi.u64", "l:ll", "alu", u64, u64, static_cast<unsigned __int128>(a) * b >> 64),
    BINARY("mul.hi.s64", "l:ll", "alu", s64, s64, static_cast<__int128>(a) * b >> 64),
    BINARY("mul.wide.u16", "w:ww", "alu", u32, u16, u32{a} * b),
    BINARY("mul.wide.s16", "w:ww", "alu", s32, s16, s32{a} * b),
    BINARY("mul.wide.u32", "l:ww", "alu", u64, u32, u64{a} * b),
    BINARY("mul.wide.s32", "l:ww", "alu", s64, s32, s64{a} * b),
    {"prmt.b32", "w:www", "alu",
     [](Machine&, Warp& w, const Instruction& at, Mask m) {
       map<u32, u32, u32, u32>(w, at, m, [](u32 a, u32 b, u32 selectors) {
         u32 result = 0;
         for (int i = 0; i < 4; ++i) {
           const u32 selector = selectors >> 4 * i & 15;
           const u32 byte = static_cast<u32>((u64{b} << 32 | a) >> 8 * (selector & 7)) & 255;
           result |= (selector & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
         }
         return result;
       });
     }},
    {"shf.l.wrap.b32", "w:www", "alu",
     [](Machine&, Warp& w, const Instruction& at, Mask m) {
       map<u32, u32, u32, u32>(w, at, m, [](u32 low, u32 high, u32 by) {
         return static_cast<u32>((u64{high} << 32 | low) << (by & 31) >> 32);
       });
     }},
    MULTIPLY_ADD("mad.lo.s16", "w:www", "alu", u16, u16, u32{a} * b + c),
    MULTIPLY_ADD("mad.lo.s32", "w:www", "alu", u32, u32, a* b + c),
    MULTIPLY_ADD("mad.lo.s64", "l:lll", "alu", u64, u64, a* b + c),
    MULTIPLY_ADD("mad.wide.u16", "w:www", "alu", u32, u16, u32{a} * b + c),
    MULTIPLY_ADD("mad.wide.u32", "l:wwl", "alu", u64, u32, u64{a} * b + c),
    MULTIPLY_ADD("mad.wide.s32", "l:wwl", "alu", u64, s32, static_cast<u64>(s64{a} * b) + c),

    MULTIPLY_ADD("fma.rn.f32", "w:www", "fma", f32, f32, std::fma(a, b, c)),
    MULTIPLY_ADD("fma.rn.ftz.f32", "w:www", "fma", f32, f32, flushed(std::fma(flushed(a), flushed(b), flushed(c)))),
    MULTIPLY_ADD("fma.rm.f32", "w:www", "fma", f32, f32, fma_down(a, b, c)),
    BINARY("add.f32", "w:ww", "fma", f32, f32, a + b),
    BINARY("sub.f32", "w:ww", "fma", f32, f32, a - b),
    BINARY("mul.f32", "w:ww", "fma", f32, f32, a* b),
    BINARY("min.f32", "w:ww", "alu", f32, f32, least(a, b)),
    BINARY("max.f32", "w:ww", "alu", f32, f32, greatest(a, b)),
    BINARY("div.full.f32", "w:ww", "mufu", f32, f32, a / b),
    UNARY("neg.f32", "w:w", "alu", f32, f32, -a),
    UNARY("abs.f32", "w:w", "alu", f32, f32, std::fabs(a)),
    UNARY("ex2.approx.f32", "w:w", "mufu", f32, f32, std::exp2(a)),
    UNARY("ex2.approx.ftz.f32", "w:w", "mufu", f32, f32, flushed(std::exp2(flushed(a)))),
    UNARY("cvt.sat.f32.f32", "w:w", "alu", f32, f32, a > 0 ? std::fmin(a, 1.0f) : 0.0f),
    UNARY("cvt.rna.tf32.f32", "w:w", "alu", u32, u32, to_tf32(a)),

    CONVERT("cvt.s64.s32", "l:w", s64, s32),
    UNARY("cvt.s64.s32", "l:l", "alu", s64, u64, static_cast<s32>(a)),
    CONVERT("cvt.u64.u32", "l:w", u64, u32),
    CONVERT("cvt.u64.u16", "l:w", u64, u16),
    CONVERT("cvt.u32.u64", "w:l", u32, u64),
    CONVERT("cvt.u32.u16", "w:w", u32, u16),
    CONVERT("cvt.u16.u32", "w:w", u16, u32),
    CONVERT("cvt.s32.s16", "w:w", s32, s16),
    CONVERT("cvt.s16.s8", "w:w", s16, signed char),
    CONVERT("cvt.s32.s8", "w:w", s32, signed char),
    CONVERT("cvt.u16.u8", "w:w", u16, unsigned char),
    CONVERT("cvt.u32.u8", "w:w", u32, unsigned char),
    CONVERT("cvt.s64.s16", "l:w", s64, s16),
    CONVERT("cvt.u16.u64", "w:l", u16, u64),
    CONVERT("cvt.rn.f32.u32", "w:w", f32, u32),
    CONVERT("cvt.rn.f32.s32", "w:w", f32, s32),
    CONVERT("cvt.rn.f32.s16", "w:w", f32, s16),
    CONVERT("cvt.rn.f32.u16", "w:w", f32, u16),

    SIGNED_COMPARE("lt", a < b),
    SIGNED_COMPARE("le", a <= b),
    SIGNED_COMPARE("gt", a > b),
    SIGNED_COMPARE("ge", a >= b),
    SIGNED_COMPARE("eq", a == b),
    SIGNED_COMPARE("ne", a<b || a> b),
    EQUALITY("eq", a == b),
    EQUALITY("ne", a != b),
    COMPARE("setp.num.f32", "p:ww", f32, a == a && b == b),
    COMPARE("setp.neu.f32", "p:ww", f32, !(a == b)),
    COMPARE("setp.nan.f32", "p:ww", f32, a != a || b != b),
    LOGIC("and.pred", a& b),
    LOGIC("or.pred", a | b),
    LOGIC("xor.pred", a ^ b),
    SELECT("b16", "w:wwp", u16),
    SELECT("b32", "w:wwp", u32),
    SELECT("u32", "w:wwp", u32),
    SELECT("f32", "w:wwp", u32),
    SELECT("b64", "l:llp", u64),

    TRANSFERS(global),
    TRANSFERS(shared),
    TRANSFERS(parameter),
    {"ld.parameter.v4.u8", "wwww:m", "parameter", move<parameter, false, unsigned char, 4, u16>},
    {"cp.async.ca.shared.global", ":mmww", "global", begin_copy},
    {"cp.async.cg.shared.global", ":mmww", "global", begin_copy},
    {"cp.async.commit_group", ":", "control", commit_copies},
    {"cp.async.wait_group", ":w", "control", wait_for_copies},

    {"ldmatrix.sync.aligned.m8n8.x1.shared.b16", "w:m", "shared", load_matrices<1>},
    {"ldmatrix.sync.aligned.m8n8.x2.shared.b16", "ww:m", "shared", load_matrices<2>},
    {"ldmatrix.sync.aligned.m8n8.x4.shared.b16", "wwww:m", "shared", load_matrices<4>},
    {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "wwww:wwwwwwwwww", "tensor", multiply_matrices},
    {"stmatrix.sync.aligned.m8n8.x1.shared.b16", ":mw", "shared", store_matrices<1>},
    {"stmatrix.sync.aligned.m8n8.x2.shared.b16", ":mww", "shared", store_matrices<2>},
    {"stmatrix.sync.aligned.m8n8.x4.shared.b16", ":mwwww", "shared", store_matrices<4>},
    {"wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32", "wwww:wwwwlpww", "tensor", multiply_warpgroup<1>},
    {"wgmma.mma_async.sync.aligned.m64n16k8.f32.tf32.tf32", "wwwwwwww:wwwwlpww", "tensor", multiply_warpgroup<2>},
    {"wgmma.fence.sync.aligned", ":", "control", nothing},
    {"wgmma.commit_group.sync.aligned", ":", "control", nothing},
    {"wgmma.wait_group.sync.aligned", ":w", "control", nothing},
    {"fence.proxy.async.shared::cta", ":", "control", nothing},
    {"shfl.sync.bfly.b32", "w:wwww", "shuffle", shuffle<butterfly, false>},
    {"shfl.sync.bfly.b32", "wp:wwww", "shuffle", shuffle<butterfly, true>},
    {"shfl.sync.idx.b32", "w:wwww", "shuffle", shuffle<index, false>},
    {"shfl.sync.idx.b32", "wp:wwww", "shuffle", shuffle<index, true>},
    {"bar.warp.sync", ":w", "barrier", sync_warp},
};

}  // namespace ptx
