# What the CUDA kernels are made of: compiled by nvcc, and by the C++ compiler for the tests that run
# them without a GPU.
set(REFORMER_CUDA_SOURCES
  kernels/cuda/attention/bfloat16.cu
  kernels/cuda/attention/combine.cu
  kernels/cuda/attention/float16.cu
  kernels/cuda/attention/float32.cu
  kernels/cuda/hash/bfloat16.cu
  kernels/cuda/hash/float16.cu
  kernels/cuda/hash/float32.cu
  kernels/cuda/local_attention.cu
  kernels/cuda/local_attention_step.cu
  kernels/cuda/lsh_attention.cu
  kernels/cuda/lsh_attention_step.cu
  kernels/cuda/lsh_buckets.cu
  kernels/cuda/lsh_buckets_step.cu
  kernels/cuda/norm/norm.cu
  kernels/cuda/residual_norm.cu
  kernels/cuda/prepare.cu
  kernels/cuda/sort/sort.cu
  kernels/cuda/step/step.cu)
