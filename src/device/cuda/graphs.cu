#include "device/cuda/graphs.h"

namespace longshore::device::cuda {

CudaGraphs::~CudaGraphs() {
  (void)cudaStreamSynchronize(context_.stream());
  for (const auto& [id, graph] : graphs_) (void)cudaGraphExecDestroy(graph);
}

// Relaxed: what cuBLASLt and the loading of a kernel do on the way is no part of the stream.
void CudaGraphs::begin_capture() {
  context_.check(cudaStreamBeginCapture(context_.stream(), cudaStreamCaptureModeRelaxed),
                 "beginning a graph");
}

Result<Graphs::Id> CudaGraphs::end_capture() {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaError_t status = cudaStreamEndCapture(context_.stream(), &graph);
  if (status == cudaSuccess) status = cudaGraphInstantiate(&executable, graph, 0);
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  // The first launch would do it otherwise, while serving.
  if (status == cudaSuccess) status = cudaGraphUpload(executable, context_.stream());
  if (status != cudaSuccess) {
    if (executable != nullptr) (void)cudaGraphExecDestroy(executable);
    (void)cudaGetLastError();
    return fail(ErrorKind::kDevice,
                "capturing a decode step on {}: {}; --disable-cuda-graph runs "
                "without",
                context_.name(), describe(status));
  }
  graphs_[++last_] = executable;
  return last_;
}

void CudaGraphs::launch(Id id) {
  context_.check(cudaGraphLaunch(graphs_.at(id), context_.stream()), "launching a decode step");
}

void CudaGraphs::drop(Id id) {
  const auto found = graphs_.find(id);
  LS_CHECK(found != graphs_.end());
  (void)cudaStreamSynchronize(context_.stream());
  (void)cudaGraphExecDestroy(found->second);
  graphs_.erase(found);
}

}  // namespace longshore::device::cuda
