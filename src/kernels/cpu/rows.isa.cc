// Everything that is no matrix product: norms, activations, softmax, scores; and this instruction
// set's table.
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/simd.h"

namespace longshore::kernels::cpu::LONGSHORE_ISA {
namespace {

constexpr int kHeadGroup = 6;  // heads that share a decoded latent
constexpr int kColumnVecs =
    4;  // vectors of latent columns summed at a time; with kHeadGroup they fill the registers

LS_SIMD void put(void* y, int64_t i, StoreMode mode, float value) {
  if (mode == StoreMode::kBF16) {
    static_cast<uint16_t*>(y)[i] = bf16_from_float(value);
  } else if (mode == StoreMode::kAddF32) {
    static_cast<float*>(y)[i] += value;
  } else {
    static_cast<float*>(y)[i] = value;
  }
}

// One row of results, the branch on the mode outside the loop.
LS_SIMD void put_row(void* y, const float* values, int64_t n, StoreMode mode) {
  switch (mode) {
    case StoreMode::kBF16:
      for (int64_t i = 0; i < n; ++i) put(y, i, StoreMode::kBF16, values[i]);
      return;
    case StoreMode::kAddF32:
      for (int64_t i = 0; i < n; ++i) put(y, i, StoreMode::kAddF32, values[i]);
      return;
    case StoreMode::kF32:
      std::memcpy(y, values, static_cast<size_t>(n) * sizeof(float));
      return;
  }
}

// Runs transform(a vector of elements from i, how many) over n elements by blocks of up to 64 and
// stores the results.
template <typename Block>
LS_SIMD void by_blocks(int64_t n, StoreMode mode, void* y, Block block) {
  alignas(64) float values[64];
  const int64_t size = mode == StoreMode::kBF16 ? 2 : 4;
  for (int64_t i = 0; i < n; i += 64) {
    const int64_t length = n - i < 64 ? n - i : 64;
    block(i, length, values);
    put_row(static_cast<uint8_t*>(y) + i * size, values, length, mode);
  }
}

// The first `n` < kLanes floats of p, zeros behind.
LS_SIMD Vec load_partial(const float* p, int64_t n) {
  alignas(64) float values[kLanes] = {};
  std::memcpy(values, p, static_cast<size_t>(n) * sizeof(float));
  return load(values);
}
LS_SIMD Vec load_up_to(const float* p, int64_t n) {
  return n >= kLanes ? load(p) : load_partial(p, n);
}

// Calls take(i, the values of codes i to i + kLanes) for 64 codes at p.
template <typename Take>
LS_SIMD void decode_fp8(const uint8_t* p, Take take) {
#if defined(__AVX512VBMI__)
  Vec pairs[2];
  load_fp8_pairs(p, pairs);
  alignas(64) uint16_t halves[kChunk];
  store(halves, pairs[0]);
  store(halves + kChunk / 2, pairs[1]);
  for (int i = 0; i < kChunk; i += kLanes) take(i, load_bf16(halves + i));
#else
  for (int i = 0; i < kChunk; i += kLanes) take(i, load_fp8(p + i));
#endif
}

LS_SIMD void silu_mul_block(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    store(out + i, mul(silu(load_up_to(gate + i, n - i)), load_up_to(up + i, n - i)));
  }
}

// products [64] of one head -> probabilities, not yet divided by their sum; returns the factor that
// earlier sums shrink by.
float softmax_block(const AttendBlock& b, int64_t head) {
  constexpr float kLowest = -__builtin_inff();
  float* logits = b.logits + head * kTileRows;
  for (int i = b.count; i < kTileRows; ++i) logits[i] = kLowest;
  const Vec scale = broadcast(b.scale);
  Vec top = broadcast(kLowest);
  for (int i = 0; i < b.count; i += kLanes) {
    const Vec scaled = mul(load(logits + i), scale);
    store(logits + i, scaled);
    top = max(top, scaled);
  }
  alignas(64) float lanes[kLanes];
  store(lanes, top);
  float highest = b.highest[head];
  for (float lane : lanes) highest = lane > highest ? lane : highest;
  alignas(64) float factor[kLanes];
  store(factor, exp(broadcast(b.highest[head] - highest)));
  const float shrink = b.highest[head] == kLowest ? 0.0f : factor[0];
  Vec total = zero();
  for (int i = 0; i < b.count; i += kLanes) {
    store(logits + i, exp(sub(load(logits + i), broadcast(highest))));
  }
  for (int i = b.count; i < kTileRows; ++i) logits[i] = 0.0f;
  for (int i = 0; i < kTileRows; i += kLanes) total = add(total, load(logits + i));
  b.highest[head] = highest;
  b.total[head] = b.total[head] * shrink + sum(total);
  return shrink;
}

// o[head][column, column + kVecs * kLanes) = shrink * o + sum_s p_s c_s for kHeads heads.
template <int kHeads, int kVecs>
void weigh(const AttendBlock& b, int64_t head, int64_t column, const float* shrink) {
  Vec sums[kHeads][kVecs];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVecs; ++v) {
      const float* o = b.o + (head + h) * b.kv_lora + column + v * kLanes;
      sums[h][v] = mul(load(o), broadcast(shrink[head + h]));
    }
  }
  const float* weights = b.logits + head * kTileRows;
  for (int s = 0; s < b.count; ++s) {
    const uint8_t* latent = static_cast<const uint8_t*>(b.latents[s]) + column * 2;
    Vec c[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) c[v] = load_bf16(latent + v * kLanes * 2);
#pragma GCC unroll 8
    for (int h = 0; h < kHeads; ++h) {
      const Vec weight = broadcast(weights[h * kTileRows + s]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sums[h][v] = fma(weight, c[v], sums[h][v]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVecs; ++v) {
      store(b.o + (head + h) * b.kv_lora + column + v * kLanes, sums[h][v]);
    }
  }
}

// Columns that fill no vector.
void weigh_tail(const AttendBlock& b, int64_t head, int64_t column, const float* shrink) {
  const float* weights = b.logits + head * kTileRows;
  for (int64_t i = column; i < b.kv_lora; ++i) {
    float total = b.o[head * b.kv_lora + i] * shrink[head];
    for (int s = 0; s < b.count; ++s) {
      uint16_t code;
      std::memcpy(&code, static_cast<const uint8_t*>(b.latents[s]) + i * 2, 2);
      total += weights[s] * bf16_to_float(code);
    }
    b.o[head * b.kv_lora + i] = total;
  }
}

template <int kHeads>
void weigh_heads(const AttendBlock& b, int64_t head, const float* shrink) {
  int64_t column = 0;
  for (; column + kColumnVecs * kLanes <= b.kv_lora; column += kColumnVecs * kLanes) {
    weigh<kHeads, kColumnVecs>(b, head, column, shrink);
  }
  for (; column + kLanes <= b.kv_lora; column += kLanes) weigh<kHeads, 1>(b, head, column, shrink);
  for (int h = 0; h < kHeads; ++h) weigh_tail(b, head + h, column, shrink);
}

}  // namespace

void store_tile(const float* tile, int64_t count, int rows, StoreMode mode, void* const* y) {
  for (int64_t i = 0; i < count; ++i) put_row(y[i], tile + i * kTileRows, rows, mode);
}

void silu_mul_tile(const float* gate, const float* up, int64_t count, int rows, void* const* y) {
  alignas(64) float values[kTileRows];
  for (int64_t i = 0; i < count; ++i) {
    silu_mul_block(gate + i * kTileRows, up + i * kTileRows, rows, values);
    put_row(y[i], values, rows, StoreMode::kBF16);
  }
}

void silu_mul(const float* gate, const float* up, int64_t n, StoreMode mode, void* y) {
  by_blocks(n, mode, y, [&](int64_t i, int64_t length, float* values) {
    silu_mul_block(gate + i, up + i, length, values);
  });
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, StoreMode mode, void* y) {
  Vec sums[2] = {zero(), zero()};
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec v = load_up_to(x + i, n - i);
    sums[i / kLanes % 2] = fma(v, v, sums[i / kLanes % 2]);
  }
  const float mean = sum(add(sums[0], sums[1])) / static_cast<float>(n);
  const float norm = 1.0f / __builtin_sqrtf(mean + eps);
  by_blocks(n, mode, y, [&](int64_t begin, int64_t length, float* values) {
    for (int64_t i = 0; i < length; ++i) values[i] = weight[begin + i] * (x[begin + i] * norm);
  });
}

void add_scaled(const float* x, float weight, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += weight * x[i];
}

void divide(const float* x, float total, int64_t n, StoreMode mode, void* y) {
  const float factor = 1.0f / total;
  by_blocks(n, mode, y, [&](int64_t begin, int64_t length, float* values) {
    for (int64_t i = 0; i < length; ++i) values[i] = x[begin + i] * factor;
  });
}

void index_scores(const float* products, int64_t heads, const float* head_weights,
                  const float* key_scales, int count, float* scores) {
  alignas(64) float sums[kTileRows];
  for (int s = 0; s < count; s += kLanes) {
    Vec total = zero();
    for (int64_t h = 0; h < heads; ++h) {
      const Vec positive = max(zero(), load(products + h * kTileRows + s));
      total = fma(broadcast(head_weights[h]), positive, total);
    }
    store(sums + s, total);
  }
  for (int s = 0; s < count; ++s) scores[s] = sums[s] * key_scales[s];
}

void attend(const AttendBlock& b) {
  constexpr int kMostHeads = 64;
  for (int64_t first = 0; first < b.heads; first += kMostHeads) {
    AttendBlock part = b;
    part.heads = b.heads - first < kMostHeads ? b.heads - first : kMostHeads;
    part.logits += first * kTileRows;
    part.highest += first;
    part.total += first;
    part.o += first * b.kv_lora;
    float shrink[kMostHeads];
    for (int64_t h = 0; h < part.heads; ++h) shrink[h] = softmax_block(part, h);
    int64_t h = 0;
    for (; h + kHeadGroup <= part.heads; h += kHeadGroup) weigh_heads<kHeadGroup>(part, h, shrink);
    for (; h + 2 <= part.heads; h += 2) weigh_heads<2>(part, h, shrink);
    for (; h < part.heads; ++h) weigh_heads<1>(part, h, shrink);
  }
}

void widen_fp8(const void* codes, const float* scales, int64_t segment, int64_t n, void* out) {
  const auto* from = static_cast<const uint8_t*>(codes);
  by_blocks(n, StoreMode::kBF16, out, [&](int64_t begin, int64_t length, float* values) {
    alignas(64) uint8_t part[kChunk] = {};
    const uint8_t* block = from + begin;
    if (length < kChunk) {
      std::memcpy(part, block, static_cast<size_t>(length));
      block = part;
    }
    const Vec scale = broadcast(scales[begin / segment]);
    decode_fp8(block, [&](int i, Vec decoded) { store(values + i, mul(decoded, scale)); });
  });
}

#define LS_NAME_(isa) #isa
#define LS_NAME(isa) LS_NAME_(isa)

const KernelTable kTable = {
    .name = LS_NAME(LONGSHORE_ISA),
    .narrow = kNarrow,
    .prepare = prepare,
    .tile_product = tile_product,
#if defined(__AMX_BF16__)
    .pack_panel = pack_panel,
    .panel_product = panel_product,
#else
    .pack_panel = nullptr,
    .panel_product = nullptr,
#endif
    .store_tile = store_tile,
    .silu_mul_tile = silu_mul_tile,
    .silu_mul = silu_mul,
    .rms_norm = rms_norm,
    .add_scaled = add_scaled,
    .index_scores = index_scores,
    .attend = attend,
    .widen_fp8 = widen_fp8,
    .divide = divide,
};

}  // namespace longshore::kernels::cpu::LONGSHORE_ISA
