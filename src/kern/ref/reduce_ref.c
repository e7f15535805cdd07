/* reduce_ref.c - reference kernels that look at a whole row before they answer: softmax, logsumexp,
   argmax. Sums of exponentials are kept in double: a vocabulary is 10^5 terms. */
#include <math.h>

#include "kern/levels.h"

static float largest(const float *x, int64_t n)
{
    float m = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

static void softmax(float *x, int64_t n)
{
    const float m = largest(x, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - m);
        sum += x[i];
    }
    const float r = (float)(1.0 / sum);
    for (int64_t i = 0; i < n; i++)
        x[i] *= r;
}

static float logsumexp(const float *x, int64_t n)
{
    if (n == 0)
        return -INFINITY;
    const float m = largest(x, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += expf(x[i] - m);
    return (float)(m + log(sum));
}

static int64_t argmax(const float *x, int64_t n)
{
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (best < 0 ? !isnan(x[i]) : x[i] > x[best])
            best = i;
    return best;
}

void lu_fill_ref_reduce(lu_ops *ops)
{
    ops->softmax = softmax;
    ops->logsumexp = logsumexp;
    ops->argmax = argmax;
}
