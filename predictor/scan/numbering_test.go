package scan

import (
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/object"
	"forefend.dev/forefend/runtime/rootfs"
)

func TestOneNumbering(t *testing.T) {
	calls := []string{"read"}
	for name, c := range map[string]struct {
		file string // in the root filesystem
		scan evidence.Scan
		want bool
	}{
		"nothing speaks for it":   {"/lib64/ld-linux-x86-64.so.2", evidence.Scan{Syscalls: calls}, true},
		"it executes what it may": {"/x", evidence.Scan{Syscalls: calls, Unknown: []evidence.Unknown{{Kind: evidence.UnknownProgram}}}, true},
		"nothing is known":        {"/x", evidence.Scan{}, false},
		"a linker of glibc":       {"/lib/ld-linux.so.2", evidence.Scan{Syscalls: calls}, false},
		"a linker of musl":        {"/lib/ld-musl-i386.so.1", evidence.Scan{Syscalls: calls}, false},
		"a file of another kind":  {"/x", evidence.Scan{Syscalls: calls, Unknown: []evidence.Unknown{{Kind: evidence.UnknownFile}}}, false},
		"int 0x80":                {"/x", evidence.Scan{Syscalls: calls, Unknown: []evidence.Unknown{{Kind: evidence.UnknownCall, Why: object.OtherNumbering}}}, false},
	} {
		root := t.TempDir()
		place(t, root, c.file, nil, 0o755)
		if got := OneNumbering(rootfs.Open([]string{root}), &c.scan); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
