/* What the compiled loops of dictionaries share: the selection of the largest. */

#ifndef POLYSEME_KERNELS_H
#define POLYSEME_KERNELS_H

#include "pool.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

/* ---- The largest of a row's entries ---- */

enum { LANES = 16 };

static inline i32 bits(float x) {
    i32 out;
    memcpy(&out, &x, sizeof out);
    return out;
}

/* The bits of a bound that at least k of c positive entries above `bound` reach, the highest such, or the first that is
   found to be reached by `most` or fewer; `reaching` says by how many. Positive floats compare as their bits do. */
static inline i32 reached_by(const float *values, i64 c, i64 k, i64 most, float bound, i64 *reaching) {
    i32 low = bits(bound), high = 0;
    for (i64 i = 0; i < c; i++) high = bits(values[i]) > high ? bits(values[i]) : high;
    *reaching = c; /* low; fewer than k reach high + 1 */
    high++;
    while (*reaching > most && high - low > 1) {
        i32 middle = low + (high - low) / 2, count = 0;
        for (i64 i = 0; i < c; i++) count += bits(values[i]) >= middle;
        if (count >= k) {
            low = middle;
            *reaching = count;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Keeps those of a row's c entries whose bits reach `low`, in their order; returns how many. */
static inline i64 keep_reaching(float *values, i32 *latents, i64 c, i32 low) {
    i64 kept = 0, i = 0;
#ifdef __AVX512F__
    for (; i + LANES <= c; i += LANES) {
        __m512i value = _mm512_loadu_si512(values + i), latent = _mm512_loadu_si512(latents + i);
        __mmask16 keep = _mm512_cmpge_epi32_mask(value, _mm512_set1_epi32(low));
        _mm512_storeu_si512(values + kept, _mm512_maskz_compress_epi32(keep, value)); /* never beyond what was read */
        _mm512_storeu_si512(latents + kept, _mm512_maskz_compress_epi32(keep, latent));
        kept += __builtin_popcount(keep);
    }
#endif
    for (; i < c; i++) {
        float value = values[i];
        i32 latent = latents[i];
        values[kept] = value;
        latents[kept] = latent;
        kept += bits(value) >= low;
    }
    return kept;
}

/* Keeps at least the k largest of a row's c > most entries, all positive and above `bound`, in their order: no more than
   `most`, and where ties leave the choice only of the k, of equal ones the first. Returns how many are kept; `bound`
   rises to what later ones must exceed. */
static inline i64 keep_largest(float *values, i32 *latents, i64 c, i64 k, i64 most, float *bound) {
    i64 reaching, kept = 0;
    i32 low = reached_by(values, c, k, most, *bound, &reaching);
    if (reaching <= most) {
        i32 below = low - 1; /* entries equal to low are kept, so only what is below it is out */
        memcpy(bound, &below, sizeof below);
        return keep_reaching(values, latents, c, low);
    }
    memcpy(bound, &low, sizeof low);
    i64 equal = k; /* how many of those that are exactly low are kept */
    for (i64 i = 0; i < c; i++) equal -= bits(values[i]) > low;
    for (i64 i = 0; i < c; i++) {
        float value = values[i];
        i32 latent = latents[i], is_low = bits(value) == low;
        i64 keep = (bits(value) > low) | (is_low & (equal > 0));
        equal -= is_low;
        values[kept] = value;
        latents[kept] = latent;
        kept += keep;
    }
    return kept;
}

#endif
