/* Waits for NMIs and says so. */
#include "common.inc"
.globl start
start:
    ENTER
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
      /* Vector 2: a 32-bit interrupt gate to on_nmi. The image begins at 1 MiB and is smaller than 64 KiB. */
      .word (on_nmi - 0x100000), 0x08, 0x8e00, 0x10
