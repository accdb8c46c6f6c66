// The list of parameters that norm and update walk in one launch, and the state
// of the optimizer, which lives on the device so that a step can be replayed.
#pragma once
#include "common.cuh"

// A Tensor is one parameter; 64 bytes. Its elements are dealt to blocks of
// TENSOR_BLOCK; first_block is the number of blocks of all tensors before it.
struct Tensor {
  float *weight, *first, *second, *gradient;  // float32; 16-byte aligned
  element *copy;                              // what the products read; may be null
  long long size;
  int first_block;
  int decays;  // whether weight decay acts on it
  long long replaced;  // whether the next step writes its gradient in the place of this one's, which then need not be cleared
};

const int TENSOR_BLOCK = 8192;

// State: the first part is written by the host before a step, the second by the
// device. 72 bytes.
struct State {
  float rate, beta1, beta2, eps, decay, clip;  // clip 0: none
  int on_nan_skip;                             // the host's; kernels do not read it
  int steps;                                   // updates done
  double loss;                                 // cross-entropy, summed over the step's micro-batches
  int counted;                                 // positions with a target
  float norm;                                  // of the gradient divided by counted, before clipping
  float factor;                                // what gradients are multiplied by; 0: not finite
  float correction1, correction2;              // 1 - beta^steps
  int skipped;                                 // 1: the last step was not finite
  double divergence;                           // from a teacher, summed likewise
};

__device__ __forceinline__ const Tensor &find_tensor(const Tensor *tensors, int count, int block) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (tensors[middle].first_block <= block)
      low = middle;
    else
      high = middle - 1;
  }
  return tensors[low];
}
