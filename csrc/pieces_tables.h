/* Made by tools/pieces.py. */
#ifndef FASTACT_PIECES_TABLES_H
#define FASTACT_PIECES_TABLES_H

#include <stdint.h>

/* Phi(x), -4.383 <= x < 1.638e+04; error 2^-30.9 */
#define FA_BASE_normal 4.6328125f
#define FA_FIRST_normal 0.25f
#define FA_END_normal 16384.0f
#define FA_BITS_normal 8
#define FA_COUNT_normal 1377

/* Phi(x), -10.38 <= x < -4.373; error 2^-30.6 */
#define FA_BASE_normal_left 13.876953125f
#define FA_FIRST_normal_left 3.5f
#define FA_END_normal_left 9.50390625f
#define FA_BITS_normal_left 11
#define FA_COUNT_normal_left 2945
#define FA_ROWS_normal (FA_COUNT_normal + FA_COUNT_normal_left)
extern const uint32_t fa_normal_pieces[FA_ROWS_normal][4];

/* sigma(x), -15.01 <= x < 1.635e+04; error 2^-31.5 */
#define FA_BASE_logistic 31.0078125f
#define FA_FIRST_logistic 16.0f
#define FA_END_logistic 16384.0f
#define FA_BITS_logistic 10
#define FA_COUNT_logistic 1713
#define FA_ROWS_logistic (FA_COUNT_logistic)
extern const uint32_t fa_logistic_pieces[FA_ROWS_logistic][4];

/* log(1 + e^x), -15.01 <= x < 1.635e+04; error 2^-31.5 */
#define FA_BASE_log1pexp 31.0078125f
#define FA_FIRST_log1pexp 16.0f
#define FA_END_log1pexp 16384.0f
#define FA_BITS_log1pexp 10
#define FA_COUNT_log1pexp 1617
#define FA_ROWS_log1pexp (FA_COUNT_log1pexp)
extern const uint32_t fa_log1pexp_pieces[FA_ROWS_log1pexp][4];

/* sigma(1.702 x), -6.008 <= x < 1.638e+04; error 2^-31.7 */
#define FA_BASE_logistic_1702 8.0078125f
#define FA_FIRST_logistic_1702 2.0f
#define FA_END_logistic_1702 16384.0f
#define FA_BITS_logistic_1702 9
#define FA_COUNT_logistic_1702 1705

/* sigma(1.702 x), -16.01 <= x < -6; error 2^-31.9 */
#define FA_BASE_logistic_1702_left 32.0078125f
#define FA_FIRST_logistic_1702_left 16.0f
#define FA_END_logistic_1702_left 26.0078125f
#define FA_BITS_logistic_1702_left 11
#define FA_COUNT_logistic_1702_left 1281
#define FA_ROWS_logistic_1702 (FA_COUNT_logistic_1702 + FA_COUNT_logistic_1702_left)
extern const uint32_t fa_logistic_1702_pieces[FA_ROWS_logistic_1702][4];

/* sigma(2 sqrt(2 / pi) (x + 0.044715 x^3)), -4.383 <= x < 1.638e+04; error 2^-30.7 */
#define FA_BASE_logistic_cubic 4.6328125f
#define FA_FIRST_logistic_cubic 0.25f
#define FA_END_logistic_cubic 16384.0f
#define FA_BITS_logistic_cubic 8
#define FA_COUNT_logistic_cubic 1369
#define FA_ROWS_logistic_cubic (FA_COUNT_logistic_cubic)
extern const uint32_t fa_logistic_cubic_pieces[FA_ROWS_logistic_cubic][4];

/* sigma(x) sigma(-x), -16.02 <= x < 0.01562; error 2^-31.5 */
#define FA_BASE_logistic_density 32.015625f
#define FA_FIRST_logistic_density 16.0f
#define FA_END_logistic_density 32.03125f
#define FA_BITS_logistic_density 10
#define FA_COUNT_logistic_density 1025
#define FA_ROWS_logistic_density (FA_COUNT_logistic_density)
extern const uint32_t fa_logistic_density_pieces[FA_ROWS_logistic_density][4];

/* 1 / cosh(x)^2, -10.01 <= x < 0.007812; error 2^-31.5 */
#define FA_BASE_sech2 16.0078125f
#define FA_FIRST_sech2 6.0f
#define FA_END_sech2 16.015625f
#define FA_BITS_sech2 10
#define FA_COUNT_sech2 1537
#define FA_ROWS_sech2 (FA_COUNT_sech2)
extern const uint32_t fa_sech2_pieces[FA_ROWS_sech2][4];

/* tanh(x), 0.01562 <= x < 1.638e+04; error 2^-31.5 */
#define FA_BASE_tanh 0.0f
#define FA_FIRST_tanh 0.015625f
#define FA_END_tanh 16384.0f
#define FA_BITS_tanh 6
#define FA_COUNT_tanh 603
#define FA_ROWS_tanh (FA_COUNT_tanh)
extern const uint32_t fa_tanh_pieces[FA_ROWS_tanh][4];

/* x - tanh(x), 6.104e-05 <= x < 1.638e+04; error 2^-31.2 */
#define FA_BASE_x_less_tanh 0.0f
#define FA_FIRST_x_less_tanh 6.103515625e-05f
#define FA_END_x_less_tanh 16384.0f
#define FA_BITS_x_less_tanh 7
#define FA_COUNT_x_less_tanh 2217
#define FA_ROWS_x_less_tanh (FA_COUNT_x_less_tanh)
extern const uint32_t fa_x_less_tanh_pieces[FA_ROWS_x_less_tanh][4];

/* Phi(x) + x phi(x), -4.391 <= x < 1.638e+04; error 2^-36.3 */
#define FA_BASE_normal_slope 4.640625f
#define FA_FIRST_normal_slope 0.25f
#define FA_END_normal_slope 16384.0f
#define FA_BITS_normal_slope 7
#define FA_COUNT_normal_slope 703

/* Phi(x) + x phi(x), -14.51 <= x < -4.367; error 2^-31.7 */
#define FA_BASE_normal_slope_left 22.5078125f
#define FA_FIRST_normal_slope_left 8.0f
#define FA_END_normal_slope_left 18.140625f
#define FA_BITS_normal_slope_left 10
#define FA_COUNT_normal_slope_left 1161
#define FA_ROWS_normal_slope (FA_COUNT_normal_slope + FA_COUNT_normal_slope_left)
extern const uint64_t fa_normal_slope_pieces[FA_ROWS_normal_slope][4];

/* sigma(x) (1 + x sigma(-x)), -14.03 <= x < 1.637e+04; error 2^-32.8 */
#define FA_BASE_logistic_slope 17.03125f
#define FA_FIRST_logistic_slope 3.0f
#define FA_END_logistic_slope 16384.0f
#define FA_BITS_logistic_slope 8
#define FA_COUNT_logistic_slope 989
#define FA_ROWS_logistic_slope (FA_COUNT_logistic_slope)
extern const uint64_t fa_logistic_slope_pieces[FA_ROWS_logistic_slope][4];

/* tanh(log(1 + e^x)), -11.02 <= x < 1.637e+04; error 2^-35.0 */
#define FA_BASE_tanh_log1pexp 13.015625f
#define FA_FIRST_tanh_log1pexp 2.0f
#define FA_END_tanh_log1pexp 16384.0f
#define FA_BITS_tanh_log1pexp 8
#define FA_COUNT_tanh_log1pexp 921
#define FA_ROWS_tanh_log1pexp (FA_COUNT_tanh_log1pexp)
extern const uint64_t fa_tanh_log1pexp_pieces[FA_ROWS_tanh_log1pexp][4];

/* d/dx x tanh(log(1 + e^x)), -11.02 <= x < 1.637e+04; error 2^-30.4 */
#define FA_BASE_tanh_log1pexp_slope 13.015625f
#define FA_FIRST_tanh_log1pexp_slope 2.0f
#define FA_END_tanh_log1pexp_slope 16384.0f
#define FA_BITS_tanh_log1pexp_slope 8
#define FA_COUNT_tanh_log1pexp_slope 945
#define FA_ROWS_tanh_log1pexp_slope (FA_COUNT_tanh_log1pexp_slope)
extern const uint64_t fa_tanh_log1pexp_slope_pieces[FA_ROWS_tanh_log1pexp_slope][4];

/* d/dx x sigma(1.702 x), -9.008 <= x < 1.637e+04; error 2^-31.2 */
#define FA_BASE_logistic_1702_slope 15.0078125f
#define FA_FIRST_logistic_1702_slope 6.0f
#define FA_END_logistic_1702_slope 16384.0f
#define FA_BITS_logistic_1702_slope 9
#define FA_COUNT_logistic_1702_slope 1249
#define FA_ROWS_logistic_1702_slope (FA_COUNT_logistic_1702_slope)
extern const uint64_t fa_logistic_1702_slope_pieces[FA_ROWS_logistic_1702_slope][4];

/* d/dx x sigma(2 sqrt(2 / pi) (x + 0.044715 x^3)), -4.383 <= x < 1.638e+04; error 2^-38.9 */
#define FA_BASE_logistic_cubic_slope 4.6328125f
#define FA_FIRST_logistic_cubic_slope 0.25f
#define FA_END_logistic_cubic_slope 16384.0f
#define FA_BITS_logistic_cubic_slope 8
#define FA_COUNT_logistic_cubic_slope 1385

/* d/dx x sigma(2 sqrt(2 / pi) (x + 0.044715 x^3)), -10.63 <= x < -4.371; error 2^-32.7 */
#define FA_BASE_logistic_cubic_slope_left 15.00390625f
#define FA_FIRST_logistic_cubic_slope_left 4.375f
#define FA_END_logistic_cubic_slope_left 10.6328125f
#define FA_BITS_logistic_cubic_slope_left 10
#define FA_COUNT_logistic_cubic_slope_left 1265
#define FA_ROWS_logistic_cubic_slope (FA_COUNT_logistic_cubic_slope + FA_COUNT_logistic_cubic_slope_left)
extern const uint64_t fa_logistic_cubic_slope_pieces[FA_ROWS_logistic_cubic_slope][4];

#endif
