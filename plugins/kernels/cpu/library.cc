#include "kernels/cpu/cpu_target.h"
#include "kernels/cpu/linear/products.h"
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
  const reformer::Products* int8 = reformer::select_products(REFORMER_INT8);
  const reformer::Products* bfloat16 = reformer::select_products(REFORMER_BFLOAT16);
  const reformer::Products* float32 = reformer::select_products(REFORMER_FLOAT32);
  library->int8_products = int8 == nullptr ? nullptr : int8->name;
  library->bfloat16_products = bfloat16 == nullptr ? nullptr : bfloat16->name;
  library->float32_products = float32 == nullptr ? nullptr : float32->name;
  return REFORMER_OK;
}
