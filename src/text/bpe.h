// Byte-pair encoding of one piece of text over byte-level symbols.
//
// Source: Sennrich et al. 2016 (arXiv:1508.07909): the adjacent pair with the lowest rank merges
// first, the leftmost of equals; on bytes as in GPT-2. Threading: immutable after build; every
// thread uses its own Scratch.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace longshore::text {

class Bpe {
 public:
  struct Merge {
    int32_t left;
    int32_t right;
    int32_t result;
  };
  struct Symbol {
    int32_t id;
    int32_t previous;  // index, -1: none
    int32_t next;
    int32_t rank;  // of the merge with `next`, kNoRank: none
    int32_t merged;
  };
  struct Candidate {
    int32_t rank;
    int32_t at;
    int32_t merged;
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // tokens: the bytes of every vocabulary entry with its id. merges: in order of rank; of two for
  // one pair the later counts, as in `tokenizers`. ignore_merges: a piece that is an entry is that
  // entry, whatever the merges make of it.
  Bpe(const std::vector<std::pair<std::string, int32_t>>& tokens, const std::vector<Merge>& merges,
      bool ignore_merges);

  // Appends the ids of `piece`. Bytes that are no vocabulary entry are left out, as `tokenizers`
  // does without an unknown token. O(n log n) in the length of the piece.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  struct Slot {
    uint64_t pair = kEmpty;
    int32_t rank = 0;
    int32_t merged = 0;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view bytes) const { return std::hash<std::string_view>()(bytes); }
  };

  [[nodiscard]] size_t slot_of(uint64_t pair) const;
  void rank_pair(Symbol& left, const std::vector<Symbol>& symbols) const;
  void load(std::string_view piece, std::vector<Symbol>& symbols) const;
  // Merges symbols[at] with its successor and ranks the pairs on both sides anew.
  void merge_at(int32_t at, std::vector<Symbol>& symbols) const;
  void merge_short(std::vector<Symbol>& symbols) const;
  void merge_long(Scratch& scratch) const;
  void merge_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

  std::array<int32_t, 256> byte_ids_;  // -1: no entry
  std::vector<Slot> slots_;            // open addressing, a power of two
  uint32_t shift_ = 0;                 // of the hash
  // Entries that a piece of the same bytes encodes to, the common case for whole words.
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> whole_;
};

}  // namespace longshore::text
