/* Prints floating-point results with every bit, from SSE and from x87. Runs in the guest and on the host; the tests
 * compare the two. Everything is computed at run time: `volatile` keeps the compiler from doing it. */
#include <math.h>
#include <stdio.h>

int main(void)
{
    for (int i = 1; i <= 40; i++) {
        volatile double x = i / 7.0;
        volatile float y = i / 3.0f;
        volatile long double z = i / 11.0L;
        printf("%d double %a %a %a %a %a %a\n", i, sin(x), exp(x), log(x), sqrt(x), pow(x, 1.5), atan2(x, 3.0));
        printf("%d float %a %a %a %a\n", i, (double)sqrtf(y), (double)(y * y - 1.0f), (double)(1.0f / y), (double)floorf(y));
        printf("%d extended %La %La %La %La %La\n", i, expl(z), logl(z), sqrtl(z), z / 3, fmodl(z, 0.3L));
        long double sine, cosine;
        __asm__("fsincos" : "=t"(cosine), "=u"(sine) : "0"(z));
        printf("%d x87 %La %La\n", i, sine, cosine);
        printf("%d whole %d %lld %.17g %.20Lg\n", i, (int)x, (long long)z, x, z);
    }
    volatile double huge = 1e308, tiny = 5e-324, zero = 0;
    printf("special %a %a %a %a %a\n", huge * 10, tiny / 2, zero / zero, -1 / zero, tiny * 3);
    return 0;
}
