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

NADAM_XLA_INLINE bool is_narrow(const Storage storage) {
  return storage == Storage::kBF16 || storage == Storage::kF16;
}

// The blocks of a stretch, one after the other. With `kOfStored` the first result is the change of
// the parameters as they are stored; without, a change is what the rule says.
template <typename T, Returns kReturns, bool kOfStored>
class StoredLoop {
 public:
  explicit StoredLoop(const UpdateStretch<T>& stretch)
      : s_(stretch),
        has_master_(s_.streams.has(Stream::kMaster)),
        is_stochastic_(s_.rounding == Rounding::kStochastic),
        draws_states_(is_stochastic_ && (is_narrow(s_.leaf.storage(Stream::kMu)) ||
                                         is_narrow(s_.leaf.storage(Stream::kNu)))),
        draws_params_(is_stochastic_ && is_narrow(s_.leaf.storage(Stream::kParams)) &&
                      (!has_master_ || s_.leaf.storage(Stream::kMaster) == Storage::kRemainder8)) {
    for (int i = 0; i < kStreams; ++i) {
      in_[i] = s_.leaf.in[i];
      decoders_[i] = decoder_of<T>(s_.leaf.stored[i]);
    }
    for (int i = 0; i < kResults; ++i) {
      const Storage storage = s_.leaf.storage_of_result(i);
      const bool is_first = i == 0;
      out_[i] = s_.leaf.out[i];
      encoders_[i] = encoder_of<T>(
          storage, is_first && kReturns == Returns::kChange ? Rounding::kNearest : s_.rounding);
      is_direct_[i] = storage == kStorageOf<T> && (!is_first || (!has_master_ && !kOfStored));
    }
  }

  template <bool kClamps>
  void run() {
    const Row<T> row = s_.row;
    const std::int64_t length = s_.leaf.length;
    std::int64_t begin = 0;
    for (; begin + kBlock <= length; begin += kBlock) run_block<kClamps>(row, begin, kBlock);
    if (begin < length) run_block<kClamps>(row, begin, length - begin);
  }

 private:
  static constexpr int kParams = static_cast<int>(Stream::kParams);
  static constexpr int kMaster = static_cast<int>(Stream::kMaster);
  static constexpr int kResultOfMaster = kResults - 1;

  template <bool kClamps>
  NADAM_XLA_INLINE void run_block(const Row<T>& row, const std::int64_t begin,
                                  const std::int64_t length) {
    if (is_stochastic_ && begin % kDrawn == 0) draw_for(begin);
    Streams<T> numbers;
    numbers.length = length;
    numbers.in[kParams] = has_master_ ? decoded_master(length) : decoded(kParams, length);
    for (int i = kParams + 1; i < kRuleStreams; ++i) numbers.in[i] = decoded(i, length);
    for (int i = 0; i < kRuleResults; ++i) {
      numbers.out[i] = is_direct_[i] ? static_cast<T*>(out_[i]) : computed_[i];
    }
    constexpr Returns kComputed = kOfStored ? Returns::kParams : kReturns;
    if (length == kBlock) {
      update_elements<kComputed, kClamps>(row, numbers, 0, kBlock);
    } else {
      update_elements<kComputed, kClamps>(row, numbers, 0, length);
    }
    const std::int64_t place = begin % kDrawn;
    if (!is_direct_[1]) encoders_[1](computed_[1], out_[1], draws_of_mu_ + place, length);
    if (!is_direct_[2]) encoders_[2](computed_[2], out_[2], draws_of_nu_ + place, length);
    if (kOfStored) {
      encode_change(place, length);
    } else if (has_master_) {
      encode_with_master(out_[0], place, length);
    } else if (!is_direct_[0]) {
      encoders_[0](computed_[0], out_[0], draws_of_params_ + place, length);
    }
    for (int i = 0; i < kStreams; ++i)
      in_[i] = advanced(in_[i], length * size_of(s_.leaf.stored[i]));
    for (int i = 0; i < kResults; ++i) {
      out_[i] = advanced(out_[i], length * size_of(s_.leaf.storage_of_result(i)));
    }
  }

  void draw_for(const std::int64_t begin) {
    if (draws_states_) {
      draw(draws_of_mu_, s_.key, s_.first + begin, Draw::kOfStates);
      swap_bytes(draws_of_mu_, draws_of_nu_);
    }
    if (draws_params_) draw(draws_of_params_, s_.key, s_.first + begin, Draw::kOfParams);
  }

  NADAM_XLA_INLINE const T* decoded(const int stream, const std::int64_t length) {
    const Storage storage = s_.leaf.stored[stream];
    if (storage == kStorageOf<T>) {
      prefetch(in_[stream], kBlock * static_cast<std::int64_t>(sizeof(T)));
      return static_cast<const T*>(in_[stream]);
    }
    T* const to = decoded_[stream == kMaster ? kParams : stream];
    decoders_[stream](in_[stream], to, length);
    return to;
  }

  // The parameters as the master has them.
  NADAM_XLA_INLINE const T* decoded_master(const std::int64_t length) {
    T* const to = decoded_[kParams];
    switch (s_.leaf.storage(Stream::kMaster)) {
      case Storage::kRemainder16:
        join<16, std::uint16_t>(in_[kParams], in_[kMaster], to, length);
        return to;
      case Storage::kRemainder8:
        join<8, std::uint8_t>(in_[kParams], in_[kMaster], to, length);
        return to;
      default:
        return decoded(kMaster, length);
    }
  }

  // Stores the new parameters, and with them their master.
  NADAM_XLA_INLINE void encode_with_master(void* const params, const std::int64_t place,
                                           const std::int64_t length) {
    T* const from = computed_[0];
    void* const master = out_[kResultOfMaster];
    switch (s_.leaf.storage(Stream::kMaster)) {
      case Storage::kRemainder16:
        return divide<16, std::uint16_t>(from, params, master, length);
      case Storage::kRemainder8:
        if (is_stochastic_) {
          round_to_24_bits(from, draws_of_params_ + place, length);
        } else {
          round_to_24_bits(from, length);
        }
        return divide<8, std::uint8_t>(from, params, master, length);
      default:
        encoders_[kResultOfMaster](from, master, nullptr, length);
        encoder_of<T>(s_.leaf.storage(Stream::kParams), Rounding::kNearest)(from, params, nullptr,
                                                                            length);
    }
  }

  void encode_change(const std::int64_t place, const std::int64_t length) {
    const Storage storage = s_.leaf.storage(Stream::kParams);
    if (has_master_) {
      encode_with_master(stored_, place, length);
    } else {
      encoder_of<T>(storage, s_.rounding)(computed_[0], stored_, draws_of_params_ + place, length);
    }
    decoder_of<T>(storage)(stored_, after_, length);
    decoder_of<T>(storage)(in_[kParams], before_, length);
#pragma omp simd
    for (std::int64_t i = 0; i < length; ++i) after_[i] -= before_[i];
    encoders_[0](after_, out_[0], nullptr, length);
  }

  const UpdateStretch<T>& s_;
  const bool has_master_, is_stochastic_, draws_states_, draws_params_;
  const void* in_[kStreams];
  void* out_[kResults];
  Decoder<T> decoders_[kStreams];
  Encoder<T> encoders_[kResults];
  bool is_direct_[kResults];
  // The numbers of a block, where they are not stored as such.
  alignas(64) T decoded_[kRuleStreams][kBlock];
  alignas(64) T computed_[kRuleResults][kBlock];
  alignas(64) T before_[kBlock];  // the parameters
  alignas(64) T after_[kBlock];
  alignas(64) std::uint16_t stored_[kBlock];
  alignas(64) std::uint16_t draws_of_mu_[kDrawn];
  alignas(64) std::uint16_t draws_of_nu_[kDrawn];
  alignas(64) std::uint16_t draws_of_params_[kDrawn];
};

template <Returns kReturns, bool kOfStored, typename T>
void run_stored(const UpdateStretch<T>& s) {
  StoredLoop<T, kReturns, kOfStored> loop(s);
  if (clamps(s.row)) {
    loop.template run<true>();
  } else {
    loop.template run<false>();
  }
}

// A change that is returned is that of the stored parameters, where those are not just the nearest
// to what the rule says: added to them, it gives what the master or the random number says.
template <typename T>
void update_stored(const UpdateStretch<T>& s) {
  const bool is_drawn =
      s.rounding == Rounding::kStochastic && is_narrow(s.leaf.storage(Stream::kParams));
  if (s.returns == Returns::kParams) {
    run_stored<Returns::kParams, false>(s);
  } else if (s.streams.has(Stream::kParams) && (s.streams.has(Stream::kMaster) || is_drawn)) {
    run_stored<Returns::kChange, true>(s);
  } else {
    run_stored<Returns::kChange, false>(s);
  }
}

}  // namespace
}  // namespace nadam_xla::cpu
