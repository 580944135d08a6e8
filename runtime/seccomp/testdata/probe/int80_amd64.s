#include "textflag.h"

// func int80(nr int32) int32: a system call as a 32-bit program makes it.
TEXT ·int80(SB), NOSPLIT, $0-12
	MOVL nr+0(FP), AX
	XORL BX, BX
	INT $0x80
	MOVL AX, ret+8(FP)
	RET
