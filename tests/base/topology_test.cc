#include "base/topology.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longshore {
namespace {

using testing::ElementsAre;

class FakeSystem {
 public:
  FakeSystem() {
    std::string pattern = testing::TempDir() + "/nodesXXXXXX";
    folder = mkdtemp(pattern.data());
  }
  ~FakeSystem() { std::filesystem::remove_all(folder); }
  void node(int number, const std::string& cpus) const {
    const std::string path = folder + "/node" + std::to_string(number);
    std::filesystem::create_directory(path);
    std::ofstream(path + "/cpulist") << cpus << '\n';
  }
  std::string folder;
};

std::vector<std::pair<int, int>> pairs(const std::vector<Seat>& seats) {
  std::vector<std::pair<int, int>> pairs;
  for (const Seat& seat : seats) pairs.emplace_back(seat.node, seat.cpu);
  return pairs;
}

TEST(CpuList, IsReadAsTheKernelWritesIt) {
  EXPECT_EQ(parse_cpu_list("0-3,8,10-11\n"), (std::vector<int>{0, 1, 2, 3, 8, 10, 11}));
  EXPECT_EQ(parse_cpu_list("7"), std::vector<int>{7});
  EXPECT_EQ(parse_cpu_list("\n"), std::vector<int>{});
  for (const char* broken : {"a", "3-1", "0-", "-1", "1,,2", "1,", "0-99999999", "1 2"}) {
    EXPECT_EQ(parse_cpu_list(broken), std::nullopt) << broken;
  }
}

TEST(Topology, HasTheNodesOfTheCpusThatMayBeUsed) {
  FakeSystem system;
  system.node(1, "4-7");
  system.node(0, "0-3");
  system.node(2, "");  // memory alone
  system.node(10, "8-9");
  std::ofstream(system.folder + "/possible") << "0-10\n";
  EXPECT_THAT(read_topology(system.folder, {1, 2, 5, 6}).nodes,
              ElementsAre(ElementsAre(1, 2), ElementsAre(5, 6)));
  EXPECT_THAT(read_topology(system.folder, {9, 3}).nodes,
              ElementsAre(ElementsAre(3), ElementsAre(9)));
}

TEST(Topology, IsOneNodeWhereTheSystemDoesNotTellOfEveryCpu) {
  FakeSystem system;
  EXPECT_THAT(read_topology(system.folder + "/none", {0, 1}).nodes, ElementsAre(ElementsAre(0, 1)));
  system.node(0, "0");
  EXPECT_THAT(read_topology(system.folder, {0, 1}).nodes, ElementsAre(ElementsAre(0, 1)));
  system.node(1, "what");
  EXPECT_THAT(read_topology(system.folder, {0, 1}).nodes, ElementsAre(ElementsAre(0, 1)));
}

TEST(Topology, OfThisMachineHasEveryCpuOnce) {
  size_t cpus = 0;
  for (const auto& node : machine_topology().nodes) cpus += node.size();
  EXPECT_GE(cpus, 1U);
}

TEST(Seats, AlternateBetweenNodesAndStartAgainWhenCpusRunOut) {
  const Topology uneven{{{0, 1, 2}, {8}}};
  EXPECT_THAT(pairs(seats(uneven, 6)),
              ElementsAre(std::pair(0, 0), std::pair(1, 8), std::pair(0, 1), std::pair(0, 2),
                          std::pair(0, 0), std::pair(1, 8)));
  EXPECT_THAT(pairs(seats(uneven, 1)), ElementsAre(std::pair(0, 0)));
}

TEST(RowBound, SplitsEveryMatrixIntoWholeTilesAndLosesNoRow) {
  for (const int64_t rows : {0, 1, 63, 64, 127, 128, 2048, 6144, 154880}) {
    for (int nodes = 1; nodes <= 8; ++nodes) {
      EXPECT_EQ(row_bound(rows, 0, nodes), 0);
      EXPECT_EQ(row_bound(rows, nodes, nodes), rows);
      for (int node = 0; node < nodes; ++node) {
        EXPECT_LE(row_bound(rows, node, nodes), row_bound(rows, node + 1, nodes));
        EXPECT_EQ(row_bound(rows, node, nodes) % 64, 0);
      }
    }
  }
  EXPECT_EQ(row_bound(2048, 1, 2), 1024);
}

}  // namespace
}  // namespace longshore
