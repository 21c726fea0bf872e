#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/check.h"

namespace longshore::text {
namespace {

constexpr int32_t kNoRank = std::numeric_limits<int32_t>::max();
// Up to this many symbols a scan for the lowest rank is faster than a heap.
constexpr size_t kShortPiece = 48;

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

// std::*_heap keep the greatest first: the order is reversed, so that the lowest rank, then the
// leftmost comes first.
bool later(const Bpe::Candidate& a, const Bpe::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
}

}  // namespace

Bpe::Bpe(const std::vector<std::pair<std::string, int32_t>>& tokens,
         const std::vector<Merge>& merges, bool ignore_merges) {
  byte_ids_.fill(-1);
  for (const auto& [bytes, id] : tokens) {
    if (bytes.size() == 1) byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
  }
  const size_t size = std::bit_ceil(std::max<size_t>(16, 2 * merges.size()));
  slots_.resize(size);
  shift_ = 64 - static_cast<uint32_t>(std::countr_zero(size));
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t pair = pair_key(merges[rank].left, merges[rank].right);
    slots_[slot_of(pair)] = {pair, static_cast<int32_t>(rank), merges[rank].result};
  }
  Scratch scratch;
  std::vector<int32_t> ids;
  for (const auto& [bytes, id] : tokens) {
    ids.clear();
    if (!ignore_merges) merge_piece(bytes, scratch, ids);
    if (ignore_merges || (ids.size() == 1 && ids[0] == id)) whole_.emplace(bytes, id);
  }
}

size_t Bpe::slot_of(uint64_t pair) const {
  // Fibonacci hashing; the table is at most half full.
  size_t slot = (pair * 0x9E3779B97F4A7C15ULL) >> shift_;
  while (slots_[slot].pair != pair && slots_[slot].pair != kEmpty) {
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return slot;
}

void Bpe::rank_pair(Symbol& left, const std::vector<Symbol>& symbols) const {
  left.rank = kNoRank;
  if (left.next < 0) return;
  const uint64_t pair = pair_key(left.id, symbols[static_cast<size_t>(left.next)].id);
  const Slot& slot = slots_[slot_of(pair)];
  if (slot.pair != pair) return;
  left.rank = slot.rank;
  left.merged = slot.merged;
}

void Bpe::load(std::string_view piece, std::vector<Symbol>& symbols) const {
  symbols.clear();
  for (const char byte : piece) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id < 0) continue;
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1, kNoRank, 0});
  }
  if (!symbols.empty()) symbols.back().next = -1;
  for (Symbol& symbol : symbols) rank_pair(symbol, symbols);
}

void Bpe::merge_at(int32_t at, std::vector<Symbol>& symbols) const {
  Symbol& left = symbols[static_cast<size_t>(at)];
  Symbol& right = symbols[static_cast<size_t>(left.next)];
  left.id = left.merged;
  left.next = right.next;
  right.id = -1;
  right.rank = kNoRank;
  if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = at;
  rank_pair(left, symbols);
  if (left.previous >= 0) rank_pair(symbols[static_cast<size_t>(left.previous)], symbols);
}

void Bpe::merge_short(std::vector<Symbol>& symbols) const {
  while (true) {
    int32_t best = -1;
    int32_t best_rank = kNoRank;
    for (int32_t at = 0; at >= 0; at = symbols[static_cast<size_t>(at)].next) {
      const int32_t rank = symbols[static_cast<size_t>(at)].rank;
      if (rank < best_rank) {
        best_rank = rank;
        best = at;
      }
    }
    if (best < 0) return;
    merge_at(best, symbols);
  }
}

void Bpe::merge_long(Scratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& heap = scratch.heap;
  heap.clear();
  for (size_t at = 0; at < symbols.size(); ++at) {
    if (symbols[at].rank != kNoRank) {
      heap.push_back({symbols[at].rank, static_cast<int32_t>(at), symbols[at].merged});
    }
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto push = [&](int32_t at) {
    const Symbol& symbol = symbols[static_cast<size_t>(at)];
    if (symbol.rank == kNoRank) return;
    heap.push_back({symbol.rank, at, symbol.merged});
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate candidate = heap.back();
    heap.pop_back();
    const Symbol& symbol = symbols[static_cast<size_t>(candidate.at)];
    // A neighbour has merged since this pair was queued.
    if (symbol.rank != candidate.rank || symbol.merged != candidate.merged) continue;
    merge_at(candidate.at, symbols);
    push(candidate.at);
    if (symbol.previous >= 0) push(symbol.previous);
  }
}

void Bpe::merge_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  LS_CHECK(piece.size() < static_cast<size_t>(kNoRank));
  std::vector<Symbol>& symbols = scratch.symbols;
  load(piece, symbols);
  if (symbols.empty()) return;
  if (symbols.size() <= kShortPiece) {
    merge_short(symbols);
  } else {
    merge_long(scratch);
  }
  for (int32_t at = 0; at >= 0; at = symbols[static_cast<size_t>(at)].next) {
    ids.push_back(symbols[static_cast<size_t>(at)].id);
  }
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (const auto entry = whole_.find(piece); entry != whole_.end()) {
    ids.push_back(entry->second);
    return;
  }
  merge_piece(piece, scratch, ids);
}

}  // namespace longshore::text
