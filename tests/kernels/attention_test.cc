#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "kernels/format/bf16.h"
#include "kernels/format/e4m3.h"
#include "kernels/format/hadamard.h"
#include "tests/kernels/batch.h"
#include "tests/kernels/support.h"

namespace longshore::kernels {
namespace {

std::vector<float> frequencies(int64_t rope_dim) {
  std::vector<float> inv_freq;
  for (int64_t i = 0; i < rope_dim; i += 2) {
    inv_freq.push_back(std::pow(1e4f, -static_cast<float>(i) / static_cast<float>(rope_dim)));
  }
  return inv_freq;
}

void rotate(double* x, int32_t position, const std::vector<float>& inv_freq) {
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double angle = static_cast<float>(position) * inv_freq[i];
    const double a = x[2 * i];
    const double b = x[2 * i + 1];
    x[2 * i] = a * std::cos(angle) - b * std::sin(angle);
    x[2 * i + 1] = b * std::cos(angle) + a * std::sin(angle);
  }
}

void hadamard(double* x, int64_t n) {
  std::vector<float> values(x, x + n);
  hadamard_rotate(values.data(), n);
  std::copy(values.begin(), values.end(), x);
}

// Latent and index-key caches, filled with NaN patterns.
struct Latents {
  Latents(DType dtype, int64_t pages, int64_t kv_lora, int64_t rope)
      : bytes(static_cast<size_t>(pages * kPageTokens *
                                  LatentCacheView::token_bytes(dtype, kv_lora, rope)),
              std::byte{0xff}),
        view{bytes.data(), dtype, kv_lora, rope} {}
  [[nodiscard]] double at(int32_t page, int64_t position, int64_t i) const {
    const std::byte* token = view.token(page, position);
    if (view.dtype == DType::kF32) return read<float>(token + 4 * i);
    if (view.dtype == DType::kBF16) return bf16_to_float(read<uint16_t>(token + 2 * i));
    if (i >= view.kv_lora) {
      const int64_t at = LatentCacheView::rope_at(view.kv_lora) + 2 * (i - view.kv_lora);
      return bf16_to_float(read<uint16_t>(token + at));
    }
    return e4m3_decode(static_cast<uint8_t>(token[i])) * scale(page, position, i);
  }
  // Of column i's group, FP8 only.
  [[nodiscard]] double scale(int32_t page, int64_t position, int64_t i) const {
    return read<float>(view.token(page, position) + LatentCacheView::scales_at(view.kv_lora) +
                       i / 128 * 4);
  }
  template <typename T>
  [[nodiscard]] static T read(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof(T));
    return value;
  }
  // Slots that do not hold only what they were filled with.
  [[nodiscard]] int64_t written() const {
    const auto size = static_cast<size_t>(view.token_bytes());
    int64_t count = 0;
    for (size_t at = 0; at < bytes.size(); at += size) {
      const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
      count += std::all_of(begin, begin + static_cast<std::ptrdiff_t>(size),
                           [](std::byte b) { return b == std::byte{0xff}; })
                   ? 0
                   : 1;
    }
    return count;
  }
  std::vector<std::byte> bytes;
  LatentCacheView view;
};

struct Keys {
  Keys(DType dtype, int64_t pages, int64_t head_dim)
      : bytes(static_cast<size_t>(pages * IndexKeyCacheView::page_bytes(dtype, head_dim)),
              std::byte{0xff}),
        view{bytes.data(), dtype, head_dim} {}
  [[nodiscard]] double at(int32_t page, int64_t position, int64_t i) const {
    const std::byte* key = view.key(page, position);
    if (view.dtype == DType::kF8E4M3) {
      return e4m3_decode(static_cast<uint8_t>(key[i])) * *view.scale(page, position);
    }
    float value;
    std::memcpy(&value, key + 4 * i, 4);
    return value;
  }
  std::vector<std::byte> bytes;
  IndexKeyCacheView view;
};

class Attention : public BackendTest {
 protected:
  // All for the reference, which judges the others.
  [[nodiscard]] std::vector<DType> latent_types() const {
    if (is_reference()) return {DType::kF32, DType::kBF16, DType::kF8E4M3};
    return {DType::kBF16, DType::kF8E4M3};
  }
  // Both for the reference; its own for production.
  [[nodiscard]] std::vector<DType> key_types() const {
    if (is_reference()) return {DType::kF32, DType::kF8E4M3};
    return {DType::kF8E4M3};
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, Attention, kAllBackends,
                         [](const auto& info) { return info.param; });

TEST_P(Attention, LatentStoreNormsRotatesAndFindsItsSlot) {
  for (const auto& [kv_lora, rope] :
       {std::pair<int64_t, int64_t>{512, 64}, {40, 16}, {7, 2}, {130, 6}}) {
    for (DType dtype : latent_types()) {
      const Batch batch(random, {130, 3, 65}, {70, 3, 1});
      Latents cache(dtype, batch.pages(), kv_lora, rope);
      Matrix kv = Matrix::random(random, DType::kF32, batch.tokens(), kv_lora + rope, 2);
      const std::vector<float> weight = random_floats(random, kv_lora, 0.1f, 1);
      const std::vector<float> inv_freq = frequencies(rope);
      backend->latent_store({.kv = kv.view(),
                             .kv_lora = kv_lora,
                             .rope_dim = rope,
                             .norm_weight = weight.data(),
                             .eps = 1e-6f,
                             .inv_freq = inv_freq.data(),
                             .batch = batch.view(),
                             .cache = cache.view});
      Doubles actual;
      Doubles expected = kv.values();
      for (int64_t t = 0; t < batch.tokens(); ++t) {
        double* row = expected.data() + t * (kv_lora + rope);
        const double squares = std::inner_product(row, row + kv_lora, row, 0.0);
        for (int64_t i = 0; i < kv_lora; ++i) {
          row[i] *= weight[static_cast<size_t>(i)] /
                    std::sqrt(squares / static_cast<double>(kv_lora) + 1e-6f);
        }
        rotate(row + kv_lora, batch.position(t), inv_freq);
        for (int64_t i = 0; i < kv_lora + rope; ++i) {
          actual.push_back(cache.at(batch.page(t, batch.position(t)), batch.position(t), i));
        }
      }
      EXPECT_EQ(cache.written(), batch.tokens());
      if (dtype != DType::kF8E4M3) {
        EXPECT_LE(worst_error(actual, expected), 1e-6 + output_tolerance(dtype));
        continue;
      }
      for (int64_t t = 0; t < batch.tokens(); ++t) {
        const int32_t position = batch.position(t);
        const int32_t page = batch.page(t, position);
        const auto row = static_cast<size_t>(t * (kv_lora + rope));
        for (int64_t i = 0; i < kv_lora + rope; ++i) {
          const double value = expected[row + static_cast<size_t>(i)];
          // Half a unit in the last of 3 mantissa bits, or half the smallest step; bf16's of 7.
          const double allowed =
              i < kv_lora ? std::max(std::abs(value) / 16, cache.scale(page, position, i) * 0x1p-10)
                          : std::abs(value) * 0x1p-8;
          ASSERT_NEAR(actual[row + static_cast<size_t>(i)], value, allowed + 1e-5)
              << "token " << t << " column " << i;
        }
        for (int64_t begin = 0; begin < kv_lora; begin += 128) {
          const auto end = std::min<int64_t>(begin + 128, kv_lora);
          double amax = 0;
          for (int64_t i = begin; i < end; ++i) {
            amax = std::max(amax, std::abs(expected[row + static_cast<size_t>(i)]));
          }
          const double scale = cache.scale(page, position, begin);
          EXPECT_GE(scale * 448, amax * (1 - 1e-6));
          EXPECT_LE(scale * 224, amax * (1 + 1e-6)) << "a smaller power of two would do";
          int exponent = 0;
          EXPECT_EQ(std::frexp(scale, &exponent), 0.5) << "a power of two";
        }
      }
    }
  }
}

// What goes in comes out: with one position to attend to, the output is its latent.
TEST_P(Attention, Fp8LatentsHoldZerosSmallLargeAndBrokenNumbers) {
  for (const auto& [kv_lora, rope] : {std::pair<int64_t, int64_t>{512, 64}, {40, 16}, {130, 6}}) {
    constexpr int64_t kTokens = 5;
    const Batch batch(random, {kTokens}, {kTokens});
    Latents cache(DType::kF8E4M3, batch.pages(), kv_lora, rope);
    Matrix kv(DType::kF32, kTokens, kv_lora + rope);
    // Magnitudes over 24 binary digits, so that a group has FP8's subnormals and zeros; the norm
    // keeps the token's scale out of it, the weight brings it back.
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t i = 0; i < kv_lora + rope; ++i) {
        const float value = std::ldexp(random.normal(), -static_cast<int>(random.below(24)));
        kv.set(t, i, t == 0 ? 0 : value);
      }
    }
    kv.set(3, 5, std::nanf(""));
    const std::vector<float> inv_freq = frequencies(rope);
    for (const float size : {1.0f, 1e-20f, 3e8f, 1e-37f}) {
      const std::vector<float> weight(static_cast<size_t>(kv_lora), size);
      backend->latent_store({.kv = kv.view(),
                             .kv_lora = kv_lora,
                             .rope_dim = rope,
                             .norm_weight = weight.data(),
                             .eps = 1e-6f,
                             .inv_freq = inv_freq.data(),
                             .batch = batch.view(),
                             .cache = cache.view});
      Latents judged(DType::kF8E4M3, batch.pages(), kv_lora, rope);
      make_reference_backend(pool)->latent_store({.kv = kv.view(),
                                                  .kv_lora = kv_lora,
                                                  .rope_dim = rope,
                                                  .norm_weight = weight.data(),
                                                  .eps = 1e-6f,
                                                  .inv_freq = inv_freq.data(),
                                                  .batch = batch.view(),
                                                  .cache = judged.view});
      std::vector<int32_t> selected;
      for (int32_t t = 0; t < kTokens; ++t) selected.push_back(t);
      const std::vector<int32_t> counts(kTokens, 1);
      Matrix q_c = Matrix::random(random, act(), kTokens, 2 * kv_lora, 1e-12f);
      Matrix q = Matrix::random(random, act(), kTokens, 2 * rope);
      Matrix o(act(), kTokens, 2 * kv_lora);
      backend->sparse_mla({.q_c = q_c.view(),
                           .q = q.view(),
                           .q_head_stride = rope,
                           .heads = 2,
                           .kv_lora = kv_lora,
                           .rope_dim = rope,
                           .scale = 1,
                           .batch = batch.view(),
                           .cache = cache.view,
                           .selected = selected.data(),
                           .selected_stride = 1,
                           .counts = counts.data(),
                           .o = o.view()});
      for (int64_t t = 0; t < kTokens; ++t) {
        const int32_t page = batch.page(t, batch.position(t));
        for (int64_t i = 0; i < kv_lora; ++i) {
          const double stored = cache.at(page, t, i);
          if (t == 3) {
            ASSERT_FALSE(std::isfinite(stored)) << i;
            ASSERT_FALSE(std::isfinite(o.at(t, i))) << i;
            continue;
          }
          // One rounding step of FP8 where the norms' last bits differ.
          ASSERT_NEAR(stored, judged.at(page, t, i),
                      std::abs(stored) / 7 + judged.scale(page, t, i) * 0x1p-9 * 1.01);
          ASSERT_EQ(o.at(t, i), stored) << "size " << size << " token " << t << " column " << i;
          ASSERT_EQ(o.at(t, kv_lora + i), stored);
          ASSERT_TRUE(t > 0 || stored == 0);
        }
      }
    }
  }
}

// Layer norm and rope of raw index keys, and the rotation for FP8 caches.
Doubles keys_in_double(const Matrix& k, const std::vector<float>& weight,
                       const std::vector<float>& bias, const std::vector<float>& inv_freq,
                       const Batch& batch, DType dtype) {
  const int64_t n = k.cols();
  Doubles keys = k.values();
  for (int64_t t = 0; t < k.rows(); ++t) {
    double* key = keys.data() + t * n;
    const double mean = std::accumulate(key, key + n, 0.0) / static_cast<double>(n);
    double variance = 0;
    for (int64_t i = 0; i < n; ++i) variance += (key[i] - mean) * (key[i] - mean);
    variance /= static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) {
      const auto j = static_cast<size_t>(i);
      key[i] = (key[i] - mean) / std::sqrt(variance + 1e-6) * weight[j] + bias[j];
    }
    rotate(key, batch.position(t), inv_freq);
    if (dtype == DType::kF8E4M3) hadamard(key, n);
  }
  return keys;
}

TEST_P(Attention, IndexKeyStoreKeepsKeysWithinTheirFormat) {
  for (const auto& [n, rope] : {std::pair<int64_t, int64_t>{128, 64}, {40, 16}, {64, 32}}) {
    for (DType dtype : key_types()) {
      const Batch batch(random, {70, 5, 129}, {70, 2, 1});
      Keys cache(dtype, batch.pages(), n);
      Matrix k = Matrix::random(random, DType::kF32, batch.tokens(), n, 3);
      const std::vector<float> weight = random_floats(random, n, 0.1f, 1);
      const std::vector<float> bias = random_floats(random, n, 0.1f);
      const std::vector<float> inv_freq = frequencies(rope);
      backend->index_key_store({.k = k.view(),
                                .rope_dim = rope,
                                .norm_weight = weight.data(),
                                .norm_bias = bias.data(),
                                .eps = 1e-6f,
                                .inv_freq = inv_freq.data(),
                                .batch = batch.view(),
                                .cache = cache.view});
      const Doubles expected = keys_in_double(k, weight, bias, inv_freq, batch, dtype);
      for (int64_t t = 0; t < batch.tokens(); ++t) {
        const int32_t position = batch.position(t);
        const int32_t page = batch.page(t, position);
        double amax = 0;
        for (int64_t i = 0; i < n; ++i) {
          amax = std::max(amax, std::abs(expected[static_cast<size_t>(t * n + i)]));
        }
        if (dtype == DType::kF8E4M3) {
          EXPECT_NEAR(*cache.view.scale(page, position), amax / 448, amax / 448 * 1e-5);
        }
        for (int64_t i = 0; i < n; ++i) {
          const double value = expected[static_cast<size_t>(t * n + i)];
          // Half a unit in the last of 3 mantissa bits, or half the smallest step.
          const double fp8 = std::max(std::abs(value) / 16, amax / 448 * 0x1p-10);
          const double allowed = (dtype == DType::kF8E4M3 ? fp8 : 0) + amax * 2e-6;
          ASSERT_NEAR(cache.at(page, position, i), value, allowed);
        }
      }
    }
  }
}

TEST_P(Attention, IndexKeyOfZeroIsStoredAsZero) {
  const Batch batch(random, {1}, {1});
  const DType dtype = backend->index_key_dtype();
  Keys cache(dtype, batch.pages(), 64);
  Matrix k(DType::kF32, 1, 64);
  for (int64_t i = 0; i < 64; ++i) k.set(0, i, 2.5f);
  const std::vector<float> ones(64, 1.0f);
  const std::vector<float> zeros(64, 0.0f);
  backend->index_key_store({.k = k.view(),
                            .norm_weight = ones.data(),
                            .norm_bias = zeros.data(),
                            .eps = 1e-6f,
                            .batch = batch.view(),
                            .cache = cache.view});
  for (int64_t i = 0; i < 64; ++i) EXPECT_EQ(cache.at(batch.page(0, 0), 0, i), 0);
}

// Sequences of `lengths` in shuffled pages of random bytes: their gather, byte by byte, and what
// lies behind it.
class IndexGather : public Attention {
 protected:
  void check(const std::vector<int32_t>& lengths, int64_t head_dim, int64_t spare_width) {
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    const int64_t width = (longest + kPageTokens - 1) / kPageTokens + spare_width;
    std::vector<int32_t> table(lengths.size() * static_cast<size_t>(width), 0);
    const int64_t pages = place_pages(lengths, width, table);
    Keys cache(DType::kF8E4M3, pages, head_dim);
    auto* words = reinterpret_cast<uint32_t*>(cache.bytes.data());
    for (size_t i = 0; i < cache.bytes.size() / 4; ++i) {
      words[i] = static_cast<uint32_t>(random.engine());
    }
    const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    constexpr size_t kBehind = 64;
    std::vector<std::byte> keys(static_cast<size_t>(total * head_dim) + kBehind, std::byte{0xa5});
    std::vector<float> scales(static_cast<size_t>(total) + kBehind, -7.0f);
    backend->index_gather({.cache = cache.view,
                           .sequences = static_cast<int64_t>(lengths.size()),
                           .page_table = table.data(),
                           .page_table_width = width,
                           .seq_lens = lengths.data(),
                           .keys = keys.data(),
                           .scales = scales.data()});
    int64_t row = 0;
    for (size_t b = 0; b < lengths.size(); ++b) {
      for (int32_t s = 0; s < lengths[b]; ++s, ++row) {
        const int32_t page = table[b * static_cast<size_t>(width) + static_cast<size_t>(s) / 64];
        ASSERT_EQ(std::memcmp(keys.data() + row * head_dim, cache.view.key(page, s),
                              static_cast<size_t>(head_dim)),
                  0)
            << "sequence " << b << " position " << s;
        ASSERT_EQ(std::memcmp(&scales[static_cast<size_t>(row)], cache.view.scale(page, s), 4), 0)
            << "sequence " << b << " position " << s;
      }
    }
    for (size_t i = 0; i < kBehind; ++i) {
      EXPECT_EQ(keys[static_cast<size_t>(total * head_dim) + i], std::byte{0xa5});
      EXPECT_EQ(scales[static_cast<size_t>(total) + i], -7.0f);
    }
  }

 private:
  // Returns the number of pages.
  int64_t place_pages(const std::vector<int32_t>& lengths, int64_t width,
                      std::vector<int32_t>& table) {
    std::vector<int32_t*> used;
    for (size_t b = 0; b < lengths.size(); ++b) {
      for (int64_t i = 0; i * kPageTokens < lengths[b]; ++i) {
        used.push_back(&table[b * static_cast<size_t>(width) + static_cast<size_t>(i)]);
      }
    }
    std::shuffle(used.begin(), used.end(), random.engine);
    for (size_t i = 0; i < used.size(); ++i) *used[i] = static_cast<int32_t>(i);
    return static_cast<int64_t>(used.size());
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, IndexGather, kAllBackends,
                         [](const auto& info) { return info.param; });

TEST_P(IndexGather, PacksRaggedSequences) {
  check({130, 1, 64, 0, 65, 63, 200}, 128, 1);
  check({5}, 128, 0);
  check({0, 70, 0}, 128, 3);
  check({70, 129, 3}, 40, 2);
}

// One build serves every width, number and length of sequences.
TEST_P(IndexGather, TakesAnyWidthAndNumberOfSequences) {
  for (const int64_t sequences : {1, 2, 17, 33, 72, 256}) {
    std::vector<int32_t> lengths;
    for (int64_t b = 0; b < sequences; ++b) {
      lengths.push_back(static_cast<int32_t>(random.below(500)));
    }
    lengths[0] = 1;
    check(lengths, 128, random.below(40));
  }
}

TEST_P(IndexGather, TakesTheLongestContext) {
  check({202752, 77}, 128, 0);
}

struct SelectCase {
  int64_t heads, head_dim, rope, top_k;
  std::vector<int32_t> lengths, new_tokens;
  int64_t distinct_keys;  // 0: all differ
};

class IndexSelect : public Attention {
 protected:
  void fill_keys(const SelectCase& c, const Batch& batch, Keys& cache) {
    const Matrix pool_of_keys = Matrix::random(random, DType::kF32, 600, c.head_dim);
    for (int64_t t = 0; t < batch.tokens(); ++t) {
      for (int32_t s = 0; s <= batch.position(t); ++s) {
        const int32_t page = batch.page(t, s);
        const int64_t source = c.distinct_keys > 0 ? s % c.distinct_keys : (page * 64 + s) % 600;
        for (int64_t i = 0; i < c.head_dim; ++i) {
          const auto value = static_cast<float>(pool_of_keys.at(source, i));
          if (cache.view.dtype == DType::kF32) {
            std::memcpy(cache.view.key(page, s) + 4 * i, &value, 4);
          } else {
            cache.view.key(page, s)[i] = std::byte{e4m3_from_float(value * 100)};
          }
        }
        if (cache.view.dtype == DType::kF8E4M3) {
          *cache.view.scale(page, s) = 0.01f + 0.0001f * static_cast<float>(source);
        }
      }
    }
  }

  struct Score {
    double value = 0;
    double magnitude = 0;  // the same sum of absolute values, which bounds the effect of rounding
  };
  static Score score(const SelectCase& c, const Batch& batch, const Keys& cache,
                     const Doubles& queries, const Matrix& weights, int64_t t, int32_t s) {
    Score total;
    const double scale = 1 / std::sqrt(static_cast<double>(c.heads * c.head_dim));
    for (int64_t h = 0; h < c.heads; ++h) {
      double product = 0;
      double magnitude = 0;
      for (int64_t i = 0; i < c.head_dim; ++i) {
        const double term = queries[static_cast<size_t>((t * c.heads + h) * c.head_dim + i)] *
                            cache.at(batch.page(t, s), s, i);
        product += term;
        magnitude += std::abs(term);
      }
      total.value += weights.at(t, h) * scale * std::max(0.0, product);
      total.magnitude += std::abs(weights.at(t, h)) * scale * magnitude;
    }
    return total;
  }

  void check(const SelectCase& c, DType dtype) {
    const Batch batch(random, c.lengths, c.new_tokens);
    Keys cache(dtype, batch.pages(), c.head_dim);
    fill_keys(c, batch, cache);
    const int64_t tokens = batch.tokens();
    const std::vector<float> inv_freq = frequencies(c.rope);
    Matrix q = Matrix::random(random, DType::kF32, tokens, c.heads * c.head_dim);
    Matrix weights = Matrix::random(random, DType::kF32, tokens, c.heads);
    const int64_t longest = *std::max_element(c.lengths.begin(), c.lengths.end());
    Matrix scores(DType::kF32, tokens, longest + 2);
    std::vector<int32_t> selected(static_cast<size_t>(tokens * c.top_k), -7);
    std::vector<int32_t> counts(static_cast<size_t>(tokens), -7);
    IndexSelectParams params{.q = q.view(),
                             .head_weights = weights.view(),
                             .weight_scale = 1 / std::sqrt(static_cast<float>(c.heads)),
                             .heads = c.heads,
                             .rope_dim = c.rope,
                             .inv_freq = inv_freq.data(),
                             .batch = batch.view(),
                             .cache = cache.view,
                             .top_k = c.top_k,
                             .selected = selected.data(),
                             .counts = counts.data(),
                             .scores = scores.view()};
    backend->index_select(params);

    Doubles queries = q.values();
    for (int64_t i = 0; i < tokens * c.heads; ++i) {
      rotate(queries.data() + i * c.head_dim, batch.position(i / c.heads), inv_freq);
      if (dtype == DType::kF8E4M3) hadamard(queries.data() + i * c.head_dim, c.head_dim);
    }
    // Production rounds queries to bf16.
    const double tolerance = is_reference() ? 2e-6 : 0x1p-9 + 2e-6;
    for (int64_t t = 0; t < tokens; ++t) {
      const int32_t visible = batch.position(t) + 1;
      for (int32_t s = 0; s < visible; ++s) {
        // Long contexts are checked in samples.
        if (tokens * visible > 3000 && s % 7 != 0) continue;
        const Score expected = score(c, batch, cache, queries, weights, t, s);
        ASSERT_NEAR(scores.at(t, s), expected.value, expected.magnitude * tolerance);
      }
      for (int64_t s = visible; s < longest + 2; ++s) {
        ASSERT_EQ(scores.at(t, s), -std::numeric_limits<double>::infinity());
      }
      check_choice(c, scores, t, visible, selected, counts);
    }
    EXPECT_TRUE(scores.gaps_untouched());

    std::vector<int32_t> again(selected.size(), -7);
    std::vector<int32_t> counts_again(counts.size(), -7);
    params.selected = again.data();
    params.counts = counts_again.data();
    params.scores = {};
    backend->index_select(params);
    EXPECT_EQ(again, selected);
    EXPECT_EQ(counts_again, counts);
  }

  // The choice is exactly the top of the backend's own scores.
  static void check_choice(const SelectCase& c, const Matrix& scores, int64_t t, int32_t visible,
                           const std::vector<int32_t>& selected,
                           const std::vector<int32_t>& counts) {
    std::vector<int32_t> order(static_cast<size_t>(visible));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return scores.at(t, a) > scores.at(t, b); });
    order.resize(static_cast<size_t>(std::min<int64_t>(visible, c.top_k)));
    std::sort(order.begin(), order.end());
    ASSERT_EQ(counts[static_cast<size_t>(t)], static_cast<int32_t>(order.size()));
    order.resize(static_cast<size_t>(c.top_k), -1);
    const auto begin = selected.begin() + t * c.top_k;
    ASSERT_EQ(std::vector<int32_t>(begin, begin + c.top_k), order) << "token " << t;
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, IndexSelect, kAllBackends,
                         [](const auto& info) { return info.param; });

TEST_P(IndexSelect, MatchesDoublePrecisionAndChoosesTheTop) {
  for (DType dtype : key_types()) {
    check({32, 128, 64, 100, {700, 40, 333}, {2, 3, 40}, 0}, dtype);
    check({4, 40, 16, 8, {40, 7, 8, 9, 129}, {40, 7, 1, 2, 9}, 0}, dtype);
    check({8, 64, 32, 8, {150}, {1}, 0}, dtype);
    check({1, 128, 0, 64, {65}, {65}, 0}, dtype);
  }
}

// GLM-5.1's shape, decode and prefill, sequences below and beyond top_k.
TEST_P(IndexSelect, MatchesDoublePrecisionAtTheModelsShape) {
  check({32, 128, 64, 2048, {2500, 70}, {2, 3}, 0}, backend->index_key_dtype());
  check({32, 128, 64, 64, {300, 70, 65}, {90, 70, 1}, 0}, backend->index_key_dtype());
}

TEST_P(IndexSelect, ChoosesFromLongContextsOnADevice) {
  if (!is_cuda()) GTEST_SKIP() << "skipped: scalar code does not depend on the length";
  check({32, 128, 64, 2048, {40000, 2049, 2048, 9000}, {1, 1, 1, 1}, 0}, DType::kF8E4M3);
  check({32, 128, 64, 2048, {202752}, {1}, 0}, DType::kF8E4M3);
}

TEST_P(IndexSelect, EqualScoresChooseLowerPositions) {
  for (DType dtype : key_types()) {
    check({8, 64, 32, 20, {300, 90}, {5, 90}, 3}, dtype);
    check({2, 40, 16, 5, {200}, {3}, 1}, dtype);
    check({32, 128, 64, 100, {700, 333}, {1, 6}, 2}, dtype);
  }
}

struct MlaCase {
  int64_t heads, kv_lora, rope, nope, top_k;
  std::vector<int32_t> lengths, new_tokens;
};

class SparseMla : public Attention {
 protected:
  // Tensor cores take probabilities in bf16: beside the output's own rounding, half as much again.
  [[nodiscard]] double tolerance(DType out) const {
    const double probabilities = is_cuda() && out == DType::kBF16 ? 0x1p-9 : 0;
    return (is_reference() ? 1e-5 : 2e-5) + output_tolerance(out) + probabilities;
  }

  // The backend's output beside the judge's.
  void compare(const MlaCase& c, DType latent, Backend& judge) {
    const Batch batch(random, c.lengths, c.new_tokens);
    const int64_t tokens = batch.tokens();
    Latents cache(latent, batch.pages(), c.kv_lora, c.rope);
    std::vector<int32_t> selected(static_cast<size_t>(tokens * c.top_k), -1);
    std::vector<int32_t> counts(static_cast<size_t>(tokens));
    for (int64_t t = 0; t < tokens; ++t) {
      counts[static_cast<size_t>(t)] = choose(batch, c, t, selected.data() + t * c.top_k);
    }
    fill(cache, batch);
    Matrix q_c = Matrix::random(random, act(), tokens, c.heads * c.kv_lora);
    Matrix q = Matrix::random(random, act(), tokens, c.heads * (c.nope + c.rope));
    Matrix expected(DType::kF32, tokens, c.heads * c.kv_lora);
    SparseMlaParams params{.q_c = q_c.view(),
                           .q = q.view(),
                           .q_head_stride = c.nope + c.rope,
                           .q_rope_offset = c.nope,
                           .heads = c.heads,
                           .kv_lora = c.kv_lora,
                           .rope_dim = c.rope,
                           .scale = 1 / std::sqrt(static_cast<float>(c.nope + c.rope)),
                           .batch = batch.view(),
                           .cache = cache.view,
                           .selected = selected.data(),
                           .selected_stride = c.top_k,
                           .counts = counts.data(),
                           .o = expected.view()};
    judge.sparse_mla(params);
    Matrix o(act(), tokens, c.heads * c.kv_lora);
    params.o = o.view();
    backend->sparse_mla(params);
    EXPECT_LE(worst_error(o.values(), expected.values()), tolerance(act()));
    EXPECT_TRUE(o.gaps_untouched());
  }

  void check(const MlaCase& c, DType latent, DType in, DType out, float sharpness = 1) {
    const Batch batch(random, c.lengths, c.new_tokens);
    const int64_t tokens = batch.tokens();
    Latents cache(latent, batch.pages(), c.kv_lora, c.rope);
    std::vector<int32_t> selected(static_cast<size_t>(tokens * (c.top_k + 2)), -1);
    std::vector<int32_t> counts(static_cast<size_t>(tokens));
    for (int64_t t = 0; t < tokens; ++t) {
      counts[static_cast<size_t>(t)] = choose(batch, c, t, selected.data() + t * (c.top_k + 2));
    }
    fill(cache, batch);
    Matrix q_c = Matrix::random(random, in, tokens, c.heads * c.kv_lora, sharpness);
    Matrix q = Matrix::random(random, in, tokens, c.heads * (c.nope + c.rope), sharpness);
    Matrix o(out, tokens, c.heads * c.kv_lora);
    SparseMlaParams params{.q_c = q_c.view(),
                           .q = q.view(),
                           .q_head_stride = c.nope + c.rope,
                           .q_rope_offset = c.nope,
                           .heads = c.heads,
                           .kv_lora = c.kv_lora,
                           .rope_dim = c.rope,
                           .scale = 1 / std::sqrt(static_cast<float>(c.nope + c.rope)),
                           .batch = batch.view(),
                           .cache = cache.view,
                           .selected = selected.data(),
                           .selected_stride = c.top_k + 2,
                           .counts = counts.data(),
                           .o = o.view()};
    backend->sparse_mla(params);
    Doubles expected;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) attend(c, batch, cache, q_c, q, params, t, h, expected);
    }
    EXPECT_LE(worst_error(o.values(), expected), tolerance(out));
    EXPECT_TRUE(o.gaps_untouched());

    ThreadPool many(9);
    Matrix again(out, tokens, c.heads * c.kv_lora);
    params.o = again.view();
    with(many)->sparse_mla(params);
    EXPECT_EQ(again.values(), o.values()) << "depends on threads";
  }

 private:
  void fill(Latents& cache, const Batch& batch) {
    for (int64_t t = 0; t < batch.tokens(); ++t) {
      for (int32_t s = 0; s <= batch.position(t); ++s) {
        std::byte* token = cache.view.token(batch.page(t, s), s);
        cache.view.dtype == DType::kF8E4M3 ? fill_fp8(cache.view, token)
                                           : fill_plain(cache.view, token);
      }
    }
  }
  void fill_plain(const LatentCacheView& cache, std::byte* token) {
    for (int64_t i = 0; i < cache.width(); ++i) {
      const uint16_t code = bf16_from_float(random.normal());
      const float value = bf16_to_float(code);
      if (cache.dtype == DType::kF32) {
        std::memcpy(token + 4 * i, &value, 4);
      } else {
        std::memcpy(token + 2 * i, &code, 2);
      }
    }
  }
  // Every group has a scale of its own; some codes are subnormal.
  void fill_fp8(const LatentCacheView& cache, std::byte* token) {
    for (int64_t begin = 0; begin < cache.kv_lora; begin += 128) {
      const float scale = std::ldexp(1.0f, -static_cast<int>(6 + random.below(3)));
      std::memcpy(token + LatentCacheView::scales_at(cache.kv_lora) + begin / 128 * 4, &scale, 4);
      for (int64_t i = begin; i < std::min(begin + 128, cache.kv_lora); ++i) {
        const float value = random.normal() * (random.below(16) == 0 ? 0x1p-13f : 1);
        token[i] = std::byte{e4m3_from_float(value / scale)};
      }
    }
    for (int64_t i = 0; i < cache.rope_dim; ++i) {
      const uint16_t code = bf16_from_float(random.normal());
      std::memcpy(token + LatentCacheView::rope_at(cache.kv_lora) + 2 * i, &code, 2);
    }
  }
  // A random ascending choice of at most top_k visible positions.
  int32_t choose(const Batch& batch, const MlaCase& c, int64_t t, int32_t* selected) {
    std::vector<int32_t> all(static_cast<size_t>(batch.position(t)) + 1);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random.engine);
    all.resize(static_cast<size_t>(std::min<int64_t>(c.top_k, batch.position(t) + 1)));
    std::sort(all.begin(), all.end());
    std::copy(all.begin(), all.end(), selected);
    return static_cast<int32_t>(all.size());
  }
  static void attend(const MlaCase& c, const Batch& batch, const Latents& cache, const Matrix& q_c,
                     const Matrix& q, const SparseMlaParams& p, int64_t t, int64_t h,
                     Doubles& expected) {
    Doubles weights;
    for (int64_t i = 0; i < p.counts[t]; ++i) {
      const int32_t s = p.selected[t * p.selected_stride + i];
      double logit = 0;
      for (int64_t j = 0; j < c.kv_lora + c.rope; ++j) {
        const double query = j < c.kv_lora
                                 ? q_c.at(t, h * c.kv_lora + j)
                                 : q.at(t, h * (c.nope + c.rope) + c.nope + j - c.kv_lora);
        logit += query * cache.at(batch.page(t, s), s, j);
      }
      weights.push_back(logit * p.scale);
    }
    const double highest = *std::max_element(weights.begin(), weights.end());
    double total = 0;
    for (double& weight : weights) total += weight = std::exp(weight - highest);
    for (int64_t j = 0; j < c.kv_lora; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < p.counts[t]; ++i) {
        const int32_t s = p.selected[t * p.selected_stride + i];
        sum += weights[static_cast<size_t>(i)] / total * cache.at(batch.page(t, s), s, j);
      }
      expected.push_back(sum);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, SparseMla, kAllBackends,
                         [](const auto& info) { return info.param; });

TEST_P(SparseMla, MatchesDoublePrecision) {
  for (DType latent : latent_types()) {
    for (DType out : {DType::kF32, DType::kBF16}) {
      check({64, 512, 64, 192, 130, {200, 77}, {1, 2}}, latent, act(), out);
      check({4, 40, 16, 32, 8, {70, 5, 1}, {9, 5, 1}}, latent, act(), out);
      check({19, 67, 10, 5, 64, {128, 63}, {3, 4}}, latent, act(), out);
      check({9, 128, 32, 64, 200, {190}, {70}}, latent, act(), out);
    }
    check({4, 40, 16, 32, 8, {70}, {9}}, latent, DType::kBF16, DType::kF32);
  }
}

// GLM-5.1's latents with few, many and odd numbers of heads.
TEST_P(SparseMla, TakesAnyNumberOfHeads) {
  for (const int64_t heads : {1, 16, 65, 128}) {
    for (DType latent : latent_types()) {
      check({heads, 512, 64, 8, 70, {100}, {2}}, latent, act(), act());
    }
  }
}

// 2048 positions a token: too many for the plain recomputation, so the reference judges.
TEST_P(SparseMla, AgreesWithTheReferenceAtTheModelsShape) {
  if (is_reference()) GTEST_SKIP() << "skipped: it is the judge";
  const MlaCase c{64, 512, 64, 192, 2048, {2300, 60, 2048}, {1, 1, 2}};
  const auto reference = make_reference_backend(pool);
  for (DType latent : latent_types()) compare(c, latent, *reference);
}

TEST_P(SparseMla, KeepsToOnePositionWhenOneDominates) {
  for (DType latent : latent_types()) {
    check({8, 512, 64, 192, 256, {256}, {2}}, latent, act(), act(), 20);
  }
}

}  // namespace
}  // namespace longshore::kernels
