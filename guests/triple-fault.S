/* Triple-faults: an exception with an empty interrupt table. A PC resets. */
#include "common.inc"
.globl start
start:
    ENTER
    PRINT "about to triple-fault\n"
    lidt empty
    int3
.section .data
empty:
    .word 0
    .long 0
