// What each opcode does (PTX ISA, section 9.7), for all lanes of a warp at once.
//
// An opcode's signature lists its operands, the result first: w a register of 16 or 32 bits, l of 64, p a predicate,
// m the address in [ ] (a word for shared memory, a long for global), - a symbol or number that program.py resolves.
// Approximate instructions are computed as exactly as the C library does; a chip errs by some units in the last place.
#pragma once
#include <bit>
#include <cfenv>
#include <cmath>
#include <limits>
#include <type_traits>

#include "machine.h"

namespace ptx {

using s16 = std::int16_t;
using u16 = std::uint16_t;
using s32 = std::int32_t;
using u32 = std::uint32_t;
using s64 = std::int64_t;
using u64 = std::uint64_t;
using f32 = float;

struct Opcode {
  const char *name, *signature, *pipe;
  void (*run)(Machine&, Warp&, const Instruction&, Mask);
};

// --- registers --------------------------------------------------------------------------------------------------

template <class T>
constexpr bool is_long = sizeof(T) == 8;

template <class T>
T* row(Warp& w, s64 number) {
  if constexpr (is_long<T>)
    return reinterpret_cast<T*>(&w.longs[number * warp_size]);
  else
    return reinterpret_cast<T*>(&w.words[number * warp_size]);
}

template <class T>
using Stored = std::conditional_t<is_long<T>, u64, u32>;

template <class T>
T get(Warp& w, s64 number, int lane) {
  const auto bits = row<Stored<T>>(w, number)[lane];
  if constexpr (std::is_same_v<T, f32>)
    return std::bit_cast<f32>(bits);
  else
    return static_cast<T>(bits);
}

template <class T>
void set(Warp& w, s64 number, int lane, T value) {
  if constexpr (std::is_same_v<T, f32>)
    row<u32>(w, number)[lane] = std::bit_cast<u32>(value);
  else
    row<Stored<T>>(w, number)[lane] = static_cast<std::make_unsigned_t<T>>(value);
}

inline bool has(Mask mask, int lane) { return mask >> lane & 1; }

// D result[lane] = f(sources...)[lane]
template <class D, class... S, class F>
void map(Warp& w, const Instruction& at, Mask mask, F f) {
  auto apply = [&]<std::size_t... i>(std::index_sequence<i...>) {
    if (mask == all_lanes) {
      for (int lane = 0; lane < warp_size; ++lane)
        set<D>(w, at.operand[0], lane, f(get<S>(w, at.operand[1 + i], lane)...));
    } else {
      for (int lane = 0; lane < warp_size; ++lane)
        if (has(mask, lane)) set<D>(w, at.operand[0], lane, f(get<S>(w, at.operand[1 + i], lane)...));
    }
  };
  apply(std::index_sequence_for<S...>{});
}

template <class S, class F>
void compare(Warp& w, const Instruction& at, Mask mask, F f) {
  Mask found = 0;
  for (int lane = 0; lane < warp_size; ++lane)
    found |= Mask{f(get<S>(w, at.operand[1], lane), get<S>(w, at.operand[2], lane))} << lane;
  Mask& predicate = w.predicates[at.operand[0]];
  predicate = (predicate & ~mask) | (found & mask);
}

template <class T>
void select(Warp& w, const Instruction& at, Mask mask) {
  const Mask predicate = w.predicates[at.operand[3]];
  for (int lane = 0; lane < warp_size; ++lane)
    if (has(mask, lane)) set<T>(w, at.operand[0], lane, get<T>(w, at.operand[has(predicate, lane) ? 1 : 2], lane));
}

template <class F>
void logic(Warp& w, const Instruction& at, Mask mask, F f) {
  Mask& predicate = w.predicates[at.operand[0]];
  predicate = (predicate & ~mask) | (f(w.predicates[at.operand[1]], w.predicates[at.operand[2]]) & mask);
}

// --- arithmetic -------------------------------------------------------------------------------------------------

template <class T>
T divide(T a, T b) {  // undefined in PTX where b is 0 or the quotient does not fit; no trap here
  if (b == 0 || (std::is_signed_v<T> && a == std::numeric_limits<T>::min() && b == T(-1))) return a;
  return a / b;
}
template <class T>
T remainder(T a, T b) {
  return static_cast<T>(b == 0 ? a : static_cast<u64>(a) - static_cast<u64>(divide(a, b)) * static_cast<u64>(b));
}
template <class T>
T shift_left(T a, u32 n) {
  return n < 8 * sizeof(T) ? static_cast<T>(static_cast<u64>(a) << n) : T(0);
}
template <class T>
T shift_right(T a, u32 n) {
  const u32 most = 8 * sizeof(T) - 1;
  return n <= most ? static_cast<T>(a >> n) : std::is_signed_v<T> ? static_cast<T>(a >> most) : T(0);
}
inline f32 flushed(f32 a) { return std::fabs(a) < std::numeric_limits<f32>::min() ? std::copysign(0.0f, a) : a; }
inline f32 least(f32 a, f32 b) { return std::isnan(a) ? b : std::isnan(b) ? a : std::fmin(a, b); }
inline f32 greatest(f32 a, f32 b) { return std::isnan(a) ? b : std::isnan(b) ? a : std::fmax(a, b); }
inline f32 fma_down(f32 a, f32 b, f32 c) {
  const int before = std::fegetround();
  std::fesetround(FE_DOWNWARD);
  volatile f32 x = a, y = b, z = c;
  volatile f32 result = std::fma(x, y, z);
  std::fesetround(before);
  return result;
}
inline u32 to_tf32(u32 bits) {  // to nearest, ties away from zero
  return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & 0xffffe000;
}
template <class T>
T bit_field(T a, u32 position, u32 length) {
  position &= 255, length &= 255;
  if (length == 0) return 0;
  const u32 there = position >= 32 ? 0 : length < 32 - position ? length : 32 - position;
  const u64 bits = static_cast<u32>(a), ones = (u64{1} << there) - 1;
  const u32 top = position + length - 1 < 31 ? position + length - 1 : 31;
  const u64 sign = std::is_signed_v<T> && (bits >> top & 1) ? ~ones : 0;
  return static_cast<T>((there ? bits >> position & ones : 0) | sign);
}

// --- memory -----------------------------------------------------------------------------------------------------

enum Space { global, shared, parameter };

// Loads or stores `count` values of type T, which a register holds as R.
template <Space space, bool store, class T, int count, class R>
void move(Machine& m, Warp& w, const Instruction& at, Mask mask) {
  const s64* const values = store ? at.operand + 1 : at.operand;
  const s64 base = store ? at.operand[0] : at.operand[count];
  u64 addresses[warp_size];
  for (int lane = 0; lane < warp_size; ++lane) {
    if (!has(mask, lane)) continue;
    T value[count] = {};
    if (store)
      for (int k = 0; k < count; ++k) value[k] = static_cast<T>(get<R>(w, values[k], lane));
    unsigned char* bytes;
    if constexpr (space == parameter) {
      const u64 offset = static_cast<u64>(at.offset) + (base < 0 ? 0 : get<u64>(w, base, lane));
      if (offset + sizeof value > m.parameter_bytes)
        fail("no parameter at %llu", static_cast<unsigned long long>(offset));
      bytes = const_cast<unsigned char*>(m.parameters) + offset;
    } else if constexpr (space == shared) {
      const u64 address = static_cast<u64>(at.offset) + (base < 0 ? 0 : get<u32>(w, base, lane));
      bytes = m.shared_at(w, lane, address, sizeof value, store, value);
    } else {
      const u64 address = addresses[lane] = static_cast<u64>(at.offset) + get<u64>(w, base, lane);
      bytes = m.global_at(w, lane, address, sizeof value, store, value);
    }
    if (store) {
      std::memcpy(bytes, value, sizeof value);
      continue;
    }
    std::memcpy(value, bytes, sizeof value);
    for (int k = 0; k < count; ++k) set<R>(w, values[k], lane, static_cast<R>(value[k]));
  }
  if (space == global && m.timed) m.count_wavefronts(addresses, mask);
}

inline void begin_copy(Machine& m, Warp& w, const Instruction& at, Mask mask) {
  for (int lane = 0; lane < warp_size; ++lane) {
    if (!has(mask, lane)) continue;
    const Copy copy{get<u32>(w, at.operand[0], lane) + static_cast<u64>(at.offset),
                    get<u64>(w, at.operand[1], lane) + static_cast<u64>(at.offset2), get<u32>(w, at.operand[2], lane),
                    get<u32>(w, at.operand[3], lane)};
    if (copy.copied) m.global_at(w, lane, copy.from, copy.copied, false);
    w.open[lane].push_back(copy);
  }
}

inline void commit_copies(Machine&, Warp& w, const Instruction&, Mask mask) {
  for (int lane = 0; lane < warp_size; ++lane)
    if (has(mask, lane)) w.groups[lane].push_back(std::move(w.open[lane])), w.open[lane].clear();
}

// A copy takes place here and not before: whoever reads too early finds what was there.
inline void wait_for_copies(Machine& m, Warp& w, const Instruction& at, Mask mask) {
  for (int lane = 0; lane < warp_size; ++lane) {
    if (!has(mask, lane)) continue;
    auto& groups = w.groups[lane];
    const std::size_t pending = get<u32>(w, at.operand[0], lane);
    while (groups.size() > pending) {
      for (const Copy& copy : groups.front()) {
        unsigned char bytes[16] = {};
        std::memcpy(bytes, reinterpret_cast<const void*>(copy.from), copy.copied);
        std::memcpy(m.shared_at(w, lane, copy.to, copy.bytes, true, bytes), bytes, copy.bytes);
      }
      groups.erase(groups.begin());
    }
  }
}

// --- a warp together --------------------------------------------------------------------------------------------

inline void want_all(const Warp& w, Mask mask, const char* what) {
  if (mask != all_lanes || w.live != all_lanes) fail("%s: only lanes %#x of the warp reach it", what, mask);
}

template <int count>
void load_matrices(Machine& m, Warp& w, const Instruction& at, Mask mask) {
  want_all(w, mask, "ldmatrix");
  u32 found[count][warp_size];
  for (int k = 0; k < count; ++k)
    for (int lane = 0; lane < warp_size; ++lane) {
      const u64 address = get<u32>(w, at.operand[count], 8 * k + lane / 4) + static_cast<u64>(at.offset);
      if (address % 16) fail("ldmatrix: row at %llu", static_cast<unsigned long long>(address));
      std::memcpy(&found[k][lane], m.shared_at(w, lane, address + lane % 4 * 4, 4, false), 4);
    }
  for (int k = 0; k < count; ++k)
    for (int lane = 0; lane < warp_size; ++lane) set<u32>(w, at.operand[k], lane, found[k][lane]);
}

// D [16, 8] = A [16, 8] B [8, 8] + C; TF32 ignores the low 13 bits.
inline void multiply_matrices(Machine&, Warp& w, const Instruction& at, Mask mask) {
  want_all(w, mask, "mma");
  auto value = [&](int operand, int lane) {
    return static_cast<double>(std::bit_cast<f32>(get<u32>(w, at.operand[operand], lane) & 0xffffe000));
  };
  double a[16][8], b[8][8];
  for (int lane = 0; lane < warp_size; ++lane)
    for (int k = 0; k < 4; ++k) {
      a[lane / 4 + k % 2 * 8][lane % 4 + k / 2 * 4] = value(4 + k, lane);
      if (k < 2) b[lane % 4 + k * 4][lane / 4] = value(8 + k, lane);
    }
  for (int lane = 0; lane < warp_size; ++lane)
    for (int k = 0; k < 4; ++k) {
      const int i = lane / 4 + k / 2 * 8, j = lane % 4 * 2 + k % 2;
      double sum = get<f32>(w, at.operand[10 + k], lane);
      for (int l = 0; l < 8; ++l) sum += a[i][l] * b[l][j];
      set<f32>(w, at.operand[k], lane, static_cast<f32>(sum));
    }
}

template <int count>
void store_matrices(Machine& m, Warp& w, const Instruction& at, Mask mask) {
  want_all(w, mask, "stmatrix");
  for (int k = 0; k < count; ++k)
    for (int lane = 0; lane < warp_size; ++lane) {
      const u64 address = get<u32>(w, at.operand[0], 8 * k + lane / 4) + static_cast<u64>(at.offset);
      if (address % 16) fail("stmatrix: row at %llu", static_cast<unsigned long long>(address));
      const u32 value = get<u32>(w, at.operand[1 + k], lane);
      std::memcpy(m.shared_at(w, lane, address + lane % 4 * 4, 4, true, &value), &value, 4);
    }
}

// A warp's 16 rows of D [64, 8 * groups] = A [64, 8] B [8, 8 * groups] + (p ? D : 0). A lies in registers as for mma, B
// in shared memory where the descriptor says (PTX ISA, "Matrix Descriptor Format"), a row of 8 words for each column of
// D. Carried out at once, where a chip may take until wgmma.wait_group.
template <int groups>
void multiply_warpgroup(Machine& m, Warp& w, const Instruction& at, Mask mask) {
  want_all(w, mask, "wgmma");
  const s64 *const d = at.operand, *const a = d + 4 * groups, *const rest = a + 4;
  const u64 descriptor = get<u64>(w, rest[0], 0);
  const bool add = w.predicates[rest[1]] & 1;
  const u64 start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4,
            stride = (descriptor >> 32 & 0x3fff) << 4, swizzle = descriptor >> 62;
  if (get<u32>(w, rest[2], 0) != 1 || get<u32>(w, rest[3], 0) != 1) fail("wgmma: only scales of 1 are known");
  const u64 row_bytes = swizzle == 0 ? 16 : swizzle == 3 ? 32 : swizzle == 2 ? 64 : 128;
  auto tf32 = [](u32 bits) { return static_cast<double>(std::bit_cast<f32>(bits & 0xffffe000)); };
  double left[16][8], right[8][8 * groups];
  for (int lane = 0; lane < warp_size; ++lane)
    for (int k = 0; k < 4; ++k) left[lane / 4 + k % 2 * 8][lane % 4 + k / 2 * 4] = tf32(get<u32>(w, a[k], lane));
  for (int n = 0; n < 8 * groups; ++n)
    for (int k = 0; k < 8; ++k) {
      u64 address = start + static_cast<u64>(n / 8) * stride + static_cast<u64>(n % 8) * row_bytes;
      address += swizzle == 0 ? static_cast<u64>(k / 4) * leading + k % 4 * 4 : static_cast<u64>(k) * 4;
      address ^= (address >> 3) & (row_bytes - 16);
      u32 bits;
      std::memcpy(&bits, m.shared_at(w, (n * 8 + k) % warp_size, address, 4, false), 4);
      right[k][n] = tf32(bits);
    }
  for (int lane = 0; lane < warp_size; ++lane)
    for (int k = 0; k < 4 * groups; ++k) {
      const int i = lane / 4 + k / 2 % 2 * 8, j = k / 4 * 8 + lane % 4 * 2 + k % 2;
      double sum = add ? get<f32>(w, d[k], lane) : 0.0;
      for (int l = 0; l < 8; ++l) sum += left[i][l] * right[l][j];
      set<f32>(w, d[k], lane, static_cast<f32>(sum));
    }
}

enum Shuffle { butterfly, index, down, up };

template <Shuffle kind, bool with_predicate>
void shuffle(Machine&, Warp& w, const Instruction& at, Mask mask) {
  const s64* const in = at.operand + (with_predicate ? 2 : 1);
  u32 found[warp_size];
  Mask fits = 0;
  for (int lane = 0; lane < warp_size; ++lane) {
    if (!has(mask, lane)) continue;
    const u32 b = get<u32>(w, in[1], lane), c = get<u32>(w, in[2], lane), members = get<u32>(w, in[3], lane);
    if (members & w.live & ~mask) fail("shfl: only lanes %#x of %#x reach it", mask, members & w.live);
    const u32 segment = c >> 8 & 31, self = static_cast<u32>(lane);
    const u32 first = self & segment, last = first | (c & ~segment & 31);
    u32 from = kind == butterfly ? self ^ (b & 31)
               : kind == index   ? first | (b & ~segment & 31)
               : kind == down    ? self + (b & 31)
                                 : self - (b & 31);
    const bool inside = kind == up ? static_cast<s32>(from) >= static_cast<s32>(last) : from <= last;
    if (inside)
      fits |= Mask{1} << lane;
    else
      from = self;
    if (!has(mask, static_cast<int>(from))) fail("shfl: lane %d reads from lane %u, which is not there", lane, from);
    found[lane] = get<u32>(w, in[0], static_cast<int>(from));
  }
  for (int lane = 0; lane < warp_size; ++lane)
    if (has(mask, lane)) set<u32>(w, at.operand[0], lane, found[lane]);
  if (with_predicate && at.operand[1] >= 0) {
    Mask& predicate = w.predicates[at.operand[1]];
    predicate = (predicate & ~mask) | fits;
  }
}

inline void sync_warp(Machine&, Warp& w, const Instruction& at, Mask mask) {
  const u32 members = get<u32>(w, at.operand[0], 0);
  if (members & w.live & ~mask) fail("bar.warp.sync: only lanes %#x of %#x reach it", mask, members & w.live);
  ++w.warp_epoch;
}

}  // namespace ptx
