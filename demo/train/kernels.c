// Owns the fused float32 row operations of training: RMSNorm, per-head norm with RoPE, causal
// softmax, SwiGLU and cross-entropy, each with its backward pass.
// Refuses threads and allocation: one call works on contiguous caller memory in one pass.
#include <math.h>
#include <string.h>

void rms_forward(const float *x, const float *w, float *y, float *r, long n, long d, float eps) {
  for (long i = 0; i < n; i++, x += d, y += d) {
    float s = 0;
    for (long j = 0; j < d; j++) s += x[j] * x[j];
    float q = r[i] = 1.0f / sqrtf(s / d + eps);
    for (long j = 0; j < d; j++) y[j] = x[j] * q * w[j];
  }
}

void rms_backward(const float *x, const float *w, const float *r, const float *gy, float *gx, float *gw, long n, long d) {
  for (long i = 0; i < n; i++, x += d, gy += d, gx += d) {
    float q = r[i], s = 0;
    for (long j = 0; j < d; j++) s += gy[j] * w[j] * x[j];
    s *= q * q / d;
    for (long j = 0; j < d; j++) {
      gx[j] = (gy[j] * w[j] - x[j] * s) * q;
      gw[j] += gy[j] * x[j] * q;
    }
  }
}

// x [B*T, H*D] -> y [B, H, T, D]; cosine and sine are [T, D] with the sign of rotate-half in sine.
void head_forward(const float *x, const float *w, const float *cosine, const float *sine, float *y, float *r,
                  long b, long t, long h, long d, float eps) {
  for (long i = 0; i < b; i++) for (long p = 0; p < t; p++) for (long k = 0; k < h; k++, x += d) {
    float *o = y + ((i * h + k) * t + p) * d, n[256], s = 0;
    const float *c = cosine + p * d, *z = sine + p * d;
    for (long j = 0; j < d; j++) s += x[j] * x[j];
    float q = *r++ = 1.0f / sqrtf(s / d + eps);
    for (long j = 0; j < d; j++) n[j] = x[j] * q * w[j];
    for (long j = 0; j < d / 2; j++) {
      o[j] = n[j] * c[j] + n[j + d / 2] * z[j];
      o[j + d / 2] = n[j + d / 2] * c[j + d / 2] + n[j] * z[j + d / 2];
    }
  }
}

void head_backward(const float *x, const float *w, const float *r, const float *cosine, const float *sine,
                   const float *gy, float *gx, float *gw, long b, long t, long h, long d) {
  for (long i = 0; i < b; i++) for (long p = 0; p < t; p++) for (long k = 0; k < h; k++, x += d, gx += d) {
    const float *g = gy + ((i * h + k) * t + p) * d, *c = cosine + p * d, *z = sine + p * d;
    float n[256], q = *r++, s = 0;
    for (long j = 0; j < d / 2; j++) {
      n[j] = g[j] * c[j] + g[j + d / 2] * z[j + d / 2];
      n[j + d / 2] = g[j + d / 2] * c[j + d / 2] + g[j] * z[j];
    }
    for (long j = 0; j < d; j++) s += n[j] * w[j] * x[j];
    s *= q * q / d;
    for (long j = 0; j < d; j++) {
      gx[j] = (n[j] * w[j] - x[j] * s) * q;
      gw[j] += n[j] * x[j] * q;
    }
  }
}

// Scores [groups, n, e] of query positions start..start+n: softmax over keys 0..position, zero behind.
void softmax_forward(float *s, long groups, long n, long e, long start, float scale) {
  for (long i = 0; i < groups; i++) for (long p = 0; p < n; p++, s += e) {
    long last = start + p + 1;
    float m = s[0], sum = 0;
    for (long j = 1; j < last; j++) m = s[j] > m ? s[j] : m;
    for (long j = 0; j < last; j++) s[j] = expf((s[j] - m) * scale);
    for (long j = 0; j < last; j++) sum += s[j];
    sum = 1.0f / sum;
    for (long j = 0; j < last; j++) s[j] *= sum;
    memset(s + last, 0, (e - last) * sizeof *s);
  }
}

void softmax_backward(const float *y, float *g, long groups, long n, long e, long start, float scale) {
  for (long i = 0; i < groups; i++) for (long p = 0; p < n; p++, y += e, g += e) {
    long last = start + p + 1;
    float dot = 0;
    for (long j = 0; j < last; j++) dot += y[j] * g[j];
    for (long j = 0; j < last; j++) g[j] = y[j] * (g[j] - dot) * scale;
    memset(g + last, 0, (e - last) * sizeof *g);
  }
}

// h = silu(g) * u, hw = h * weight of the row
void swiglu_forward(const float *g, const float *u, const float *weight, float *h, float *hw, long n, long d) {
  for (long i = 0; i < n; i++, g += d, u += d, h += d, hw += d)
    for (long j = 0; j < d; j++) {
      h[j] = g[j] / (1.0f + expf(-g[j])) * u[j];
      hw[j] = h[j] * weight[i];
    }
}

// gh is the gradient of hw; overwrites g and u with their gradients and fills the row weights' gradient.
void swiglu_backward(float *g, float *u, const float *weight, const float *h, const float *gh, float *gweight, long n, long d) {
  for (long i = 0; i < n; i++, g += d, u += d, h += d, gh += d) {
    float dot = 0;
    for (long j = 0; j < d; j++) dot += gh[j] * h[j];
    gweight[i] = dot;
    for (long j = 0; j < d; j++) {
      float s = 1.0f / (1.0f + expf(-g[j])), go = gh[j] * weight[i], gate = g[j];
      g[j] = go * u[j] * s * (1.0f + gate * (1.0f - s));
      u[j] = go * gate * s;
    }
  }
}

// Logits [n, v] become softmax minus one-hot; returns the summed negative log-likelihood.
double cross_entropy(float *z, const long *target, long n, long v) {
  double total = 0;
  for (long i = 0; i < n; i++, z += v) {
    float m = z[0], sum = 0, own = z[target[i]];
    for (long j = 1; j < v; j++) m = z[j] > m ? z[j] : m;
    for (long j = 0; j < v; j++) z[j] = expf(z[j] - m);
    for (long j = 0; j < v; j++) sum += z[j];
    total += logf(sum) + m - own;
    sum = 1.0f / sum;
    for (long j = 0; j < v; j++) z[j] *= sum;
    z[target[i]] -= 1.0f;
  }
  return total;
}
