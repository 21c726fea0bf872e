// How a device's queue and the host that decides who computes a layer's experts meet, inside a
// captured graph as well: through words and arrays in transfers()->mapped(), which each side polls.
//
// A word is 0 until what it stands for is there. The host makes it 0 again when nothing that is
// queued reads or writes it any more. Whoever queues a wait sees to it that the word is written,
// whatever happens: a queue that waits for ever cannot be cancelled.
//
// A backend that can do so is also a RouteExchange. Threading: the thread that calls the backend.
#pragma once

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

// What the host decided: which routes are computed on the device, at once and later, ids of -1
// elsewhere; and where the experts of the later ones will be. Sources mapped, targets in the
// device's memory.
struct TakeRoutesParams {
  const int32_t* decided = nullptr;  // waited for
  const int32_t* now = nullptr;      // [count]
  const int32_t* later = nullptr;    // [count]
  int64_t count = 0;
  const ExpertView* entries = nullptr;  // [num_experts], of experts in `later`
  int64_t num_experts = 0;
  ExpertView* table = nullptr;  // [num_experts], gets these entries
  int32_t* to_now = nullptr;    // [count]
  int32_t* to_later = nullptr;  // [count]
};

class RouteExchange {
 public:
  // Values of add_when's word.
  enum Sum : int32_t { kNothing = 1, kThere = 2 };

  virtual ~RouteExchange() = default;
  // The backend's, or nullptr where it has none.
  [[nodiscard]] static RouteExchange* of(Backend& backend);

  // All are queued.
  virtual void publish_routes(const PublishRoutesParams& params) = 0;
  virtual void take_routes(const TakeRoutesParams& params) = 0;
  // Waits until *word is one of Sum; y += x if it is kThere. x is mapped, y in the device's memory.
  virtual void add_when(const AddParams& params, const int32_t* word) = 0;
  // Behind the copies that the wire has been given: *word, mapped, becomes 1.
  virtual void signal_copied(int32_t* word) = 0;
};

}  // namespace longshore::kernels
