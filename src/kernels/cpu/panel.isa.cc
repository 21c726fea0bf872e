// Tile products on AMX: 16 x 16 sums of bf16 pairs per instruction. Weight rows are widened into a
// small buffer, in order, and are the left operand; inputs come as panels of 16 (pack_panel), the
// right operand. So no weight is ever transposed.
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/simd.h"

#if defined(__AMX_BF16__)

namespace longshore::kernels::cpu::LONGSHORE_ISA {
namespace {

constexpr int64_t kSide = 16;         // rows of a tile register, and 32-bit words of each row
constexpr int64_t kStep = 2 * kSide;  // elements that one instruction sums over
constexpr int64_t kTileWords = kSide * kSide;
constexpr int64_t kBlock = 128;  // elements that are widened at a time
constexpr int64_t kSteps = kBlock / kStep;
constexpr int kGroups = kTileRows / kSide;
constexpr int64_t kPairRows = 2 * kSide;  // rows that are multiplied together

LS_SIMD int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// The layout that LDTILECFG reads (Intel 64 and IA-32 manual, volume 1, 18.3).
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The compiler does not know that tile instructions read and write memory.
LS_SIMD void memory_barrier() {
  asm volatile("" ::: "memory");
}

LS_SIMD void configure() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 4 * kSide;
    config.rows[i] = kSide;
  }
  memory_barrier();
  _tile_loadconfig(&config);
}

// 64 elements at p as bf16 pairs.
template <RowType kType>
LS_SIMD void widen(const uint8_t* p, Vec pairs[2]) {
  if constexpr (kType == RowType::kFp8) {
    load_fp8_pairs(p, pairs);
  } else {
    pairs[0] = load(p);
    pairs[1] = load(p + 64);
  }
}

template <RowType kType>
constexpr int64_t kSize = kType == RowType::kFp8 ? 1 : 2;

// A block of at most kBlock columns, within one segment.
struct ColumnBlock {
  int64_t segment = 0;
  int64_t start = 0;
  int64_t length = 0;
  int64_t steps = 0;   // of kStep elements, whole chunks
  int64_t offset = 0;  // words before it in a panel
};

ColumnBlock block_at(const Tile& tile, int64_t segment, int64_t start) {
  const int64_t begin = segment * tile.segment;
  const int64_t end = least(begin + tile.segment, tile.in);
  ColumnBlock block;
  block.segment = segment;
  block.start = start;
  block.length = least(kBlock, end - start);
  block.steps = (block.length + kChunk - 1) / kChunk * (kChunk / kStep);
  block.offset = (segment * padded_segment(tile.segment) + start - begin) / kStep * kTileWords;
  return block;
}
// The block behind; length 0 at the end of the rows.
ColumnBlock next_block(const Tile& tile, const ColumnBlock& block) {
  const int64_t start = block.start + block.length;
  if (start >= tile.in) return {};
  return block_at(
      tile, start < (block.segment + 1) * tile.segment ? block.segment : block.segment + 1, start);
}

// Two buffers of one block's widened rows, in tiles of 16 rows x 32 elements: one is written while
// the other is multiplied.
template <int64_t kRows>
class WideRows {
 public:
  [[nodiscard]] LS_SIMD uint32_t* tile(int buffer, int64_t group, int64_t step) {
    if constexpr (kRows == kPairRows) {
      return words_[group * 2 + step / 2][(buffer * 2 + step % 2)];
    } else {
      return words_[buffer * kRows / kSide + group][step];
    }
  }
  void clear() { std::memset(words_, 0, sizeof(words_)); }

 private:
  // Each page of a pair's rows holds half of both buffers, 2 KB apart: a processor takes a load
  // from where a recent store went, in the lowest 12 bits of the address, for one that has to wait.
  // More rows are used many times: so they would fill half of the first-level cache's sets, and be
  // lost.
  static_assert(kSteps == 4);
  alignas(4096) uint32_t words_[2 * kRows / kSide][kSteps][kTileWords];
};

// Row r of the tile = row `place` of the buffer, zeros behind the block's elements. Asks for
// `later`, one block's bytes, meanwhile.
template <RowType kType, int64_t kRows>
LS_SIMD void widen_row(const Tile& tile, int64_t r, int64_t place, const ColumnBlock& block,
                       const uint8_t* later, int buffer, WideRows<kRows>& weights) {
  const uint8_t* row = static_cast<const uint8_t*>(tile.rows[r]) + block.start * kSize<kType>;
  for (int64_t line = 0; line < kBlock * kSize<kType>; line += 64) prefetch(later + line);
  const int64_t group = place / kSide;
  const int64_t offset = place % kSide * kSide;
  for (int64_t i = 0; i < kBlock; i += kChunk) {
    if (i >= block.length) return;
    Vec pairs[2];
    if (i + kChunk <= block.length) {
      widen<kType>(row + i * kSize<kType>, pairs);
    } else {
      alignas(64) uint8_t bytes[kChunk * 2] = {};
      std::memcpy(bytes, row + i * kSize<kType>,
                  static_cast<size_t>((block.length - i) * kSize<kType>));
      widen<kType>(bytes, pairs);
    }
    store(weights.tile(buffer, group, i / kStep) + offset, pairs[0]);
    store(weights.tile(buffer, group, i / kStep + 1) + offset, pairs[1]);
  }
}

// Sums of one block, 32 rows times one panel or two, that still have to be scaled and added to the
// result: done while the next products run, since these instructions use other units than tile
// products do.
struct Pending {
  const float* sums = nullptr;    // [panels][32 rows][16 inputs]
  const float* scales = nullptr;  // [32]
  float* out = nullptr;           // [panels][64 rows][16 inputs], from the first of the rows on
  int64_t lines = 0;              // panels * 32
  bool first = false;             // of the result's columns
  bool same = false;              // one scale for all rows

  // The kPart lines from `begin` on, as far as there are any; kPart divides 32.
  template <int64_t kPart>
  LS_SIMD void add(int64_t begin) const {
    if (begin >= lines) return;
    const int64_t r = begin % kPairRows;
    const float* from = sums + begin * kSide;
    float* target = out + (begin / kPairRows * kTileRows + r) * kSide;
    if (!first && same) {  // all but a few
      Vec scale = broadcast(scales[0]);
      in_register(scale);
      for (int64_t i = 0; i < kPart; ++i) {
        float* line = target + i * kSide;
        store(line, fma(load(from + i * kSide), scale, load(line)));
      }
      return;
    }
    for (int64_t i = 0; i < kPart; ++i) {
      const Vec sum = load(from + i * kSide);
      const Vec scale = broadcast(scales[r + i]);
      float* line = target + i * kSide;
      store(line, first ? mul(sum, scale) : fma(sum, scale, load(line)));
    }
  }
  void add_from(int64_t begin) const {
    for (; begin < lines; begin += kStepLines) add<kStepLines>(begin);
  }
  static constexpr int64_t kStepLines = kPairRows / kSteps;
};

// sums[panel][row][input] = 32 rows . kPanels panels over kCount steps; work(k) runs after step k.
// Two groups of rows times two panels is the shape that uses each loaded tile twice.
template <int kPanels, int kCount, int64_t kRows, typename Work>
LS_SIMD void multiply_steps(WideRows<kRows>& weights, int buffer, int64_t group,
                            const uint32_t* panel, const uint32_t* second, float* sums, Work work) {
  constexpr int64_t kRowBytes = 4 * kSide;
  _tile_zero(0);
  _tile_zero(2);
  if constexpr (kPanels > 1) {
    _tile_zero(1);
    _tile_zero(3);
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < kCount; ++k) {
    _tile_loadd(4, weights.tile(buffer, group, k), kRowBytes);
    _tile_loadd(6, panel + k * kTileWords, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kPanels > 1) {
      _tile_loadd(7, second + k * kTileWords, kRowBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_loadd(5, weights.tile(buffer, group + 1, k), kRowBytes);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kPanels > 1) _tile_dpbf16ps(3, 5, 7);
    work(k);
  }
  _tile_stored(0, sums, kRowBytes);
  _tile_stored(2, sums + kTileWords, kRowBytes);
  if constexpr (kPanels > 1) {
    _tile_stored(1, sums + 2 * kTileWords, kRowBytes);
    _tile_stored(3, sums + 3 * kTileWords, kRowBytes);
  }
  memory_barrier();
}

template <int kPanels, int64_t kRows, typename Work>
LS_SIMD void multiply(WideRows<kRows>& weights, int buffer, int64_t group, const uint32_t* panel,
                      const uint32_t* second, int64_t steps, float* sums, Work work) {
  if (steps == kSteps) {
    multiply_steps<kPanels, kSteps>(weights, buffer, group, panel, second, sums, work);
  } else {
    multiply_steps<kPanels, kSteps / 2>(weights, buffer, group, panel, second, sums, work);
  }
}

// Scales of rows of one block.
template <int64_t kRows>
struct RowScales {
  alignas(64) float values[kRows];  // 1 behind the tile's last row
  bool same = false;

  // Of the tile's rows from `row` on.
  LS_SIMD void set(const Tile& tile, int64_t row, int64_t segment) {
    const int64_t end = least(kRows, tile.count - row);
    const bool scaled = tile.scales[row] != nullptr;  // all or none of a matrix
    same = true;
    for (int64_t r = 0; r < end; ++r) {
      values[r] = scaled ? tile.scales[row + r][segment] : 1.0f;
      same &= values[r] == values[0];
    }
    for (int64_t r = end; r < kRows; ++r) values[r] = 1.0f;
  }
};

struct PanelView {
  const uint32_t* words;
  int64_t stride;  // words from one panel to the next
  int64_t count;
};

// One or two panels: bound by memory and by widening. 32 rows at a time, column by column, tile by
// tile; the next block is widened while this one is multiplied.
template <RowType kType, int kPanels>
class FewPanels {
 public:
  FewPanels(const Tile* tiles, int64_t count, const PanelView& panels, float* out)
      : tiles_(tiles), count_(count), panels_(panels), out_(out) {}

  void run() {
    for (int64_t j = 0; j < count_; ++j) {
      if (tiles_[j].count % kPairRows != 0) weights_.clear();
    }
    Place place{0, 0, block_at(tiles_[0], 0, 0)};
    widen(place, 0, kPairRows, 0);
    memory_barrier();
    Pending pending;
    int buffer = 0;
    while (place.tile < count_) {
      const Place then = next(place);
      RowScales<kPairRows>& scales = scales_[buffer];
      scales.set(tiles_[place.tile], place.row, place.block.segment);
      constexpr int64_t kPart = kPairRows / kSteps;  // rows of one step's work
      int64_t widened = then.tile < count_ ? 0 : kPairRows;
      int64_t added = 0;
      const uint32_t* panel = panels_.words + place.block.offset;
      multiply<kPanels>(weights_, buffer, 0, panel, panel + panels_.stride, place.block.steps,
                        sums_[buffer], [&](int64_t) {
                          pending.add<kPanels * kPart>(added);
                          added += kPanels * kPart;
                          if (widened == kPairRows) return;
                          widen(then, widened, widened + kPart, 1 - buffer);
                          widened += kPart;
                        });
      pending.add_from(added);
      if (widened < kPairRows) widen(then, widened, kPairRows, 1 - buffer);
      pending = {sums_[buffer],
                 scales.values,
                 out_ + (place.tile * kPanels * kTileRows + place.row) * kSide,
                 kPanels * kPairRows,
                 place.block.start == 0,
                 scales.same};
      memory_barrier();
      place = then;
      buffer = 1 - buffer;
    }
    pending.add_from(0);
  }

 private:
  struct Place {
    int64_t tile = 0;
    int64_t row = 0;
    ColumnBlock block;
  };
  // The same rows' next columns, at their end the next rows.
  [[nodiscard]] LS_SIMD Place next(const Place& place) const {
    const ColumnBlock then = next_block(tiles_[0], place.block);
    if (then.length > 0) return {place.tile, place.row, then};
    const bool end = place.row + kPairRows >= tiles_[place.tile].count;
    return {place.tile + (end ? 1 : 0), end ? 0 : place.row + kPairRows, block_at(tiles_[0], 0, 0)};
  }
  // Rows [begin, end) of the 32 from place.row on.
  LS_SIMD void widen(const Place& place, int64_t begin, int64_t end, int buffer) {
    const Tile& tile = tiles_[place.tile];
    end = least(end, tile.count - place.row);
    const bool cold = place.tile == 0 && place.row == 0;
    const int64_t soon = (place.block.start + 2 * kBlock) * kSize<kType>;
    for (int64_t r = begin; r < end; ++r) {
      // Nobody may have asked for the first rows: another thread had what lies before them.
      if (cold) {
        const auto* columns = static_cast<const uint8_t*>(tile.rows[place.row + r]) + soon;
        for (int64_t line = 0; line < kBlock * kSize<kType>; line += 64) prefetch(columns + line);
      }
      widen_row<kType>(tile, place.row + r, r, place.block, later(place, r), buffer, weights_);
    }
  }
  // What to ask for while row r of the 32 is widened: the rows behind these, as many bytes, but as
  // they lie in memory and not by columns. Short pieces of many rows would be read at half the
  // speed.
  [[nodiscard]] LS_SIMD const uint8_t* later(const Place& place, int64_t r) const {
    const Tile& tile = tiles_[place.tile];
    const int64_t then = place.row + kPairRows;
    const auto* base = static_cast<const uint8_t*>(then < tile.count      ? tile.rows[then]
                                                   : tile.next != nullptr ? tile.next
                                                                          : tile.rows[place.row]);
    return base + (place.block.start * kPairRows + r * kBlock) * kSize<kType>;
  }

  const Tile* tiles_;
  int64_t count_;
  const PanelView& panels_;
  float* out_;
  WideRows<kPairRows> weights_;
  alignas(64) float sums_[2][kPanels * kPairRows * kSide];
  // Of this block and of the one whose sums are pending.
  RowScales<kPairRows> scales_[2];
};

// More panels: bound by arithmetic. One block of columns of one tile is widened, then used for
// every panel while it lies in the first-level cache, where the next tile's rows are widened to
// meanwhile.
template <RowType kType>
class ManyPanels {
 public:
  ManyPanels(const Tile* tiles, int64_t count, const PanelView& panels, float* out)
      : tiles_(tiles), count_(count), panels_(panels), out_(out) {}

  void run() {
    for (int64_t j = 0; j < count_; ++j) {
      if (tiles_[j].count % kPairRows != 0) weights_.clear();
    }
    Place place{0, block_at(tiles_[0], 0, 0)};
    scales_[0].set(tiles_[0], 0, 0);
    widen(place, 0, kTileRows, 0);
    memory_barrier();
    int buffer = 0;
    while (place.block.length > 0) {
      const Place then = next(place);
      multiply_place(place, then, buffer);
      place = then;
      buffer = 1 - buffer;
    }
    pending_.add_from(0);
  }

 private:
  struct Place {
    int64_t tile = 0;
    ColumnBlock block;
  };
  // The next tile's same columns, after the last tile the first tile's next columns.
  [[nodiscard]] Place next(const Place& place) const {
    if (place.tile + 1 < count_) return {place.tile + 1, place.block};
    return {0, next_block(tiles_[0], place.block)};
  }

  // All panels times the widened rows of `place`; those of `then` are widened meanwhile.
  void multiply_place(const Place& place, const Place& then, int buffer) {
    const int64_t halves = (tiles_[place.tile].count + kPairRows - 1) / kPairRows;
    const int64_t steps = halves * ((panels_.count + 1) / 2) * place.block.steps;
    const int64_t part = (kTileRows + steps - 1) / steps;  // rows that are widened in a step
    int64_t widened = then.block.length > 0 ? 0 : kTileRows;
    const auto meanwhile = [&] {
      if (widened == kTileRows) return;
      widen(then, widened, least(widened + part, kTileRows), 1 - buffer);
      widened = least(widened + part, kTileRows);
    };
    for (int64_t p = 0; p < panels_.count; p += 2) {
      for (int64_t half = 0; half < halves; ++half) {
        const uint32_t* ahead = place.tile == 0 ? panel_ahead(place, then, p, half) : nullptr;
        if (p + 1 < panels_.count) {
          multiply_pair<2>(place, p, half, buffer, ahead, meanwhile);
        } else {
          multiply_pair<1>(place, p, half, buffer, ahead, meanwhile);
        }
      }
    }
    if (widened < kTileRows) widen(then, widened, kTileRows, 1 - buffer);
    if (then.block.length > 0) {
      scales_[1 - buffer].set(tiles_[then.tile], 0, then.block.segment);
    }
    memory_barrier();
  }

  // Panels p and p + 1 times 32 rows.
  template <int kPanels, typename Work>
  LS_SIMD void multiply_pair(const Place& place, int64_t p, int64_t half, int buffer,
                             const uint32_t* ahead, Work meanwhile) {
    constexpr int64_t kPart = kPanels * kPairRows / kSteps;
    const uint32_t* panel = panels_.words + p * panels_.stride + place.block.offset;
    const Pending pending = pending_;
    int64_t added = 0;
    multiply<kPanels>(weights_, buffer, 2 * half, panel, panel + panels_.stride, place.block.steps,
                      sums_[turn_], [&](int64_t k) {
                        if (ahead != nullptr) {
                          for (int64_t i = 0; i < kSide; ++i) {
                            prefetch(ahead + k * kTileWords + i * kSide);
                          }
                        }
                        pending.add<kPart>(added);
                        added += kPart;
                        meanwhile();
                      });
    pending.add_from(added);
    pending_ = {sums_[turn_],
                scales_[buffer].values + half * kPairRows,
                out_ + ((place.tile * panels_.count + p) * kTileRows + half * kPairRows) * kSide,
                kPanels * kPairRows,
                place.block.start == 0,
                scales_[buffer].same};
    turn_ = 1 - turn_;
    memory_barrier();
  }

  // What to ask for: a block of one of the next two panels, which lie far behind; the first tile's
  // two halves ask for one each.
  [[nodiscard]] LS_SIMD const uint32_t* panel_ahead(const Place& place, const Place& then,
                                                    int64_t p, int64_t half) const {
    const int64_t next = p + 2 + half;
    if (next < panels_.count) return panels_.words + next * panels_.stride + place.block.offset;
    if (p + 2 < panels_.count || then.block.length == 0) return nullptr;
    const int64_t again = half < panels_.count ? half : 0;
    const ColumnBlock block = next_block(tiles_[0], place.block);
    return block.length > 0 ? panels_.words + again * panels_.stride + block.offset : nullptr;
  }

  // Rows [begin, end) of that tile; those past its count hold zeros or old numbers, which only rows
  // that nobody reads are made of.
  LS_SIMD void widen(const Place& place, int64_t begin, int64_t end, int buffer) {
    const Tile& tile = tiles_[place.tile];
    const int64_t row_bytes = tile.in * kSize<kType>;
    const int64_t later = (place.block.start + kBlock) * kSize<kType>;
    end = least(end, tile.count);
    for (int64_t r = begin; r < end; ++r) {
      const auto* row = static_cast<const uint8_t*>(tile.rows[r]);
      const auto* after = static_cast<const uint8_t*>(tile.next);
      const uint8_t* ahead = later < row_bytes  ? row + later
                             : after != nullptr ? after + r * tile.next_stride
                                                : row;
      widen_row<kType>(tile, r, r, place.block, ahead, buffer, weights_);
    }
  }

  const Tile* tiles_;
  int64_t count_;
  const PanelView& panels_;
  float* out_;
  Pending pending_;
  int turn_ = 0;
  WideRows<kTileRows> weights_;
  alignas(64) float sums_[2][2 * kPairRows * kSide];
  // Of this place and of the one whose sums are pending.
  RowScales<kTileRows> scales_[2];
};

template <RowType kType>
void product(const Tile* tiles, int64_t count, const PanelView& panels, float* out) {
  if (panels.count == 1) return FewPanels<kType, 1>(tiles, count, panels, out).run();
  if (panels.count == 2) return FewPanels<kType, 2>(tiles, count, panels, out).run();
  ManyPanels<kType>(tiles, count, panels, out).run();
}

// sums [64 rows][16 inputs] -> [16 inputs][64 rows], in place.
void transpose_sums(float* sums) {
  alignas(64) float rows[kTileRows * kSide];
  std::memcpy(rows, sums, sizeof(rows));
  for (int64_t group = 0; group < kGroups; ++group) {
    Vec square[kSide];
    for (int64_t r = 0; r < kSide; ++r) square[r] = load(rows + (group * kSide + r) * kSide);
    transpose(square);
    for (int64_t t = 0; t < kSide; ++t) store(sums + t * kTileRows + group * kSide, square[t]);
  }
}

}  // namespace

void pack_panel(const void* const* inputs, int64_t count, int64_t padded, void* panel) {
  auto* target = static_cast<uint32_t*>(panel);
  for (int64_t i = 0; i < padded; i += kStep) {
    Vec square[kSide];
    for (int64_t t = 0; t < kSide; ++t) {
      square[t] = t < count ? load(static_cast<const uint8_t*>(inputs[t]) + 2 * i) : zero();
    }
    transpose(square);
    for (int64_t k = 0; k < kSide; ++k)
      store(target + i / kStep * kTileWords + k * kSide, square[k]);
  }
}

void panel_product(const Tile* tiles, int64_t tile_count, const void* panels, int64_t panel_bytes,
                   int64_t count, float* out) {
  const PanelView view{static_cast<const uint32_t*>(panels), panel_bytes / 4, count};
  configure();
  if (tiles[0].type == RowType::kFp8) {
    product<RowType::kFp8>(tiles, tile_count, view, out);
  } else {
    product<RowType::kBF16>(tiles, tile_count, view, out);
  }
  _tile_release();
  for (int64_t i = 0; i < tile_count * count; ++i) transpose_sums(out + i * kSide * kTileRows);
}

}  // namespace longshore::kernels::cpu::LONGSHORE_ISA

#endif
