/* Says what a PVH loader handed over (Xen's arch-x86/hvm/start_info.h): magic, command line, RSDP, memory map. */
#include "common.inc"
.globl start
start:
    ENTER
    mov %ebx, %ebp
    PRINT "magic="
    mov (%ebp), %ecx
    call print_hex
    PRINT " cmdline="
    mov 24(%ebp), %esi
    test %esi, %esi
    jz 1f
    call print
1:  PRINT " rsdp="
    mov 32(%ebp), %ecx
    test %ecx, %ecx
    jz 2f
    mov (%ecx), %ecx
2:  call print_hex
    PRINT " entries="
    mov 48(%ebp), %ecx
    call print_hex
    PRINT "\n"
    jmp power_off
