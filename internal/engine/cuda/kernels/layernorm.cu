// CPU twin: internal/op/layernorm.go.
#include "layernorm.cuh"

// layernorm_forward: y1 = norm(x) * gain1 + bias1 and, if y2 is not null, y2 with
// gain2 and bias2. Saves mean and reciprocal deviation of each row.
// Grid: ceil(rows / layernorm_launch[0]) blocks of 256.
extern "C" __global__ void __launch_bounds__(256) layernorm_forward(const element *x, const float *gain1, const float *bias1, element *y1, const float *gain2, const float *bias2,
                                                                     element *y2, float *mean, float *rstd, int rows, float eps) {
  typedef Lines<FORWARD_ROW_WARPS> L;
  L lines;
  const long long row = (long long)blockIdx.x * L::GROUPS + lines.group;
  const bool exists = row < rows;
  float v[L::P][8];
#pragma unroll
  for (int p = 0; p < L::P; p++)
    if (exists && lines.has(p)) load8(x + row * HIDDEN + lines.column(p), v[p]);
    else
#pragma unroll
      for (int j = 0; j < 8; j++) v[p][j] = 0;
  normalize_row<FORWARD_ROW_WARPS, L::P>(lines, v, row, exists, gain1, bias1, y1, gain2, bias2, y2, mean, rstd, eps);
}

// Parts of the backward pass: gain1, bias1, gain2, bias2, residual.
const int PARTS = 5;

template <bool TWO>
__device__ __forceinline__ void backward(const element *x, const float *mean, const float *rstd, const element *dy1, const float *gain1, const element *dy2, const float *gain2,
                                         const element *dresidual, element *dx, float *parts, int rows) {
  typedef Lines<BACKWARD_ROW_WARPS> L;
  const int P = L::P;
  L lines;
  float sums[PARTS][P][8];
#pragma unroll
  for (int i = 0; i < PARTS; i++)
#pragma unroll
    for (int p = 0; p < P; p++)
#pragma unroll
      for (int j = 0; j < 8; j++) sums[i][p][j] = 0;
  float g1[P][8], g2[P][8];
#pragma unroll
  for (int p = 0; p < P; p++) {
    if (!lines.has(p)) continue;
    load8(gain1 + lines.column(p), g1[p]);
    if (TWO) load8(gain2 + lines.column(p), g2[p]);
  }

  for (long long first = (long long)blockIdx.x * L::GROUPS; first < rows; first += (long long)gridDim.x * L::GROUPS) {
    const long long row = first + lines.group;
    const bool exists = row < rows;
    const float m = exists ? mean[row] : 0, r = exists ? rstd[row] : 0;
    float hat[P][8], d[P][8], res[P][8];
    float a = 0, b = 0;
#pragma unroll
    for (int p = 0; p < P; p++) {
#pragma unroll
      for (int j = 0; j < 8; j++) hat[p][j] = d[p][j] = res[p][j] = 0;
      if (!exists || !lines.has(p)) continue;
      const int c = lines.column(p);
      const long long at = row * HIDDEN + c;
      float dy[8];
      load8(x + at, hat[p]);
      load8(dy1 + at, dy);
      if (dresidual) load8(dresidual + at, res[p]);
#pragma unroll
      for (int j = 0; j < 8; j++) {
        hat[p][j] = (hat[p][j] - m) * r;
        d[p][j] = dy[j] * g1[p][j];
        sums[0][p][j] += dy[j] * hat[p][j];
        sums[1][p][j] += dy[j];
        sums[4][p][j] += res[p][j];
      }
      if (TWO) {
        load8(dy2 + at, dy);
#pragma unroll
        for (int j = 0; j < 8; j++) {
          d[p][j] += dy[j] * g2[p][j];
          sums[2][p][j] += dy[j] * hat[p][j];
          sums[3][p][j] += dy[j];
        }
      }
#pragma unroll
      for (int j = 0; j < 8; j++) a += d[p][j], b += d[p][j] * hat[p][j];
    }
    lines.sum(a, b);
    a /= HIDDEN, b /= HIDDEN;
#pragma unroll
    for (int p = 0; p < P; p++) {
      if (!exists || !lines.has(p)) continue;
#pragma unroll
      for (int j = 0; j < 8; j++) d[p][j] = res[p][j] + r * (d[p][j] - a - hat[p][j] * b);
      store8(dx + row * HIDDEN + lines.column(p), d[p]);
    }
  }

  __shared__ float line[HIDDEN];
#pragma unroll
  for (int i = 0; i < PARTS; i++) {
    if (!TWO && (i == 2 || i == 3)) continue;
    for (int g = 0; g < L::GROUPS; g++) {
      __syncthreads();
      if (lines.group != g) continue;
#pragma unroll
      for (int p = 0; p < P; p++) {
        if (!lines.has(p)) continue;
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const int c = lines.column(p) + j;
          line[c] = g == 0 ? sums[i][p][j] : line[c] + sums[i][p][j];
        }
      }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < HIDDEN; c += L::THREADS) parts[((long long)blockIdx.x * PARTS + i) * HIDDEN + c] = line[c];
  }
}

// layernorm_backward: dx = dresidual + the gradient of the norm's input, which may
// overwrite dresidual or dy1 (dresidual null: 0). parts is [gridDim.x, 5, HIDDEN],
// for layernorm_backward_add. Grid: any number of blocks of layernorm_launch[2]
// threads; two for each multiprocessor.
extern "C" __global__ void __launch_bounds__(Lines<BACKWARD_ROW_WARPS>::THREADS) layernorm_backward(const element *x, const float *mean, const float *rstd, const element *dy1, const float *gain1,
                                                                      const element *dresidual, element *dx, float *parts, int rows) {
  backward<false>(x, mean, rstd, dy1, gain1, 0, 0, dresidual, dx, parts, rows);
}

// layernorm_backward_two: the same for two norms of x.
extern "C" __global__ void __launch_bounds__(Lines<BACKWARD_ROW_WARPS>::THREADS) layernorm_backward_two(const element *x, const float *mean, const float *rstd, const element *dy1, const float *gain1,
                                                                          const element *dy2, const float *gain2, const element *dresidual, element *dx, float *parts, int rows) {
  backward<true>(x, mean, rstd, dy1, gain1, dy2, gain2, dresidual, dx, parts, rows);
}

// layernorm_backward_add adds the parts to the gradients of gains and biases; the
// residual's column sums, which are the gradients of the biases of the linears
// that wrote into the residual, go to linear1 and linear2. Null: not wanted.
// Grid: (ceil(HIDDEN / 32), 6) blocks of (32, 32).
extern "C" __global__ void __launch_bounds__(1024) layernorm_backward_add(const float *parts, int count, float *gain1, float *bias1, float *gain2, float *bias2, float *linear1,
                                                                          float *linear2) {
  float *to = blockIdx.y == 0 ? gain1 : blockIdx.y == 1 ? bias1 : blockIdx.y == 2 ? gain2 : blockIdx.y == 3 ? bias2 : blockIdx.y == 4 ? linear1 : linear2;
  if (to) add_parts(parts + min((int)blockIdx.y, 4) * HIDDEN, to, count, HIDDEN, PARTS * HIDDEN);
}

// What a launcher needs: rows and threads of a forward block, threads of a
// backward block.
extern "C" __constant__ const int layernorm_launch[3] = {Lines<FORWARD_ROW_WARPS>::GROUPS, Lines<FORWARD_ROW_WARPS>::THREADS, Lines<BACKWARD_ROW_WARPS>::THREADS};
