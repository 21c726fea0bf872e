#include "checkpoint/bulk.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "tests/checkpoint/fixture.h"

namespace longshore {
namespace {

constexpr int64_t kPage = int64_t{2} << 20;

// Two files: one of three expert-sized matrices behind a header, one of a matrix and a tail.
const std::vector<int64_t> kSizes{3 * 2048 * 6144 + 5000, 6144 * 2048 + 77};
const std::vector<Matrix> kMatrices{{0, 5000, 2048, 6144},
                                    {0, 5000 + 2048 * 6144, 2048, 6144},
                                    {0, 5000 + 2 * 2048 * 6144, 6144, 2048},
                                    {1, 0, 6144, 2048}};

TEST(Cut, ForNodesCoversEveryByteOnce) {
  for (int nodes = 1; nodes <= 4; ++nodes) {
    std::vector<Piece> pieces = cut_for_nodes(kSizes, kMatrices, 4 * kPage, nodes);
    EXPECT_TRUE(std::is_sorted(pieces.begin(), pieces.end(),
                               [](const Piece& a, const Piece& b) { return a.node < b.node; }));
    std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
      return std::tie(a.range, a.begin) < std::tie(b.range, b.begin);
    });
    std::vector<int64_t> at(kSizes.size(), 0);
    for (const Piece& piece : pieces) {
      EXPECT_EQ(piece.begin, at[piece.range]);
      EXPECT_EQ(piece.begin % kPage, 0);
      EXPECT_GT(piece.bytes, 0);
      EXPECT_LE(piece.bytes, 4 * kPage);
      EXPECT_LT(piece.node, nodes);
      at[piece.range] += piece.bytes;
    }
    EXPECT_EQ(at, kSizes);
  }
}

// What a node's threads compute lies in its memory, but for a page at either end.
TEST(Cut, ForNodesPutsRowsWhereTheyAreComputed) {
  for (int nodes = 2; nodes <= 4; ++nodes) {
    const std::vector<Piece> pieces = cut_for_nodes(kSizes, kMatrices, 4 * kPage, nodes);
    for (const Matrix& matrix : kMatrices) {
      for (int node = 0; node < nodes; ++node) {
        const int64_t begin =
            matrix.begin + row_bound(matrix.rows, node, nodes) * matrix.row_bytes + kPage / 2;
        const int64_t end =
            matrix.begin + row_bound(matrix.rows, node + 1, nodes) * matrix.row_bytes - kPage / 2;
        for (int64_t byte = begin; byte < end; byte += 4096) {
          const auto piece = std::find_if(pieces.begin(), pieces.end(), [&](const Piece& p) {
            return p.range == matrix.range && p.begin <= byte && byte < p.begin + p.bytes;
          });
          ASSERT_NE(piece, pieces.end());
          ASSERT_EQ(piece->node, node) << "byte " << byte << " of range " << matrix.range;
        }
      }
    }
  }
}

TEST(Checkpoint, ReadForSeveralNodesHoldsTheSameBytes) {
  auto mapped = Checkpoint::open(testing::conformance("conf-fp8"));
  auto placed = Checkpoint::open(testing::conformance("conf-fp8"));
  ASSERT_TRUE(mapped && placed);
  const auto read = placed->read_into_memory(3, Topology{{{0}, {1}}}, {}, CancelToken());
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(mapped->tensors().size(), placed->tensors().size());
  for (size_t i = 0; i < mapped->tensors().size(); ++i) {
    const TensorInfo& a = mapped->tensors()[i];
    const TensorInfo& b = placed->tensors()[i];
    ASSERT_EQ(a.bytes, b.bytes);
    EXPECT_EQ(std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes)), 0) << a.name;
  }
}

}  // namespace
}  // namespace longshore
