// How a device's queue and the host that decides who computes a layer's experts meet, inside a
// captured graph as well: through words and arrays in transfers()->mapped(), which each side polls.
//
// A word is 0, or another's, until what it stands for is there. The host makes it 0 again when
// nothing that is queued reads or writes it any more. Whoever queues a wait sees to it that the
// word is written, whatever happens: a queue that waits for ever cannot be cancelled.
//
// A backend that can do so is also a RouteExchange. Threading: the thread that calls the backend.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/ops_moe.h"

namespace longshore::kernels {

class Backend;

// What is to be known on the host before it decides. Sources in the device's memory, targets
// mapped.
struct PublishRoutesParams {
  const int32_t* ids = nullptr;  // [count]
  int64_t count = 0;
  int32_t* to_ids = nullptr;       // [count]
  const float* weights = nullptr;  // [count]; nullptr: not wanted, nor is x
  float* to_weights = nullptr;     // [count]
  ConstMatrixView x;               // [tokens, hidden] act, rows without gaps
  std::byte* to_x = nullptr;       // [tokens, hidden]
  int32_t* ready = nullptr;        // becomes 1 when all of it is there
};

// Where experts lie: blocks of one size, the three matrices of an expert always at the same places
// of its block.
struct ExpertBlocks {
  std::byte* base = nullptr;
  int64_t stride = 0;  // bytes of a block
  int64_t up = 0;      // bytes into a block; gate is at 0
  int64_t down = 0;
};

// The host's decision about one route, in one word that the device polls.
struct RouteDecision {
  enum Who : uint64_t {
    kElsewhere = 0,  // not on the device
    kNow = 1,        // on the device, which has the expert
    kLater = 2,      // on the device, when the expert has come to a block
  };
  // Says "elsewhere" whatever is waited for.
  static constexpr uint64_t kAny = 0xFFFF;
  static constexpr int64_t kMostBlocks = int64_t{1} << 30;
  static constexpr int64_t kMostExperts = int64_t{1} << 16;

  // tag: of what is waited for, in [1, kAny).
  static constexpr uint64_t word(uint64_t tag, Who who, int64_t expert, int64_t block) {
    return tag << 48 | static_cast<uint64_t>(expert) << 32 | who << 30 |
           static_cast<uint64_t>(block);
  }
};

// What the host decided: which routes are computed on the device, at once and later, ids of -1
// elsewhere; and where the experts of the later ones will be.
struct TakeRoutesParams {
  const uint64_t* decisions = nullptr;  // [count] mapped; each is waited for
  uint64_t tag = 0;
  int64_t count = 0;
  ExpertBlocks blocks;
  // [experts of the layer] in the device's memory; entries of later experts get their place, scales
  // and shapes stay.
  ExpertView* table = nullptr;
  int32_t* to_now = nullptr;    // [count] in the device's memory
  int32_t* to_later = nullptr;  // [count]
};

class RouteExchange {
 public:
  // Values of add_when's word.
  enum Sum : int32_t { kNothing = 1, kThere = 2 };

  virtual ~RouteExchange() = default;
  // The backend's, or nullptr where it has none.
  [[nodiscard]] static RouteExchange* of(Backend& backend);

  // Whether what is launched may wait for what the host does and queues after it. Not where a
  // launch returns when it is done, or all queues are one.
  [[nodiscard]] virtual bool concurrent() const { return true; }

  // All are queued.
  virtual void publish_routes(const PublishRoutesParams& params) = 0;
  virtual void take_routes(const TakeRoutesParams& params) = 0;
  // Waits until *word is one of Sum; y += x if it is kThere. x is mapped, y in the device's memory.
  virtual void add_when(const AddParams& params, const int32_t* word) = 0;
  // Behind the copies that the wire has been given: *word, mapped, becomes 1.
  virtual void signal_copied(int32_t* word) = 0;
};

}  // namespace longshore::kernels
