/* Triple-faults: an interrupt with an empty IDT. A PC resets. */
#include "common.inc"
.globl start
start:
    mov $stack, %esp
    PRINT "about to triple-fault\n"
    lidt empty
    int $3
empty:
    .word 0
    .long 0
.section .bss
.skip 4096
stack:
