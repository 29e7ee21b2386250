/* Waits for NMIs and says so. */
#include "common.inc"
.globl start
start:
    mov $stack, %esp
    lidt idtr
    PRINT "waiting for an NMI\n"
1:  hlt
    jmp 1b
on_nmi:
    pusha
    PRINT "NMI\n"
    popa
    iret
.section .data
idtr: .word 3 * 8 - 1
      .long idt
.align 8
idt:  .quad 0, 0
      /* Vector 2: a 32-bit interrupt gate to on_nmi, selector 0x10. The image lies below 16 MiB. */
      .word (on_nmi - 0x100000), 0x10, 0x8e00, 0x10
.section .bss
.skip 4096
stack:
