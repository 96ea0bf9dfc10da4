/* The C library's expf, which PyTorch's flash attention calls when a row's maximum grows: here with
 * fixed bits. Pure. */
#ifndef CHOIR_MODEL_LIBM_EXP_H
#define CHOIR_MODEL_LIBM_EXP_H

/* exp(x) for x <= 0 as glibc (2.27 and later) returns it; 0 below -103.97. */
float libm_exp(float x);

#endif
