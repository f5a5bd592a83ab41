// The update of a stretch that is not stored as the rule computes: block by block, each decoded
// into the cache, updated there, and encoded. Part of loops.cpp, whose rules hold here.
//
// So the ways of storing add up: one decoder and one encoder each, and not a loop for each mixture.
#pragma once

#include "kernels/cpu/codec.h"
#include "kernels/cpu/draws.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/update_loop.h"

namespace nadam_xla::cpu {
namespace {

void copy(const void* const from, void* const to, const std::int64_t bytes) {
  if (from == to) return;
  const auto* const source = static_cast<const char*>(from);
  auto* const target = static_cast<char*>(to);
  for (std::int64_t i = 0; i < bytes; ++i) target[i] = source[i];
}

NADAM_XLA_INLINE bool is_narrow(const Storage storage) {
  return storage == Storage::kBF16 || storage == Storage::kF16;
}

// The blocks of a stretch. While the divider is busy with one, the one before is encoded and the
// next one decoded: two buffers take turns.
template <typename T, Returns kReturns, Averaging kAveraging>
class StoredLoop {
 public:
  // The stretch has whole blocks. of_stored: the change that is returned is that of the parameters
  // as they are stored.
  StoredLoop(const UpdateStretch<T>& stretch, const bool of_stored) : s_(stretch) {
    const Storage params = s_.leaf.storage(Stream::kParams);
    const Storage master = s_.leaf.storage(Stream::kMaster);
    const bool has_master = s_.streams.has(Stream::kMaster);
    const bool is_stochastic = s_.rounding == Rounding::kStochastic;
    draws_states_ = is_stochastic && (is_narrow(s_.leaf.storage(Stream::kMu)) ||
                                      is_narrow(s_.leaf.storage(Stream::kNu)));
    draws_params_ =
        is_stochastic && is_narrow(params) && (!has_master || master == Storage::kRemainder8);
    for (int i = 0; i < kIn; ++i) set_decoding(i, has_master && i == kParams);
    set_params(of_stored, has_master, params, master);
    for (int i = 1; i < kOut; ++i) {
      const bool is_moment = i <= kMoments;
      set_encoding(
          i,
          encoder_of<T>(s_.leaf.storage_of_result(i), is_moment ? s_.rounding : Rounding::kNearest),
          is_moment ? draws_of_state_[i - 1] : nullptr);
    }
  }

  template <Terms kTerms>
  void run() {
    const Row<T> row = s_.row;
    const std::int64_t blocks = s_.leaf.length / kBlock;
    for (Decoding<T>& decoding : decodings_) decoding.run(0);
    for (std::int64_t block = 0; block < blocks; ++block) {
      const auto buffer = static_cast<int>(block % 2);
      const Streams<T, kAveraging> numbers = numbers_[buffer];
      update_elements<kReturns, kTerms>(row, numbers, 0, kHalf);
      if (block != 0) encode(1 - buffer, block - 1);
      update_elements<kReturns, kTerms>(row, numbers, kHalf, kBlock);
      if (block + 1 == blocks) break;
      for (Decoding<T>& decoding : decodings_) decoding.run(1 - buffer);
    }
    encode(static_cast<int>((blocks - 1) % 2), blocks - 1);
  }

 private:
  static constexpr int kIn = rule_streams(kAveraging);
  static constexpr int kOut = rule_results(kAveraging);
  static constexpr int kMoments = rule_states(Averaging::kOff);
  static constexpr int kParams = static_cast<int>(Stream::kParams);
  static constexpr int kMaster = static_cast<int>(Stream::kMaster);

  void set_decoding(const int i, const bool is_params_of_master) {
    const Storage master = s_.leaf.storage(Stream::kMaster);
    const bool is_full_master = is_params_of_master && master == Storage::kF32;
    const int stream = is_full_master ? kMaster : i;
    const bool is_joined = is_params_of_master && !is_full_master;
    decodings_[i] = {decoder_of<T>(is_joined ? master : s_.leaf.stored[stream]),
                     s_.leaf.in[stream],
                     s_.leaf.in[kMaster],
                     {buffers_[0].in[i], buffers_[1].in[i]},
                     size_of(s_.leaf.stored[stream]),
                     is_joined ? size_of(master) : 0};
    for (int buffer = 0; buffer < 2; ++buffer) numbers_[buffer].in[i] = buffers_[buffer].in[i];
  }

  void set_encoding(const int i, const Encoder<T> encoder, const std::uint32_t* const draws) {
    Encoding<T>& encoding = encodings_[i];
    encoding.encode = encoder;
    encoding.to = s_.leaf.out[i];
    encoding.size = size_of(s_.leaf.storage_of_result(i));
    encoding.draws = draws;
    for (int buffer = 0; buffer < 2; ++buffer) {
      encoding.from[buffer] = buffers_[buffer].out[i];
      numbers_[buffer].out[i] = buffers_[buffer].out[i];
    }
  }

  void set_params(const bool of_stored, const bool has_master, const Storage params,
                  const Storage master) {
    const bool is_rule_change = s_.returns == Returns::kChange && !of_stored;
    const Storage storage = is_rule_change ? s_.leaf.stored_first : params;
    const Rounding rounding = is_rule_change ? Rounding::kNearest : s_.rounding;
    const auto encoder = has_master ? encoder_with_master_of<T>(params, master, rounding)
                                    : encoder_of<T>(storage, rounding);
    set_encoding(0, encoder, draws_of_params_);
    Encoding<T>& encoding = encodings_[0];
    if (has_master) {
      encoding.master = s_.leaf.out[kResults - 1];
      encoding.size_of_master = size_of(master);
    }
    if (!of_stored) return;
    encoding.encode = params == Storage::kBF16 ? &encode_change<Storage::kBF16, T>
                                               : &encode_change<Storage::kF16, T>;
    encoding.encode_params = encoder;
    encoding.encode_difference = encoder_of<T>(s_.leaf.stored_first, Rounding::kNearest);
    encoding.before = s_.leaf.in[kParams];
    encoding.size_before = size_of(params);
  }

  NADAM_XLA_INLINE void encode(const int buffer, const std::int64_t block) {
    const std::int64_t first = s_.first + block * kBlock;
    if (draws_states_) {
      draw(draws_of_state_[0], s_.key, first, Draw::kOfStates);
      swap_bytes(draws_of_state_[0], draws_of_state_[1]);
    }
    if (draws_params_) draw(draws_of_params_, s_.key, first, Draw::kOfParams);
    for (Encoding<T>& encoding : encodings_) encoding.run(buffer);
  }

  struct alignas(64) Buffers {
    T in[kIn][kBlock];
    T out[kOut][kBlock];
  };

  const UpdateStretch<T>& s_;
  bool draws_states_, draws_params_;
  Streams<T, kAveraging> numbers_[2];
  Decoding<T> decodings_[kIn];
  Encoding<T> encodings_[kOut];
  Buffers buffers_[2];
  alignas(64) std::uint32_t draws_of_state_[kMoments][kHalf];
  alignas(64) std::uint32_t draws_of_params_[kHalf];
};

// The memory of one block, for the end of a stretch that has no whole block left.
class LastBlock {
 public:
  explicit LastBlock(const Leaf& leaf) : leaf_(leaf), whole_(leaf) {
    for (int i = 0; i < kStreams; ++i) {
      copy(leaf.in[i], in_[i], leaf.length * size_of(leaf.stored[i]));
      whole_.in[i] = in_[i];
    }
    for (int i = 0; i < kResults; ++i) whole_.out[i] = out_[i];
    whole_.length = kBlock;
  }

  const Leaf& whole() const { return whole_; }
  void copy_back(const StreamSet streams) const {
    for (int i = 0; i < kResults; ++i) {
      if (!streams.has_result(i)) continue;
      copy(out_[i], leaf_.out[i], leaf_.length * size_of(leaf_.storage_of_result(i)));
    }
  }

 private:
  const Leaf& leaf_;
  Leaf whole_;
  alignas(64) double in_[kStreams][kBlock] = {};
  alignas(64) double out_[kResults][kBlock];
};

template <Returns kReturns, Averaging kAveraging, typename T>
void run_blocks(const UpdateStretch<T>& s, const bool of_stored) {
  StoredLoop<T, kReturns, kAveraging> loop(s, of_stored);
  switch (terms_of(s.row)) {
    case Terms::kNone:
      return loop.template run<Terms::kNone>();
    case Terms::kDecay:
      return loop.template run<Terms::kDecay>();
    case Terms::kDecayAndClamp:
      return loop.template run<Terms::kDecayAndClamp>();
  }
}

template <Returns kReturns, Averaging kAveraging, typename T>
void run_stored(const UpdateStretch<T>& s, const bool of_stored = false) {
  const std::int64_t rest = s.leaf.length % kBlock, whole = s.leaf.length - rest;
  UpdateStretch<T> part = s;
  part.leaf.length = whole;
  if (whole != 0) run_blocks<kReturns, kAveraging>(part, of_stored);
  if (rest == 0) return;
  const Leaf end = part_of(s.leaf, whole, rest);
  const LastBlock last(end);
  part.leaf = last.whole();
  part.first = s.first + whole;
  run_blocks<kReturns, kAveraging>(part, of_stored);
  last.copy_back(s.streams);
}

// A change that is returned is that of the stored parameters, where those are not just the nearest
// to what the rule says: added to them, it gives what the master or the random number says.
template <Averaging kAveraging, typename T>
void update_stored(const UpdateStretch<T>& s) {
  const bool is_drawn =
      s.rounding == Rounding::kStochastic && is_narrow(s.leaf.storage(Stream::kParams));
  if (s.returns == Returns::kParams) {
    run_stored<Returns::kParams, kAveraging>(s);
  } else if (s.streams.has(Stream::kParams) && (s.streams.has(Stream::kMaster) || is_drawn)) {
    run_stored<Returns::kParams, kAveraging>(s, true);
  } else {
    run_stored<Returns::kChange, kAveraging>(s);
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
