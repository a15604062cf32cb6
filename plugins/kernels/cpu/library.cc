#include "kernels/cpu/cpu_target.h"
#include "reformer_kernels.h"

reformer_status reformer_library_info(reformer_library* library) noexcept {
  if (library == nullptr) return REFORMER_ERROR_NULL_POINTER;
  if (library->struct_size != sizeof(reformer_library)) return REFORMER_ERROR_VERSION;
  library->abi_version = REFORMER_ABI_VERSION;
  library->version = REFORMER_VERSION;
  library->cpu_target = reformer::cpu_target_name();
#if defined(REFORMER_CUDA_LIST)
  library->cuda_architectures = REFORMER_CUDA_LIST;
#else
  library->cuda_architectures = nullptr;
#endif
  return REFORMER_OK;
}
