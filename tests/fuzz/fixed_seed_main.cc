// Runs a fuzz target without libFuzzer: every file of the corpus, then a fixed sequence of
// mutations of them.
//
// usage: <target> CORPUS_DIRECTORY. Fails when the corpus is missing or empty; a finding ends the
// process.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <utility>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;
using Random = std::mt19937_64;

constexpr int kMutations = 5000;
constexpr int kMaxStepsPerInput = 6;
constexpr size_t kMaxInput = size_t{1} << 20;
constexpr auto kTimeLimit = std::chrono::seconds(3);

void run(const Input& input) {
  // A copy of the exact size, so that a sanitizer sees a read past the end.
  const Input exact(input.begin(), input.end());
  (void)LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

std::vector<Input> read_corpus(const std::string& directory) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.is_regular_file()) paths.push_back(entry.path().string());
  }
  // The order of a directory is not fixed.
  std::sort(paths.begin(), paths.end());
  std::vector<Input> corpus;
  for (const std::string& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

size_t below(Random& random, size_t limit) {
  return limit == 0 ? 0 : random() % limit;
}

// A random stretch [first, second) of an input of this size.
std::pair<size_t, size_t> stretch(Random& random, size_t size) {
  const size_t begin = below(random, size + 1);
  return {begin, begin + below(random, std::min<size_t>(size - begin, 64) + 1)};
}

void insert(Input& input, size_t at, const Input& piece) {
  input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), piece.begin(), piece.end());
}

Input piece_of(const Input& input, std::pair<size_t, size_t> range) {
  return {input.begin() + static_cast<std::ptrdiff_t>(range.first),
          input.begin() + static_cast<std::ptrdiff_t>(range.second)};
}

void mutate(Input& input, const std::vector<Input>& corpus, Random& random) {
  const size_t at = below(random, input.size() + 1);
  switch (random() % 7) {
    case 0:  // flip a bit
      if (at < input.size()) input[at] = static_cast<uint8_t>(input[at] ^ (1U << (random() % 8)));
      return;
    case 1:  // set a byte
      if (at < input.size()) input[at] = static_cast<uint8_t>(random());
      return;
    case 2:  // truncate
      input.resize(at);
      return;
    case 3:  // repeat a stretch
      return insert(input, at, piece_of(input, stretch(random, input.size())));
    case 4:  // insert a byte, or a run of it
      return insert(input, at, Input(1 + random() % 40, static_cast<uint8_t>(random())));
    case 5: {  // remove a stretch
      const auto [begin, end] = stretch(random, input.size());
      input.erase(input.begin() + static_cast<std::ptrdiff_t>(begin),
                  input.begin() + static_cast<std::ptrdiff_t>(end));
      return;
    }
    default: {  // splice: this one's beginning, another one's end
      const Input& other = corpus[below(random, corpus.size())];
      input.resize(at);
      insert(input, at, piece_of(other, {below(random, other.size() + 1), other.size()}));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS_DIRECTORY\n", argv[0]);
    return 2;
  }
  const std::vector<Input> corpus = read_corpus(argv[1]);
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: the corpus is missing or empty\n", argv[1]);
    return 1;
  }
  run({});
  for (const Input& input : corpus) run(input);
  const auto deadline = std::chrono::steady_clock::now() + kTimeLimit;
  Random random(1);
  int done = 0;
  for (; done < kMutations && std::chrono::steady_clock::now() < deadline; ++done) {
    Input input = corpus[below(random, corpus.size())];
    const int steps = 1 + static_cast<int>(random() % kMaxStepsPerInput);
    for (int step = 0; step < steps; ++step) mutate(input, corpus, random);
    input.resize(std::min(input.size(), kMaxInput));
    run(input);
  }
  std::printf("%zu files and %d mutations passed\n", corpus.size(), done);
  return 0;
}
