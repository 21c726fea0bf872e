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

// Some rows of a tile, and one block of their columns.
struct Place {
  int64_t tile = 0;
  int64_t row = 0;
  bool first_rows = true;  // of the first tile
  ColumnBlock block;

  [[nodiscard]] bool end() const { return block.length == 0; }
};

// Two buffers of one place's widened rows, in tiles of 16 rows x 32 elements: one is written while
// the other is multiplied.
class WideRows {
 public:
  // rows: most of a place, 32 or 64.
  explicit WideRows(int64_t rows) : buffer_words_(rows * kSide) {}
  void clear() { std::memset(words_, 0, sizeof(words_)); }

  // The tiles of the first step, of 16 rows each: rows lie one behind the other.
  [[nodiscard]] LS_SIMD uint32_t* buffer(int b) { return words_ + b * buffer_words_; }
  // From one step to the next.
  [[nodiscard]] LS_SIMD int64_t step_words() const { return 2 * buffer_words_; }

 private:
  int64_t buffer_words_;
  // A step of 32 rows' two buffers fills a page: a processor takes a load from where a recent store
  // went, in the lowest 12 bits of the address, for one that has to wait. A step of 64 rows fills a
  // page for each buffer, and so all sets of the first-level cache alike.
  alignas(4096) uint32_t words_[kSteps * 2 * kTileRows * kSide];
};

// Widens the rows of a place, some at a time, and asks for bytes that are read later.
template <RowType kType>
class Widening {
 public:
  // in_order: the rows are read as a whole and those behind them next, not some columns of many.
  void start(const Tile& tile, const Place& place, int64_t rows, bool in_order, uint32_t* target,
             int64_t step_words) {
    block_ = place.block;
    rows_ = tile.rows + place.row;
    row_ = 0;
    end_ = least(rows, tile.count - place.row);
    target_ = target;
    step_words_ = step_words;
    cold_ = in_order && place.first_rows;
    const auto* base = static_cast<const uint8_t*>(tile.rows[place.row]);
    const auto* next = static_cast<const uint8_t*>(tile.next);
    const int64_t row_bytes = tile.in * kSize<kType>;
    if (in_order) {
      // As many bytes of the rows behind these, but as they lie in memory and not by columns. Short
      // pieces of many rows would be read at half the speed.
      const int64_t then = place.row + rows;
      if (then < tile.count) next = static_cast<const uint8_t*>(tile.rows[then]);
      later_ = (next != nullptr ? next : base) + block_.start * rows * kSize<kType>;
      later_stride_ = kBlock * kSize<kType>;
    } else {
      const int64_t offset = (block_.start + kBlock) * kSize<kType>;
      later_ = offset < row_bytes ? base + offset
               : next != nullptr  ? next + place.row * row_bytes
                                  : base;
      later_stride_ = row_bytes;
    }
  }
  [[nodiscard]] int64_t left() const { return end_ - row_; }

  // The next `count` rows, as far as there are any. Out of line: what runs between two products
  // should fit the processor's cache of decoded instructions.
  [[gnu::noinline]] void advance(int64_t count) {
    const int64_t end = least(row_ + count, end_);
    if (block_.length == kBlock) {
      widen_rows<true>(end);
    } else {
      widen_rows<false>(end);
    }
  }

 private:
  template <bool kWhole>
  LS_SIMD void widen_rows(int64_t end) {
    const int64_t start = block_.start * kSize<kType>;
    const int64_t length = block_.length;
    const void* const* rows = rows_;
    const bool cold = cold_;
    const int64_t later_stride = later_stride_;
    const uint8_t* later = later_ + row_ * later_stride;
    const int64_t step_words = step_words_;
    uint32_t* target = target_ + row_ * kSide;
    for (int64_t r = row_; r < end; ++r, later += later_stride, target += kSide) {
      const uint8_t* row = static_cast<const uint8_t*>(rows[r]) + start;
      ask(later);
      // Nobody may have asked for the first rows: another thread had what lies before them.
      if (cold) ask(row + 2 * kBlock * kSize<kType>);
      if constexpr (kWhole) {
        widen_chunk(row, target, step_words);
        widen_chunk(row + kChunk * kSize<kType>, target + 2 * step_words, step_words);
      } else {
        widen_short(row, length, target, step_words);
      }
    }
    row_ = end;
  }
  // One block's bytes.
  LS_SIMD static void ask(const uint8_t* p) {
    for (int64_t line = 0; line < kBlock * kSize<kType>; line += 64) prefetch(p + line);
  }
  // With zeros behind the block's elements.
  static void widen_short(const uint8_t* row, int64_t length, uint32_t* target,
                          int64_t step_words) {
    for (int64_t i = 0; i < length; i += kChunk, target += 2 * step_words) {
      alignas(64) uint8_t bytes[kChunk * 2] = {};
      std::memcpy(bytes, row + i * kSize<kType>,
                  static_cast<size_t>(least(kChunk, length - i) * kSize<kType>));
      widen_chunk(bytes, target, step_words);
    }
  }
  // 64 elements, two steps.
  LS_SIMD static void widen_chunk(const uint8_t* p, uint32_t* target, int64_t step_words) {
    Vec pairs[2];
    if constexpr (kType == RowType::kFp8) {
      load_fp8_pairs(p, pairs);
    } else {
      pairs[0] = load(p);
      pairs[1] = load(p + 64);
    }
    store(target, pairs[0]);
    store(target + step_words, pairs[1]);
  }

  ColumnBlock block_;
  const void* const* rows_ = nullptr;
  int64_t row_ = 0;  // the next
  int64_t end_ = 0;
  uint32_t* target_ = nullptr;
  int64_t step_words_ = 0;
  bool cold_ = false;
  // One block's bytes that are read later than row r: later_ + r * later_stride_.
  const uint8_t* later_ = nullptr;
  int64_t later_stride_ = 0;
};

// Where the scales of a place's rows are, of all columns.
struct RowScales {
  const float* const* rows = nullptr;
  bool same = false;  // for all of them

  void set(const Tile& tile, int64_t row, int64_t count) {
    rows = tile.scales + row;
    same = true;
    for (int64_t r = 1; r < least(count, tile.count - row); ++r) same &= rows[r] == rows[0];
  }
};

// Sums of one block, 32 rows times one panel or two, that still have to be scaled and added to the
// result: done while the next products run, since these instructions use other units than tile
// products do.
class PendingSums {
 public:
  PendingSums() = default;
  // sums [panels][32 rows][16 inputs], of which `rows` have scales; out [panels][64 rows][16
  // inputs], from the first of the rows on.
  PendingSums(const float* sums, const float* const* scales, bool same_scale,
              const ColumnBlock& block, int64_t rows, float* out, int64_t panels)
      : sums_(sums),
        scales_(scales),
        segment_(block.segment),
        rows_(rows),
        out_(out),
        lines_(panels * kPairRows),
        first_(block.start == 0),
        one_scale_(same_scale || rows == 1) {}

  // The next kCount lines, as far as there are any; kCount divides 32.
  template <int64_t kCount>
  LS_SIMD void add() {
    if (next_ >= lines_) return;
    const int64_t r = next_ % kPairRows;
    const float* from = sums_ + next_ * kSide;
    float* to = out_ + (next_ / kPairRows * kTileRows + r) * kSide;
    next_ += kCount;
    if (!first_ && one_scale_) {  // all but a few
      Vec scale = broadcast(scale_of(0));
      in_register(scale);
#pragma GCC unroll 32
      for (int64_t i = 0; i < kCount; ++i) {
        store(to + i * kSide, fma(load(from + i * kSide), scale, load(to + i * kSide)));
      }
      return;
    }
    for (int64_t i = 0; i < kCount; ++i) {
      const Vec scale = broadcast(scale_of(r + i));
      const Vec sum = load(from + i * kSide);
      float* line = to + i * kSide;
      store(line, first_ ? mul(sum, scale) : fma(sum, scale, load(line)));
    }
  }
  void add_all() {
    while (next_ < lines_) add<kPairRows / kSteps>();
  }

 private:
  [[nodiscard]] LS_SIMD float scale_of(int64_t r) const {
    return r < rows_ && scales_[r] != nullptr ? scales_[r][segment_] : 1.0f;
  }

  const float* sums_ = nullptr;
  const float* const* scales_ = nullptr;
  int64_t segment_ = 0;
  int64_t rows_ = 0;
  float* out_ = nullptr;
  int64_t lines_ = 0;
  int64_t next_ = 0;
  bool first_ = false;
  bool one_scale_ = false;
};

struct PanelView {
  const uint32_t* words;
  int64_t stride;  // words from one panel to the next
  int64_t count;
};

// Tiles times panels: one block of columns of some rows is widened, then multiplied with every
// panel, while the next place's rows are widened, the last sums are added and what comes later is
// asked for. 32 rows times two panels at a time is the shape that uses each loaded tile twice.
//
// One or two panels: bound by memory and by widening; 32 rows after 32 rows, as they lie. More
// panels: bound by arithmetic; the same columns of all rows, 64 at a time, then the next columns,
// so that the panels' columns stay in the second-level cache.
template <RowType kType>
class PanelProduct {
 public:
  PanelProduct(const Tile* tiles, int64_t count, const PanelView& panels, float* out)
      : tiles_(tiles),
        count_(count),
        panels_(panels),
        out_(out),
        in_order_(panels.count <= 2),
        rows_(in_order_ ? kPairRows : kTileRows),
        weights_(rows_) {
    for (int64_t j = 0; j < count; ++j) {
      if (tiles[j].count % kPairRows != 0) weights_.clear();
    }
  }

  void run() {
    Place place;
    place.block = block_at(tiles_[0], 0, 0);
    start(place, 0);
    widening_.advance(kTileRows);
    for (int turn = 0; !place.end(); turn = 1 - turn) {
      const Place then = next(place);
      if (!then.end()) start(then, 1 - turn);
      multiply(place, turn);
      widening_.advance(kTileRows);
      place = then;
    }
    pending_.add_all();
  }

 private:
  void start(const Place& place, int buffer) {
    widening_.start(tiles_[place.tile], place, rows_, in_order_, weights_.buffer(buffer),
                    weights_.step_words());
  }
  [[nodiscard]] Place next(const Place& place) const {
    Place then = place;
    if (in_order_) {
      then.block = next_block(tiles_[0], place.block);
      if (then.end() && next_rows(then)) then.block = block_at(tiles_[0], 0, 0);
    } else if (!next_rows(then)) {
      then = {};
      then.block = next_block(tiles_[0], place.block);
    }
    return then;
  }
  // False at the end.
  [[nodiscard]] bool next_rows(Place& place) const {
    place.first_rows = false;
    place.row += rows_;
    if (place.row < tiles_[place.tile].count) return true;
    place.row = 0;
    return ++place.tile < count_;
  }

  // All panels times the widened rows of `place`.
  void multiply(const Place& place, int buffer) {
    const Tile& tile = tiles_[place.tile];
    if (place.block.start == 0 || !in_order_) scales_.set(tile, place.row, rows_);
    const int64_t rows = least(rows_, tile.count - place.row);
    const int64_t halves = (rows + kPairRows - 1) / kPairRows;
    const int64_t steps = halves * ((panels_.count + 1) / 2) * place.block.steps;
    part_ = (widening_.left() + steps - 1) / steps;
    for (int64_t p = 0; p < panels_.count; p += 2) {
      for (int64_t half = 0; half < halves; ++half) {
        if (p + 1 < panels_.count) {
          multiply_half<2>(place, p, half, buffer);
        } else {
          multiply_half<1>(place, p, half, buffer);
        }
      }
    }
  }

  // Panels p and p + 1 times 32 rows.
  template <int kPanels>
  void multiply_half(const Place& place, int64_t p, int64_t half, int buffer) {
    const uint32_t* weights = weights_.buffer(buffer) + half * kPairRows * kSide;
    const uint32_t* panel = panels_.words + p * panels_.stride + place.block.offset;
    const uint32_t* ahead = panel_ahead(place, p, half);
    if (place.block.steps == kSteps) {
      multiply_steps<kPanels, kSteps>(weights, panel, ahead);
    } else {
      multiply_steps<kPanels, kSteps / 2>(weights, panel, ahead);
    }
    pending_.add_all();
    const int64_t row = half * kPairRows;
    pending_ = {sums_[turn_],
                scales_.rows + row,
                scales_.same,
                place.block,
                tiles_[place.tile].count - place.row - row,
                out_ + ((place.tile * panels_.count + p) * kTileRows + place.row + row) * kSide,
                kPanels};
    turn_ = 1 - turn_;
  }

  // sums_[turn_] [panel][row][input] = 32 rows . kPanels panels over kCount steps.
  template <int kPanels, int kCount>
  LS_SIMD void multiply_steps(const uint32_t* weights, const uint32_t* panel,
                              const uint32_t* ahead) {
    constexpr int64_t kRowBytes = 4 * kSide;
    const int64_t step_words = weights_.step_words();
    const int64_t second = panels_.stride;
    float* sums = sums_[turn_];
    memory_barrier();
    _tile_zero(0);
    _tile_zero(2);
    if constexpr (kPanels > 1) {
      _tile_zero(1);
      _tile_zero(3);
    }
#pragma GCC unroll 4
    for (int64_t k = 0; k < kCount; ++k, weights += step_words, panel += kTileWords) {
      _tile_loadd(4, weights, kRowBytes);
      _tile_loadd(6, panel, kRowBytes);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (kPanels > 1) {
        _tile_loadd(7, panel + second, kRowBytes);
        _tile_dpbf16ps(1, 4, 7);
      }
      _tile_loadd(5, weights + kTileWords, kRowBytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kPanels > 1) _tile_dpbf16ps(3, 5, 7);
      if (ahead != nullptr) {
        for (int64_t i = 0; i < kSide; ++i) prefetch(ahead + k * kTileWords + i * kSide);
      }
      pending_.add<kPanels * kPairRows / kCount>();
      if (widening_.left() > 0) widening_.advance(part_);
    }
    _tile_stored(0, sums, kRowBytes);
    _tile_stored(2, sums + kTileWords, kRowBytes);
    if constexpr (kPanels > 1) {
      _tile_stored(1, sums + 2 * kTileWords, kRowBytes);
      _tile_stored(3, sums + 3 * kTileWords, kRowBytes);
    }
    memory_barrier();
  }

  // What to ask for: a block of one of the next two panels, which lie far behind; the first rows'
  // two halves ask for one each.
  [[nodiscard]] LS_SIMD const uint32_t* panel_ahead(const Place& place, int64_t p,
                                                    int64_t half) const {
    if (in_order_ || !place.first_rows) return nullptr;
    const int64_t next = p + 2 + half;
    if (next < panels_.count) return panels_.words + next * panels_.stride + place.block.offset;
    if (p + 2 < panels_.count) return nullptr;
    const ColumnBlock block = next_block(tiles_[0], place.block);
    return block.length > 0 ? panels_.words + half * panels_.stride + block.offset : nullptr;
  }

  const Tile* tiles_;
  int64_t count_;
  const PanelView& panels_;
  float* out_;
  bool in_order_;
  int64_t rows_;  // of a place
  Widening<kType> widening_;
  WideRows weights_;
  int64_t part_ = 0;  // rows that are widened after a step
  RowScales scales_;
  PendingSums pending_;
  int turn_ = 0;
  alignas(64) float sums_[2][2 * kPairRows * kSide];
};

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
    PanelProduct<RowType::kFp8>(tiles, tile_count, view, out).run();
  } else {
    PanelProduct<RowType::kBF16>(tiles, tile_count, view, out).run();
  }
  _tile_release();
  for (int64_t i = 0; i < tile_count * count; ++i) transpose_sums(out + i * kSide * kTileRows);
}

}  // namespace longshore::kernels::cpu::LONGSHORE_ISA

#endif
