#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/backend.h"
#include "kernels/scalar/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels::cpu {
namespace {

constexpr int64_t kScoreFloats = int64_t{16} << 20;  // index scores that are kept at a time
constexpr int64_t kScoreTokens = 1024;
constexpr int64_t kPagesPerItem = 8;
constexpr int64_t kFewestHeads =
    8;  // heads of one attention item, so that decoded latents are used several times

}  // namespace

void CpuBackend::latent_store(const LatentStoreParams& p) {
  validate(p);
  LS_CHECK(p.cache.dtype != DType::kF32);
  scalar::latent_store(pool_, p);
}

void CpuBackend::index_key_store(const IndexKeyStoreParams& p) {
  validate(p);
  LS_CHECK(p.cache.dtype == DType::kF8E4M3);
  scalar::index_key_store(pool_, p);
}

void CpuBackend::index_gather(const IndexGatherParams& p) {
  validate(p);
  scalar::index_gather(p);
}

// Queries as tile inputs and head weights with the constants, for tokens [rows.first, rows.first +
// count).
void CpuBackend::prepare_queries(const IndexSelectParams& p, const ScoreRows& rows, int64_t count) {
  const int64_t n = p.cache.head_dim;
  const float factor = p.weight_scale / std::sqrt(static_cast<float>(n));
  pool_.parallel_for(count, 1, [&](int64_t begin, int64_t end, int w) {
    Worker& worker = workers_[static_cast<size_t>(w)];
    auto* q = worker.tile.get_as<float>(p.heads * n);
    for (int64_t i = begin; i < end; ++i) {
      scalar::index_query(p, rows.first + i, q);
      const float* head_weights = p.head_weights.row_as<float>(rows.first + i);
      for (int64_t h = 0; h < p.heads; ++h) {
        table_.prepare(q + h * n, false, n, n, table_.narrow,
                       rows.queries + (i * p.heads + h) * rows.query_bytes);
        rows.weights[i * p.heads + h] = head_weights[h] * factor;
      }
    }
  });
}

void CpuBackend::score_pages(const IndexSelectParams& p, const ScoreRows& rows,
                             const ScoreGroup& group, int64_t first_page, int64_t pages,
                             Worker& worker) {
  const int64_t queries = group.count * p.heads;
  const int64_t local = group.first - rows.first;
  worker.sources.resize(static_cast<size_t>(queries));
  for (int64_t i = 0; i < queries; ++i) {
    worker.sources[static_cast<size_t>(i)] =
        rows.queries + (local * p.heads + i) * rows.query_bytes;
  }
  auto* products = worker.tile.get_as<float>(queries * kTileRows);
  const int32_t sequence = p.batch.sequence_of[group.first];
  for (int64_t number = first_page; number < first_page + pages; ++number) {
    const int64_t position = number * kPageTokens;
    const int32_t page = p.batch.page(sequence, position);
    Tile tile;
    tile.count = static_cast<int>(std::min<int64_t>(kPageTokens, group.keys - position));
    tile.type = RowType::kFp8;
    tile.in = p.cache.head_dim;
    tile.segment = p.cache.head_dim;
    tile.next = nullptr;
    for (int s = 0; s < tile.count; ++s) {
      tile.rows[s] = p.cache.key(page, s);
      tile.scales[s] = nullptr;
    }
    table_.tile_product(tile, {worker.sources.data(), queries}, products);
    for (int64_t i = 0; i < group.count; ++i) {
      table_.index_scores(products + i * p.heads * kTileRows, p.heads,
                          rows.weights + (local + i) * p.heads, p.cache.scale(page, 0), tile.count,
                          rows.scores + (local + i) * rows.width + position);
    }
  }
}

void CpuBackend::finish_selection(const IndexSelectParams& p, const ScoreRows& rows, int64_t t) {
  const int64_t visible = p.batch.positions[t] + 1;
  const float* scores = rows.scores + (t - rows.first) * rows.width;
  p.counts[t] = scalar::select_top(scores, visible, p.top_k, p.selected + t * p.top_k);
  if (p.scores.data == nullptr) return;
  auto* target = p.scores.row_as<float>(t);
  std::memcpy(target, scores, static_cast<size_t>(visible) * sizeof(float));
  std::fill(target + visible, target + p.scores.cols, -std::numeric_limits<float>::infinity());
}

void CpuBackend::select_chunk(const IndexSelectParams& p, int64_t first, int64_t count) {
  const int64_t most = std::max<int64_t>(1, kTokenBlock / p.heads);
  groups_.clear();
  group_start_.assign(1, 0);
  int64_t longest = 1;
  for (int64_t t = first; t < first + count; ++t) {
    const int64_t keys = p.batch.positions[t] + 1;
    if (keys <= p.top_k && p.scores.data == nullptr) continue;
    longest = std::max(longest, keys);
    const bool joins = !groups_.empty() && groups_.back().count < most &&
                       groups_.back().first + groups_.back().count == t &&
                       p.batch.sequence_of[groups_.back().first] == p.batch.sequence_of[t];
    if (!joins) groups_.push_back({t, 0, 0});
    ++groups_.back().count;
    groups_.back().keys = std::max(groups_.back().keys, keys);
  }
  for (const ScoreGroup& group : groups_) {
    group_start_.push_back(group_start_.back() + ceil_div(group.keys, kPageTokens * kPagesPerItem));
  }

  ScoreRows rows;
  rows.first = first;
  rows.width = ceil_div(longest, kPageTokens) * kPageTokens;
  rows.query_bytes = padded_segment(p.cache.head_dim) * (input_size(table_.narrow));
  rows.scores = scores_.get_as<float>(count * rows.width);
  rows.weights = score_weights_.get_as<float>(count * p.heads);
  rows.queries = queries_.get(count * p.heads * rows.query_bytes);
  if (!groups_.empty()) prepare_queries(p, rows, count);
  pool_.parallel_for(group_start_.back(), 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t item = begin; item < end; ++item) {
      const auto after = std::upper_bound(group_start_.begin(), group_start_.end(), item);
      const auto g = static_cast<size_t>(after - group_start_.begin() - 1);
      const int64_t page = (item - group_start_[g]) * kPagesPerItem;
      const int64_t pages = std::min(kPagesPerItem, ceil_div(groups_[g].keys, kPageTokens) - page);
      score_pages(p, rows, groups_[g], page, pages, workers_[static_cast<size_t>(worker)]);
    }
  });
  pool_.parallel_for(count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = first + begin; t < first + end; ++t) finish_selection(p, rows, t);
  });
}

void CpuBackend::index_select(const IndexSelectParams& p) {
  validate(p);
  LS_CHECK(p.cache.dtype == DType::kF8E4M3);
  int64_t longest = 1;
  for (int64_t t = 0; t < p.q.rows; ++t) {
    longest = std::max<int64_t>(longest, p.batch.positions[t] + 1);
  }
  const int64_t chunk = std::clamp<int64_t>(kScoreFloats / longest, 1, kScoreTokens);
  for (int64_t t = 0; t < p.q.rows; t += chunk) {
    select_chunk(p, t, std::min(chunk, p.q.rows - t));
  }
}

// The FP8 latent at `token` as bf16 [width] at to; returns to.
const std::byte* CpuBackend::widen_latent(const LatentCacheView& cache, const std::byte* token,
                                          std::byte* to) const {
  const auto* scales =
      reinterpret_cast<const float*>(token + LatentCacheView::scales_at(cache.kv_lora));
  table_.widen_fp8(token, scales, kLatentGroup, cache.kv_lora, to);
  std::memcpy(to + cache.kv_lora * 2, token + LatentCacheView::rope_at(cache.kv_lora),
              static_cast<size_t>(cache.rope_dim * 2));
  return to;
}

void CpuBackend::attend_heads(const SparseMlaParams& p, int64_t t, int64_t head, int64_t heads,
                              Worker& worker) {
  const int64_t width = p.cache.width();
  const int64_t size = dtype_size(p.q.dtype);
  const int64_t row_bytes = padded_segment(width) * (input_size(table_.narrow));
  // [heads] prepared queries c | rope, then one row of them as they came.
  std::byte* queries = worker.second.get(heads * row_bytes + width * size);
  std::byte* joined = queries + heads * row_bytes;
  worker.sources.resize(static_cast<size_t>(heads));
  for (int64_t h = 0; h < heads; ++h) {
    const std::byte* q_c = p.q_c.row(t) + (head + h) * p.kv_lora * size;
    const std::byte* q = p.q.row(t) + ((head + h) * p.q_head_stride + p.q_rope_offset) * size;
    std::memcpy(joined, q_c, static_cast<size_t>(p.kv_lora * size));
    std::memcpy(joined + p.kv_lora * size, q, static_cast<size_t>(p.rope_dim * size));
    table_.prepare(joined, p.q.dtype == DType::kBF16, width, width, table_.narrow,
                   queries + h * row_bytes);
    worker.sources[static_cast<size_t>(h)] = queries + h * row_bytes;
  }

  AttendBlock block;
  block.heads = heads;
  block.kv_lora = p.kv_lora;
  block.scale = p.scale;
  block.logits = worker.tile.get_as<float>(heads * kTileRows);
  block.o = worker.third.get_as<float>(heads * (p.kv_lora + 2));
  block.highest = block.o + heads * p.kv_lora;
  block.total = block.highest + heads;
  std::fill(block.o, block.highest, 0.0f);
  std::fill(block.highest, block.total, -std::numeric_limits<float>::infinity());
  std::fill(block.total, block.total + heads, 0.0f);

  const bool fp8 = p.cache.dtype == DType::kF8E4M3;
  std::byte* widened = worker.fourth.get(fp8 ? kTileRows * width * 2 : 0);
  Tile tile;
  tile.type = RowType::kBF16;
  tile.in = width;
  tile.segment = width;
  tile.next = nullptr;
  const int32_t* selected = p.selected + t * p.selected_stride;
  for (int64_t first = 0; first < p.counts[t]; first += kTileRows) {
    tile.count = static_cast<int>(std::min<int64_t>(kTileRows, p.counts[t] - first));
    block.count = tile.count;
    for (int s = 0; s < tile.count; ++s) {
      const int32_t position = selected[first + s];
      const std::byte* token =
          p.cache.token(p.batch.page(p.batch.sequence_of[t], position), position);
      tile.rows[s] = fp8 ? widen_latent(p.cache, token, widened + s * width * 2) : token;
      tile.scales[s] = nullptr;
      block.latents[s] = tile.rows[s];
    }
    table_.tile_product(tile, {worker.sources.data(), heads}, block.logits);
    table_.attend(block);
  }
  for (int64_t h = 0; h < heads; ++h) {
    table_.divide(block.o + h * p.kv_lora, block.total[h], p.kv_lora,
                  p.o.dtype == DType::kBF16 ? StoreMode::kBF16 : StoreMode::kF32,
                  p.o.row(t) + (head + h) * p.kv_lora * dtype_size(p.o.dtype));
  }
}

void CpuBackend::sparse_mla(const SparseMlaParams& p) {
  validate(p);
  LS_CHECK(p.cache.dtype != DType::kF32);
  const int64_t tokens = p.o.rows;
  // Never fewer than kFewestHeads in a part, whatever the number of threads, so that the sums stay
  // the same.
  int64_t parts = 1;
  while (tokens * parts < 4 * pool_.size() && parts * 2 <= p.heads / kFewestHeads) parts *= 2;
  pool_.parallel_for(tokens * parts, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t head = p.heads * (item % parts) / parts;
      const int64_t next = p.heads * (item % parts + 1) / parts;
      attend_heads(p, item / parts, head, next - head, workers_[static_cast<size_t>(worker)]);
    }
  });
}

}  // namespace longshore::kernels::cpu
