// CPU twin: internal/op/attention.go.
//
// Causal attention of query heads over key/value heads, and its gradients.
// Compiled once for every HEAD_SIZE (32, 64, 80, 128, 256) and STORAGE. q, k, v,
// out and their gradients are [batch * length, heads * HEAD_SIZE] with a row
// stride in elements (a multiple of 8), so that they can lie in one matrix.
// lse and delta are float32 [batch * heads, length]; lse is in powers of two.
#include "common.cuh"

#if STORAGE == 16 && defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(PORTABLE)
#include "attention_hopper.cuh"
#else
#include "attention_portable.cuh"
#endif
