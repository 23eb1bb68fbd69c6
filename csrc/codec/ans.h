// One entropy coder of `Coders`: a stack of symbols in a 64-bit state and 32-bit words (range asymmetric numeral
// systems, Duda 2013, arXiv:1311.2540). A symbol is an interval [start, start + frequency) of 2^bits slots; `push` and
// `pop` undo each other exactly, on any state.
#pragma once
#include "vlae.h"

namespace vlae {

class Coder {
 public:
  // Never functions of their own: instruction sets would share them.
  [[gnu::always_inline]] Coder(const Coders& coders, Index n)
      : state_(coders.state[n]), words_(coders.words[n]), stack_(coders.stack + n * coders.room) {}

  // What the interval of the symbol on top contains.
  [[gnu::always_inline]] std::uint32_t slot(int bits) const {
    return static_cast<std::uint32_t>(state_ & ((std::uint64_t{1} << bits) - 1));
  }

  [[gnu::always_inline]] void push(int bits, std::uint32_t start, std::uint32_t frequency) {
    if (state_ >= std::uint64_t{frequency} << (64 - bits)) {
      stack_[words_++] = static_cast<std::uint32_t>(state_);
      state_ >>= 32;
    }
    state_ = (state_ / frequency << bits) + state_ % frequency + start;
  }

  [[gnu::always_inline]] void pop(int bits, std::uint32_t start, std::uint32_t frequency) {
    state_ = frequency * (state_ >> bits) + slot(bits) - start;
    if (state_ < std::uint64_t{1} << 32 && words_ > 0) state_ = state_ << 32 | stack_[--words_];
  }

 private:
  std::uint64_t& state_;
  Index& words_;
  std::uint32_t* stack_;
};

}  // namespace vlae
