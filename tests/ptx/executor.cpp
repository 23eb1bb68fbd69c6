// Runs compiled PTX on the CPU: a warp's lanes take each instruction together, blocks run one after another.
//
// Lanes that part at a branch go on with the lowest address first, so that they meet again where they can. The order of
// warps is chosen by the caller; a warp keeps its turn until a barrier or, in shuffled order, for a few instructions.
// Errors: bytes outside of the tensors, two threads at the same bytes without a barrier between (one of them writing),
// a barrier that not all threads reach, more instructions than allowed.
#include <algorithm>
#include <cstdio>

#include "table.h"

namespace ptx {
namespace {

constexpr int pipes = 8;

struct Cost {
  std::int64_t pipe;       // of `pipes`
  double cycles, latency;  // for which that pipe is taken from all warps; until the result can be read
};

struct Launch {
  const Instruction* program;
  std::int64_t length, word_registers, long_registers, predicate_registers;
  const std::int64_t* constants;  // [constant_count][3]: file (0 words, 1 longs, 2 predicates), register, value
  std::int64_t constant_count;
  const std::int64_t* specials;  // [special_count][2]: what (enum Special), word register
  std::int64_t special_count;
  const unsigned char* parameters;
  std::int64_t parameter_bytes, grid[3], threads, shared_bytes;
  const std::uint64_t* regions;  // [region_count][2]: address, bytes
  std::int64_t region_count, order, most_instructions, races;
  std::int64_t* counts;            // [length], added to: how often warps took each instruction
  const Cost* costs;               // [length], or null: what each instruction takes of a multiprocessor
  double barrier_cycles, *cycles;  // written: of the slowest block, by the chain of dependent instructions between
                                   // barriers, by the busiest pipe between them, and by the longer one of the two;
                                   // then [pipes] by each pipe, and by the issue of instructions
};

enum Special { thread_x, thread_yz, block_x, block_y, block_z, threads_x, one, blocks_x, blocks_y, blocks_z, lane_id };
enum Order { rising, falling, shuffled };

// A model of time: a warp issues an instruction a cycle, once its operands are there; between two branches in the order
// that suits, as ptxas arranges them.
class Clock {
 public:
  void begin_block(std::size_t warps, std::int64_t words, std::int64_t longs, std::int64_t predicates) {
    warps_.assign(warps, {});
    for (Timeline& t : warps_)
      for (int file = 0; file < 3; ++file)
        t.ready[file].assign(static_cast<std::size_t>(file == 0 ? words : file == 1 ? longs : predicates), 0.0);
    std::fill_n(used_, pipes, 0.0);
    std::fill_n(total, pipes + 1, 0.0);
    issued_ = start_ = chain = busy = both = 0;
  }

  void take(std::size_t warp, const Instruction& at, const Cost& cost, double wavefronts) {
    Timeline& t = warps_[warp];
    double now = t.begin;
    const char* const signature = table[at.op].signature;
    std::size_t results = 0;
    while (signature[results] != ':') ++results;
    if (at.guard >= 0) now = std::max(now, t.ready[2][static_cast<std::size_t>(at.guard)]);
    for (std::size_t i = results; signature[i + 1]; ++i)
      if (double* ready = place(t, at, signature[i + 1], i)) now = std::max(now, *ready);
    for (std::size_t i = 0; i < results; ++i)
      if (double* ready = place(t, at, signature[i], i)) *ready = now + cost.latency;
    t.last = std::max(t.last, now);
    t.issued += cost.cycles > 0 ? 1 : 0;
    if (at.op < controls) t.finish();
    used_[cost.pipe] += cost.cycles * wavefronts;
    issued_ += cost.cycles > 0 ? 0.25 : 0;  // four schedulers
  }

  void barrier(double cycles) {
    double last = start_, most = issued_;
    for (Timeline& t : warps_) t.finish(), last = std::max(last, t.begin);
    for (int i = 0; i < pipes; ++i) most = std::max(most, used_[i]), total[i] += used_[i], used_[i] = 0;
    total[pipes] += issued_;
    chain += last - start_ + cycles;
    busy += most;
    both += std::max(last - start_ + cycles, most);
    start_ = last + cycles;
    issued_ = 0;
    for (Timeline& t : warps_) t.begin = t.last = start_;
  }

  double chain, busy, both, total[pipes + 1];

 private:
  struct Timeline {
    double begin = 0, last = 0, issued = 0;  // of the instructions since the last branch
    std::vector<double> ready[3];
    void finish() { begin = last = std::max(last, begin + issued), issued = 0; }
  };
  std::vector<Timeline> warps_;
  double used_[pipes], issued_, start_;

  static double* place(Timeline& t, const Instruction& at, char letter, std::size_t i) {
    const std::int64_t number = at.operand[i];
    if (letter == '-' || number < 0) return nullptr;
    const char* const name = table[at.op].name;
    const bool shared_address = std::strstr(name, "cp.async") ? i == 0 : std::strstr(name, "shared") != nullptr;
    const std::size_t file = letter == 'p' ? 2 : letter == 'w' || (letter == 'm' && shared_address) ? 0 : 1;
    return static_cast<std::size_t>(number) < t.ready[file].size() ? &t.ready[file][static_cast<std::size_t>(number)]
                                                                   : nullptr;
  }
};

class Runner {
 public:
  Runner(const Launch& launch) : launch_(launch) {
    m_.parameters = launch.parameters;
    m_.parameter_bytes = static_cast<std::size_t>(launch.parameter_bytes);
    m_.races = launch.races;
    m_.timed = launch.costs != nullptr;
    for (std::int64_t i = 0; i < launch.region_count; ++i)
      m_.global.emplace_back(launch.regions[2 * i], launch.regions[2 * i + 1]);
    if (m_.global.empty()) m_.global.emplace_back(0, 0);
    warps_.resize(static_cast<std::size_t>((launch.threads + warp_size - 1) / warp_size));
    for (Warp& w : warps_) {
      w.words.resize(static_cast<std::size_t>(launch.word_registers * warp_size));
      w.longs.resize(static_cast<std::size_t>(launch.long_registers * warp_size));
      w.predicates.resize(static_cast<std::size_t>(launch.predicate_registers));
    }
  }

  void run() {
    const std::int64_t* const grid = launch_.grid;
    std::vector<std::int64_t> blocks(static_cast<std::size_t>(grid[0] * grid[1] * grid[2]));
    for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<std::int64_t>(i);
    arrange(blocks);
    for (const std::int64_t block : blocks) run_block(block);
  }

  std::int64_t pc = 0;  // of the instruction at work

 private:
  const Launch& launch_;
  Machine m_;
  std::vector<Warp> warps_;
  Clock clock_;
  std::int64_t taken_ = 0;
  std::uint64_t random_ = 1;

  std::uint64_t draw(std::uint64_t below) {
    random_ = random_ * 6364136223846793005u + 1442695040888963407u;
    return (random_ >> 33) % below;
  }

  template <class T>
  void arrange(std::vector<T>& items) {
    if (launch_.order == falling) std::reverse(items.begin(), items.end());
    if (launch_.order == shuffled)
      for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[draw(i)]);
  }

  void run_block(std::int64_t block) {
    m_.block = static_cast<std::int32_t>(block);
    m_.shared_bytes.assign(static_cast<std::size_t>(launch_.shared_bytes), 0xff);  // NaN
    m_.shared = Region(0, static_cast<std::uint64_t>(launch_.shared_bytes));
    for (std::size_t i = 0; i < warps_.size(); ++i) begin(warps_[i], static_cast<int>(i), block);
    if (launch_.costs)
      clock_.begin_block(warps_.size(), launch_.word_registers, launch_.long_registers, launch_.predicate_registers);
    std::vector<Warp*> order;
    for (Warp& w : warps_) order.push_back(&w);
    arrange(order);
    for (bool all_done = false; !all_done;) {
      all_done = true;
      for (Warp* w : order) {
        if (!w->live) continue;
        all_done = false;
        if (w->waiting == w->live) continue;
        run_warp(*w, launch_.order == shuffled ? static_cast<std::int64_t>(1 + draw(50)) : launch_.most_instructions);
      }
      release();
      if (launch_.order == shuffled) arrange(order);
    }
    if (launch_.costs && clock_.both > launch_.cycles[2]) {
      launch_.cycles[0] = clock_.chain, launch_.cycles[1] = clock_.busy, launch_.cycles[2] = clock_.both;
      std::copy_n(clock_.total, pipes + 1, launch_.cycles + 3);
    }
  }

  void begin(Warp& w, int number, std::int64_t block) {
    std::fill(w.words.begin(), w.words.end(), 0xffffffff);  // NaN
    std::fill(w.longs.begin(), w.longs.end(), ~std::uint64_t{0});
    const std::int64_t* const grid = launch_.grid;
    const int threads = std::min<int>(warp_size, static_cast<int>(launch_.threads) - number * warp_size);
    w.first_thread = number * warp_size;
    w.live = w.active = threads == warp_size ? all_lanes : (Mask{1} << threads) - 1;
    w.waiting = 0;
    w.pc = 0;
    w.merge = launch_.length;
    w.epoch = w.warp_epoch = 0;
    for (int lane = 0; lane < warp_size; ++lane) w.groups[lane].clear(), w.open[lane].clear();
    for (std::int64_t i = 0; i < launch_.constant_count; ++i) {
      const std::int64_t *c = launch_.constants + 3 * i, at = c[1] * warp_size;
      if (c[0] == 0) std::fill_n(&w.words[static_cast<std::size_t>(at)], warp_size, static_cast<u32>(c[2]));
      if (c[0] == 1) std::fill_n(&w.longs[static_cast<std::size_t>(at)], warp_size, static_cast<u64>(c[2]));
      if (c[0] == 2) w.predicates[static_cast<std::size_t>(c[1])] = c[2] ? all_lanes : 0;
    }
    for (std::int64_t i = 0; i < launch_.special_count; ++i) {
      const std::int64_t* s = launch_.specials + 2 * i;
      for (int lane = 0; lane < warp_size; ++lane) {
        const std::int64_t values[] = {w.first_thread + lane,
                                       0,
                                       block % grid[0],
                                       block / grid[0] % grid[1],
                                       block / grid[0] / grid[1],
                                       launch_.threads,
                                       1,
                                       grid[0],
                                       grid[1],
                                       grid[2],
                                       lane};
        w.words[static_cast<std::size_t>(s[1] * warp_size + lane)] = static_cast<u32>(values[s[0]]);
      }
    }
  }

  void note_time(const Warp& w, const Instruction& at) {
    if (!launch_.costs) return;
    clock_.take(static_cast<std::size_t>(w.first_thread / warp_size), at, launch_.costs[pc], m_.wavefronts);
  }

  // The barrier opens once every thread of the block waits there.
  void release() {
    bool any = false, all = true;
    for (const Warp& w : warps_) {
      if (w.waiting != w.live) return;
      any |= w.live != 0;
      all &= w.live != 0;
    }
    if (any && !all) fail("a barrier that not all threads reach");
    if (launch_.costs) clock_.barrier(any ? launch_.barrier_cycles : 0);
    for (Warp& w : warps_) w.waiting = 0, ++w.epoch;
  }

  // Makes those lanes active that are furthest behind.
  static void regroup(Warp& w) {
    w.pc = w.merge = std::int64_t{1} << 62;
    for (int lane = 0; lane < warp_size; ++lane)
      if (has(w.live & ~w.waiting, lane)) w.pc = std::min(w.pc, w.pcs[lane]);
    w.active = 0;
    for (int lane = 0; lane < warp_size; ++lane) {
      if (!has(w.live & ~w.waiting, lane)) continue;
      if (w.pcs[lane] == w.pc)
        w.active |= Mask{1} << lane;
      else
        w.merge = std::min(w.merge, w.pcs[lane]);
    }
  }

  static void send(Warp& w, Mask lanes, std::int64_t to) {
    for (int lane = 0; lane < warp_size; ++lane)
      if (has(lanes, lane)) w.pcs[lane] = to;
  }

  void run_warp(Warp& w, std::int64_t turn) {
    while (turn-- > 0) {
      pc = w.pc;
      if (pc >= launch_.length) fail("the end of the code without ret");
      const Instruction& at = launch_.program[pc];
      if (++taken_ > launch_.most_instructions)
        fail("more than %lld instructions", static_cast<long long>(launch_.most_instructions));
      ++launch_.counts[pc];
      Mask mask = w.active;
      if (at.guard >= 0) mask &= at.negated ? ~w.predicates[at.guard] : w.predicates[at.guard];
      if (at.op >= controls) {
        m_.wavefronts = 1;
        if (mask) table[at.op].run(m_, w, at, mask);
        note_time(w, at);
        if (++w.pc == w.merge) send(w, w.active, w.pc), regroup(w);
        continue;
      }
      note_time(w, at);
      if (at.op == branch && w.active == w.live && (mask == 0 || mask == w.active)) {  // all go the same way
        w.pc = mask ? at.target : pc + 1;
        continue;
      }
      send(w, w.active & ~mask, pc + 1);
      if (at.op == branch) {
        send(w, mask, at.target);
      } else if (at.op == leave) {
        w.live &= ~mask;
      } else {
        if (mask != w.live) fail("bar.sync: only lanes %#x of %#x reach it", mask, w.live);
        send(w, mask, pc + 1);
        w.waiting |= mask;
      }
      if (w.waiting == w.live) {  // at a barrier, or none is left
        w.active = w.live;
        w.pc = pc + 1;
        w.merge = std::int64_t{1} << 62;
        return;
      }
      regroup(w);
    }
    if (w.live) send(w, w.active, w.pc);
  }
};

}  // namespace
}  // namespace ptx

extern "C" {

// The number of an opcode with this signature, where ? stands for any letter; -1 where there is none.
std::int64_t ptx_opcode(const char* name, const char* signature) {
  for (std::size_t i = 0; i < std::size(ptx::table); ++i) {
    const ptx::Opcode& opcode = ptx::table[i];
    if (std::strcmp(opcode.name, name) || std::strlen(opcode.signature) != std::strlen(signature)) continue;
    bool fits = true;
    for (std::size_t k = 0; signature[k]; ++k)
      fits &= signature[k] == '?' ? opcode.signature[k] != ':' : signature[k] == opcode.signature[k];
    if (fits) return static_cast<std::int64_t>(i);
  }
  return -1;
}

const char* ptx_signature(std::int64_t op) { return ptx::table[op].signature; }

const char* ptx_pipe(std::int64_t op) { return ptx::table[op].pipe; }

// -1, or the instruction that failed and why.
std::int64_t ptx_run(const ptx::Launch* launch, char* why, std::size_t why_bytes) {
  ptx::Runner runner(*launch);
  try {
    runner.run();
    return -1;
  } catch (const std::exception& error) {
    std::snprintf(why, why_bytes, "%s", error.what());
    return runner.pc;
  }
}
}
