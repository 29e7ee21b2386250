/* Reports a crash through pvpanic. */
#include "common.inc"
.globl start
start:
    ENTER
    PRINT "crashing\n"
    mov $0x505, %dx
    mov $1, %al
    out %al, %dx
1:  pause
    jmp 1b
