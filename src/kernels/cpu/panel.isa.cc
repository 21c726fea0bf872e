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
constexpr int kGroups = kTileRows / kSide;

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

constexpr int64_t kGroupWords = kBlock / kStep * kTileWords;  // one block of 16 rows
constexpr int64_t kTileBlock = kGroups * kGroupWords;         // one block of a whole tile
constexpr int64_t kFewPanels = 2;                             // up to here memory decides
constexpr int64_t kFewRows = 32;

LS_SIMD int64_t groups_of(int64_t rows) {
  return (rows + kSide - 1) / kSide;
}

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

// weights[group][step][row of the group][16 words] = row r's elements of the block, zeros behind
// them. Asks for `later`, one block's bytes, meanwhile.
template <RowType kType>
LS_SIMD void widen_row(const Tile& tile, int64_t r, int64_t place, const ColumnBlock& block,
                       const uint8_t* later, uint32_t* weights) {
  const uint8_t* row = static_cast<const uint8_t*>(tile.rows[r]) + block.start * kSize<kType>;
  uint32_t* target = weights + place / kSide * kGroupWords + place % kSide * kSide;
  for (int64_t line = 0; line < kBlock * kSize<kType>; line += 64) prefetch(later + line);
  for (int64_t i = 0; i < block.steps * kStep; i += kChunk) {
    Vec pairs[2];
    if (i + kChunk <= block.length) {
      widen<kType>(row + i * kSize<kType>, pairs);
    } else {
      alignas(64) uint8_t buffer[kChunk * 2] = {};
      std::memcpy(buffer, row + i * kSize<kType>,
                  static_cast<size_t>((block.length - i) * kSize<kType>));
      widen<kType>(buffer, pairs);
    }
    store(target + i / kStep * kTileWords, pairs[0]);
    store(target + (i / kStep + 1) * kTileWords, pairs[1]);
  }
}

// Sums of one block that still have to be scaled and added to the result: done while the next
// products run, since these instructions use other units than tile products do.
struct Pending {
  const float* sums = nullptr;  // [rows][16 inputs]
  const float* scales = nullptr;
  float* out = nullptr;  // [rows][16 inputs]
  int64_t rows = 0;
  bool first = false;  // of the result's columns

  LS_SIMD void add(int64_t begin, int64_t end) const {
    end = least(end, rows);
    if (first) {
      for (int64_t r = begin; r < end; ++r) {
        store(out + r * kSide, mul(load(sums + r * kSide), broadcast(scales[r])));
      }
    } else {
      for (int64_t r = begin; r < end; ++r) {
        float* sum = out + r * kSide;
        store(sum, fma(load(sums + r * kSide), broadcast(scales[r]), load(sum)));
      }
    }
  }
};

// sums[group of rows][row][input] = weights . panel over `steps` steps; work(k) runs after step k.
template <int kCount, typename Work>
LS_SIMD void multiply(const uint32_t* weights, const uint32_t* panel, int64_t steps, float* sums,
                      Work work) {
  constexpr int64_t kRowBytes = 4 * kSide;
  _tile_zero(0);
  if constexpr (kCount > 1) _tile_zero(1);
  if constexpr (kCount > 2) _tile_zero(2);
  if constexpr (kCount > 3) _tile_zero(3);
  for (int64_t k = 0; k < steps; ++k) {
    const uint32_t* w = weights + k * kTileWords;
    _tile_loadd(7, panel + k * kTileWords, kRowBytes);
    _tile_loadd(4, w, kRowBytes);
    _tile_dpbf16ps(0, 4, 7);
    if constexpr (kCount > 1) {
      _tile_loadd(5, w + kGroupWords, kRowBytes);
      _tile_dpbf16ps(1, 5, 7);
    }
    if constexpr (kCount > 2) {
      _tile_loadd(6, w + 2 * kGroupWords, kRowBytes);
      _tile_dpbf16ps(2, 6, 7);
    }
    if constexpr (kCount > 3) {
      _tile_loadd(4, w + 3 * kGroupWords, kRowBytes);
      _tile_dpbf16ps(3, 4, 7);
    }
    work(k);
  }
  _tile_stored(0, sums, kRowBytes);
  if constexpr (kCount > 1) _tile_stored(1, sums + kTileWords, kRowBytes);
  if constexpr (kCount > 2) _tile_stored(2, sums + 2 * kTileWords, kRowBytes);
  if constexpr (kCount > 3) _tile_stored(3, sums + 3 * kTileWords, kRowBytes);
  memory_barrier();
}

// The same for 1 to 4 groups.
template <typename Work>
LS_SIMD void multiply_groups(int64_t groups, const uint32_t* weights, const uint32_t* panel,
                             int64_t steps, float* sums, Work work) {
  switch (groups) {
    case 1:
      return multiply<1>(weights, panel, steps, sums, work);
    case 2:
      return multiply<2>(weights, panel, steps, sums, work);
    case 3:
      return multiply<3>(weights, panel, steps, sums, work);
    default:
      return multiply<4>(weights, panel, steps, sums, work);
  }
}

// scales[row, row + rows) of the tile, and 1 for the rows that complete a group.
void load_scales(const Tile& tile, int64_t row, int64_t rows, int64_t segment, float* scales) {
  const int64_t end = least(row + rows, tile.count);
  const bool scaled = tile.scales[row] != nullptr;  // all or none of a matrix
  for (int64_t r = row; r < end; ++r) scales[r] = scaled ? tile.scales[r][segment] : 1.0f;
  for (int64_t r = end; r < row + rows; ++r) scales[r] = 1.0f;
}

struct PanelView {
  const uint32_t* words;
  int64_t stride;  // words from one panel to the next
  int64_t count;
};

// Few inputs: bound by memory and by widening. 32 rows at a time, column by column; the next block
// is widened while this one is multiplied.
template <RowType kType>
class FewPanels {
 public:
  FewPanels(const Tile& tile, const PanelView& panels, float* out)
      : tile_(tile), panels_(panels), out_(out) {}

  void run() {
    int64_t row = 0;
    ColumnBlock block = block_at(tile_, 0, 0);
    int buffer = 0;
    widen(row, block, 0, kFewRows, buffer);
    memory_barrier();
    Pending pending;
    int turn = 0;
    while (row < tile_.count) {
      int64_t next_row = row;
      ColumnBlock then = next_block(tile_, block);
      if (then.length == 0) {
        next_row += kFewRows;
        then = block_at(tile_, 0, 0);
      }
      const bool more = next_row < tile_.count;
      const int64_t rows = least(kFewRows, tile_.count - row);
      load_scales(tile_, row, kFewRows, block.segment, scales_[buffer]);
      for (int64_t p = 0; p < panels_.count; ++p) {
        constexpr int64_t kPart = kFewRows * kStep / kBlock;  // rows of one step's work
        int64_t widened = p == 0 && more ? 0 : kFewRows;
        int64_t added = 0;
        multiply_groups(groups_of(rows), weights_[buffer],
                        panels_.words + p * panels_.stride + block.offset, block.steps, sums_[turn],
                        [&](int64_t) {
                          pending.add(added, added + kPart);
                          added += kPart;
                          if (widened == kFewRows) return;
                          widen(next_row, then, widened, widened + kPart, 1 - buffer);
                          widened += kPart;
                        });
        pending.add(added, kFewRows);
        if (widened < kFewRows) widen(next_row, then, widened, kFewRows, 1 - buffer);
        pending = {sums_[turn], scales_[buffer] + row, out_ + p * kSide * kTileRows + row * kSide,
                   groups_of(rows) * kSide, block.start == 0};
        turn = 1 - turn;
        memory_barrier();
      }
      row = next_row;
      block = then;
      buffer = 1 - buffer;
    }
    pending.add(0, kFewRows);
  }

 private:
  // Rows [begin, end) of the 32 from `row` on.
  LS_SIMD void widen(int64_t row, const ColumnBlock& block, int64_t begin, int64_t end,
                     int buffer) {
    const int64_t rows = least(kFewRows, tile_.count - row);
    for (int64_t r = begin; r < end; ++r) {
      if (r < rows) {
        widen_row<kType>(tile_, row + r, r, block, later(row, r, block.start), weights_[buffer]);
      } else if (r < groups_of(rows) * kSide) {
        uint32_t* target = weights_[buffer] + r / kSide * kGroupWords + r % kSide * kSide;
        for (int64_t k = 0; k < block.steps; ++k) store(target + k * kTileWords, zero());
      }
    }
  }
  // What to ask for while row r of the group at `row` is widened from column `start` on: the rows
  // behind the group, as many bytes, but as they lie in memory and not by columns. Short pieces of
  // many rows would be read at half the speed.
  [[nodiscard]] LS_SIMD const uint8_t* later(int64_t row, int64_t r, int64_t start) const {
    const int64_t then = row + kFewRows;
    const auto* base = static_cast<const uint8_t*>(then < tile_.count      ? tile_.rows[then]
                                                   : tile_.next != nullptr ? tile_.next
                                                                           : tile_.rows[row]);
    return base + (start * kFewRows + r * kBlock) * kSize<kType>;
  }

  const Tile& tile_;
  const PanelView& panels_;
  float* out_;
  alignas(64) uint32_t weights_[2][kFewRows / kSide * kGroupWords];
  alignas(64) float sums_[2][kFewRows * kSide];
  alignas(64) float scales_[2][kTileRows];  // of this block and of the one whose sums are pending
};

// Many inputs: bound by arithmetic. One block of columns of all tiles is widened, then used for
// every panel.
template <RowType kType>
void many_panels(const Tile* tiles, int64_t count, const PanelView& panels, float* out) {
  alignas(64) uint32_t weights[kMostTiles * kTileBlock];
  alignas(64) float scales[kMostTiles * kTileRows];
  alignas(64) float sums[2][kTileRows * kSide];
  for (int64_t j = 0; j < count; ++j) {
    // Rows past the count stay zero.
    if (tiles[j].count % kSide != 0) {
      std::memset(weights + j * kTileBlock, 0, kTileBlock * sizeof(uint32_t));
    }
  }
  const int64_t row_bytes = tiles[0].in * kSize<kType>;
  for (ColumnBlock block = block_at(tiles[0], 0, 0); block.length > 0;
       block = next_block(tiles[0], block)) {
    const int64_t later = (block.start + kBlock) * kSize<kType>;
    for (int64_t j = 0; j < count; ++j) {
      load_scales(tiles[j], 0, kTileRows, block.segment, scales + j * kTileRows);
      for (int64_t r = 0; r < tiles[j].count; ++r) {
        const auto* row = static_cast<const uint8_t*>(tiles[j].rows[r]);
        const auto* next = static_cast<const uint8_t*>(tiles[j].next);
        const uint8_t* ahead = later < row_bytes ? row + later
                               : next != nullptr ? next + r * row_bytes
                                                 : row;
        widen_row<kType>(tiles[j], r, r, block, ahead, weights + j * kTileBlock);
      }
    }
    memory_barrier();
    Pending pending;
    int turn = 0;
    for (int64_t p = 0; p < panels.count; ++p) {
      const uint32_t* panel = panels.words + p * panels.stride + block.offset;
      for (int64_t j = 0; j < count; ++j) {
        int64_t added = 0;
        // The next panel's part of this block lies far behind.
        const uint32_t* next = j == 0 && p + 1 < panels.count ? panel + panels.stride : panel;
        multiply_groups(groups_of(tiles[j].count), weights + j * kTileBlock, panel, block.steps,
                        sums[turn], [&](int64_t k) {
                          if (j == 0) {
                            for (int64_t i = 0; i < kSide; ++i) {
                              prefetch(next + k * kTileWords + i * kSide);
                            }
                          }
                          pending.add(added, added + kSide);
                          added += kSide;
                        });
        pending.add(added, kTileRows);
        pending = {sums[turn], scales + j * kTileRows,
                   out + (j * panels.count + p) * kSide * kTileRows,
                   groups_of(tiles[j].count) * kSide, block.start == 0};
        turn = 1 - turn;
      }
    }
    pending.add(0, kTileRows);
  }
}

template <RowType kType>
void product(const Tile* tiles, int64_t count, const PanelView& panels, float* out) {
  if (panels.count > kFewPanels) return many_panels<kType>(tiles, count, panels, out);
  for (int64_t j = 0; j < count; ++j) {
    FewPanels<kType>(tiles[j], panels, out + j * panels.count * kSide * kTileRows).run();
  }
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
