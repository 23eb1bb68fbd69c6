// What a launch works on: registers of warps, and memory that knows its bounds and who touched it since the last
// barrier.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace ptx {

constexpr int warp_size = 32;
using Mask = std::uint32_t;  // a bit for each lane
constexpr Mask all_lanes = ~Mask{0};

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[gnu::format(printf, 1, 2), noreturn]] inline void fail(const char* format, ...) {
  char text[400];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Error(text);
}

// One instruction, as program.py writes it: operands are numbers of registers in the files that the opcode names.
struct Instruction {
  std::int64_t op, guard, negated, target, offset, offset2, operand[20];
};

// --- memory -----------------------------------------------------------------------------------------------------

// A thread at a moment. Barriers of the block count `epoch`, those of a warp `warp_epoch`.
struct Access {
  std::int32_t block, thread, epoch, warp_epoch;
};
constexpr std::int32_t nobody = -1, many = -2;
// Several threads of one warp.
constexpr std::int32_t many_of(std::int32_t warp) { return -3 - warp; }
constexpr std::int32_t warp_of(std::int32_t thread) {
  return thread >= 0 ? thread / warp_size : thread == many ? many : -3 - thread;
}

// Whether what was done `before` is ordered with `now`: by a barrier of the block, or of their common warp.
inline bool ordered(const Access& before, const Access& now) {
  if (before.block == nobody) return true;
  if (before.block != now.block) return false;
  if (before.epoch != now.epoch || before.thread == now.thread) return true;
  return warp_of(before.thread) == warp_of(now.thread) && before.warp_epoch != now.warp_epoch;
}

// A range of addresses, with the last write and the last reads of every four bytes.
class Region {
 public:
  std::uint64_t base, bytes;

  Region(std::uint64_t base, std::uint64_t bytes) : base(base), bytes(bytes), words_(bytes / 4 + 2) {}

  bool holds(std::uint64_t address, unsigned size) const { return address >= base && address + size <= base + bytes; }

  void note_read(std::uint64_t address, unsigned size, const Access& now) {
    for (Word* word = first(address); word < last(address, size); ++word) {
      if (!ordered(word->write, now)) race("reads", "wrote", word->write, now);
      Access& read = word->read;
      if (read.block != now.block && read.block != nobody)
        read.block = many;
      else if (read.block == nobody || read.epoch != now.epoch)
        read = now;
      else if (warp_of(read.thread) != warp_of(now.thread))
        read.thread = many;
      else if (read.warp_epoch == now.warp_epoch && read.thread != now.thread)
        read.thread = many_of(warp_of(now.thread));
      else
        read = now;
    }
  }

  // Threads that write what is there already (`same`) do each other no harm.
  void note_write(std::uint64_t address, unsigned size, const Access& now, bool same) {
    for (Word* word = first(address); word < last(address, size); ++word) {
      if (!same && !ordered(word->write, now)) race("writes", "wrote", word->write, now);
      if (!ordered(word->read, now)) race("writes", "read", word->read, now);
      word->write = now;
    }
  }

 private:
  struct Word {
    Access write{nobody, 0, 0, 0}, read{nobody, 0, 0, 0};
  };
  std::vector<Word> words_;

  Word* first(std::uint64_t address) { return &words_[(address - base) / 4]; }
  Word* last(std::uint64_t address, unsigned size) { return &words_[(address + size - 1 - base) / 4] + 1; }

  [[noreturn]] static void race(const char* does, const char* did, const Access& before, const Access& now) {
    fail("race: thread %d of block %d %s what thread %d of block %d %s, and no barrier is between", now.thread,
         now.block, does, before.thread, before.block, did);
  }
};

// --- threads ----------------------------------------------------------------------------------------------------

// A copy that was begun and not yet waited for.
struct Copy {
  std::uint64_t to, from;
  unsigned bytes, copied;  // the rest is zeros
};

struct Warp {
  int first_thread;
  Mask live, active;           // threads that have not returned; those that take the next instruction
  Mask waiting = 0;            // at a barrier of the block
  std::int64_t pc = 0, merge;  // of the active lanes; where the first of the others waits
  std::int64_t pcs[warp_size] = {};
  std::int32_t epoch = 0, warp_epoch = 0;
  std::vector<std::uint32_t> words;  // [register][lane]
  std::vector<std::uint64_t> longs;  // [register][lane]
  std::vector<Mask> predicates;      // [register]
  std::vector<std::vector<Copy>> groups[warp_size];
  std::vector<Copy> open[warp_size];
};

struct Machine {
  std::vector<Region> global;
  Region shared{0, 0};
  std::vector<unsigned char> shared_bytes;
  const unsigned char* parameters;
  std::size_t parameter_bytes;
  std::int32_t block = 0;
  bool races, timed;
  double wavefronts = 1;  // of the last access to global memory: 128 bytes in four sectors of 32 each, if `timed`
  std::size_t last_region = 0;

  Access now(const Warp& w, int lane) const { return {block, w.first_thread + lane, w.epoch, w.warp_epoch}; }

  void count_wavefronts(const std::uint64_t (&addresses)[warp_size], Mask mask) {
    std::uint64_t sectors[warp_size];
    int count = 0;
    for (int lane = 0; lane < warp_size; ++lane) {
      if (!(mask >> lane & 1)) continue;
      bool known = false;
      for (int i = count; i-- > 0 && !known;) known = sectors[i] == addresses[lane] / 32;
      if (!known) sectors[count++] = addresses[lane] / 32;
    }
    wavefronts = (count + 3) / 4;
  }

  unsigned char* global_at(const Warp& w, int lane, std::uint64_t address, unsigned size, bool write,
                           const void* value = nullptr) {
    if (address % size) fail("address %#llx is no multiple of %u", static_cast<unsigned long long>(address), size);
    Region& region = region_of(address, size);
    auto* const bytes = reinterpret_cast<unsigned char*>(address);
    if (races) note(region, address, size, now(w, lane), bytes, write, value);
    return bytes;
  }

  unsigned char* shared_at(const Warp& w, int lane, std::uint64_t address, unsigned size, bool write,
                           const void* value = nullptr) {
    if (!shared.holds(address, size) || address % size)
      fail("shared memory: %u bytes at %llu of %llu", size, static_cast<unsigned long long>(address),
           static_cast<unsigned long long>(shared.bytes));
    unsigned char* const bytes = shared_bytes.data() + address;
    if (races) note(shared, address, size, now(w, lane), bytes, write, value);
    return bytes;
  }

 private:
  Region& region_of(std::uint64_t address, unsigned size) {
    if (global[last_region].holds(address, size)) return global[last_region];
    for (last_region = 0; last_region < global.size(); ++last_region)
      if (global[last_region].holds(address, size)) return global[last_region];
    last_region = 0;
    fail("%u bytes at %#llx lie outside of all tensors", size, static_cast<unsigned long long>(address));
  }

  static void note(Region& region, std::uint64_t address, unsigned size, const Access& now, const unsigned char* bytes,
                   bool write, const void* value) {
    if (write)
      region.note_write(address, size, now, std::memcmp(bytes, value, size) == 0);
    else
      region.note_read(address, size, now);
  }
};

}  // namespace ptx
