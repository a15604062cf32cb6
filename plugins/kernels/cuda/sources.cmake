# What the CUDA kernels are made of: compiled by nvcc, and by the C++ compiler for the tests that run
# them without a GPU.
set(REFORMER_CUDA_SOURCES
  kernels/cuda/attention_bfloat16.cu
  kernels/cuda/attention_float16.cu
  kernels/cuda/attention_float32.cu
  kernels/cuda/combine.cu
  kernels/cuda/hash_bfloat16.cu
  kernels/cuda/hash_float16.cu
  kernels/cuda/hash_float32.cu
  kernels/cuda/hash_plan.cu
  kernels/cuda/key_scale.cu
  kernels/cuda/local_attention.cu
  kernels/cuda/lsh_attention.cu
  kernels/cuda/lsh_buckets.cu
  kernels/cuda/sort.cu)
