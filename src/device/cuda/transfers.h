// The copy engine's stream of a CUDA device, and marks as events.
//
// Ownership: the backend owns it; the context outlives it. Threading: one thread.
#pragma once

#include <memory>
#include <vector>

#include <cuda_runtime.h>

#include "device/cuda/context.h"
#include "device/transfers.h"

namespace longshore::device::cuda {

class CudaTransfers final : public Transfers {
 public:
  // kDevice.
  static Result<std::unique_ptr<CudaTransfers>> create(Context& context);
  ~CudaTransfers() override;
  CudaTransfers(const CudaTransfers&) = delete;
  CudaTransfers& operator=(const CudaTransfers&) = delete;

  [[nodiscard]] Result<void> pin(const std::byte* data, int64_t bytes) override;
  void unpin(const std::byte* data) override;
  [[nodiscard]] Memory& mapped() override { return *mapped_; }
  void copy(std::byte* to, const std::byte* host, int64_t bytes) override;
  void copy_rows(std::byte* to, const std::byte* host, int64_t rows, int64_t width,
                 int64_t stride) override;
  void clear_rows(std::byte* to, int64_t rows, int64_t width, int64_t stride) override;
  // *word, mapped, becomes 1 behind the copies that were queued before.
  void signal(int32_t* word);
  [[nodiscard]] Mark copied() override { return record(stream_); }
  [[nodiscard]] Mark computed() override { return record(context_.stream()); }
  void compute_waits_for(Mark copied) override { wait(context_.stream(), copied); }
  void copy_waits_for(Mark computed) override { wait(stream_, computed); }
  [[nodiscard]] bool passed(Mark mark) override;
  [[nodiscard]] std::optional<double> seconds_between(Mark from, Mark to) override;

 private:
  explicit CudaTransfers(Context& context) : context_(context) {}
  Mark record(cudaStream_t stream);
  void wait(cudaStream_t stream, Mark mark);
  // nullptr: the mark is so old that it has passed.
  [[nodiscard]] cudaEvent_t event_of(Mark mark) const;

  Context& context_;
  std::unique_ptr<Memory> mapped_;
  cudaStream_t stream_ = nullptr;
  std::vector<cudaEvent_t>
      events_;  // mark m uses event m % size; used again only when it has passed
  Mark last_ = 0;
  std::vector<const std::byte*> pinned_;
};

}  // namespace longshore::device::cuda
