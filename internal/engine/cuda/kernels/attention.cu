// CPU twin: internal/op/attention.go.
//
// Compiled once for every HEAD_SIZE (32, 64, 80, 128, 256) and STORAGE.
#include "attention_delta.cuh"
#include "attention_hopper.cuh"
